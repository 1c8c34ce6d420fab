"""The figures of an evaluation, laid out for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.pages import option_rows
from retrieval.result_tables import figure, result_rows


def evaluation_table(benchmark: str, direction: str, result: Mapping[str, Any], *, with_ids: bool) -> dict[str, Any]:
    """Lay one direction out: a row for each average, finding and view, its protocol, and what others published."""
    names = list(result["metrics"])
    bar = next((name for name in names if name.startswith(("P@", "AUC"))), None)
    rows = [_row(kind, name, metrics, names, bar) for kind, name, metrics in result_rows(result)]
    return {
        "benchmark": benchmark,
        "direction": direction,
        "queries": result["queries"],
        "candidates": result["candidates"],
        "counted": result["counted"],
        "row_name": "finding" if result["per_class"] else "",
        "names": names,
        "bar": bar,
        "rows": rows,
        "intervals": result["protocol"].get("interval", "") if any(cell["interval"] for row in rows for cell in row["cells"]) else "",
        "protocol": option_rows(result["protocol"], with_ids),
        "published": [_published(table) for table in result.get("published", ())],
    }


def _row(kind: str, name: str, metrics: Mapping[str, Any], names: Sequence[str], bar: str | None) -> dict[str, Any]:
    drawn = metrics.get(bar, {}) if bar else {}
    return {
        "name": name,
        "queries": metrics["queries"],
        "kind": kind,
        "cells": [_cell(metric, metrics.get(metric)) for metric in names],
        "bar_value": _percent(drawn.get("value")),
        "bar_chance": _percent(drawn.get("chance")),
        "bar_low": _percent(drawn.get("low")) if "low" in drawn else None,
        "bar_span": round(_percent(drawn.get("high")) - _percent(drawn.get("low")), 1) if "low" in drawn else None,
    }


def _percent(share: float | None) -> float:
    return round(100 * (share or 0.0), 1)  # a figure over no query is None


def _cell(metric: str, score: Mapping[str, float | None] | None) -> dict[str, str]:
    if score is None:
        return {"value": "", "chance": "", "interval": ""}
    chance = score.get("chance")
    return {
        "value": figure(score["value"], metric),
        "chance": "" if chance is None else figure(chance, metric),
        "interval": f"{figure(score['low'], metric)}–{figure(score['high'], metric)}" if "low" in score else "",
    }


def _published(table: Mapping[str, Any]) -> dict[str, Any]:
    names = list(next(iter(table["systems"].values())))
    systems = [(system, [figure(figures[name]) for name in names]) for system, figures in table["systems"].items()]
    return {"source": table["source"], "caveat": table["caveat"], "names": names, "systems": systems}
