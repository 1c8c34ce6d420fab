"""A comparison as plain text, and how its figures are worded."""

import math
from collections.abc import Mapping

from retrieval.comparison import DirectionComparison
from retrieval.result_tables import aligned, figure
from retrieval.results import Score


def render_comparisons(comparisons: Mapping[str, DirectionComparison]) -> str:
    """Lay comparisons out: a table for each direction, metrics down, systems across."""
    return "\n\n".join(
        f"{name}: {one.results[0].queries} queries\n{_table(one)}\n{interval_words(one)}. p: {p_words(one)}"
        for name, one in comparisons.items()
    )


def interval_words(one: DirectionComparison) -> str:
    """Say what was drawn for the intervals of the figures and of the differences, once where it is the same."""
    drawn: dict[str, list[str]] = {}
    for name, result in zip(one.names, one.results, strict=True):
        drawn.setdefault(result.protocol.get("interval", "none"), []).append(name)
    of_figures = next(iter(drawn)) if len(drawn) == 1 else "; ".join(f"{', '.join(names)}: {said}" for said, names in drawn.items())
    of_differences = one.differences[0].drawn
    if of_figures == of_differences:
        return f"intervals: {of_figures}"
    return f"intervals: {of_figures}; of differences: {of_differences}"


def p_words(one: DirectionComparison) -> str:
    """Say what the test of the differences swaps."""
    return f"paired randomisation of whole {one.queries[0].unit}"


def _table(one: DirectionComparison) -> str:
    head = ["metric", "chance", *one.names]
    for name in one.names[1:]:
        head += ["difference" if len(one.names) == 2 else f"difference of {name}", "p"]
    rows = [head]
    for metric in one.results[0].metrics:
        scores = [result.metrics[metric] for result in one.results]
        row = [metric, figure(scores[0].chance, metric), *(_with_interval(score, metric) for score in scores)]
        for difference in one.differences:
            tested = difference.overall.get(metric)
            row += ["-", "-"] if tested is None else [_with_interval(difference.intervals[metric], metric, signed=True), p_value(tested.p)]
        rows.append(row)
    return aligned(list(zip(*rows, strict=True)))


def _with_interval(score: Score, metric: str, *, signed: bool = False) -> str:
    ends = interval(score, metric, signed=signed)
    value = f"{score.value:+.3f}" if signed else figure(score.value, metric)
    return f"{value} ({ends})" if ends else value


def interval(score: Score, metric: str, *, signed: bool = False) -> str:
    """Write the ends of an interval; nothing where there is none."""
    if not math.isfinite(score.low) or not math.isfinite(score.high):
        return ""
    return f"{score.low:+.3f} to {score.high:+.3f}" if signed else f"{figure(score.low, metric)} to {figure(score.high, metric)}"


def p_value(p: float) -> str:
    """Write a p-value: three decimals, and no smaller than what the resamples can tell."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
