"""What an evaluation found, as objects and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Score:
    """A figure and what a random order would reach."""

    value: float
    chance: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the two; what is not a number becomes None, as JSON has no NaN."""
        return {name: number if math.isfinite(number) else None for name, number in (("value", self.value), ("chance", self.chance))}


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionResult:
    """One direction of a benchmark.

    Attributes:
        protocol: Every option that shaped the figures, and `left_out`: reason to count.
        queries: How many were scored.
        candidates: How many each could find, before what a query must not find is left out.
        metrics: "P@5", "R@10", "median_rank", ... over all queries.
        per_class: The same for the queries of each finding, with their number.
    """

    protocol: Mapping[str, Any]
    queries: int
    candidates: int
    metrics: Mapping[str, Score]
    per_class: Mapping[str, tuple[int, Mapping[str, Score]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        classes = {
            name: {**{metric: score.to_dict() for metric, score in scores.items()}, "queries": queries}
            for name, (queries, scores) in self.per_class.items()
        }
        return {
            "protocol": dict(self.protocol),
            "queries": self.queries,
            "candidates": self.candidates,
            "metrics": {name: score.to_dict() for name, score in self.metrics.items()},
            "per_class": classes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A benchmark's result: its directions, the primary one first."""

    benchmark: str
    directions: Mapping[str, DirectionResult]

    def to_dict(self) -> dict[str, Any]:
        """Return the primary direction's figures; with several directions, each also under "directions"."""
        each = {name: {"benchmark": self.benchmark, **result.to_dict()} for name, result in self.directions.items()}
        primary = next(iter(each.values()))
        return {**primary, "directions": each} if len(each) > 1 else primary
