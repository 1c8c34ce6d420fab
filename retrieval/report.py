"""One self-contained HTML page: queries, ranked films and reports, and Precision@k beside chance."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import read_image
from index.corpora.record import LabelState
from retrieval.engine import Answer, Hit, Query, SearchEngine
from retrieval.filters import rows_with
from retrieval.prompts import FINDING_PROMPTS
from retrieval.tables import figure, plain_value

THUMBNAIL = 420  # pixels on the longer side: sharp at the 210 CSS pixels the page shows
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


def render_evaluation(
    engine: SearchEngine, result: Mapping[str, Any], *, splits: Sequence[str] | None = None, with_ids: bool = False
) -> str:
    """Render an evaluation as one HTML page: its figures beside chance, and examples of what was ranked.

    Args:
        engine: What was evaluated.
        result: `EvaluationResult.to_dict()`.
        splits: The splits that the evaluation was restricted to; the examples are, too.
        with_ids: Name patients, studies, records and paths; otherwise none of them appears.
    """
    findings = [name for name in result["per_class"] if name in FINDING_PROMPTS]
    tables = _tables(result)
    scored = {str(table["direction"]) for table in tables}
    shown = _text_examples(engine, findings, splits) if "text-image" in scored else []
    shown += _image_examples(engine, findings, splits)
    lead = "How often the first k answers are right, beside how often a random order would be."
    return _render(f"medret evaluate {result['benchmark']}", lead, shown, tables, engine, with_ids)


def _text_examples(engine: SearchEngine, findings: Sequence[str], splits: Sequence[str] | None) -> list[_Shown]:
    """The first built-in prompt of each finding."""
    chosen = tuple(splits) if splits else None
    queries = [Query(text=FINDING_PROMPTS[finding][0], k=EXAMPLES, splits=chosen) for finding in findings]
    return [_Shown(answer=engine.search(query), finding=finding) for query, finding in zip(queries, findings, strict=True)]


def _image_examples(engine: SearchEngine, findings: Sequence[str], splits: Sequence[str] | None, at_most: int = 4) -> list[_Shown]:
    """For some findings, an image that is positive for it, asking for images and for reports."""
    table = engine.table("images")
    chosen = tuple(splits) if splits else None
    allowed = np.ones(table.rows, dtype=np.bool_) if chosen is None else rows_with(table, "split", chosen)
    shown = []
    for finding in [name for name in findings if name != "No Finding"][:at_most]:
        positive = np.flatnonzero(allowed & (table.labels([finding])[:, 0] == LabelState.POSITIVE))
        if len(positive) == 0:
            continue
        id = table.ids(positive[:1])[0]
        for find in ("images", "reports") if "reports" in engine.modalities else ("images",):
            answer = engine.search(Query(id=id, find=find, k=EXAMPLES, splits=chosen))
            shown.append(_Shown(answer=answer, query_image=_query_image(engine, answer.query), finding=finding))
    return shown


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
    asked = "text" if query.text is not None else "film" if query.image is not None or shown.query_image else "record"
    about = f", of a film positive for {shown.finding}" if shown.finding and asked == "film" else ""
    return {
        "text": query.text,
        "image": _thumbnail(shown.query_image),
        "summary": f"{asked} → {query.find}{about}",
        "notes": shown.answer.notes,
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
        "image": _thumbnail(hit.image_path) if hit.modality == "images" else None,
        "chips": [{"finding": name, "state": state} for name, state in states.items()],
        "relevant": None if finding is None else hit.labels.get(finding) == "positive",
        "ids": [(key, value) for key, value in identity if value is not None] if with_ids else [],
    }


def _thumbnail(path: Path | None) -> str | None:
    """The film as a data URI, or None where it cannot be read: the page then says so in its place."""
    if path is None:
        return None
    try:
        film = Image.fromarray(read_image(path))
    except MedretError:
        return None
    film.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    film.save(held, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def _tables(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table for each direction of a result."""
    directions = result.get("directions") or {result["protocol"].get("direction", ""): result}
    return [_table(str(result["benchmark"]), name, one) for name, one in directions.items()]


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
    drawn = metrics.get(bar) if bar else None
    return {
        "name": name,
        "queries": queries,
        "overall": overall,
        "cells": cells,
        "bar_value": 0.0 if drawn is None else round(100 * drawn["value"], 1),
        "bar_chance": 0.0 if drawn is None else round(100 * drawn["chance"], 1),
    }


def _cell(metric: Mapping[str, float | None] | None) -> dict[str, str]:
    if metric is None:
        return {"value": "", "chance": ""}
    value, chance = metric["value"], metric.get("chance")
    return {"value": figure(value), "chance": "" if chance is None else figure(chance)}
