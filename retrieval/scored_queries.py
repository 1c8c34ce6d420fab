"""The queries of a benchmark one by one: their names, whose they are, and what answers each."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.engine import SearchEngine
from retrieval.matches import PairRanks
from retrieval.owners import number_owners, study_names
from retrieval.results import PerQuery
from retrieval.tasks import LabelTask
from retrieval.units import By, Judged, number_units, unit_masks

if TYPE_CHECKING:
    from index.shards import ShardTable

Floats = NDArray[np.float64]
RowsOf = Callable[[int], NDArray[np.int64]]  # of a query's place
Redraw = Callable[[int, int], tuple[int, Mapping[str, Floats]]]


def label_queries(
    engine: SearchEngine,
    task: LabelTask,
    judged: Judged,
    by: By,
    scores: Mapping[str, Floats],
    chance: Mapping[str, Floats],
    redraw: Redraw | None = None,
) -> PerQuery:
    """List the queries of a benchmark with labels that have a relevant candidate; the others are counted, not scored.

    Args:
        engine: The index.
        task: All Q queries.
        judged: What became of them.
        by: What was one candidate.
        scores: Metric to (Q,) float64.
        chance: Metric to (Q,) float64.
        redraw: As `PerQuery` has it, but of all Q.
    """
    kept = np.flatnonzero(judged.relevant > 0)
    items, findings = task.items[kept], task.classes[kept]
    asking = engine.table("images")
    names = np.array(asking.ids(task.rows) if task.rows is not None else _prompt_names(task), dtype=object)
    bears = [f"|{task.relevance.findings[place]}".replace(" ", "_") if place >= 0 else "" for place in findings.tolist()]
    ids = tuple(f"{name}{finding}" for name, finding in zip(names[items], bears, strict=True))
    owners = np.arange(len(names)) if task.rows is None else number_owners(asking, task.rows)
    views = np.full(len(names), None, dtype=object) if task.rows is None else asking.column("view")[task.rows]
    table = engine.table(task.find)
    relevant, struck = _answers(task, judged, number_units(table, by), by, kept)

    def redraw_kept(resamples: int, seed: int) -> tuple[int, Mapping[str, Floats]]:
        assert redraw is not None
        patients, drawn = redraw(resamples, seed)
        return patients, {name: values[:, kept] for name, values in drawn.items()}

    return PerQuery(
        ids=ids,
        names=task.relevance.findings,
        findings=findings,
        units=owners[items],
        views=tuple(views[items]),
        scores={name: values[kept] for name, values in scores.items()},
        chance={name: values[kept] for name, values in chance.items()},
        find=task.find,
        rows=judged.rows[kept],
        hits=judged.relevance[kept],
        cosines=judged.cosines[kept],
        candidates=candidate_names(table, by),
        gallery=task.allowed,
        answers=judged.relevant[kept],
        reachable=judged.candidates[kept],
        unit="prompts" if task.rows is None else "patients",
        relevant=relevant,
        struck=struck,
        redraw=None if redraw is None else redraw_kept,
    )


def _answers(task: LabelTask, judged: Judged, units: NDArray[np.int64], by: By, kept: NDArray[np.int64]) -> tuple[RowsOf, RowsOf]:
    """What answers each of the queries that are kept, and what it must not find, as `PerQuery` has them."""
    items, asked = task.items[kept], task.asked[kept]
    masks = asked.dtype

    @lru_cache(maxsize=16)  # queries for one finding follow each other
    def answering(mask: int) -> NDArray[np.int64]:
        gallery = task.gallery(masks.type(mask))
        held = unit_masks(task, gallery, units) if by == "study" and task.exact else task.relevance.positive
        rows = np.flatnonzero(gallery & task.answers(held, masks.type(mask)))
        return rows if by == "image" else np.sort(rows[np.unique(units[rows], return_index=True)[1]])

    @lru_cache(maxsize=16)
    def unknown(mask: int) -> NDArray[np.int64]:
        return np.flatnonzero(task.allowed & ~task.gallery(masks.type(mask)))

    def left_out(place: int) -> NDArray[np.int64]:
        return kept[:0] if judged.left_out is None else judged.left_out[items[place]]

    def relevant(place: int) -> NDArray[np.int64]:
        heads = answering(int(asked[place]))
        return heads[~np.isin(units[heads], units[left_out(place)])]

    def struck(place: int) -> NDArray[np.int64]:
        gone = left_out(place)
        return np.concatenate([unknown(int(asked[place])), gone[task.allowed[gone]]])

    return relevant, struck


def _prompt_names(task: LabelTask) -> list[str]:
    """Name each text by its place among those of its finding, from 0: whatever else can be asked for, it has the same name."""
    seen: Counter[int] = Counter()
    names = []
    for place in task.classes.tolist():  # texts are queries, one by one
        names.append(f"prompt{seen[place]}")
        seen[place] += 1
    return names


def pair_queries(pairs: PairRanks, by: By, scores: Mapping[str, Floats], chance: Mapping[str, Floats]) -> PerQuery:
    """List the queries of report-recall, each of which has a candidate of its own.

    Args:
        pairs: Where each query's own candidate stands.
        by: Whether the images of a study are one.
        scores: Metric to (Q,) float64.
        chance: Metric to (Q,) float64.
    """
    asking, answering, matched = pairs.asking.table, pairs.answering, pairs.matched
    first = np.unique(answering.groups, return_index=True)[1]
    heads, numbers = answering.rows[first], answering.numbers[first]
    gallery = np.zeros(answering.table.rows, dtype=np.bool_)
    gallery[answering.rows] = True
    number_of = np.full(answering.table.rows, -1, dtype=np.int64)
    number_of[answering.rows] = answering.numbers
    film = asking.modality == "images"
    return PerQuery(
        ids=tuple(map(str, candidate_names(asking, by)[matched.heads])),
        names=(),
        findings=np.full(len(matched.ranks), -1, dtype=np.int64),
        units=number_owners(asking, matched.heads),
        views=tuple(asking.column("view")[matched.heads]) if film and by == "image" else (None,) * len(matched.ranks),
        scores=scores,
        chance=chance,
        find=answering.table.modality,
        rows=matched.rows,
        hits=(matched.rows >= 0) & (number_of[matched.rows] == matched.numbers[:, None]),
        cosines=matched.scores,
        candidates=candidate_names(answering.table, by),
        gallery=gallery,
        answers=pairs.own,
        reachable=np.full(len(pairs.own), pairs.candidates, dtype=np.int64),
        unit="patients",
        relevant=lambda place: np.sort(heads[numbers == matched.numbers[place]]),
        struck=lambda place: heads[:0],
    )


def candidate_names(table: "ShardTable", by: By) -> NDArray[np.object_]:
    """Name the candidate that each row is: its record id; where studies are ranked, its study id if it has one."""
    rows = np.arange(table.rows)
    return study_names(table, rows) if by == "study" and table.modality == "images" else np.array(table.ids(rows), dtype=object)
