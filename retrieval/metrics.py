"""Retrieval metrics as whole-array arithmetic: rankings and label bitmasks in, one number a query out."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Denominator = Literal["k", "min(k, relevant)"]
DENOMINATORS: tuple[Denominator, ...] = ("k", "min(k, relevant)")
MOST_FINDINGS = 64  # bits of the widest mask
_ANSWERS_AT_ONCE = 1 << 17  # their masks stay in a core's cache


def pack_findings(holds: NDArray[np.bool_]) -> NDArray[Any]:
    """Put the findings of each record into one integer: bit f is set where finding f holds.

    Args:
        holds: (N, K) bool, K at most 64.

    Returns:
        (N,) uint16, uint32 or uint64, the smallest that holds K bits.

    Raises:
        ValueError: If there are more than 64 findings.
    """
    findings = holds.shape[1]
    if findings > MOST_FINDINGS:
        raise ValueError(f"{findings} findings, expected at most {MOST_FINDINGS}: select some of them")
    kind = np.dtype(np.uint16 if findings <= 16 else np.uint32 if findings <= 32 else np.uint64)
    masks = np.zeros(len(holds), dtype=kind)
    for finding in range(findings):
        masks |= holds[:, finding].astype(kind) << kind.type(finding)
    return masks


def mask_matches(candidate_masks: NDArray[Any], query_masks: NDArray[Any], exact: bool = False) -> NDArray[np.bool_]:
    """Say where a candidate's findings share one with those asked for, or (exact) are the same; masks of shapes that fit together."""
    matches: NDArray[np.bool_] = candidate_masks == query_masks if exact else (candidate_masks & query_masks) != 0
    return matches


