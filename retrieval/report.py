"""One self-contained HTML page: queries, ranked films and reports, and Precision@k beside chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from index.corpora.prompts import prompts_for
from index.corpora.record import LabelState
from retrieval.engine import Answer, Hit, Query, SearchEngine
from retrieval.filters import parse_condition
from retrieval.tables import answer_notes, figure, plain_value
from retrieval.thumbnails import thumbnail

EXAMPLES = 5  # hits of each example query on an evaluation's page


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """An answer on the page; `finding` marks each hit by whether it is positive for it."""

    answer: Answer
    query_image: Path | None = None
    finding: str | None = None


def render_answers(engine: SearchEngine, answers: Sequence[Answer], *, with_ids: bool = False) -> str:
    """Render answers as one HTML page without outside references.

    Args:
        engine: What answered.
        answers: In the order of the page.
        with_ids: Name patients, studies, records and paths; otherwise none of them appears.

    Returns:
        The page. Films are embedded as JPEG of at most 420 pixels a side.
    """
    shown = [_Shown(answer=answer, query_image=_query_image(engine, answer.query)) for answer in answers]
    return _render("Answers", "", shown, [], engine, with_ids)


def render_evaluation(engine: SearchEngine, result: Mapping[str, Any], *, with_ids: bool = False) -> str:
    """Render an evaluation as one HTML page: its figures beside chance, and examples of what was ranked.

    Args:
        engine: What was evaluated.
        result: `EvaluationResult.to_dict()`; the examples keep to the protocol that each direction names.
        with_ids: Name patients, studies, records and paths; otherwise none of them appears.
    """
    directions = _directions(result)
    tables = [_table(str(result["benchmark"]), name, one) for name, one in directions.items()]
    shown = [example for one in directions.values() for example in _examples(engine, one["protocol"], list(one["per_class"]))]
    lead = "How often the first k answers are right, beside how often a random order would be."
    return _render(f"medret evaluate {result['benchmark']}", lead, shown, tables, engine, with_ids)


def _examples(engine: SearchEngine, protocol: Mapping[str, Any], findings: Sequence[str], at_most: int = 4) -> Iterator[_Shown]:
    """A question about each finding: its first built-in prompt; or for some findings, an image that is positive for it."""
    asking, found = protocol["direction"].split("-")
    splits, views = (None if protocol.get(name, "all") == "all" else tuple(protocol[name]) for name in ("splits", "views"))
    only = tuple(parse_condition(text) for text in protocol.get("only", ()))
    where = protocol.get("where")
    ask = partial(Query, find=f"{found}s", vector=protocol["vector"], k=EXAMPLES, splits=splits, views=views, only=only, where=where)
    if asking == "text":
        for finding in findings:
            yield _Shown(answer=engine.search(ask(text=prompts_for(finding)[0])), finding=finding)
        return
    table = engine.table("images")
    allowed = ask(text="").selection.rows(table)
    for finding in [name for name in table.findings if name in findings and name != "No Finding"][:at_most]:
        positive = np.flatnonzero(allowed & (table.labels([finding])[:, 0] == LabelState.POSITIVE))
        if len(positive):
            query = ask(id=table.ids(positive[:1])[0], exclude_same_patient=protocol["exclude_same_patient"])
            yield _Shown(answer=engine.search(query), query_image=_query_image(engine, query), finding=finding)


def _query_image(engine: SearchEngine, query: Query) -> Path | None:
    """The film that was asked with, if any."""
    if query.id is None:
        return query.image
    return engine.image_path(query.id)


def _render(
    title: str, lead: str, shown: Sequence[_Shown], tables: Sequence[Mapping[str, Any]], engine: SearchEngine, with_ids: bool
) -> str:
    environment = Environment(
        loader=PackageLoader("retrieval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("results.html.jinja").render(
        title=title,
        lead=lead,
        answers=[_answer(one, with_ids) for one in shown],
        results=tables,
        encoder=engine.fingerprint,
        version=version("medret"),
        with_ids=with_ids,
    )


def _answer(shown: _Shown, with_ids: bool) -> dict[str, Any]:
    query = shown.answer.query
    words = query.text if query.label is None else query.label
    asked = "film" if query.image is not None or shown.query_image else "record"
    if words is not None:
        asked = "text" if query.label is None else "label"
    about = f", of a film positive for {shown.finding}" if shown.finding and asked == "film" else ""
    return {
        "text": words,
        "image": thumbnail(shown.query_image),
        "summary": f"{asked} → {query.find}{about}",
        "notes": answer_notes(shown.answer),
        "hits": [_hit(hit, shown.finding, with_ids) for hit in shown.answer.hits],
    }


def _hit(hit: Hit, finding: str | None, with_ids: bool) -> dict[str, Any]:
    states = {name: state for name, state in hit.labels.items() if state in ("positive", "uncertain")}
    identity = [("record", hit.id), ("patient", hit.patient_id), ("study", hit.study_id), ("path", hit.path)]
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.3f}",
        "view": hit.view,
        "text": hit.text,
        "shows_image": hit.modality == "images",
        "image": thumbnail(hit.image_path) if hit.modality == "images" else None,
        "chips": [{"finding": name, "state": state} for name, state in states.items()],
        "relevant": None if finding is None or finding not in hit.labels else hit.labels[finding] == "positive",
        "ids": [(key, value) for key, value in identity if value is not None] if with_ids else [],
    }


def _directions(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The result of each direction, by its name."""
    return result.get("directions") or {result["protocol"]["direction"]: result}


def _table(benchmark: str, direction: str, result: Mapping[str, Any]) -> dict[str, Any]:
    names = list(result["metrics"])
    bar = next((name for name in names if name.startswith("P@")), None)
    rows = [_row("macro" if result["per_class"] else "all", result["queries"], result["metrics"], names, bar, overall=True)]
    for finding, metrics in result["per_class"].items():
        rows.append(_row(finding, metrics["queries"], metrics, names, bar, overall=False))
    return {
        "benchmark": benchmark,
        "direction": direction,
        "queries": result["queries"],
        "candidates": result["candidates"],
        "row_name": "finding" if result["per_class"] else "",
        "names": names,
        "bar": bar,
        "rows": rows,
        "protocol": [(key.replace("_", " "), plain_value(value)) for key, value in result["protocol"].items()],
    }


def _row(name: str, queries: int, metrics: Mapping[str, Any], names: Sequence[str], bar: str | None, *, overall: bool) -> dict[str, Any]:
    cells = [_cell(metrics.get(metric)) for metric in names]
    drawn = metrics.get(bar, {}) if bar else {}
    return {
        "name": name,
        "queries": queries,
        "overall": overall,
        "cells": cells,
        "bar_value": round(100 * (drawn.get("value") or 0.0), 1),  # a figure over no query is None
        "bar_chance": round(100 * (drawn.get("chance") or 0.0), 1),
    }


def _cell(metric: Mapping[str, float | None] | None) -> dict[str, str]:
    if metric is None:
        return {"value": "", "chance": ""}
    value, chance = metric["value"], metric.get("chance")
    return {"value": figure(value), "chance": "" if chance is None else figure(chance)}
