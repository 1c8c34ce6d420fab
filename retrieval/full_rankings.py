"""Rankings of all candidates, one query after the other: what measures that read every rank are computed from, memory bounded."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.engine import SearchEngine
from retrieval.matches import exact_scores
from retrieval.metrics import ranked_relevance
from retrieval.tasks import LabelTask
from retrieval.units import By, Judged, number_units, searched_galleries, unit_masks

_SCORES_AT_ONCE = 1 << 26  # 256 MiB of float32

Rows = NDArray[np.int64]


class Ranked(NamedTuple):
    """Where all that answers the queries of one item stands."""

    members: Rows  # (q,) places of the queries in the task
    rows: NDArray[np.int32]  # (R,) candidates in the order of rank, of a study its best image; -1, at the end, for what it must not find
    relevance: NDArray[np.bool_]  # (q, R), False at -1


def rank_all(engine: SearchEngine, task: LabelTask, judged: Judged, by: By = "image") -> Iterator[Ranked]:
    """Rank every candidate for every query.

    Ranks are those of `judge`: by (score descending, id ascending), a study standing where its best image does.

    Args:
        engine: The index.
        task: Q queries.
        judged: What `judge` said of them: their vectors, and what each must not find.
        by: What is one candidate.
    """
    table = engine.table(task.find)
    units = number_units(table, by)
    allowed = np.flatnonzero(task.allowed)
    allowed = allowed[np.argsort(np.array(table.ids(allowed), dtype=object), kind="stable")]  # so that places order equal scores
    for gallery, members, shared in searched_galleries(task):
        rows = allowed[gallery[allowed]]
        held = unit_masks(task, gallery, units) if by == "study" else task.relevance.positive
        items, places = np.unique(task.items[members], return_inverse=True)
        asking = np.split(members[np.argsort(places, kind="stable")], np.cumsum(np.bincount(places))[:-1])  # of each item its queries
        place = np.full(table.rows, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        at_once = max(1, _SCORES_AT_ONCE // len(rows))
        for start in range(0, len(items), at_once):
            some = items[start : start + at_once]
            scores = exact_scores(judged.vectors[some], table, rows, task.vector)
            for item, mine, row in zip(some.tolist(), asking[start : start + at_once], scores, strict=True):
                struck = rows[:0] if judged.left_out is None else place[judged.left_out[item]]
                ranked = _in_order(row, rows, struck[struck >= 0])
                for some_of_it in [mine] if shared else mine[:, None]:
                    asked, found = task.asked[some_of_it], ranked
                    if not shared:
                        own = task.gallery(asked[0])
                        found = ranked[(ranked >= 0) & own[ranked]]
                        held = unit_masks(task, own, units) if by == "study" else held
                    found = found if by == "image" else _first_of_units(found, units)
                    repeated = np.broadcast_to(found, (len(asked), len(found)))
                    yield Ranked(some_of_it, found, ranked_relevance(repeated, asked, held, task.exact))


def _in_order(scores: NDArray[np.float32], rows: Rows, struck: Rows) -> NDArray[np.int32]:
    """Sort (N,) rows by their scores, best first, equal ones as they stand; -1 for those whose places are struck, which come last.

    A score and its place are one integer, since integers sort several times faster than an order is found that keeps ties.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 and 0 are equal, and have different bits
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # as integers ordered as the numbers are
    keys = (~rising).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(rows), dtype=np.uint64)
    keys[struck] = np.iinfo(np.uint64).max
    keys.sort()
    places = keys.astype(np.uint32).view(np.int32)  # the lower half; -1 of those struck
    ordered: NDArray[np.int32] = np.append(rows, -1).astype(np.int32).take(places, mode="wrap")
    return ordered


def _first_of_units(ranked: NDArray[np.int32], units: Rows) -> NDArray[np.int32]:
    """Keep of each unit the row that stands first, of (R,) ranked rows."""
    found = ranked[ranked >= 0]
    numbers, places = units[found], np.arange(len(found))
    first = np.empty(int(units.max()) + 1, dtype=np.int64)
    first[numbers[::-1]] = places[::-1]  # written last: the best
    kept: NDArray[np.int32] = found[first[numbers] == places]
    return kept
