"""Evaluations kept as files: what was asked, what was answered and what was right, for other tools and for comparisons.

A folder holds result.json, and for each direction DIRECTION.run.trec, DIRECTION.qrels.trec, DIRECTION.candidates.txt (an id a line)
and DIRECTION.queries.jsonl (a query a line: ids, codes and figures; no text and no path).
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.atomic import whole_folder
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from retrieval.results import EvaluationResult, PerQuery, result_directions
from retrieval.trec import STRUCK, read_run, token, write_qrels, write_run

RESULT = "result.json"
QUERIES, RUN, QRELS, CANDIDATES = ".queries.jsonl", ".run.trec", ".qrels.trec", ".candidates.txt"
SAVED = ("id", "finding", "view", "unit", "relevant", "candidates", "scores", "chance", "hits")  # of each query
MOST_JUDGEMENTS = 20_000_000  # lines, about 2 GB

Rows = NDArray[np.int64]
Judged = list[tuple[list[str], int]]  # documents of a query, and the grade of them all
Ends = tuple[float, float]  # of an interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDirection:
    """One direction of an evaluation, as comparisons need it."""

    protocol: Mapping[str, Any]
    candidates: int
    queries: PerQuery  # `rows` are places in its `candidates`; `relevant` knows those that were ranked, `struck` none
    intervals: Mapping[str, Mapping[str, Ends]] = field(default_factory=dict)  # of each finding, and of "" all: metric to what was saved


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """An evaluation read from its folder, or an outside run that was scored."""

    name: str
    directions: Mapping[str, SavedDirection]


def check_run_folder(folder: Path) -> None:
    """Say before the work that an evaluation cannot be saved here.

    Raises:
        MedretError: If something is there that is no saved evaluation.
    """
    if folder.exists() and not (folder / RESULT).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MedretError(f"{folder}: holds no saved evaluation ({RESULT}), and is not overwritten. Name a new folder")


def save_run(folder: Path, result: EvaluationResult) -> tuple[str, ...]:
    """Save an evaluation whole or not at all, in the place of one that was saved there before.

    Returns:
        What to know about the files, a line each.
    """
    check_run_folder(folder)
    notes = []
    with whole_folder(folder) as place:
        write_json(place / RESULT, result.to_dict())
        for name, direction in result.directions.items():
            if direction.per_query is None:
                notes.append(f"{name}: its figures do not come from ranked queries, so there is no run to save")
            else:
                notes += _save_queries(place, name, direction.per_query)
    return tuple(notes)


def load_run(folder: Path) -> SavedRun:
    """Read a saved evaluation.

    Raises:
        MedretError: If the folder is none, or a file of it is missing or damaged.
    """
    if not (folder / RESULT).is_file():
        raise MedretError(f"{folder}: no {RESULT} in it, expected a folder made by: medret evaluate BENCHMARK --save {folder}")
    held = {name: one for name, one in read_directions(folder).items() if (folder / f"{token(name)}{QUERIES}").is_file()}
    if not held:
        raise MedretError(
            f"{folder}: holds no {QUERIES} file, so no direction of it can be compared. Benchmarks that rank have one when they are "
            "saved; zero-shot and linear-probe, which tell images apart, have none"
        )
    directions = {
        name: SavedDirection(
            protocol=one["protocol"],
            candidates=one["candidates"],
            queries=_load_queries(folder / f"{token(name)}{QUERIES}", folder / f"{token(name)}{RUN}", one["protocol"]["direction"]),
            intervals={row: _ends(figures) for row, figures in {"": one["metrics"], **one["per_class"]}.items()},
        )
        for name, one in held.items()
    }
    return SavedRun(name=folder.name, directions=directions)


def read_directions(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """Read what a saved evaluation says of each direction, as `DirectionResult.to_dict` does.

    Raises:
        MedretError: If it is damaged.
    """
    result = read_json(folder / RESULT)
    try:
        directions = result_directions(result)
        whole = all("direction" in one["protocol"] and one.keys() >= {"candidates", "metrics", "per_class"} for one in directions.values())
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise MedretError(f"{folder / RESULT}: is no result of an evaluation. Save the evaluation again")
    return directions


def read_queries(path: Path) -> list[dict[str, Any]]:
    """Read a file of queries, one object a line.

    Raises:
        MedretError: If there is none, a line is no such object, or two have the same id.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # an id may hold what str.splitlines splits at
    except UnicodeDecodeError as error:
        raise MedretError(f"{path}: is no text in UTF-8. Save the evaluation again") from error
    if not lines:
        raise MedretError(f"{path}: holds no query, so there is nothing to score or compare")
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
            found.append({name: one[name] for name in SAVED})
        except (ValueError, TypeError, KeyError) as error:
            raise MedretError(f"{path}, line {number}: no saved query ({error}). Save the evaluation again") from error
    if len({one["id"] for one in found}) < len(found):
        raise MedretError(f"{path}: has a query twice. Save the evaluation again")
    return found


