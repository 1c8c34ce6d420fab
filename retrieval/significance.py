"""Whether two systems differ: a paired randomisation test over patients, and Holm's correction for many of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SIGNS_AT_ONCE = 1 << 23  # 64 MiB of float64

Floats = NDArray[np.float64]


class Tested(NamedTuple):
    """The difference of two systems on the same queries."""

    difference: float  # the (weighted) mean of first minus second
    p: float  # two-sided; NaN without queries
    units: int  # patients, studies or prompts that differ: those of equal scores tell nothing


def paired_randomisation(
    first: Floats, second: Floats, units: NDArray[np.int64], *, weights: Floats | None = None, resamples: int = 10_000, seed: int = 0
) -> Tested:
    """Test whether two systems score the same on the same queries.

    Were they the same, the two scores of a query could be swapped. All queries of a unit (a patient) are swapped together, since
    they are not independent of each other. p is the share of swaps that differ at least as much: of all swaps where there are no
    more of them than `resamples`, else of random ones, of which what was observed is one.

    Args:
        first: (Q,) float64.
        second: (Q,) float64, of the same queries.
        units: (Q,) int64, equal for the queries of a unit.
        weights: (Q,) float64 that sum to 1; equal by default. `class_weights` gives those of a mean over findings.
        resamples: How many random swaps, from 1.
        seed: Of them.

    Raises:
        ValueError: If the lengths differ, a score is not finite, or `resamples` is below 1.

    Source: Fisher's randomisation test, as recommended by Smucker, Allan and Carterette, CIKM 2007.
    """
    if not len(first) == len(second) == len(units):
        raise ValueError(f"{len(first)} and {len(second)} scores of {len(units)} queries, expected as many of each")
    if resamples < 1 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(f"expected finite scores and 1 resample or more, not {resamples}")
    if not len(first):
        return Tested(float("nan"), float("nan"), 0)
    shares = np.full(len(first), 1 / len(first)) if weights is None else weights
    of_unit = np.bincount(np.unique(units, return_inverse=True)[1], weights=(first - second) * shares)
    differing = of_unit[of_unit != 0]
    observed = float(differing.sum())
    least = abs(observed) - 1e-12 * float(np.abs(differing).sum())  # the same sum in another order is not a smaller one
    if 2 ** min(len(differing), 62) <= resamples:
        return Tested(observed, _share_of_all_swaps(differing, least), len(differing))
    draw, extreme = np.random.default_rng(seed), 0
    at_once = max(1, _SIGNS_AT_ONCE // len(differing))
    for done in range(0, resamples, at_once):
        signs = draw.integers(0, 2, (min(at_once, resamples - done), len(differing)), dtype=np.int8)
        swapped = 2 * (signs.astype(np.float64) @ differing) - observed
        extreme += int(np.count_nonzero(np.abs(swapped) >= least))
    return Tested(observed, (extreme + 1) / (resamples + 1), len(differing))


def _share_of_all_swaps(differing: Floats, least: float) -> float:
    sums = np.zeros(1)
    for difference in differing:
        sums = np.concatenate([sums + difference, sums - difference])
    return float(np.mean(np.abs(sums) >= least))


def class_weights(classes: NDArray[np.int64]) -> Floats:
    """Weigh queries so that each class counts the same however many queries it has: the weights of a macro mean.

    Args:
        classes: (Q,) int64.

    Returns:
        (Q,) float64 that sum to 1.
    """
    _, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
    shares: Floats = 1.0 / (counts[places] * len(counts))
    return shares


def holm(p: Floats) -> Floats:
    """Adjust p-values for that there are several: below 0.05, all such differences hold together with 95 % confidence.

    Args:
        p: (M,) float64; NaN (nothing was tested) stays NaN and does not count.

    Returns:
        (M,) float64, at most 1 and never below `p`.

    Source: Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
