"""The measures of a ranking by name, each beside what a random order would reach: whole arrays in, a number a query out."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.metrics import (
    Denominator,
    average_precision,
    chance_average_precision,
    chance_precision,
    chance_ranks,
    first_relevant_rank,
    median_rank,
    precision_at_k,
)

Measure = Literal["P", "recall", "nDCG", "mAP", "MRR", "median_rank"]
MEASURES: tuple[Measure, ...] = ("P", "recall", "nDCG", "mAP", "MRR", "median_rank")
COMPLETE: tuple[Measure, ...] = ("mAP", "MRR", "median_rank")  # read every rank; the others the first k
MEDIAN = "median_rank"  # the one measure whose figure is a median over queries, not a mean

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def measure_rankings(
    relevance: NDArray[np.bool_], relevant: Counts, measures: Sequence[Measure], ks: Sequence[int], denominator: Denominator = "k"
) -> dict[str, Floats]:
    """Score each of Q rankings.

    Args:
        relevance: (Q, R) bool in the order of rank; ranks beyond R count as not relevant.
        relevant: (Q,) int64, relevant candidates of each query, ranked or not.
        measures: Some of MEASURES. "recall" is the share of the relevant candidates that are among the first k, "nDCG" the sum of
            1 / log2(rank + 1) over those among the first k as a share of the highest that there can be.
        ks: Cut-offs of "P", "recall" and "nDCG", from 1.
        denominator: Of "P", see `precision_at_k`.

    Returns:
        (Q,) float64 by name: "P@5", "recall@5", "nDCG@5", "mAP" (average precision, whose mean it is), "MRR" (1 / rank of the
        first relevant one, 0 where there is none), "median_rank" (that rank, infinity where there is none).

    Source: P_k, recall_k, ndcg_cut_k, map and recip_rank of trec_eval.
    """
    found: dict[str, Floats] = {}
    for k in ks if "P" in measures else ():
        found[f"P@{k}"] = precision_at_k(relevance, k, relevant, denominator)
    for k in ks if "recall" in measures else ():
        found[f"recall@{k}"] = np.count_nonzero(relevance[:, :k], axis=1) / np.maximum(relevant, 1)
    for k in ks if "nDCG" in measures else ():
        found[f"nDCG@{k}"] = relevance[:, :k] @ _discounts(min(k, relevance.shape[1])) / _ideal_gain(relevant, k)
    if "mAP" in measures:
        found["mAP"] = average_precision(relevance, relevant)
    if {"MRR", "median_rank"} & set(measures):
        ranks = first_relevant_rank(relevance)
        found |= {"MRR": 1 / ranks} if "MRR" in measures else {}
        found |= {"median_rank": ranks} if "median_rank" in measures else {}
    return found


def chance_measures(
    relevant: Counts, candidates: Counts, measures: Sequence[Measure], ks: Sequence[int], denominator: Denominator = "k"
) -> dict[str, Floats]:
    """Compute what a random order of each query's candidates is expected to score, in closed form.

    Args:
        relevant: (Q,) int64, relevant candidates of each query.
        candidates: (Q,) int64, candidates of each query.
        measures: As for `measure_rankings`.
        ks: Cut-offs.
        denominator: Of "P".

    Returns:
        (Q,) float64 by the same names; of "median_rank" the median.
    """
    prevalence = relevant / np.maximum(candidates, 1)
    expected: dict[str, Floats] = {}
    for k in ks if "P" in measures else ():
        expected[f"P@{k}"] = chance_precision(relevant, candidates, k, denominator)
    for k in ks if "recall" in measures else ():
        expected[f"recall@{k}"] = np.where(relevant > 0, np.minimum(k, candidates) / np.maximum(candidates, 1), 0.0)
    for k in ks if "nDCG" in measures else ():
        expected[f"nDCG@{k}"] = prevalence * _gain(np.minimum(k, candidates)) / _ideal_gain(relevant, k)
    if "mAP" in measures:
        expected["mAP"] = chance_average_precision(relevant, candidates)
    if {"MRR", "median_rank"} & set(measures):
        expected |= {name: each for name, each in chance_first_ranks(relevant, candidates).items() if name in measures}
    return expected


def chance_first_ranks(relevant: Counts, candidates: Counts, ks: Sequence[int] = ()) -> dict[str, Floats]:
    """Compute, for each query by itself, what the first relevant answer of a random order is expected to score.

    Args:
        relevant: (Q,) int64, relevant candidates of each query.
        candidates: (Q,) int64, candidates of each query.
        ks: Cut-offs of "R@k": whether it is among the first k.

    Returns:
        (Q,) float64 by name: "R@k", "MRR" and "median_rank"; where nothing is relevant 0, 0 and infinity.
    """
    cuts = tuple(dict.fromkeys(ks))
    pairs, places = np.unique(np.stack([relevant, candidates]), axis=1, return_inverse=True)
    figures = []
    for count, gallery in pairs.T.tolist():
        recall, middle, reciprocal = chance_ranks([count], gallery, cuts) if count else (dict.fromkeys(cuts, 0.0), np.inf, 0.0)
        figures.append([*recall.values(), reciprocal, middle])
    names = [*(f"R@{k}" for k in cuts), "MRR", MEDIAN]
    values = np.array(figures, dtype=np.float64).reshape(-1, len(names))[places.reshape(-1)]
    return dict(zip(names, values.T, strict=True))


def summarise(values: Mapping[str, Floats], chosen: NDArray[np.bool_]) -> dict[str, float]:
    """Compute one figure of each measure over some of the queries: the mean, of ranks the median; NaN over none."""
    if not chosen.any():
        return dict.fromkeys(values, float("nan"))
    return {name: median_rank(each[chosen]) if name == MEDIAN else float(each[chosen].mean()) for name, each in values.items()}


def cumulative_gains(k: int) -> Floats:
    """Return the gain (nDCG's) of nothing, of a hit at rank 1, of hits at ranks 1 and 2, ... 1 to k: (k + 1,) float64."""
    return np.concatenate([[0.0], np.cumsum(_discounts(k))])


def _discounts(k: int) -> Floats:
    discounts: Floats = 1.0 / np.log2(np.arange(2, k + 2))
    return discounts


def _gain(hits: Counts) -> Floats:
    """The gain of each number of hits in the first ranks."""
    return cumulative_gains(int(hits.max(initial=0)))[hits]


def _ideal_gain(relevant: Counts, k: int) -> Floats:
    """The gain of a ranking with all relevant candidates first; 1 where nothing is relevant, to divide by."""
    return np.where(relevant > 0, _gain(np.minimum(relevant, k)), 1.0)
