"""Conditions on what records say of themselves, as a plain tree that a table of shards evaluates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias

ORDERS = ("<", "<=", ">", ">=")
NEGATIONS = ("!=", "not in")
OPERATORS = ("==", *NEGATIONS, *ORDERS, "in")

Value: TypeAlias = str | float | date | None  # None is no value


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column of the record against values.

    Logic has two values: a record without a value meets `== None`, `!=` and `not in` others than None, and nothing else. Of
    "tags", a record meets `==` and `in` if one of its tags does, and the negations if none does.

    Attributes:
        column: A string column, "age", "study_date", "tags", or a finding.
        operator: One of OPERATORS.
        values: One; for "in" and "not in" any number. Of a column: text, years or days; of a finding: LabelState numbers. In a tree
            that is not bound to a table yet, all are texts as they were written.
        places: Where the column and each value begin in the text that this was read from, from 1; empty where there is none.
    """

    column: str
    operator: str
    values: tuple[Value, ...]
    places: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise ValueError(f"operator is {self.operator!r}, expected one of {OPERATORS}")
        if self.operator not in ("in", "not in") and len(self.values) != 1:
            raise ValueError(f"{self.operator} has {len(self.values)} values, expected 1")

    def __str__(self) -> str:
        values = ", ".join("none" if value is None else _quoted(str(value)) for value in self.values)
        listed = f"({values})" if self.operator in ("in", "not in") else values
        return f"{self.column if self.column.isidentifier() else _quoted(self.column)} {self.operator} {listed}"


@dataclass(frozen=True, slots=True)
class And:
    """All of its parts hold; of no parts, always."""

    parts: tuple["Tree", ...]

    def __str__(self) -> str:
        return " and ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """One of its parts holds, or several; of no parts, never."""

    parts: tuple["Tree", ...]

    def __str__(self) -> str:
        return " or ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not:
    """Its part does not hold."""

    part: "Tree"

    def __str__(self) -> str:
        return f"not {_bracketed(self.part)}"


Tree: TypeAlias = Comparison | And | Or | Not


def comparisons(tree: Tree) -> Iterator[Comparison]:
    """Yield the comparisons of a tree, in the order in which they were written."""
    if isinstance(tree, Comparison):
        yield tree
    else:
        for part in (tree.part,) if isinstance(tree, Not) else tree.parts:
            yield from comparisons(part)


def replace_comparisons(tree: Tree, replace: Callable[[Comparison], Tree]) -> Tree:
    """Return the tree with something else in place of each comparison."""
    if isinstance(tree, Comparison):
        return replace(tree)
    if isinstance(tree, Not):
        return Not(replace_comparisons(tree.part, replace))
    return type(tree)(tuple(replace_comparisons(part, replace) for part in tree.parts))


def _bracketed(tree: Tree) -> str:
    return f"({tree})" if isinstance(tree, And | Or) else str(tree)


def _quoted(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'
