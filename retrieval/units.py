"""Rank a benchmark's candidates through the engine: images, or studies by their best image; judged or matched."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.answers import Ranking
from retrieval.engine import SearchEngine
from retrieval.metrics import MOST_FINDINGS, count_relevant, ranked_relevance
from retrieval.owners import Groups, same_owner_rows
from retrieval.tasks import LabelTask

if TYPE_CHECKING:
    from index.shards import ShardTable

By = Literal["image", "study"]
BY: tuple[By, ...] = ("image", "study")

Rows = NDArray[np.int64]


class Judged(NamedTuple):
    """What the engine answered to Q queries, and how many right answers there were."""

    rows: Rows  # (Q, k) in the order of rank: the image or report, of a study its best image; -1 where there are fewer
    relevance: NDArray[np.bool_]  # (Q, k)
    relevant: Rows  # (Q,) relevant candidates that the query could find
    candidates: Rows  # (Q,) candidates that it could find
    cosines: NDArray[np.float32]  # (Q, k) scores of the rows; NaN where there are fewer
    vectors: NDArray[np.float32]  # (U, D) of the items
    left_out: Sequence[Rows] | None  # for each item the rows that it must not find; None where texts ask


def number_units(table: "ShardTable", by: By) -> Rows:
    """Number what counts as one candidate: (rows,) int64, equal for the images of a study where `by` is "study"."""
    if by not in BY:
        raise ValueError(f"by is {by!r}, expected one of {BY}")
    if by == "image" or table.modality != "images":
        return np.arange(table.rows, dtype=np.int64)
    units = table.codes("study_id").astype(np.int64)
    alone = units < 0
    units[alone] = units.max() + 1 + np.arange(np.count_nonzero(alone))
    return units


def judge(engine: SearchEngine, task: LabelTask, k: int, by: By = "image", exclude_same_patient: bool = True) -> Judged:
    """Ask all queries of a task and say of the first k answers which are relevant.

    Where candidates are studies, a study is relevant if one of its candidate images is. An image query never
    finds itself, nor its own study where candidates are studies.

    Args:
        engine: The index.
        task: Queries, candidates and relevance.
        k: How many answers.
        by: What is one candidate: an image, or a study.
        exclude_same_patient: Leave out the candidates of the patient of an image query.
    """
    units = number_units(engine.table(task.find), by)
    vectors = task.vectors(engine)
    left_out = _left_out(engine, task, units, by, exclude_same_patient)
    queries = len(task.items)
    judged = Judged(
        rows=np.full((queries, k), -1, dtype=np.int64),
        relevance=np.zeros((queries, k), dtype=np.bool_),
        relevant=np.zeros(queries, dtype=np.int64),
        candidates=np.zeros(queries, dtype=np.int64),
        cosines=np.full((queries, k), np.nan, dtype=np.float32),
        vectors=vectors,
        left_out=left_out,
    )
    for gallery, members, shared in searched_galleries(task):
        ranked = _rank(engine, task, judged, members, gallery, shared, units if by == "study" else None)
        judged.rows[members], judged.cosines[members] = ranked
    for gallery, members in galleries(task):
        items, places = np.unique(task.items[members], return_inverse=True)
        excluded = None if left_out is None else [left_out[item] for item in items]
        masks = unit_masks(task, gallery, units) if by == "study" else task.relevance.positive
        judged.relevance[members] = ranked_relevance(judged.rows[members], task.asked[members], masks, task.exact)
        judged.relevant[members], judged.candidates[members] = _count(task, gallery, members, units, masks, excluded, places)
    return judged


def galleries(task: LabelTask) -> Iterator[tuple[NDArray[np.bool_], Rows]]:
    """The candidates that are judged, with the queries that they are judged for: mostly all for all."""
    groups: dict[bytes, list[Any]] = {}
    for mask in np.unique(task.asked):
        groups.setdefault(np.packbits(task.gallery(mask)).tobytes(), []).append(mask)
    for packed, masks in groups.items():
        gallery = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=len(task.allowed)).astype(np.bool_)
        yield gallery, np.flatnonzero(np.isin(task.asked, masks))


def searched_galleries(task: LabelTask) -> Iterator[tuple[NDArray[np.bool_], Rows, bool]]:
    """The candidates to search among, with the queries to search for, and whether these share just those candidates.

    As `galleries`, unless there are more of them than findings can make: one search for all is then quicker than one for each, and
    every query leaves out what is not in its own.
    """
    found = list(islice(galleries(task), MOST_FINDINGS + 1))
    if len(found) > MOST_FINDINGS:
        yield task.allowed, np.arange(len(task.items)), False
    else:
        yield from ((gallery, members, True) for gallery, members in found)


def _left_out(engine: SearchEngine, task: LabelTask, units: Rows, by: By, same_patient: bool) -> list[Rows] | None:
    """For each item the rows that it must not find: itself, its own study as a candidate, its patient's records.

    A study goes as a whole: one that holds a film of the patient who asks is no candidate.
    """
    if task.rows is None:
        return None
    target, asking = engine.table(task.find), engine.table("images")
    left_out = [np.empty(0, dtype=np.int64) for _ in task.rows]
    if task.find == "images":
        groups = Groups(units)
        left_out = [groups.rows(int(unit)) for unit in units[task.rows]]
    if task.struck is not None:
        left_out = [np.union1d(own, rows) for own, rows in zip(left_out, task.struck, strict=True)]
    if same_patient:
        mates = same_owner_rows(asking, task.rows, target)
        left_out = [np.union1d(own, rows) for own, rows in zip(left_out, mates, strict=True)]
    if task.find == "images" and by == "study":
        left_out = [np.sort(np.concatenate([groups.rows(unit) for unit in np.unique(units[rows])])) for rows in left_out]
    return left_out


def _rank(
    engine: SearchEngine, task: LabelTask, judged: Judged, members: Rows, gallery: NDArray[np.bool_], shared: bool, units: Rows | None
) -> Ranking:
    """The best rows of each of some queries, (len(members), k); with units the best row of each of the k best units."""
    k = judged.rows.shape[1]
    best = Ranking(np.full((len(members), k), -1, dtype=np.int64), np.full((len(members), k), np.nan, dtype=np.float32))
    crowd = 1.0 if units is None else np.count_nonzero(gallery) / max(1, len(np.unique(units[gallery])))  # images of a study, on average
    short, width = np.arange(len(members)), k if units is None and shared else math.ceil(1.5 * k * crowd)
    while len(short):
        items, places = np.unique(task.items[members[short]], return_inverse=True)
        gone = None if judged.left_out is None else [judged.left_out[item] for item in items.tolist()]
        ranked = engine.rank(judged.vectors[items], task.find, width, task.vector, allowed=gallery, exclude=gone)
        for query, place in zip(short.tolist(), places.tolist(), strict=True):
            rows = ranked.rows[place]
            kept = rows >= 0 if shared else (rows >= 0) & task.gallery(task.asked[members[query]])[rows]
            first = np.flatnonzero(kept) if units is None else _first_of_each(kept, units[rows])
            best.rows[query, : len(first[:k])], best.scores[query, : len(first[:k])] = rows[first[:k]], ranked.scores[place, first[:k]]
        short = short[(best.rows[short, -1] < 0) & (ranked.rows[places, -1] >= 0)]  # too few, and there may be more
        width *= 4
    return best


def _first_of_each(kept: NDArray[np.bool_], units: Rows) -> Rows:
    """The places, ascending, at which a unit appears for the first time among those kept."""
    places = np.flatnonzero(kept)
    return places[np.sort(np.unique(units[places], return_index=True)[1])]


def unit_masks(task: LabelTask, gallery: NDArray[np.bool_], units: Rows) -> NDArray[np.unsignedinteger]:
    """The findings of each row's unit: of all its candidate images together."""
    held = np.zeros(int(units.max()) + 1, dtype=task.relevance.positive.dtype)
    np.bitwise_or.at(held, units[gallery], task.relevance.positive[gallery])
    spread: NDArray[np.unsignedinteger] = held[units]
    return spread


