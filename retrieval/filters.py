"""What may be answered: records that meet conditions on their metadata."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.conditions import ORDERS, And, Comparison, Not, Or, Tree, comparisons
from retrieval.columns import bind, plain_column

if TYPE_CHECKING:
    from index.shards import ShardTable

_DEEPEST = 50  # brackets and "not" within each other
_TOKEN = re.compile(r"""(?P<quoted>"[^"]*"|'[^']*')|(?P<sign>==|!=|<=|>=|[<>(),=])|(?P<word>[^\s"'(),=!<>]+)|(?P<odd>.)""")
_KEYWORDS = ("and", "or", "not", "in", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a record must say of itself to take part, as --only gives it.

    Attributes:
        column: A metadata column (id, patient_id, study_id, view, split, sex, age, study_date, tags) or a finding.
        values: Any of these. Of a finding: positive, negative, uncertain or not_mentioned. Of age and study_date: a value, or a
            range "LOW..HIGH" whose ends belong to it and may be left out; "2011" and "2011-05" are ranges of days. The empty
            string selects records without a value: of a finding, those in which nobody looked for it.
    """

    column: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        written = StringIO()
        csv.writer(written, lineterminator="").writerow(self.values if self.values != ("",) else ())
        return f"{self.column}={written.getvalue()}"

    @property
    def tree(self) -> Tree:
        """The same as an expression has it."""
        return Comparison(self.column, "in", tuple(value or None for value in self.values))

    def rows(self, table: "ShardTable") -> NDArray[np.bool_]:
        """Mark the rows that meet it: (rows,) bool, no removed row among them.

        Raises:
            MedretError: If the column or a value is not known, or no record's age or date is in a range; what there is, is named.
        """
        return table.matching(bind(self.tree, table))


def parse_condition(text: str) -> Condition:
    """Read COLUMN=VALUE[,VALUE...]; a value with a comma in it is quoted: tags="Opacity, patchy".

    Raises:
        ValueError: If there is no COLUMN= at the beginning.
    """
    column, sign, values = text.partition("=")
    if not sign or not column.strip():
        raise ValueError(f"{text!r}: expected COLUMN=VALUE[,VALUE], e.g. sex=F or 'Pleural Effusion=positive'")
    try:
        listed = next(csv.reader([values], skipinitialspace=True), []) or [""]
    except csv.Error as error:
        raise ValueError(f"{text!r}: {error}") from error
    return Condition(column=column.strip(), values=tuple(value.strip() for value in listed))


def parse_where(text: str) -> Tree:
    """Read an expression over record columns, e.g. view in (PA, AP) and pleural_effusion == positive and not split == train.

    EXPRESSION is COMPARISON, (EXPRESSION), not EXPRESSION, or several joined by `and` and `or`; `not` binds before `and`, and that
    before `or`. COMPARISON is COLUMN OPERATOR VALUE with ==, !=, <, <=, >, >=, or COLUMN in (VALUE, ...), COLUMN not in (VALUE, ...).
    COLUMN is id, patient_id, study_id, view, split, sex, age, study_date, tags or a finding in snake_case. VALUE is a word, a number,
    an ISO date that may leave out day and month, a range LOW..HIGH of numbers or dates, anything "quoted" or 'quoted', or none.

    Logic has two values: a record without a value meets `== none` and negations (`!=`, `not in`, `not`), and nothing else.

    Returns:
        The expression; whether its columns and values exist is not known before `bind`.

    Raises:
        MedretError: If it is malformed: where, what was found and what was expected.
    """
    return _Parser(text).whole()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records take part.

    Attributes:
        splits: Records of these splits; None for all.
        views: Images of these views, as the source spells them; None for all.
        only: Conditions that every record meets, texts too: a condition on the view leaves no report.
        where: An expression that every record meets, as `parse_where` read it, texts too; None for all.
    """

    splits: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    only: tuple[Condition, ...] = ()
    where: Tree | None = None

    def rows(self, table: "ShardTable") -> NDArray[np.bool_]:
        """Mark the rows of a table that take part, (rows,) bool: no removed row; `views` restrict images only.

        Raises:
            MedretError: If a condition asks for what no record has.
        """
        views = self.views if table.modality == "images" else None
        named = [
            Condition(column=column, values=values) for column, values in (("split", self.splits), ("view", views)) if values is not None
        ]
        where = () if self.where is None else (self.where,)
        return table.matching(bind(And((*(condition.tree for condition in (*named, *self.only)), *where)), table))

    @property
    def speaks_of_view(self) -> bool:
        """Whether a condition or the expression asks for a view, which texts have none of."""
        written = () if self.where is None else comparisons(self.where)
        return any(plain_column(one.column) == "view" for one in (*self.only, *written))

    def of_texts(self) -> "Selection":
        """Return what is left of it for records that have no view: of `where`, the parts joined by `and` that do not speak of it."""
        only = tuple(one for one in self.only if plain_column(one.column) != "view")
        parts = self.where.parts if isinstance(self.where, And) else () if self.where is None else (self.where,)
        kept = tuple(part for part in parts if all(plain_column(one.column) != "view" for one in comparisons(part)))
        return replace(self, views=None, only=only, where=And(kept) if kept else None)


EVERYTHING = Selection()


class _Token(NamedTuple):
    kind: str  # "quoted", "sign", "word", "odd" or "end"
    text: str  # without quotes
    place: int  # from 1

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)

    def says(self, *words: str) -> bool:
        """Whether it is one of these signs or bare words, in any letter case."""
        return self.kind in ("sign", "word") and self.text.casefold() in words


