"""Rankings of all candidates, block by block: what measures that read every rank are computed from, memory bounded."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.engine import SearchEngine
from retrieval.matches import exact_scores
from retrieval.tasks import LabelTask
from retrieval.units import By, Judged, galleries, number_units, unit_masks

_SCORES_AT_ONCE = 1 << 24  # 64 MiB of float32, and twice that of sorting keys

Rows = NDArray[np.int64]


class Ranked(NamedTuple):
    """Some of the queries of a task, and where all that answers them stands."""

    members: Rows  # (q,) places of the queries in the task
    relevance: NDArray[np.bool_]  # (q, R) in the order of rank, R the candidates; what a query must not find is at its end, not relevant


def rank_all(engine: SearchEngine, task: LabelTask, judged: Judged, by: By = "image") -> Iterator[Ranked]:
    """Rank every candidate for every query, some queries at a time.

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
    for gallery, members in galleries(task):
        rows = allowed[gallery[allowed]]
        held = (unit_masks(task, gallery, units) if by == "study" else task.relevance.positive)[rows]
        items = np.unique(task.items[members])
        at_once = max(1, _SCORES_AT_ONCE // len(rows))
        for start in range(0, len(items), at_once):
            some = items[start : start + at_once]
            order = _order(exact_scores(judged.vectors[some], table, rows, task.vector), _struck(judged, some, rows, table.rows))
            ranked = _units_in_order(order, held, units[rows]) if by == "study" else _in_order(order, held)
            theirs = members[np.isin(task.items[members], some)]
            for mask in np.unique(task.asked[theirs]):  # one mask for all queries at a time
                mine = theirs[task.asked[theirs] == mask]
                yield Ranked(mine, task.answers(ranked[np.searchsorted(some, task.items[mine])], mask))


def _struck(judged: Judged, items: Rows, rows: Rows, total: int) -> list[Rows]:
    """For each item the places in `rows` that it must not find."""
    if judged.left_out is None:
        return [rows[:0]] * len(items)
    place = np.full(total, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    found = [place[judged.left_out[item]] for item in items.tolist()]
    return [some[some >= 0] for some in found]


def _order(scores: NDArray[np.float32], struck: list[Rows]) -> NDArray[np.int64]:
    """Sort (q, N) scores into (q, N) places, best first, equal ones by place; -1 for those struck, which come last.

    A score and its place are one integer, since integers sort several times faster than an order is found that keeps ties.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 and 0 are equal, and have different bits
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # as integers ordered as the numbers are
    keys = (~rising).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(scores.shape[1], dtype=np.uint64)
    for row, gone in zip(keys, struck, strict=True):
        row[gone] = np.iinfo(np.uint64).max
    keys.sort(axis=1)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    order[keys == np.iinfo(np.uint64).max] = -1
    return order


def _in_order(order: NDArray[np.int64], held: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    ranked: NDArray[np.unsignedinteger] = np.append(held, held.dtype.type(0))[order]  # -1 reads the 0 at the end
    return ranked


def _units_in_order(order: NDArray[np.int64], held: NDArray[np.unsignedinteger], units: Rows) -> NDArray[np.unsignedinteger]:
    """As `_in_order`, of each unit only the place at which it appears first."""
    number = np.unique(units, return_inverse=True)[1]
    ranked = np.zeros((len(order), int(number.max()) + 1), dtype=held.dtype)
    for query, row in enumerate(order):
        found = row[row >= 0]
        first = np.zeros(ranked.shape[1], dtype=np.int64)
        first[number[found[::-1]]] = np.arange(len(found))[::-1]  # written last: the best
        kept = found[first[number[found]] == np.arange(len(found))]
        ranked[query, : len(kept)] = held[kept]
    return ranked