def describe_queries(saved: list[dict[str, Any]], direction: str) -> dict[str, Any]:
    """Turn saved queries into the attributes of PerQuery that do not tell of answers."""
    names = tuple(dict.fromkeys(one["finding"] for one in saved if one["finding"] is not None))
    places = {name: place for place, name in enumerate(names)} | {None: -1}
    return {
        "ids": tuple(one["id"] for one in saved),
        "names": names,
        "findings": np.array([places[one["finding"]] for one in saved], dtype=np.int64),
        "units": np.array([one["unit"] for one in saved], dtype=np.int64),
        "views": tuple(one["view"] for one in saved),
        "answers": np.array([one["relevant"] for one in saved], dtype=np.int64),
        "reachable": np.array([one["candidates"] for one in saved], dtype=np.int64),
        "unit": "prompts" if direction.startswith("text") else "patients",
        "find": f"{direction.rpartition('-')[2]}s",
    }


def describe_answers(documents: tuple[str, ...], rows: Rows, hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Turn (Q, depth) places in `documents`, and whether they are relevant, into the attributes of PerQuery that tell of answers."""
    return {
        "rows": rows,
        "hits": hits,
        "cosines": np.full(rows.shape, np.nan, dtype=np.float32),
        "candidates": np.array(documents, dtype=object),
        "gallery": np.ones(len(documents), dtype=np.bool_),
        "relevant": lambda query: rows[query][hits[query]],
        "struck": lambda query: rows[query][:0],
    }


def _save_queries(place: Path, name: str, each: PerQuery) -> list[str]:
    home = str(place / token(name))
    if len(set(each.ids)) < len(each.ids):
        twice = next(id for id, count in Counter(each.ids).items() if count > 1)
        raise MedretError(f"{name}: {twice} asks more than once, so its answers cannot be told apart; expected each query once in the list")
    lengths = (each.rows >= 0).sum(axis=1)
    ranked = ([each.candidates[row] for row in rows[:length]] for rows, length in zip(each.rows, lengths, strict=True))
    write_run(Path(home + RUN), each.ids, ranked, each.cosines)
    Path(home + CANDIDATES).write_text("".join(f"{token(one)}\n" for one in _gallery_names(each)), encoding="utf-8")
    with Path(home + QUERIES).open("w", encoding="utf-8") as lines:
        for query, id in enumerate(each.ids):
            finding = int(each.findings[query])
            one = {
                "id": id,
                "finding": each.names[finding] if finding >= 0 else None,
                "view": each.views[query],
                "unit": int(each.units[query]),
                "relevant": int(each.answers[query]),
                "candidates": int(each.reachable[query]),
                "scores": _plain(each.scores, query),
                "chance": _plain(each.chance, query),
                "hits": (np.flatnonzero(each.hits[query]) + 1).tolist(),  # the ranks of relevant answers
            }
            lines.write(json.dumps(one, ensure_ascii=False) + "\n")
    judgements = int(each.answers.sum())
    whole = judgements <= MOST_JUDGEMENTS
    write_qrels(Path(home + QRELS), each.ids, _judgements(each) if whole else _judged_answers(each))
    if whole:
        return []
    return [f"{name}: {judgements} relevant candidates of all queries; {token(name)}{QRELS} names only those that were ranked"]


def _plain(values: Mapping[str, NDArray[np.float64]], query: int) -> dict[str, float | None]:
    """The figures of one query; a rank that is infinite, since nothing was found, is None."""
    return {name: float(each[query]) if math.isfinite(each[query]) else None for name, each in values.items()}


def _gallery_names(each: PerQuery) -> list[str]:
    return sorted(set(each.candidates[each.gallery].tolist()))


def _judgements(each: PerQuery) -> Iterator[Judged]:
    """What is relevant to each query and what it must not find; a study is struck if nothing of it is left to be found."""
    names, numbers = _number_candidates(each)
    for query in range(len(each.ids)):
        yield [(each.candidates[each.relevant(query)].tolist(), 1), (names[_gone(each, numbers, query)].tolist(), STRUCK)]


def _gone(each: PerQuery, numbers: Rows, query: int) -> Rows:
    struck = each.struck(query)
    if not len(struck):
        return struck
    left = each.gallery.copy()
    left[struck] = False
    stays = np.zeros(int(numbers.max()) + 1, dtype=np.bool_)
    stays[numbers[left]] = True
    gone = np.unique(numbers[struck])
    return gone[~stays[gone]]


def _judged_answers(each: PerQuery) -> Iterator[Judged]:
    for rows, found in zip(each.rows, each.hits, strict=True):
        yield [(each.candidates[rows[found]].tolist(), 1), (each.candidates[rows[~found & (rows >= 0)]].tolist(), 0)]


def _number_candidates(each: PerQuery) -> tuple[NDArray[np.str_], Rows]:
    """The names of the candidates and, for each row, the place of its own: equal for the rows of one."""
    names, numbers = np.unique(each.candidates.astype(str), return_inverse=True)
    return names, numbers.astype(np.int64)


def _load_queries(path: Path, run_file: Path, direction: str) -> PerQuery:
    saved, run = read_queries(path), read_run(run_file)
    places = {query: place for place, query in enumerate(run.queries)}
    ranked = np.concatenate([run.ranked, np.full((1, run.ranked.shape[1]), -1, dtype=np.int64)])  # the last: of no answer
    rows = ranked[[places.get(token(one["id"]), -1) for one in saved]]
    hits = np.zeros(rows.shape, dtype=np.bool_)
    for query, one in enumerate(saved):
        if one["hits"] and max(one["hits"]) > rows.shape[1]:
            raise MedretError(f"{run_file}: ranks less than {path.name} tells of. Save the evaluation again")
        hits[query, np.array(one["hits"], dtype=np.int64) - 1] = True
    return PerQuery(
        **describe_queries(saved, direction),
        **describe_answers(run.documents, rows, hits),
        scores={name: _column(saved, "scores", name) for name in saved[0]["scores"]},
        chance={name: _column(saved, "chance", name) for name in saved[0]["chance"]},
    )


def _ends(figures: Mapping[str, Any]) -> dict[str, Ends]:
    """The intervals in a row of a saved table; an end that is infinite, a rank's, is None there."""
    found = {name: (one["low"], one["high"]) for name, one in figures.items() if name != "queries" and "low" in one}
    return {name: (math.inf if low is None else low, math.inf if high is None else high) for name, (low, high) in found.items()}


def _column(saved: list[dict[str, Any]], kind: str, name: str) -> NDArray[np.float64]:
    """One figure of all queries."""
    return np.array([math.inf if one[kind][name] is None else one[kind][name] for one in saved], dtype=np.float64)