class _Parser:
    """Reads one expression by recursive descent."""

    def __init__(self, text: str) -> None:
        found = [
            (match.lastgroup or "", match.group(), match.start() + 1) for match in _TOKEN.finditer(text) if not match.group().isspace()
        ]
        tokens = [_Token(kind, each[1:-1] if kind == "quoted" else each, place) for kind, each, place in found]
        self.tokens, self.next, self.depth = [*tokens, _Token("end", "", len(text) + 1)], 0, 0

    def whole(self) -> Tree:
        tree = self.disjunction()
        if self.token.kind != "end":
            hint = "; a value of several words is quoted" if self.token.kind == "word" else ""
            raise self.fault(f"and, or, or the end{hint}")
        return tree

    def disjunction(self) -> Tree:
        return self.joined("or", Or, self.conjunction)

    def conjunction(self) -> Tree:
        return self.joined("and", And, self.negation)

    def joined(self, word: str, kind: type[And] | type[Or], part: Callable[[], Tree]) -> Tree:
        parts = [part()]
        while self.take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def negation(self) -> Tree:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.fault(f"brackets and nots at most {_DEEPEST} deep")
        tree: Tree
        if self.take("not"):
            tree = Not(self.negation())
        elif self.take("("):
            tree = self.disjunction()
            self.need(")", "and, or, or )")
        else:
            tree = self.comparison()
        self.depth -= 1
        return tree

    def comparison(self) -> Comparison:
        column = self.word("a column, not or (")
        negated = self.take("not")
        if self.take("in"):
            self.need("(", "( and a list of values")
            values = [self.word("a value")]
            while self.take(","):
                values.append(self.word("a value"))
            self.need(")", ", or )")
            operator = "not in" if negated else "in"
        else:
            operator = self.token.text
            if negated or not self.token.says("==", "!=", *ORDERS):
                hint = "; a column of several words is written_so or quoted" if self.token.kind == "word" and not negated else ""
                raise self.fault("in" if negated else f"==, !=, <, <=, >, >=, in or not in{hint}")
            self.next += 1
            values = [self.word("a value")]
        meant = tuple(None if value.says("none") else value.text for value in values)
        return Comparison(column.text, operator, meant, (column.place, *(value.place for value in values)))

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self, word: str) -> bool:
        taken = self.token.says(word)
        self.next += taken
        return taken

    def need(self, sign: str, expected: str) -> None:
        if not self.take(sign):
            raise self.fault(expected)

    def word(self, expected: str) -> _Token:
        """Take a word or what is quoted; of the keywords only none is a value."""
        token = self.token
        allowed = ("none",) if expected == "a value" else ()
        reserved = token.says(*(word for word in _KEYWORDS if word not in allowed))
        if token.kind not in ("word", "quoted") or reserved or not token.text.strip():
            hint = " (the word itself is quoted)" if reserved else " (none, without quotes, is for records without one)"
            raise self.fault(expected + (hint if token.kind in ("word", "quoted") else ""))
        self.next += 1
        return token

    def fault(self, expected: str) -> MedretError:
        odd = self.token.kind == "odd" and self.token.text in "\"'"
        found = f"a quotation ({self.token.text}) without its end" if odd else str(self.token)
        return MedretError(f"where, at character {self.token.place}: found {found}, expected {expected}")
