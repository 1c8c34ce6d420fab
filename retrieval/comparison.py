"""Systems compared on the same queries: differences, whether they are more than chance, and which queries they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from retrieval.figures import direction_result, with_intervals
from retrieval.measures import MEDIAN
from retrieval.results import DirectionResult, PerQuery, Score
from retrieval.saved_runs import SavedDirection, SavedRun
from retrieval.significance import Tested, class_weights, holm, paired_randomisation
from retrieval.trec import token

NOT_OPTIONS = ("k", "measures", "left_out", "interval", "run", "qrels", "scored_0_since_not_in_the_run")  # do not make figures unlike
SCORED = ("relevance",)  # of an outside run: from grades, whatever they came from

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A system against the first one.

    Attributes:
        overall: Metric to difference, with p adjusted for that several systems are compared.
        per_class: Finding to the difference in the primary metric, with p adjusted for the number of findings.
        intervals: Metric to the difference with its interval over those who ask: patients, or prompts.
        class_intervals: Finding to the same of the primary metric.
        drawn: What was drawn for these intervals.
        changed: Queries by how far the primary metric moved, the farthest first; those that did not move are left out.
    """

    overall: Mapping[str, Tested]
    per_class: Mapping[str, Tested]
    intervals: Mapping[str, Score]
    class_intervals: Mapping[str, Score]
    drawn: str
    changed: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionComparison:
    """One direction of some systems, on the Q queries that all of them have.

    Attributes:
        names: The systems, the first being what the others are compared with.
        primary: The metric of the findings and of the queries that changed.
        queries: Each system's, all in the same order.
        results: The figures of each with their intervals: those that it was saved with, where all of its queries are compared.
        differences: Of every system but the first.
        curve: What is drawn over k: "P", or "R" (whether anything relevant is among the first k) where the systems were asked so.
        curves: (systems, K) float64, its figure at 1 to K as the protocol averages it.
        apart: Queries that only some systems have, left out.
        unlike: Option to what each system says of it, where they differ; where none does, what there was to be found, where that does.
    """

    names: tuple[str, ...]
    primary: str
    queries: tuple[PerQuery, ...]
    results: tuple[DirectionResult, ...]
    differences: tuple[Difference, ...]
    curve: str
    curves: Floats
    apart: int
    unlike: Mapping[str, tuple[Any, ...]]


def compare_runs(runs: Sequence[SavedRun], metric: str | None = None) -> dict[str, DirectionComparison]:
    """Compare systems, direction by direction.

    Args:
        runs: Two or more; the first is what the others are compared with.
        metric: The primary metric; P@10, else the first that all have, when not given.

    Returns:
        The comparison of each direction that all have, in the order of the first.

    Raises:
        MedretError: If the systems share no direction, no query of one, or no metric.
    """
    shared = [name for name in runs[0].directions if all(name in run.directions for run in runs)]
    if not shared:
        has = "; ".join(f"{run.name}: {', '.join(run.directions)}" for run in runs)
        raise MedretError(f"the runs share no direction ({has}); expected evaluations of the same benchmark")
    names = tuple(run.name for run in runs)
    return {name: _compare(name, names, [run.directions[name] for run in runs], metric) for name in shared}


def _compare(direction: str, names: tuple[str, ...], sides: Sequence[SavedDirection], metric: str | None) -> DirectionComparison:
    ids = [{token(id): place for place, id in enumerate(side.queries.ids)} for side in sides]
    common = [id for id in ids[0] if all(id in other for other in ids)]
    if not common:
        raise MedretError(f"{direction}: {' and '.join(names)} share no query; expected evaluations of the same queries")
    metrics = [name for name in sides[0].queries.scores if all(name in side.queries.scores for side in sides)]
    primary = metric or ("P@10" if "P@10" in metrics else next((name for name in metrics if name != MEDIAN), ""))
    if primary not in metrics or primary == MEDIAN:
        raise MedretError(
            f"{direction}: {primary or 'no metric'} cannot be compared; the runs share {', '.join(metrics) or 'none'} (not median_rank)"
        )
    base, protocols = sides[0].queries, [side.protocol for side in sides]
    places = np.array([ids[0][id] for id in common], dtype=np.int64)
    asked = {"names": base.names, "findings": base.findings[places], "units": base.units[places], "views": (None,) * len(common)}
    queries = [_take(side.queries, [own[id] for id in common], metrics, asked) for side, own in zip(sides, ids, strict=True)]
    macro = sides[0].protocol.get("average") == "findings"
    weights = class_weights(queries[0].findings) if macro else np.full(len(common), 1 / len(common))
    return DirectionComparison(
        names=names,
        primary=primary,
        queries=tuple(queries),
        results=tuple(_result(each, side) for each, side in zip(queries, sides, strict=True)),
        differences=_differences(queries, [name for name in metrics if name != MEDIAN], primary, weights, macro),
        curve="R" if primary.startswith("R@") else "P",
        curves=_curves(queries, weights, [protocol.get("denominator") for protocol in protocols], any_hit=primary.startswith("R@")),
        apart=len(set().union(*ids)) - len(common),
        unlike=_unlike(protocols) or _counted_unlike(queries, protocols),
    )


