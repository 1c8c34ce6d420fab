"""Bootstrap resamples: how often each patient is drawn, and the interval of a statistic over them."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

_COUNTS_AT_ONCE = 1 << 24  # 128 MiB of int64


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    units: int,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a statistic over resampled units.

    Units are what was sampled independently: patients, or studies where no patient has two; never the images or sentences
    of one patient, which would make the interval too narrow. A resample is handed over as how often each unit was drawn,
    so that a statistic is arithmetic on a whole matrix: of a mean of values (N,) it is `counts @ values / counts.sum(1)`.

    Args:
        statistic: Takes (B, N) int64, each row of sum N: how often each unit is in a resample; returns (B,) float64.
        units: N, from 1.
        resamples: How many resamples, from 1.
        confidence: The share of resamples within the interval, between 0 and 1.
        seed: Of the resamples.

    Returns:
        The lower and upper end; NaN where the statistic is NaN for a resample.

    Raises:
        ValueError: If there is no unit or no resample, or the confidence is not between 0 and 1.

    Source: Efron, Annals of Statistics 7(1), 1979: the percentile method.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected 1 or more resamples and a confidence between 0 and 1")
    values = np.concatenate([statistic(counts) for counts in resampled_counts(units, resamples, seed)])
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_counts(units: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield bootstrap resamples, some at a time: (B, units) int64, how often each unit was drawn; each row sums to `units`.

    Raises:
        ValueError: If there is no unit or no resample.
    """
    if units < 1 or resamples < 1:
        raise ValueError(f"{units} units and {resamples} resamples, expected 1 or more of each")
    draw = np.random.default_rng(seed)
    shares = np.full(units, 1 / units)
    at_once = max(1, _COUNTS_AT_ONCE // units)
    for done in range(0, resamples, at_once):
        yield draw.multinomial(units, shares, min(at_once, resamples - done))
