"""One self-contained HTML page: queries, ranked films and reports, and Precision@k beside chance."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import read_image
from retrieval.engine import Answer, Hit

THUMBNAIL = 420  # pixels on the longer side: sharp at the 210 CSS pixels the page shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An answer on the page, with what was asked.

    Attributes:
        answer: The ranked hits.
        text: The text of the query, or None.
        image: The query's image file, or None.
        summary: One line about the query ("text → images").
        relevant_finding: Marks each hit by whether it is positive for this finding; None marks nothing.
    """

    answer: Answer
    text: str | None = None
    image: Path | None = None
    summary: str = ""
    relevant_finding: str | None = None


def render_page(
    title: str,
    shown: Sequence[Shown],
    *,
    encoder: str,
    results: Iterable[Mapping[str, Any]] = (),
    lead: str = "",
    with_ids: bool = False,
) -> str:
    """Render answers and evaluation results as one HTML page without outside references.

    Args:
        title: Heading of the page.
        shown: The answers, in the order of the page.
        encoder: Fingerprint of the encoder that ranked them.
        results: Evaluation results as dictionaries (`EvaluationResult.to_dict()`).
        lead: A sentence under the heading.
        with_ids: Name patients, studies, records and paths; otherwise none of them appears.

    Returns:
        The page. Films are embedded as JPEG of at most 420 pixels a side.
    """
    environment = Environment(
        loader=PackageLoader("retrieval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("results.html.jinja")
    tables = [table for result in results for table in _tables(result)]
    answers = [_answer(one, with_ids) for one in shown]
    return page.render(
        title=title, lead=lead, answers=answers, results=tables, encoder=encoder, version=version("medret"), with_ids=with_ids
    )


def _answer(shown: Shown, with_ids: bool) -> dict[str, Any]:
    return {
        "text": shown.text,
        "image": _thumbnail(shown.image),
        "summary": shown.summary,
        "notes": shown.answer.notes,
        "hits": [_hit(hit, shown.relevant_finding, with_ids) for hit in shown.answer.hits],
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
        "protocol": [(key.replace("_", " "), value) for key, value in result["protocol"].items()],
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
    return {"value": _figure(value), "chance": "" if chance is None else _figure(chance)}


def _figure(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.1f}"
