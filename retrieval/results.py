"""What an evaluation found, as objects and as JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.published_figures import published_for


@dataclass(frozen=True, slots=True)
class Score:
    """A figure, what a random order would reach, and the ends of its 95 % interval (NaN where none was computed)."""

    value: float
    chance: float
    low: float = math.nan
    high: float = math.nan

    def to_dict(self) -> dict[str, float | None]:
        """Return value and chance, and the interval where there is one; None for what is not finite, as JSON holds finite numbers."""
        named = {"value": self.value, "chance": self.chance} | ({} if math.isnan(self.low) else {"low": self.low, "high": self.high})
        return {name: number if math.isfinite(number) else None for name, number in named.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerQuery:
    """What became of each of the Q queries that were scored: what runs, intervals and comparisons are made from.

    Attributes:
        ids: Q names, each once: "ITEM|FINDING", "promptJ|FINDING" (J from 0 within the finding) or, where no one finding is
            asked for, "ITEM"; blanks of a finding are "_".
        names: The K findings.
        findings: (Q,) int64 places in `names`; -1 where a query asks for none or several.
        units: (Q,) int64, equal for the queries of one patient; of one study where no patient is named; else of one record. A prompt
            is a unit of its own. Units, not queries, are drawn independently of each other.
        views: The view of each film that asks; None for texts and where none is named.
        scores: Metric to (Q,) float64.
        chance: Metric to (Q,) float64, what a random order of that query's candidates is expected to score.
        find: The modality that was ranked.
        rows: (Q, depth) int64 rows of `find` in the order of rank, -1 where there are fewer.
        hits: (Q, depth) bool, whether each answers the query, False where there is none.
        cosines: (Q, depth) float32, NaN where there are fewer.
        candidates: (rows of `find`,) ids under which rows are candidates: record ids or, where studies are ranked, study ids.
        gallery: (rows of `find`,) bool, the rows that are ranked at all.
        answers: (Q,) int64, relevant candidates of each query, from 1.
        reachable: (Q,) int64, candidates of each query.
        unit: What `units` are, in the plural: "patients" (else their studies or records) or "prompts".
        relevant: Takes a query's place and returns the rows (int64, one for each candidate) that answer it.
        struck: Takes a query's place and returns the rows of the gallery (int64, some perhaps twice) that it must not find.
        redraw: Takes a number of resamples and a seed, and scores the queries among the candidates of resampled patients: how many
            patients there are, and metric to (resamples, Q) float64, NaN where no candidate of a resample answers. None where the
            queries belong to patients themselves, or candidates are not known to.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    findings: NDArray[np.int64]
    units: NDArray[np.int64]
    views: tuple[str | None, ...]
    scores: Mapping[str, NDArray[np.float64]]
    chance: Mapping[str, NDArray[np.float64]]
    find: str
    rows: NDArray[np.int64]
    hits: NDArray[np.bool_]
    cosines: NDArray[np.float32]
    candidates: NDArray[np.object_]
    gallery: NDArray[np.bool_]
    answers: NDArray[np.int64]
    reachable: NDArray[np.int64]
    unit: str
    relevant: Callable[[int], NDArray[np.int64]]
    struck: Callable[[int], NDArray[np.int64]]
    redraw: Callable[[int, int], tuple[int, Mapping[str, NDArray[np.float64]]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerImage:
    """The images of a classification: what tells whether another one was of the same.

    Attributes:
        ids: Part ("test", of a probe "train" and "validate" too) to record ids.
        labels: Part to (N, K) uint8: 0 where nobody looked for a finding, 1 negative, 2 positive.
        texts: What was asked with.
        scores: Metric to (N, K) float64 of the test images.
    """

    ids: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, NDArray[np.uint8]]
    texts: tuple[str, ...] = ()
    scores: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionResult:
    """One direction of a benchmark.

    Attributes:
        protocol: Every option that shaped the figures, and `left_out`: reason to count.
        queries: How many were scored.
        candidates: How many each could find, before what a query must not find is left out.
        metrics: "P@5", "R@10", "median_rank", ... over all queries.
        per_class: The same for the queries of each finding, with their number.
        per_view: The same for the queries of the films of each view, where they have several.
        other_average: "micro" (over queries) where the overall figures are means over findings, or "macro" where they are not; none
            where every finding asks equally often, since the two are then one.
        counted: What `queries` and `candidates` are, in the plural.
        per_query: The queries one by one; not part of the JSON. None where the figures are no means over ranked queries.
        per_image: The images that were told apart, where they are areas under curves instead; not part of the JSON either.
    """

    protocol: Mapping[str, Any]
    queries: int
    candidates: int
    metrics: Mapping[str, Score]
    per_class: Mapping[str, tuple[int, Mapping[str, Score]]] = field(default_factory=dict)
    per_view: Mapping[str, tuple[int, Mapping[str, Score]]] = field(default_factory=dict)
    other_average: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    counted: tuple[str, str] = ("queries", "candidates")
    per_query: PerQuery | None = field(default=None, repr=False, compare=False)
    per_image: PerImage | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        beside = {"per_view": _counted(self.per_view), "other_average": {name: _figures(one) for name, one in self.other_average.items()}}
        return {
            "protocol": dict(self.protocol),
            "queries": self.queries,
            "candidates": self.candidates,
            "counted": list(self.counted),
            "metrics": _figures(self.metrics),
            "per_class": _counted(self.per_class),
            **{name: figures for name, figures in beside.items() if figures},
        }


def _figures(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: score.to_dict() for name, score in scores.items()}


def _counted(groups: Mapping[str, tuple[int, Mapping[str, Score]]]) -> dict[str, Any]:
    return {name: {**_figures(scores), "queries": queries} for name, (queries, scores) in groups.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A benchmark's result: its directions, the primary one first."""

    benchmark: str
    directions: Mapping[str, DirectionResult]

    def to_dict(self) -> dict[str, Any]:
        """Return the primary direction's figures; with several directions, each also under "directions"."""
        each = {
            name: {"benchmark": self.benchmark, **result.to_dict(), "published": published_for(self.benchmark, name)}
            for name, result in self.directions.items()
        }
        primary = next(iter(each.values()))
        return {**primary, "directions": each} if len(each) > 1 else primary


def result_directions(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return each direction of what `EvaluationResult.to_dict` returned, by its name; KeyError where it did not."""
    return result["directions"] if "directions" in result else {result["protocol"]["direction"]: result}