def ranked_relevance(
    ranked: NDArray[np.signedinteger[Any]], query_masks: NDArray[Any], candidate_masks: NDArray[Any], exact: bool = False
) -> NDArray[np.bool_]:
    """Say of each ranked candidate whether it shares a finding with its query, or (exact) has the same findings.

    Args:
        ranked: (Q, R) int32 or int64, candidate rows in the order of rank; -1 where a query has fewer answers.
        query_masks: (Q,) unsigned integers, the findings that each query asks for.
        candidate_masks: (N,) of the same type, the findings of each candidate.
        exact: Whether all findings have to be the same; none of the queries then asks for none.

    Returns:
        (Q, R) bool, False at -1.

    Raises:
        IndexError: If a row is beyond the candidates.
    """
    held = np.append(candidate_masks, candidate_masks.dtype.type(0))
    relevance = np.empty(ranked.shape, dtype=np.bool_)
    at_once = max(1, _ANSWERS_AT_ONCE // max(1, ranked.shape[1]))
    for start in range(0, len(ranked), at_once):
        part = slice(start, start + at_once)
        if ranked[part].max(initial=-1) >= len(candidate_masks):
            raise IndexError(f"a ranking names row {ranked[part].max()} of {len(candidate_masks)} candidates")
        shown = held.take(ranked[part], mode="wrap")  # row -1 reads the 0 at the end; the other modes take twice as long
        relevance[part] = mask_matches(shown, query_masks[part, None], exact)
    return relevance


def count_relevant(query_masks: NDArray[Any], candidate_masks: NDArray[Any], exact: bool = False) -> NDArray[np.int64]:
    """Count what `ranked_relevance` would find among all candidates: (Q,) int64 from (Q,) and (N,) masks of one type."""
    distinct, counts = np.unique(candidate_masks, return_counts=True)
    asked, places = np.unique(query_masks, return_inverse=True)
    return np.array([counts[mask_matches(distinct, mask, exact)].sum() for mask in asked], dtype=np.int64)[places]


def precision_at_k(
    relevance: NDArray[np.bool_], k: int, relevant: NDArray[np.int64] | None = None, denominator: Denominator = "k"
) -> NDArray[np.float64]:
    """Compute the fraction of the first k answers that are relevant, for each query.

    Args:
        relevance: (Q, R) bool in the order of rank; ranks beyond R count as not relevant.
        k: Cut-off, from 1.
        relevant: (Q,) int64, relevant candidates of each query; needed for denominator "min(k, relevant)".
        denominator: "k" divides by k even where fewer candidates are relevant or fewer answers came;
            "min(k, relevant)" lets a perfect ranking reach 1 (and a query without relevant candidates is 0).

    Returns:
        (Q,) float64 in [0, 1].

    Raises:
        ValueError: If k is below 1, or `relevant` is missing.
    """
    hits: NDArray[np.float64] = np.count_nonzero(relevance[:, :k], axis=1).astype(np.float64)
    return hits / _divisor(k, relevant, denominator, len(relevance))


def chance_precision(
    relevant: NDArray[np.int64], candidates: NDArray[np.int64], k: int, denominator: Denominator = "k"
) -> NDArray[np.float64]:
    """Compute the P@k expected of a random order: the prevalence, unless there are fewer than k candidates.

    Args:
        relevant: (Q,) int64, relevant candidates of each query.
        candidates: (Q,) int64, candidates of each query.
        k: Cut-off, from 1.
        denominator: As for `precision_at_k`.

    Returns:
        (Q,) float64.
    """
    shown = np.minimum(k, candidates)
    prevalence = relevant / np.maximum(candidates, 1)
    return shown * prevalence / _divisor(k, relevant, denominator, len(relevant))


def _divisor(k: int, relevant: NDArray[np.int64] | None, denominator: Denominator, queries: int) -> NDArray[np.int64]:
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    if denominator == "k":
        return np.full(queries, k, dtype=np.int64)
    if denominator != "min(k, relevant)":
        raise ValueError(f"denominator is {denominator!r}, expected one of {DENOMINATORS}")
    if relevant is None:
        raise ValueError("the denominator 'min(k, relevant)' needs the number of relevant candidates of each query")
    return np.maximum(np.minimum(k, relevant), 1)


def average_precision(relevance: NDArray[np.bool_], relevant: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Compute the mean, over a query's relevant candidates, of the precision at the rank of each.

    Args:
        relevance: (Q, R) bool in the order of rank, best over all candidates: equal scores have the order that they were
            ranked in, and no other.
        relevant: (Q,) int64, relevant candidates of each query; those beyond R count as never found. By default those
            within R are all.

    Returns:
        (Q,) float64 in [0, 1]; 0 where nothing is relevant.

    Source: "map" of trec_eval.
    """
    total, found = np.zeros(len(relevance)), np.zeros(len(relevance), dtype=np.int64)
    numbers = np.arange(1, relevance.shape[1] + 1, dtype=np.float64)
    for query, row in enumerate(relevance):  # one at a time stays in a core's cache
        places = np.flatnonzero(row)
        found[query] = len(places)
        total[query] = (numbers[: len(places)] / (places + 1)).sum()
    return total / np.maximum(found if relevant is None else relevant, 1)


def chance_average_precision(relevant: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the average precision expected of a random order: above the prevalence, and most where little is relevant.

    The candidate at rank i is relevant by r / N, and one at rank j above it by (r - 1) / (N - 1); with the harmonic number
    H(N) the mean is (H(N) + (r - 1) / (N - 1) * (N - H(N))) / N.

    Args:
        relevant: (Q,) int64, relevant candidates of each query.
        candidates: (Q,) int64, candidates of each query.

    Returns:
        (Q,) float64; 0 where nothing is relevant.
    """
    sums = np.cumsum(np.concatenate([[0.0], 1.0 / np.arange(1, int(candidates.max(initial=0)) + 1)]))  # [n]: H(n)
    harmonic = sums[candidates]
    other = (relevant - 1) / np.maximum(candidates - 1, 1)
    expected: NDArray[np.float64] = (harmonic + other * (candidates - harmonic)) / np.maximum(candidates, 1)
    return np.where(relevant > 0, expected, 0.0)


def first_relevant_rank(relevance: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Find the rank, from 1, of the first relevant answer; infinity where there is none.

    Args:
        relevance: (Q, R) bool in the order of rank.

    Returns:
        (Q,) float64.
    """
    if not relevance.shape[1]:
        return np.full(len(relevance), np.inf)
    first = relevance.argmax(axis=1) + 1.0
    return np.where(relevance.any(axis=1), first, np.inf)


def first_match_ranks(
    scores: NDArray[np.float32], query_numbers: NDArray[np.int64], candidate_numbers: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Find the rank, from 1, of the best candidate that bears its query's number, without sorting anything.

    Args:
        scores: (Q, M) float32.
        query_numbers: (Q,) int64.
        candidate_numbers: (M,) int64; equal scores rank in the order of the candidates.

    Returns:
        (Q,) float64, infinity where no candidate bears the number.
    """
    own = query_numbers[:, None] == candidate_numbers[None, :]  # (Q, M)
    own_scores = np.where(own, scores, np.float32(-np.inf))
    place = own_scores.argmax(axis=1)[:, None]  # the first of the best
    best = np.take_along_axis(scores, place, axis=1)
    ahead = np.count_nonzero(scores > best, axis=1)
    tied = np.count_nonzero((scores == best) & (np.arange(scores.shape[1]) < place), axis=1)
    return np.where(own.any(axis=1), 1.0 + ahead + tied, np.inf)


def recall_at_k(ranks: NDArray[np.float64], k: int) -> float:
    """Compute R@k, the fraction of queries whose first relevant answer is among the first k.

    Args:
        ranks: (Q,) float64 from 1, infinity where nothing relevant was found.
        k: Cut-off, from 1.

    Returns:
        A number in [0, 1]; NaN without queries.
    """
    return float(np.mean(ranks <= k)) if len(ranks) else float("nan")


def mean_reciprocal_rank(ranks: NDArray[np.float64]) -> float:
    """Average 1 / rank over (Q,) float64 ranks from 1 (infinity counts 0); NaN without queries."""
    return float(np.mean(1.0 / ranks)) if len(ranks) else float("nan")


def median_rank(ranks: NDArray[np.float64]) -> float:
    """Find the median of (Q,) float64 ranks; the middle two are averaged, and it is NaN without queries."""
    if not len(ranks):
        return float("nan")
    ordered = np.sort(ranks)
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


def chance_ranks(
    relevant: Sequence[int] | NDArray[np.int64], candidates: int | NDArray[np.int64], ks: Sequence[int]
) -> tuple[dict[int, float], float, float]:
    """Compute what a random order reaches: R@k, the median rank of the first relevant answer, and MRR.

    With one relevant candidate they are k / N, (N + 1) / 2 and the harmonic number H(N) / N.

    Args:
        relevant: (Q,) relevant candidates of each query, each from 1.
        candidates: N, the size of the gallery; or (Q,) that of each query.
        ks: Cut-offs of the recall.

    Returns:
        R@k by k, the median rank over all queries, and the mean reciprocal rank.

    Source: the hypergeometric chance that the first j draws miss all r relevant, C(N - r, j) / C(N, j).
    """
    held = np.asarray(relevant, dtype=np.int64)
    pairs, repeats = np.unique(np.stack([held, np.broadcast_to(candidates, held.shape)]), axis=1, return_counts=True)
    if not len(repeats):
        return {k: float("nan") for k in ks}, float("nan"), float("nan")
    most = int(pairs[1].max())
    drawn = np.arange(most, dtype=np.float64)  # answers seen before rank drawn + 1
    missed = np.zeros(most + 1)  # [j]: the chance that the first j answers hold nothing relevant
    for count, gallery, repeat in zip(*pairs.tolist(), repeats.tolist(), strict=True):
        seen = drawn[: min(gallery, 40 * gallery // max(count, 1) + 1)]  # beyond, less than exp(-40) is missed
        still = np.clip((gallery - count - seen) / (gallery - seen), 0.0, 1.0)
        missed[0] += repeat
        missed[1 : len(seen) + 1] += np.cumprod(still) * repeat
    missed /= repeats.sum()
    recall = {k: float(1 - missed[min(k, most)]) for k in ks}
    reached = 1 - missed[1:]  # (N,) chance that the rank is at most 1, 2, ...
    tolerance = 1e-9  # a sum of N products that should be exactly one half
    low, high = np.searchsorted(reached, [0.5 - tolerance, 0.5 + tolerance])
    middle = (min(int(low), most - 1) + min(int(high), most - 1)) / 2 + 1
    reciprocal = float(np.sum((missed[:-1] - missed[1:]) / (drawn + 1)))
    return recall, middle, reciprocal
