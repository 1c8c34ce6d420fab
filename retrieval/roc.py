"""The area under the ROC curve as whole-array arithmetic, and its interval over patients."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.resampling import resampled_counts

_WEIGHTS_AT_ONCE = 1 << 22


def area_under_curve(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.float64]:
    """Compute the chance that a positive scores above a negative, a tie counting one half.

    Args:
        scores: (N,) float64.
        positive: (N,) bool.
        weights: (B, N) integers, how often each of the N is in each of B resamples; None for each once.

    Returns:
        (B,) float64 ((1,) without weights); NaN where there is no positive or no negative.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18(1), 1947.
    """
    counts = np.ones((1, len(scores)), dtype=np.int64) if weights is None else weights
    downs = np.flatnonzero(~positive)
    downs = downs[np.argsort(scores[downs], kind="stable")]
    below = np.zeros((len(counts), len(downs) + 1))  # [b, n]: how often the n lowest negatives are in resample b
    np.cumsum(counts[:, downs], axis=1, out=below[:, 1:])
    ups = counts[:, positive].astype(np.float64)
    lower, upper = (np.searchsorted(scores[downs], scores[positive], side) for side in ("left", "right"))
    won = (ups * (below[:, lower] + below[:, upper])).sum(axis=1) / 2
    pairs = ups.sum(axis=1) * below[:, -1]
    area: NDArray[np.float64] = np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)
    return area


def finding_areas(scores: NDArray[np.float64], positive: NDArray[np.bool_], judged: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the area of each of K findings over the records that are judged for it.

    Args:
        scores: (N, K) float64.
        positive: (N, K) bool.
        judged: (N, K) bool.

    Returns:
        (K,) float64, NaN where a finding has no positive or no negative.
    """
    areas = [area_under_curve(scores[rows, place], positive[rows, place])[0] for place, rows in enumerate(judged.T)]
    return np.array(areas, dtype=np.float64)


def area_intervals(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    owners: NDArray[np.int64],
    averaged: NDArray[np.bool_],
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Compute 95 % bootstrap intervals of K areas and of their mean, over resampled patients.

    Args:
        scores: (N, K) float64.
        positive: (N, K) bool.
        judged: (N, K) bool; each finding has a judged positive and a judged negative.
        owners: (N,) int64 from 0, equal for the records of a patient.
        averaged: (K,) bool, the findings that the mean is over.
        resamples: How many; 0 for no intervals.
        seed: Of the resamples, the same for all findings.

    Returns:
        Low and high of each finding, then of the mean. A resample without a positive or a negative of a finding says nothing of it.
    """
    units = int(owners.max()) + 1
    areas = np.full((resamples, judged.shape[1]), np.nan)
    done = 0
    for drawn in resampled_counts(units, resamples, seed) if resamples else ():  # (b, units)
        for place, of_finding in enumerate(judged.T):
            rows = np.flatnonzero(of_finding)
            at_once = max(1, _WEIGHTS_AT_ONCE // len(rows))
            for start in range(0, len(drawn), at_once):
                weights = drawn[start : start + at_once, owners[rows]]
                found = area_under_curve(scores[rows, place], positive[rows, place], weights)
                areas[done + start : done + start + len(found), place] = found
        done += len(drawn)
    if units < 2:  # one patient says nothing of others
        areas[:] = np.nan
    told = ~np.isnan(areas[:, averaged]).all(axis=1)
    return [_ends(column) for column in areas.T], _ends(np.nanmean(areas[told][:, averaged], axis=1))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