def _take(each: PerQuery, places: Sequence[int], metrics: Sequence[str], asked: Mapping[str, Any]) -> PerQuery:
    """Some of the queries, in the order given, with only these metrics."""
    chosen = np.array(places, dtype=np.int64)
    return replace(
        each,
        **asked,
        ids=tuple(each.ids[place] for place in places),
        scores={name: each.scores[name][chosen] for name in metrics},
        chance={name: each.chance[name][chosen] for name in metrics if name in each.chance},
        rows=each.rows[chosen],
        hits=each.hits[chosen],
        cosines=each.cosines[chosen],
        answers=each.answers[chosen],
        reachable=each.reachable[chosen],
        relevant=lambda query: each.relevant(int(chosen[query])),
        struck=lambda query: each.struck(int(chosen[query])),
    )


def _result(each: PerQuery, side: SavedDirection) -> DirectionResult:
    """The figures of a system. One figure has one interval, and what was drawn where texts ask is not at hand any more."""
    result = direction_result(each, side.protocol, side.candidates)
    if not any(side.intervals.values()) or len(each.ids) < len(side.queries.ids):
        return with_intervals(result)

    def ended(scores: Mapping[str, Score], row: str) -> dict[str, Score]:
        ends = side.intervals.get(row, {})
        return {name: Score(score.value, score.chance, *ends.get(name, ())) for name, score in scores.items()}

    per_class = {name: (count, ended(scores, name)) for name, (count, scores) in result.per_class.items()}
    return replace(result, metrics=ended(result.metrics, ""), per_class=per_class)


def _differences(queries: Sequence[PerQuery], metrics: Sequence[str], primary: str, weights: Floats, macro: bool) -> tuple[Difference, ...]:
    base, others = queries[0], queries[1:]
    overall = [
        {name: paired_randomisation(one.scores[name], base.scores[name], base.units, weights=weights) for name in metrics} for one in others
    ]
    for name in metrics:
        adjusted = holm(np.array([tested[name].p for tested in overall]))
        for tested, p in zip(overall, adjusted.tolist(), strict=True):
            tested[name] = tested[name]._replace(p=p)
    return tuple(
        _difference(one, base, tested, primary, "findings" if macro else "queries") for one, tested in zip(others, overall, strict=True)
    )


def _difference(one: PerQuery, base: PerQuery, overall: Mapping[str, Tested], primary: str, average: str) -> Difference:
    """The differences themselves are figures of the queries, and get their intervals as figures do."""
    none = np.zeros(len(base.ids))
    gain = replace(
        base,
        scores={name: one.scores[name] - base.scores[name] for name in overall},
        chance=dict.fromkeys(overall, none),
        unit="prompts, each put to both" if base.unit == "prompts" else base.unit,
    )
    figures = with_intervals(direction_result(gain, {"average": average}, 0))
    return Difference(
        overall=overall,
        per_class=_by_finding(one, base, primary),
        intervals=figures.metrics,
        class_intervals={name: scores[primary] for name, (_, scores) in figures.per_class.items()},
        drawn=figures.protocol["interval"],
        changed=_most_changed(one, base, primary),
    )


def _by_finding(one: PerQuery, base: PerQuery, metric: str) -> dict[str, Tested]:
    tested = {}
    for place, name in enumerate(base.names):
        mine = base.findings == place
        if mine.any():
            tested[name] = paired_randomisation(one.scores[metric][mine], base.scores[metric][mine], base.units[mine])
    adjusted = holm(np.array([each.p for each in tested.values()]))
    return {name: each._replace(p=p) for (name, each), p in zip(tested.items(), adjusted.tolist(), strict=True)}


def _most_changed(one: PerQuery, base: PerQuery, metric: str) -> tuple[int, ...]:
    moved = np.abs(one.scores[metric] - base.scores[metric])
    order = np.argsort(-moved, kind="stable")
    return tuple(order[moved[order] > 0].tolist())


def _curves(queries: Sequence[PerQuery], weights: Floats, denominators: Sequence[str | None], *, any_hit: bool) -> Floats:
    """P@1 to P@K of each system by its own denominator, or R@1 to R@K, K being the ranks that all have."""
    depth = min(each.rows.shape[1] for each in queries)
    ranks = np.arange(1, depth + 1)
    curves = []
    for each, denominator in zip(queries, denominators, strict=True):
        hits = np.cumsum(each.hits[:, :depth], axis=1)
        shares = hits / (np.minimum(ranks, each.answers[:, None]) if denominator == "min(k, relevant)" else ranks)
        curves.append(weights @ (hits > 0 if any_hit else shares))
    return np.stack(curves)


def _unlike(protocols: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The options that differ; of an outside run only what its own scoring says."""
    names = dict.fromkeys(name for protocol in protocols for name in protocol if name not in (*NOT_OPTIONS, *SCORED))
    own = [protocol for protocol in protocols if "qrels" not in protocol]
    unlike = {}
    for name in names:
        asked = any(name in protocol for protocol in own)
        told = [protocol.get(name) for protocol in protocols if name in protocol or (asked and protocol in own)]
        if any(value != told[0] for value in told):
            unlike[name] = tuple(protocol.get(name) for protocol in protocols)
    return unlike


def _counted_unlike(queries: Sequence[PerQuery], protocols: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """How much the same queries could find, and how much of it was relevant, where it differs though options do not: index or labels do.

    A file of judgements names no candidates that are neither relevant nor struck, so outside runs tell nothing of these.
    """
    own = [place for place, protocol in enumerate(protocols) if "qrels" not in protocol]
    asked = {
        "candidates_of_all_queries": ([each.reachable for each in queries], own),
        "relevant_candidates_of_all_queries": ([each.answers for each in queries], range(len(queries))),
    }
    return {
        name: tuple(f"{count.sum():,}" for count in counts)
        for name, (counts, told) in asked.items()
        if any(not np.array_equal(counts[place], counts[told[0]]) for place in told)
    }
