"""The figures of an evaluation, laid out for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.pages import option_rows
from retrieval.tables import figure


def directions(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The result of each direction, by its name."""
    return result.get("directions") or {result["protocol"]["direction"]: result}


def evaluation_table(benchmark: str, direction: str, result: Mapping[str, Any], *, with_ids: bool) -> dict[str, Any]:
    """Lay one direction out: a row for each average, finding and view, its protocol, and what others published."""
    names = list(result["metrics"])
    bar = next((name for name in names if name.startswith(("P@", "AUC"))), None)
    first = "macro" if result["per_class"] else "all"
    rows = [_row(first, result["queries"], result["metrics"], names, bar, "overall")]
    rows += [_row(name, result["queries"], metrics, names, bar, "overall") for name, metrics in result.get("other_average", {}).items()]
    for kind, groups in (("finding", result["per_class"]), ("view", result.get("per_view", {}))):
        rows += [_row(name, metrics["queries"], metrics, names, bar, kind) for name, metrics in groups.items()]
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


def _row(name: str, queries: int, metrics: Mapping[str, Any], names: Sequence[str], bar: str | None, kind: str) -> dict[str, Any]:
    drawn = metrics.get(bar, {}) if bar else {}
    return {
        "name": f"view {name}" if kind == "view" else name,
        "queries": queries,
        "kind": kind,
        "cells": [_cell(metrics.get(metric)) for metric in names],
        "bar_value": _percent(drawn.get("value")),
        "bar_chance": _percent(drawn.get("chance")),
        "bar_low": _percent(drawn.get("low")) if "low" in drawn else None,
        "bar_span": round(_percent(drawn.get("high")) - _percent(drawn.get("low")), 1) if "low" in drawn else None,
    }


def _percent(share: float | None) -> float:
    return round(100 * (share or 0.0), 1)  # a figure over no query is None


def _cell(metric: Mapping[str, float | None] | None) -> dict[str, str]:
    if metric is None:
        return {"value": "", "chance": "", "interval": ""}
    chance = metric.get("chance")
    return {
        "value": figure(metric["value"]),
        "chance": "" if chance is None else figure(chance),
        "interval": f"{figure(metric['low'])}–{figure(metric['high'])}" if "low" in metric else "",
    }


def _published(table: Mapping[str, Any]) -> dict[str, Any]:
    names = list(next(iter(table["systems"].values())))
    systems = [(system, [figure(figures[name]) for name in names]) for system, figures in table["systems"].items()]
    return {"source": table["source"], "caveat": table["caveat"], "names": names, "systems": systems}
