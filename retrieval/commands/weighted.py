"""Options that may bear a weight in their name: --text:0.5 "edema". No text can be mistaken for a weight so."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from retrieval.terms import KINDS, Term, parse_weight

_WEIGHTED = re.compile(rf"(--(?:{'|'.join(KINDS)}))(?::([^=]*))?(=.*)?", re.DOTALL)
_GIVEN = "retrieval.terms"  # in the context: option and weight of each term, in the order of the command line


class WeightedCommand(TyperCommand):
    """A command that takes terms, each with a weight of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the weights out of the options' names; MedretError where one is no number."""
        ctx.meta[_GIVEN], plain = _split(
            args, {name for option in self.params if not getattr(option, "is_flag", True) for name in option.opts}
        )
        return super().parse_args(ctx, plain)


def given_terms(ctx: typer.Context, values: Mapping[str, Iterable[str | Path] | None]) -> tuple[Term, ...]:
    """Return the terms in the order of the command line, each with its weight.

    Args:
        ctx: Of a WeightedCommand.
        values: "text", "label", "image" and "id" to their values, as parsed.
    """
    waiting = {kind: iter(given or ()) for kind, given in values.items()}
    return tuple(Term(**{kind: next(waiting[kind]), "weight": weight}) for kind, weight in ctx.meta[_GIVEN])


def _split(args: list[str], with_value: set[str]) -> tuple[list[tuple[str, float]], list[str]]:
    """Each term's kind and weight, and the arguments without weights; what follows an option as its value is left alone."""
    given: list[tuple[str, float]] = []
    plain: list[str] = []
    rest = iter(args)
    for arg in rest:
        match = _WEIGHTED.fullmatch(arg)
        if match is not None:
            option, weight, value = match.groups()
            given.append((option.removeprefix("--"), 1.0 if weight is None else parse_weight(weight, option)))
            arg = option + (value or "")
        plain.append(arg)
        if arg == "--":
            break
        if arg in with_value:
            plain.extend([value for value in [next(rest, None)] if value is not None])
    return given, [*plain, *rest]
