"""Evaluations as plain text for a terminal, and how their figures are worded."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from textwrap import indent
from typing import Any

from retrieval.results import result_directions


def render_result(result: Mapping[str, Any]) -> str:
    """Lay an evaluation out: a table for each direction with chance beside each figure, then the protocol in full."""
    blocks = []
    for name, one in result_directions(result).items():
        published = "".join(f"\n{_published(table)}" for table in one.get("published", ()))
        counted = f"{one['queries']} {one['counted'][0]}, {one['candidates']} {one['counted'][1]}"
        blocks.append(f"{result['benchmark']} {name}: {counted}\n{_metric_table(one)}\n{_protocol(one)}{published}")
    return "\n\n".join(blocks)


def figure(value: float | None, metric: str = "") -> str:
    """Three decimals, of ranks (and whatever is above 1) one, a dash for what is not defined or not finite."""
    if value is None or not isfinite(value):
        return "-"
    return f"{value:.1f}" if "rank" in metric or abs(value) > 1 else f"{value:.3f}"


def plain_value(value: object) -> str:
    """Word an option of a protocol: lists and counts by reason without brackets, True and False as yes and no."""
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {reason}" for reason, count in value.items()) or "nothing"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no", None: "none"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return the rows of a direction's table: "overall" (both means), "finding" or "view"; the name; the figures and "queries"."""
    by_query = result["protocol"].get("average") == "queries"
    overall = "all" if not result["per_class"] else "micro" if by_query else "macro"
    means = {overall: result["metrics"], **result.get("other_average", {})}
    rows = [("overall", name, {**figures, "queries": result["queries"]}) for name, figures in means.items()]
    rows += [("finding", name, figures) for name, figures in result["per_class"].items()]
    return rows + [("view", f"{name} films", figures) for name, figures in result.get("per_view", {}).items()]


def _metric_table(result: Mapping[str, Any]) -> str:
    """As many figures side by side as the terminal has room for, the others below them."""
    rows = result_rows(result)
    first = [
        ["finding" if result["per_class"] else "", *(name for _, name, _ in rows)],
        [result["counted"][0], *(str(row["queries"]) for _, _, row in rows)],
    ]
    room = max(shutil.get_terminal_size((140, 24)).columns, 80)
    blocks = [first]
    for name in result["metrics"]:
        columns = _metric_columns(name, [row.get(name) or {"value": None, "chance": None} for _, _, row in rows])
        if len(blocks[-1]) > 2 and sum(_width(column) + 2 for column in blocks[-1] + columns) > room:
            blocks.append(first)
        blocks[-1] = blocks[-1] + columns
    return "\n\n".join(aligned(block) for block in blocks)


def _metric_columns(name: str, figures: Sequence[Mapping[str, float | None]]) -> list[list[str]]:
    """The figure, its interval where one was computed, and chance; each with its head."""
    word = partial(figure, metric=name)
    values = [name, *(word(one["value"]) for one in figures)]
    chance = ["chance", *(word(one["chance"]) for one in figures)]
    if not any("low" in one for one in figures):
        return [values, chance]
    return [values, ["95 %", *(f"{word(one['low'])}–{word(one['high'])}" if "low" in one else "-" for one in figures)], chance]


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def aligned(columns: Sequence[Sequence[str]]) -> str:
    """Lay columns out, the first to the left and the others to the right."""
    widths = [_width(column) for column in columns]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in zip(*columns, strict=True)
    )


def _protocol(result: Mapping[str, Any]) -> str:
    pairs = [f"{key.replace('_', ' ')}: {plain_value(value)}" for key, value in result["protocol"].items()]
    return "protocol: " + "; ".join(pairs)


def _published(table: Mapping[str, Any]) -> str:
    """A table that others published, under its source and with its caveat."""
    systems = table["systems"]
    names = list(next(iter(systems.values())))
    columns = [["", *systems], *([name, *(figure(figures[name]) for figures in systems.values())] for name in names)]
    return f"published: {table['source']}\n" + indent(aligned(columns), "  ") + f"\n  but: {table['caveat']}"
