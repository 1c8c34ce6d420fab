"""How sure a measured recall is: intervals of a mean of shares, one share a query."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def wilson_interval(mean: float, count: float, z: float) -> Interval:
    """Return Wilson's score interval of a proportion.

    Args:
        mean: The proportion, 0 to 1.
        count: Trials (an effective number need not be whole), above 0.
        z: Standard errors to either side; see `two_sided`.

    Source: E. B. Wilson, JASA 22, 1927. Ends for a mean of 1: count / (count + z^2) and 1.
    """
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return Interval(mean, min(max(centre - half, 0.0), mean), max(min(centre + half, 1.0), mean))  # rounding put aside


def effective_trials(shares: Shares, most: int) -> float:
    """Return to how many independent trials Q queries amount, which share trials each: between Q and Q * `most`.

    The hits of one query are missed together more or less often. As Korn and Graubard do for samples in clusters, the number is
    the variance of a proportion over the variance seen, p (1 - p) / var; but seen among the queries and one more that missed
    everything. So queries that find everything count once each, however many hits they had, and a single miss does not pass for
    proof that misses come alone: what is rare is not ruled out by not being in the sample.

    Args:
        shares: (Q,) of each query's true hits the share that was found, 0 to 1.
        most: Trials of a query, k.

    Source: E. L. Korn and B. I. Graubard, Survey Methodology 24, 1998; the query added is ours.
    """
    more = np.append(shares, 0.0)
    mean, variance = float(more.mean()), float(more.var())
    trials = len(shares) * (mean * (1 - mean) / variance if variance > 0 else 1.0)
    return float(min(max(trials, len(shares)), len(shares) * most))


def share_interval(shares: Shares, most: int, z: float) -> Interval:
    """Return the mean of shares with its Wilson interval, for the effective number of trials."""
    return wilson_interval(float(shares.mean()), effective_trials(shares, most), z)


def two_sided(level: float) -> float:
    """Return the z of a two-sided interval: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)
