"""From queries one by one to a table: means over all, over findings and over each view, and their intervals."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.measures import MEDIAN, summarise
from retrieval.metrics import chance_ranks
from retrieval.resampling import resampled_counts
from retrieval.results import DirectionResult, EvaluationResult, PerQuery, Score

_MEDIANS_AT_ONCE = 1 << 23  # counts of drawn queries: 64 MiB of int64

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Figures = Mapping[str, Score]


class _Groups(NamedTuple):
    """Which of the Q queries make which row of the table."""

    everything: Mask
    findings: Mapping[str, Mask]
    views: Mapping[str, Mask]  # none where all films have the same view

    def masks(self) -> NDArray[np.bool_]:
        """All groups, (G, Q): everything, findings, views."""
        return np.stack([self.everything, *self.findings.values(), *self.views.values()])


def direction_result(each: PerQuery, protocol: Mapping[str, Any], candidates: int) -> DirectionResult:
    """Average the queries of one direction.

    The overall figures are means over queries, or over findings where the protocol's "average" says so; the other of the two means
    stands beside them wherever findings ask unequally often.

    Args:
        each: The queries.
        protocol: Every option that shaped the figures.
        candidates: How many there are.
    """
    groups = _groups(each)
    per_class = {name: (int(mine.sum()), _figures(each, mine)) for name, mine in groups.findings.items()}
    means = {"micro": _figures(each, groups.everything), "macro": _mean_figures(each, [scores for _, scores in per_class.values()])}
    overall = "macro" if protocol.get("average") == "findings" else "micro"
    unequal = len({count for count, _ in per_class.values()}) > 1
    return DirectionResult(
        protocol=protocol,
        queries=len(each.ids),
        candidates=candidates,
        metrics=means[overall],
        per_class=per_class,
        per_view={name: (int(mine.sum()), _figures(each, mine)) for name, mine in groups.views.items()},
        other_average={name: figures for name, figures in means.items() if name != overall and unequal},
        per_query=each,
    )


def _groups(each: PerQuery) -> _Groups:
    views = np.array([view or "" for view in each.views], dtype=str)
    seen = [view for view in np.unique(views).tolist() if view]
    return _Groups(
        np.ones(len(each.ids), dtype=np.bool_),
        {name: each.findings == place for place, name in enumerate(each.names) if (each.findings == place).any()},
        {view: views == view for view in seen} if len(seen) > 1 else {},
    )


def _figures(each: PerQuery, chosen: Mask) -> dict[str, Score]:
    chance = summarise(each.chance, chosen)
    if not math.isnan(chance.get(MEDIAN, math.nan)):  # of all orders of all queries together: a median of medians is another figure
        chance[MEDIAN] = chance_ranks(each.answers[chosen], each.reachable[chosen], ())[1]
    return {name: Score(value, chance[name]) for name, value in summarise(each.scores, chosen).items()}


def _mean_figures(each: PerQuery, figures: list[dict[str, Score]]) -> dict[str, Score]:
    if not figures:
        return {name: Score(math.nan, math.nan) for name in each.scores}
    return {
        name: Score(float(np.mean([one[name].value for one in figures])), float(np.mean([one[name].chance for one in figures])))
        for name in each.scores
    }


def add_intervals(result: EvaluationResult, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> EvaluationResult:
    """Give every figure that is a mean or median over queries its percentile bootstrap interval over patients.

    Patients who ask are drawn, and put to the same candidates: were these drawn too, whoever is drawn twice would find himself. Where
    texts ask, the patients of the candidates are drawn, and asked the same texts: a patient drawn twice stands twice in a row. Where
    texts ask and nobody knows whose the candidates are (a run from a file), there is none: to draw texts speaks of the wording alone.

    All figures of a direction are computed on the same resamples. A resample without any query of a finding (or view), or without an
    answer to one, tells nothing of it, and is left out for it. What has no queries one by one (an area under a curve) keeps the
    interval that it came with.

    Args:
        result: A benchmark's result.
        resamples: How many, from 1.
        confidence: Share of the resamples within an interval.
        seed: Of the resamples.
    """
    return replace(result, directions={name: with_intervals(one, resamples, confidence, seed) for name, one in result.directions.items()})


def with_intervals(result: DirectionResult, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> DirectionResult:
    """Give the figures of one direction their intervals, as `add_intervals` does."""
    each = result.per_query
    if each is None:
        return result
    groups = _groups(each)
    count, whose = len(np.unique(each.units)), "patients who ask" if each.unit == "patients" else each.unit
    scores: Mapping[str, Floats] = {}
    if count and each.redraw is not None:
        count, scores = each.redraw(resamples, seed)
        whose = "patients among the candidates"
    untold = each.unit == "prompts" and each.redraw is None
    if untold or count < 2:
        reason = "texts ask, and a run does not say whose the candidates are" if untold else f"fewer than two {whose}"
        return replace(result, protocol={**result.protocol, "interval": f"none: {reason}"})
    drawn = {name: _with_macro(_over_queries(values, groups, name), len(groups.findings)) for name, values in scores.items()}
    drawn = drawn or _resample(each, groups, resamples, seed)
    ends = {name: _ends(values, confidence, name) for name, values in drawn.items()}
    classes, views = list(groups.findings), list(groups.views)
    places = {"micro": 0, "macro": 1 + len(classes) + len(views)}
    overall = "macro" if result.protocol.get("average") == "findings" else "micro"

    def placed(figures: Figures, place: int) -> dict[str, Score]:
        return {name: replace(score, low=ends[name][0][place], high=ends[name][1][place]) for name, score in figures.items()}

    said = f"{confidence:.0%} of {resamples} resamples of {count} {whose}, seed {seed}"
    return replace(
        result,
        protocol={**result.protocol, "interval": said},
        metrics=placed(result.metrics, places[overall]),
        per_class={name: (size, placed(scores, 1 + classes.index(name))) for name, (size, scores) in result.per_class.items()},
        per_view={name: (size, placed(scores, 1 + len(classes) + views.index(name))) for name, (size, scores) in result.per_view.items()},
        other_average={name: placed(scores, places[name]) for name, scores in result.other_average.items()},
    )


def _resample(each: PerQuery, groups: _Groups, resamples: int, seed: int) -> dict[str, Floats]:
    """Each measure of each resample, (resamples, G + 1): of each group, and of the mean over findings; NaN where nothing was drawn."""
    units = np.unique(each.units, return_inverse=True)[1].astype(np.int64)
    masks, count = groups.masks(), int(units.max()) + 1
    sizes = _sums(units, masks.astype(np.float64), count)
    sums = {name: _sums(units, masks * values, count) for name, values in each.scores.items() if name != MEDIAN}
    drawn: dict[str, list[Floats]] = {name: [] for name in each.scores}
    for counts in resampled_counts(count, resamples, seed):
        weights = counts.astype(np.float64)
        with np.errstate(invalid="ignore"):
            for name, summed in sums.items():
                drawn[name].append((weights @ summed) / (weights @ sizes))  # (B, G)
        if MEDIAN in each.scores:
            drawn[MEDIAN].append(np.stack([_medians(each.scores[MEDIAN][mine], counts, units[mine]) for mine in masks], axis=1))
    return {name: _with_macro(np.concatenate(parts), len(groups.findings)) for name, parts in drawn.items()}


def _over_queries(values: Floats, groups: _Groups, name: str) -> Floats:
    """The mean (of ranks the median) over each group of (B, Q) values: (B, G), without the queries of NaN; NaN where there is no other."""
    columns = []
    for mine in groups.masks():
        ordered = np.sort(values[:, mine], axis=1)  # NaN comes last
        known = np.count_nonzero(~np.isnan(ordered), axis=1)
        if name == MEDIAN:
            middle = [np.take_along_axis(ordered, place[:, None], axis=1)[:, 0] for place in (np.maximum(known - 1, 0) // 2, known // 2)]
            columns.append((middle[0] + middle[1]) / 2)
        else:
            columns.append(np.where(known > 0, np.nansum(ordered, axis=1) / np.maximum(known, 1), np.nan))
    return np.stack(columns, axis=1)


def _sums(units: NDArray[np.int64], values: Floats, count: int) -> Floats:
    """The sum over each unit's queries of (G, Q) values: (count, G)."""
    return np.stack([np.bincount(units, weights=row, minlength=count) for row in values], axis=1)