def _count(
    task: LabelTask,
    gallery: NDArray[np.bool_],
    members: Rows,
    units: Rows,
    masks: NDArray[np.unsignedinteger],
    excluded: Sequence[Rows] | None,
    places: Rows,
) -> tuple[Rows, Rows]:
    """Relevant candidates and candidates of each query, (len(members),) each, after what it must not find."""
    rows = np.flatnonzero(gallery)
    heads = rows[np.unique(units[rows], return_index=True)[1]]  # one row of each unit
    asked = task.asked[members]
    relevant = count_relevant(asked, masks[heads], task.exact)
    candidates = np.full(len(members), len(heads), dtype=np.int64)
    if excluded is None:
        return relevant, candidates
    is_head = np.zeros(len(gallery), dtype=np.bool_)
    is_head[heads] = True
    lengths = np.array([len(rows) for rows in excluded])
    item = np.repeat(np.arange(len(excluded)), lengths)
    gone = np.concatenate(excluded) if len(excluded) else rows[:0]
    item, shown = item[is_head[gone]], masks[gone[is_head[gone]]]
    for mask in np.unique(asked):
        fewer = np.bincount(item[task.answers(shown, mask)], minlength=len(excluded))  # of each item
        mine = asked == mask
        relevant[mine] -= fewer[places[mine]]
    return relevant, candidates - np.bincount(item, minlength=len(excluded))[places]
