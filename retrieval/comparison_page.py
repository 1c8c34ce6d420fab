"""A comparison of systems as one HTML page: figures, charts, and the queries that changed most with what was ranked."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from encoders.errors import MedretError
from index.corpora.prompts import prompts_for
from index.corpora.record import FINDINGS
from retrieval.charts import Bar, bar_chart, curve_chart
from retrieval.comparison import Difference, DirectionComparison
from retrieval.comparison_table import interval, interval_words, p_value, p_words
from retrieval.engine import SearchEngine
from retrieval.owners import study_names
from retrieval.pages import option_rows, option_words, render_page
from retrieval.pictures import film_picture
from retrieval.result_tables import figure
from retrieval.results import DirectionResult, PerQuery, Score
from retrieval.significance import Tested

SHOWN = 6  # changed queries of each system
ANSWERS = 5  # of each system to each of them
SIDE = 240  # pixels of the films


def render_comparison(comparisons: Mapping[str, DirectionComparison], engine: SearchEngine | None = None, *, with_ids: bool = False) -> str:
    """Render a comparison as one HTML page without outside references.

    Args:
        comparisons: `compare_runs` of two systems or more.
        engine: The index that was asked, to show films and reports; None shows none.
        with_ids: Name queries and records; otherwise no id appears.

    Raises:
        MedretError: If the index has no record of an id that is to be shown.
    """
    return render_page(
        "compare.html.jinja",
        names=next(iter(comparisons.values())).names,
        directions=[_direction(name, one, engine, with_ids) for name, one in comparisons.items()],
        with_ids=with_ids,
        with_films=engine is not None,
    )


def _direction(name: str, one: DirectionComparison, engine: SearchEngine | None, with_ids: bool) -> dict[str, Any]:
    base = one.results[0]
    classes = list(base.per_class)
    bars = [[_bar(result.per_class[finding][1][one.primary]) for result in one.results] for finding in classes]
    chance = [base.per_class[finding][1][one.primary].chance for finding in classes]
    level = math.nan  # drawn where it is the same at every k
    if one.curve == "P" and base.protocol.get("denominator", "k") == "k":
        level = next((score.chance for metric, score in base.metrics.items() if metric.startswith("P@")), math.nan)
    return {
        "name": name,
        "queries": base.queries,
        "candidates": base.candidates,
        "average": "over findings" if base.protocol.get("average") == "findings" else "over queries",
        "primary": one.primary,
        "curve": one.curve,
        "apart": one.apart,
        "unlike": [(key.replace("_", " "), [option_words(key, value, with_ids) for value in values]) for key, values in one.unlike.items()],
        "intervals": interval_words(one),
        "tested": p_words(one),
        "metrics": [_row(metric, _scores(one.results, metric), one.differences) for metric in base.metrics],
        "classes": [_class_row(finding, one) for finding in classes],
        "curves": curve_chart(one.curves, level) if one.curves.shape[1] > 1 else None,
        "bars": bar_chart(classes, bars, chance) if classes else None,
        "changed": [_changed(one, place, engine, with_ids) for place in range(len(one.differences))],
        "protocol": option_rows(base.protocol, with_ids),
    }


def _bar(score: Score) -> Bar:
    return Bar(score.value, score.low, score.high)


def _scores(results: Sequence[DirectionResult], metric: str) -> list[Score]:
    return [result.metrics[metric] for result in results]


def _row(metric: str, scores: Sequence[Score], differences: Sequence[Difference]) -> dict[str, Any]:
    tested = [(each.overall.get(metric), each.intervals.get(metric)) for each in differences]
    return {"name": metric, "queries": None, **_cells(metric, scores, tested)}


def _class_row(finding: str, one: DirectionComparison) -> dict[str, Any]:
    scores = [result.per_class[finding][1][one.primary] for result in one.results]
    tested = [(each.per_class.get(finding), each.class_intervals.get(finding)) for each in one.differences]
    return {"name": finding, "queries": one.results[0].per_class[finding][0], **_cells(one.primary, scores, tested)}


def _cells(metric: str, scores: Sequence[Score], tested: Sequence[tuple[Tested | None, Score | None]]) -> dict[str, Any]:
    return {
        "chance": figure(scores[0].chance, metric),
        "scores": [(figure(score.value, metric), interval(score, metric)) for score in scores],
        "differences": [_tested(*each, metric) for each in tested],
    }


def _tested(tested: Tested | None, score: Score | None, metric: str) -> dict[str, str]:
    if tested is None or score is None:
        return {"value": "-", "interval": "", "p": "-", "mark": ""}
    sure = tested.p < 0.05
    return {
        "value": f"{tested.difference:+.3f}",
        "interval": interval(score, metric, signed=True),
        "p": p_value(tested.p),
        "mark": ("better" if tested.difference > 0 else "worse") if sure else "",
    }


def _changed(one: DirectionComparison, place: int, engine: SearchEngine | None, with_ids: bool) -> dict[str, Any]:
    """The queries that a system changed most, with the first answers of it and of the first system."""
    pair = (0, place + 1)
    changed = one.differences[place].changed
    hits = [one.queries[side].hits for side in pair]
    shelf = engine if _indexed(one.results[0].protocol) else None
    base = one.queries[0]
    shown = []
    for query in changed[:SHOWN]:
        answers = [_answers(one.queries[side], found[query], query, shelf, with_ids) for side, found in zip(pair, hits, strict=True)]
        values = [float(one.queries[side].scores[one.primary][query]) for side in pair]
        sides = [
            {"name": one.names[side], "system": side, "value": figure(value), "answers": ranked}
            for side, value, ranked in zip(pair, values, answers, strict=True)
        ]
        shown.append({"asked": _asked(base, query, one, engine), "id": base.ids[query] if with_ids else None, "sides": sides})
    return {"name": one.names[place + 1], "count": len(changed), "queries": shown}


def _indexed(protocol: Mapping[str, Any]) -> bool:
    """Whether the index holds what was ranked, rather than the lists of a benchmark."""
    return protocol.get("texts") != "the list's" and protocol.get("candidates") != "the listed texts"


def _asked(each: PerQuery, query: int, one: DirectionComparison, engine: SearchEngine | None) -> dict[str, Any]:
    """What was asked: the film, the report, or the words of a built-in prompt."""
    finding = each.names[each.findings[query]] if each.findings[query] >= 0 else None
    item = each.ids[query] if finding is None else each.ids[query].rpartition("|")[0]
    protocol = one.results[0].protocol
    direction = str(protocol.get("direction", ""))
    asking = "image" if direction == "own-report" else direction.partition("-")[0]
    told: dict[str, Any] = {"finding": finding, "kind": asking or "query", "image": None, "text": None}
    if asking == "text" and finding in FINDINGS and protocol.get("prompts") == "built-in":
        mine = [place for place in range(len(each.ids)) if each.findings[place] == each.findings[query]]
        prompts = prompts_for(finding)
        told["text"] = prompts[mine.index(query)] if len(prompts) == len(mine) else None
    elif asking in ("image", "report") and engine is not None:
        told |= _record(engine, item, f"{asking}s") or {}
    return told


def _answers(each: PerQuery, found: Sequence[bool], query: int, engine: SearchEngine | None, with_ids: bool) -> list[dict[str, Any]]:
    return list(_first_answers(each, found, query, engine, with_ids))


def _first_answers(
    each: PerQuery, found: Sequence[bool], query: int, engine: SearchEngine | None, with_ids: bool
) -> Iterator[dict[str, Any]]:
    for row, hit in zip(each.rows[query, :ANSWERS].tolist(), found, strict=False):
        if row < 0:
            return
        id = str(each.candidates[row])
        shown = {"image": None, "text": None} if engine is None else _record(engine, unquote(id), each.find)
        if shown is None:
            raise MedretError(f"{id}: is ranked by a run, but no record of the index; expected --index to be the one that was asked")
        yield {"hit": bool(hit), "id": id if with_ids else None, "sought": engine is not None, **shown}


def _record(engine: SearchEngine, id: str, find: str) -> dict[str, str | None] | None:
    """The film or the text of a record; of a study its first film, of a film its report where one is sought; None if there is none."""
    own = id
    if find == "reports" and "images" in engine.modalities and (film := engine.table("images").find(id)) is not None:
        own = str(study_names(engine.table("images"), np.array([film]))[0])  # lists name reports by their films
    for modality in (find,) if find in engine.modalities else engine.modalities:
        table = engine.table(modality)
        row = table.find(own)
        rows = table.rows_of("study_id", [own]) if row is None else np.array([row], dtype=np.int64)
        if len(rows):
            record = table.ids(rows[:1])[0]
            if modality == "images":
                return {"image": film_picture(engine.image_path(record), SIDE), "text": None}
            return {"image": None, "text": table.column("text")[rows[0]]}
    return None
