"""Queries that belong to no patient, scored among candidates whose patients are drawn again: what tells how sure their figures are."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from retrieval.engine import SearchEngine
from retrieval.full_rankings import Ranked, rank_all
from retrieval.measures import COMPLETE, Measure, cumulative_gains
from retrieval.metrics import Denominator
from retrieval.owners import number_owners
from retrieval.resampling import resampled_counts
from retrieval.tasks import LabelTask
from retrieval.units import By, Judged

_ROWS_AT_ONCE = 1 << 26  # 256 MiB of rankings in int32
_DRAWN_AT_ONCE = 1 << 17  # counts, which stay in a core's cache
_FEWEST_AT_ONCE = 16  # resamples: a line of the cache

Floats = NDArray[np.float64]
Draws = NDArray[np.float32]


def redraw_galleries(
    engine: SearchEngine,
    task: LabelTask,
    judged: Judged,
    by: By,
    measures: Sequence[Measure],
    ks: Sequence[int],
    denominator: Denominator,
    resamples: int,
    seed: int,
) -> tuple[int, dict[str, Floats]]:
    """Score Q queries among the candidates of resampled patients.

    Args:
        engine: The index.
        task: The queries, and whom they are put to.
        judged: What `judge` said of them.
        by: What is one candidate.
        measures: Some of MEASURES.
        ks: Cut-offs.
        denominator: Of "P".
        resamples: B.
        seed: Of the resamples.

    Returns:
        How many patients the candidates are of, and (B, Q) float64 by measure, NaN where nothing drawn answers the query.
    """
    candidates = np.flatnonzero(task.allowed)
    owners = np.zeros(len(task.allowed), dtype=np.int64)
    owners[candidates] = number_owners(engine.table(task.find), candidates)
    patients = int(owners.max()) + 1
    scores: dict[str, Floats] = {}
    for some in _batches(rank_all(engine, task, judged, by)):
        done = 0
        for counts in resampled_counts(patients, resamples, seed):
            drawn = slice(done, done + len(counts))
            draws = np.ascontiguousarray(counts.T, dtype=np.float32)  # (patients, b)
            for members, rows, relevance in some:
                whose = owners[rows[rows >= 0]]
                for query, hits in zip(members, relevance, strict=True):
                    found = redrawn_measures(hits[: len(whose)], whose, draws, measures, ks, denominator)
                    for name, values in found.items():
                        scores.setdefault(name, np.full((resamples, len(task.items)), np.nan))[drawn, query] = values
            done = drawn.stop
    return patients, scores


def _batches(rankings: Iterator[Ranked]) -> Iterator[list[Ranked]]:
    """As many rankings together as memory is meant to hold."""
    batch: list[Ranked] = []
    for ranked in rankings:
        batch.append(ranked)
        if sum(len(one.rows) for one in batch) >= _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def redrawn_measures(
    hits: NDArray[np.bool_],
    owners: NDArray[np.int64],
    draws: Draws,
    measures: Sequence[Measure],
    ks: Sequence[int],
    denominator: Denominator = "k",
) -> dict[str, Floats]:
    """Score a ranking in which each candidate stands as often in a row as its patient was drawn, without writing it out.

    A candidate drawn m times after a others, h of them relevant, has the ranks a + 1 to a + m; the precision at its j-th rank is
    (h + j) / (a + j), so that these sum to m + (h - a) (H(a + m) - H(a)), with the harmonic numbers H.

    Args:
        hits: (R,) bool, whether each candidate is relevant, in the order of rank; all candidates.
        owners: (R,) int64, the patient of each.
        draws: (U, B) float32 whole numbers, how often each patient was drawn for each of B resamples; below 2^24 candidates in all.
        measures: Some of MEASURES.
        ks: Cut-offs.
        denominator: Of "P".

    Returns:
        (B,) float64 by name, as `measure_rankings` has them; NaN where nothing relevant was drawn.

    Source: Efron, Annals of Statistics 7(1), 1979; ranks beyond the last answer count as not relevant, as everywhere.
    """
    relevant = np.bincount(owners[hits], minlength=len(draws)).astype(np.float32) @ draws  # (B,)
    depth = len(hits) if set(measures) & set(COMPLETE) else _deep_enough(owners, draws, max(ks))
    shown, whose = hits[:depth], owners[:depth]
    at_once = max(_FEWEST_AT_ONCE, _DRAWN_AT_ONCE // max(1, depth))
    parts = [
        _measure(*_ranks(shown, whose, np.ascontiguousarray(draws[:, part])), relevant[part].astype(np.int64), measures, ks, denominator)
        for part in (slice(start, start + at_once) for start in range(0, len(relevant), at_once))
    ]
    return {name: np.where(relevant > 0, np.concatenate([part[name] for part in parts]), np.nan) for name in parts[0]}


def _deep_enough(owners: NDArray[np.int64], draws: Draws, k: int) -> int:
    """So many candidates that k answers are drawn of them in each resample; all, where these are not enough."""
    depth = 4 * k
    while depth < len(owners) and (draws[owners[:depth]].sum(axis=0) < k).any():
        depth *= 2
    return min(depth, len(owners))


def _ranks(hits: NDArray[np.bool_], owners: NDArray[np.int64], draws: Draws) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each of the H relevant candidates was drawn, and the rank of its last copy: (H, B) each."""
    at_once = max(1, _DRAWN_AT_ONCE // draws.shape[1])
    reached, last = np.zeros(draws.shape[1], dtype=np.float32), [np.empty((0, draws.shape[1]), dtype=np.float32)]
    for start in range(0, len(hits), at_once):
        part = slice(start, start + at_once)
        ranks = np.cumsum(draws.take(owners[part], axis=0), axis=0)  # (at_once, B)
        last.append(ranks[hits[part]] + reached)
        reached += ranks[-1]
    return draws[owners[hits]].astype(np.int64), np.concatenate(last).astype(np.int64)


def _measure(
    times: NDArray[np.int64],
    last: NDArray[np.int64],
    relevant: NDArray[np.int64],
    measures: Sequence[Measure],
    ks: Sequence[int],
    denominator: Denominator,
) -> dict[str, Floats]:
    """As `redrawn_measures`, of what `_ranks` returns; 0 where nothing relevant was drawn."""
    ahead = last - times
    least = np.maximum(relevant, 1)
    found: dict[str, Floats] = {}
    for k in ks:
        within = np.clip(k - ahead, 0, times).sum(axis=0)
        if "P" in measures:
            found[f"P@{k}"] = within / (k if denominator == "k" else np.minimum(k, least))
        if "recall" in measures:
            found[f"recall@{k}"] = within / least
        if "nDCG" in measures:
            gains = cumulative_gains(k)
            gained = gains[np.minimum(last, k)] - gains[np.minimum(ahead, k)]
            found[f"nDCG@{k}"] = gained.sum(axis=0) / gains[np.minimum(least, k)]
    if "mAP" in measures:
        sums = _harmonic_numbers(1 << int(last.max(initial=1)).bit_length())
        before = np.cumsum(times, axis=0) - times
        found["mAP"] = (times + (before - ahead) * (sums[last] - sums[ahead])).sum(axis=0) / least
    first = np.where(times > 0, ahead + 1.0, np.inf).min(axis=0, initial=np.inf)
    return found | {name: value for name, value in (("MRR", 1 / first), ("median_rank", first)) if name in measures}


@lru_cache(maxsize=1)
def _harmonic_numbers(most: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])
