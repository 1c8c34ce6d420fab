"""Charts as SVG within a page: colours are the page's own (`--s0` to `--s5` for systems, `--ink`, `--soft`, `--line`)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH = 560
_LONGEST = 26  # letters of a finding's name, "Enlarged Cardiomediastinum"
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Bar(NamedTuple):
    """A figure with its interval; NaN ends where there is none."""

    value: float
    low: float
    high: float


def curve_chart(curves: NDArray[np.float64], chance: float) -> Markup:
    """Draw a figure over its k on a logarithmic axis, a line for each system.

    Args:
        curves: (S, K) float64, the figure at 1 to K of each system.
        chance: The level of a random order, a dashed line; NaN where it is not known.
    """
    height, left, right, top, bottom = 300, 40, 14, 10, 36
    depth = curves.shape[1]
    highest = _ceiling(float(max(curves.max(), chance if math.isfinite(chance) else 0.0)))

    def x(k: float) -> float:
        return left + (WIDTH - left - right) * (math.log(k) / math.log(depth) if depth > 1 else 0.5)

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / highest

    parts = [
        _rule(left, y(value), WIDTH - right, y(value), "grid") + _text(left - 6, y(value) + 4, f"{value:g}", "end")
        for value in _steps(highest)
    ]
    parts += [_text(x(k), height - bottom + 16, str(k), "middle") for k in TICKS if k <= depth]
    parts.append(_text((left + WIDTH - right) / 2, height - 4, "k", "middle"))
    if math.isfinite(chance):
        parts.append(_rule(left, y(chance), WIDTH - right, y(chance), "chance"))
        parts.append(_text(WIDTH - right, y(chance) - 5, "chance", "end"))
    for system, curve in enumerate(curves):
        points = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in enumerate(curve.tolist(), 1))
        parts.append(f'<polyline points="{points}" style="fill:none;stroke:var(--s{system});stroke-width:2;stroke-linejoin:round"/>')
    return _svg(height, parts, "The figure at k of each system")


def bar_chart(names: Sequence[str], bars: Sequence[Sequence[Bar]], chance: Sequence[float]) -> Markup:
    """Draw horizontal bars with their intervals, a group for each name and in it a bar for each system.

    Args:
        names: G groups.
        bars: For each group the bar of each of S systems.
        chance: The level of a random order in each group, a mark; NaN where it is not known.
    """
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    left, right, top, thick, gap = 16 + 7 * max(map(len, shown)), 14, 4, 9, 12  # 7 units to a letter
    group = len(bars[0]) * (thick + 2) + gap
    height = top + group * len(names) + 24
    ends = [end for each in bars for bar in each for end in bar if math.isfinite(end)]
    highest = _ceiling(max([0.0, *ends]))

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * min(value, highest) / highest

    parts = [
        _rule(x(value), top, x(value), height - 24, "grid") + _text(x(value), height - 8, f"{value:g}", "middle")
        for value in _steps(highest)
    ]
    for place, (name, each, level) in enumerate(zip(shown, bars, chance, strict=True)):
        start = top + place * group + gap / 2
        middle = start + (group - gap) / 2
        parts.append(_text(left - 8, middle + 4, name, "end", "name"))
        for system, bar in enumerate(each):
            parts.append(_bar(x, start + system * (thick + 2), thick, bar, system))
        if math.isfinite(level):
            parts.append(_rule(x(level), start - 2, x(level), start + group - gap, "level"))
    return _svg(height, parts, "The figure of each finding")


def _bar(x: Callable[[float], float], top: float, thick: int, bar: Bar, system: int) -> str:
    if not math.isfinite(bar.value):
        return ""
    middle = top + thick / 2
    place = f'x="{x(0):.1f}" y="{top:.1f}" width="{max(x(bar.value) - x(0), 1):.1f}" height="{thick}"'
    ends = f" ({bar.low:.3f} to {bar.high:.3f})" if math.isfinite(bar.low) else ""
    drawn = f'<rect {place} rx="2" style="fill:var(--s{system})"><title>{bar.value:.3f}{ends}</title></rect>'
    return drawn + (_rule(x(bar.low), middle, x(bar.high), middle, "whisker") if math.isfinite(bar.low) else "")


def _ceiling(value: float) -> float:
    """The top of an axis: a tenth, half a tenth or a whole above the highest value."""
    step = 0.1 if value > 0.2 else 0.05
    return max(step, math.ceil(round(value / step, 6)) * step)


def _steps(highest: float) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if highest / step <= 6)
    return [round(place * step, 6) for place in range(int(highest / step + 1e-6) + 1)]


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return str(Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text))


def _svg(height: int, parts: Sequence[str], label: str) -> Markup:
    drawn = "".join(parts)  # numbers, and names that _text escaped
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{drawn}</svg>')
