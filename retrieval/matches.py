"""Where a query's own candidate stands among all candidates: full rankings, without sorting them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.benchmarks import RECALL_DIRECTIONS
from retrieval.engine import SearchEngine
from retrieval.metrics import first_match_ranks
from retrieval.tasks import PairTask
from retrieval.units import BY, By

if TYPE_CHECKING:
    from index.shards import ShardTable

_SCORES_AT_ONCE = 1 << 26  # 256 MiB of float32
_ROWS_AT_ONCE = 8192

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The queries or the candidates of a matching.

    Attributes:
        table: Where their vectors are.
        rows: (N,) int64.
        numbers: (N,) int64; a query and a candidate of the same number belong together.
        groups: (N,) int64, equal for the rows that count as one, by their best; all with one number.
    """

    table: "ShardTable"
    rows: Rows
    numbers: Rows
    groups: Rows


class Matched(NamedTuple):
    """Where each query's own candidate stands; Q queries are groups of rows, and so are candidates."""

    ranks: NDArray[np.float64]  # (Q,) from 1, of the best own candidate
    numbers: Rows  # (Q,) the number that a query shares with its own candidates
    heads: Rows  # (Q,) its row; of a group the first
    rows: Rows  # (Q, depth) the candidates in the order of rank, each by the row of its lowest id; -1 where there are fewer
    scores: NDArray[np.float32]  # (Q, depth), NaN where there are fewer


class PairRanks(NamedTuple):
    """Where each query's own candidate stands.

    A query is a text, an image, or a study; so is a candidate.
    """

    ranks: NDArray[np.float64]  # (Q,) from 1, of the best own candidate
    own: Rows  # (Q,) candidates that are the query's own
    candidates: int
    matched: Matched
    asking: Side
    answering: Side


def rank_pairs(engine: SearchEngine, task: PairTask, direction: str, by: By = "image", depth: int = 0) -> PairRanks:
    """Rank one side's own among all of the other.

    Args:
        engine: The index.
        task: Images, and the texts of their studies.
        direction: "image-report" or "report-image".
        by: "image", or "study": the images of a study are one query and one candidate, by their best.
        depth: How many ranked candidates of each query to keep.

    Raises:
        ValueError: If the direction or `by` is not known.
    """
    if direction not in RECALL_DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, expected one of {RECALL_DIRECTIONS}")
    if by not in BY:
        raise ValueError(f"by is {by!r}, expected one of {BY}")
    every_text, every_image = np.arange(len(task.texts)), np.arange(len(task.images))
    groups = task.image_study if by == "study" else every_image
    images = Side(table=engine.table("images"), rows=task.images, numbers=task.image_text, groups=groups)
    texts = Side(table=engine.table("reports"), rows=task.texts, numbers=every_text, groups=every_text)
    queries, candidates = (images, texts) if direction == "image-report" else (texts, images)
    matched = match_ranks(queries, candidates, depth)
    gallery, heads = np.unique(candidates.groups, return_index=True)
    own = np.bincount(candidates.numbers[heads], minlength=len(task.texts))[matched.numbers]
    return PairRanks(matched.ranks, own, len(gallery), matched, queries, candidates)


def match_ranks(queries: Side, candidates: Side, depth: int) -> Matched:
    """Rank each query's own candidates among all: exact scores, ties by id, memory bounded.

    Scores are float64 products rounded to float32, as the index gives them. Where rows are grouped, a group ranks by
    its best row, and ties between groups go by their lowest id.

    Args:
        queries: G groups of rows.
        candidates: H groups of rows.
        depth: How many ranked candidates of each query to keep.
    """
    order, starts = _by_id(candidates)
    numbers = candidates.numbers[order][starts]
    first = candidates.rows[order][starts]
    parts: list[Matched] = []
    for rows, heads, its_numbers in _chunks(queries, max(1, _SCORES_AT_ONCE // max(1, len(order)))):
        scores = exact_scores(queries.table.vectors("joint", rows), candidates.table, candidates.rows[order], "joint")
        if len(starts) < len(order):
            scores = np.maximum.reduceat(scores, starts, axis=1)
        if len(heads) < len(rows):
            scores = np.maximum.reduceat(scores, heads, axis=0)
        places, best = _best(scores, depth)
        found = np.where(places >= 0, first[places], -1)
        parts.append(Matched(first_match_ranks(scores, its_numbers, numbers), its_numbers, rows[heads], found, best))
    return Matched(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _best(scores: NDArray[np.float32], depth: int) -> tuple[Rows, NDArray[np.float32]]:
    """The places and scores of the best `depth` of each row; equal scores in the order of their places."""
    kept = min(depth, scores.shape[1])
    places = np.full((len(scores), depth), -1, dtype=np.int64)
    best = np.full((len(scores), depth), np.nan, dtype=np.float32)
    if not kept:
        return places, best
    lowest = np.partition(scores, scores.shape[1] - kept, axis=1)[:, scores.shape[1] - kept]
    for query, (row, least) in enumerate(zip(scores, lowest, strict=True)):
        some = np.flatnonzero(row >= least)
        places[query, :kept] = some[np.argsort(-row[some], kind="stable")][:kept]
        best[query, :kept] = row[places[query, :kept]]
    return places, best


def _by_id(side: Side) -> tuple[Rows, Rows]:
    """The order that puts groups by their lowest id and rows together with their group, and where each group starts."""
    ids = np.array(side.table.ids(side.rows), dtype=object)
    place = np.empty(len(ids), dtype=np.int64)
    place[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    groups, group = np.unique(side.groups, return_inverse=True)
    lowest = np.full(len(groups), len(ids), dtype=np.int64)
    np.minimum.at(lowest, group, place)
    order = np.lexsort((place, lowest[group]))
    return order, np.flatnonzero(np.diff(lowest[group][order], prepend=-1))


def _chunks(side: Side, most: int) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Whole groups of at most `most` rows together: their rows, where each group starts, and each group's number."""
    order = np.argsort(side.groups, kind="stable")
    starts = np.flatnonzero(np.diff(side.groups[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + most, side="right")))
        part = order[starts[first] : ends[last - 1]]
        heads = starts[first:last] - starts[first]
        yield side.rows[part], heads, side.numbers[part][heads]
        first = last


def exact_scores(queries: NDArray[np.floating[Any]], table: "ShardTable", rows: Rows, vector: str) -> NDArray[np.float32]:
    """Score rows for each of Q query vectors (Q, D): products in float64, rounded to (Q, len(rows)) float32 as the index gives them."""
    wide = queries.astype(np.float64)
    scores = np.empty((len(queries), len(rows)), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        scores[:, start : start + len(part)] = wide @ table.vectors(vector, part).astype(np.float64).T
    return scores