def _with_macro(values: Floats, findings: int) -> Floats:
    of_findings = values[:, 1 : 1 + findings]
    known = ~np.isnan(of_findings)
    with np.errstate(invalid="ignore"):
        macro = np.where(known, of_findings, 0.0).sum(axis=1) / known.sum(axis=1)
    return np.concatenate([values, macro[:, None]], axis=1)


def _medians(values: Floats, counts: NDArray[np.int64], units: NDArray[np.int64]) -> Floats:
    """The median of (Q,) values in each of B resamples (B, U) of their units; NaN where none was drawn."""
    order = np.argsort(values, kind="stable")
    ordered, medians = values[order], []
    at_once = max(1, _MEDIANS_AT_ONCE // max(1, len(values)))
    for start in range(0, len(counts), at_once):
        reached = np.cumsum(counts[start : start + at_once][:, units[order]], axis=1)  # (b, Q)
        total = reached[:, -1:]
        middle = [ordered[np.argmax(reached > place, axis=1)] for place in ((total - 1) // 2, total // 2)]
        medians.append(np.where(total[:, 0] > 0, (middle[0] + middle[1]) / 2, np.nan))
    return np.concatenate(medians)


def _ends(values: Floats, confidence: float, name: str) -> tuple[list[float], list[float]]:
    """The two ends of each column, without the resamples that tell nothing; an infinite rank is not interpolated."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    method: Literal["closest_observation", "linear"] = "closest_observation" if name == MEDIAN else "linear"
    ends = [np.quantile(kept, tails, method=method) if len(kept := column[~np.isnan(column)]) else [np.nan] * 2 for column in values.T]
    low, high = np.array(ends, dtype=np.float64).T.tolist()
    return low, high
