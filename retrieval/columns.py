"""What the columns and findings of an index are called, and which values they take: conditions as written, made ready for it."""

import math
import re
from calendar import monthrange
from collections.abc import Callable, Sequence
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING

from encoders.errors import MedretError
from index.conditions import NEGATIONS, ORDERS, And, Comparison, Not, Or, Tree, Value, replace_comparisons
from index.corpora.record import LabelState

if TYPE_CHECKING:
    from index.shards import ShardTable

IDS = ("id", "patient_id", "study_id")
WORDS = ("view", "split", "sex", "tags")  # letter case does not matter
RANGES = ("age", "study_date")
COLUMNS = (*IDS, *WORDS, *RANGES)

_ALIASES = {"patient": "patient_id", "study": "study_id", "date": "study_date", "tag": "tags"}
_SPOKEN = {"split": ("train", "validate", "test"), "sex": ("F", "M")}  # what an expression may name though no record has it
_STATES = {state.name.lower(): state for state in LabelState}
_NAMED = 12  # values that a message lists
_ISO = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")


def bind(tree: Tree, table: "ShardTable") -> Tree:
    """Make a condition as it was written ready for a table: its columns' own names, values of their types.

    Ages and dates become comparisons with one end each: a date may leave out day and month, and LOW..HIGH is a range whose ends
    belong to it and may be left out. `< 2011-05` is before that month, `> 2011-05` after it.

    Raises:
        MedretError: If a column or value is not known, a column has no order, or no record has an age or date that is asked for by
            `==`, `in` and their negations; what there is, is named, and where in the text the mistake is.
    """
    return replace_comparisons(tree, lambda one: _bound(one, table))


def plain_name(name: str) -> str:
    """Fold what does not matter in the name of a column, finding or state: letter case, and what stands between words."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def spelled_findings(table: "ShardTable", asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the findings that are asked for, all by default, once each as the table spells them; one that it lacks stays as it is."""
    known = {plain_name(name): name for name in table.findings}
    return tuple(table.findings if asked is None else dict.fromkeys(known.get(plain_name(name), name) for name in asked))


def plain_column(name: str) -> str:
    """Fold the name of a column or finding, a column's short name into its own."""
    folded = plain_name(name)
    return plain_name(_ALIASES.get(folded, folded))


def asks_for_ids(one: Comparison) -> bool:
    """Say whether a comparison as it was written names patients, studies or records."""
    return plain_column(one.column).replace(" ", "_") in IDS


def _bound(one: Comparison, table: "ShardTable") -> Tree:
    column = _find_column(one, table)
    if column in RANGES:
        return _bound_range(one, column, table)
    if one.operator in ORDERS:
        raise _fault(one, 0, f"{column} has no order: ask by ==, !=, in and not in")
    if column in COLUMNS:
        return _spelled(one, column, table)
    return Comparison(column, one.operator, tuple(_state(one, place, column) for place in range(len(one.values))))


def _find_column(one: Comparison, table: "ShardTable") -> str:
    plain = {plain_column(known): known for known in (*table.findings, *COLUMNS)}  # a column wins over a finding of its name
    found: str | None = plain.get(plain_column(one.column))
    if found is None:
        spell = _snake if one.places else str
        findings = [spell(finding) for finding in table.findings]
        close = get_close_matches(plain_column(one.column), plain, 1)
        meant = f"; did you mean {spell(plain[close[0]])}?" if close else "."
        there = f"; findings: {', '.join(findings)}" if findings else "; no findings"
        raise _fault(one, 0, f"no column or finding {one.column!r}{meant} Columns: {', '.join(COLUMNS)}{there}")
    return found


def _snake(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.casefold()) if name not in COLUMNS else name


def _state(one: Comparison, place: int, finding: str) -> Value:
    written = one.values[place]
    if written is None:
        return None
    name = plain_name(str(written)).replace(" ", "_")
    if name not in _STATES:
        close = get_close_matches(name, _STATES, 1)
        meant = f"; did you mean {close[0]}?" if close else ";"
        nobody = "none" if one.places else "nothing"
        there = f"choose from: {', '.join(_STATES)}, or {nobody} for records in which nobody looked"
        raise _fault(one, place + 1, f"{finding} is asked to be {written!r}{meant} {there}")
    return _STATES[name]


def _spelled(one: Comparison, column: str, table: "ShardTable") -> Comparison:
    """The comparison with its values as records spell them; each has to be some record's."""
    asked = Comparison(column, one.operator, one.values)
    wanted = {value for value in one.values if isinstance(value, str)}
    positive = Comparison(column, "in", tuple(wanted))
    if not wanted or _held(table, positive, wanted) == wanted:
        return asked
    held = table.distinct(column)
    known = {*held, *(_SPOKEN.get(column, ()) if one.places else ())}
    spellings = {text: [text] for text in wanted.intersection(known)}
    for value in known if column in WORDS else ():
        for text in wanted.difference(known):
            if text.casefold() == value.casefold():
                spellings.setdefault(text, []).append(value)
    if unknown := [text for text in one.values if isinstance(text, str) and text not in spellings]:
        raise _fault(one, one.values.index(unknown[0]) + 1, _unknown(table, column, unknown, sorted(held)))
    values = [value for text in one.values for value in ([None] if text is None else spellings[str(text)])]
    return Comparison(column, "not in" if one.operator in NEGATIONS else "in", tuple(values))


def _held(table: "ShardTable", positive: Comparison, wanted: set[str]) -> set[str]:
    """Those of the values that a record has: of one, whether; of several, a look at the rows that have any."""
    marked = table.matching(positive)
    if len(wanted) == 1:
        return wanted if marked.any() else set()
    return wanted.intersection(table.distinct(positive.column, marked))


def _unknown(table: "ShardTable", column: str, unknown: Sequence[str], known: Sequence[str]) -> str:
    found = f"no record has {column} {' or '.join(unknown)}"
    if not known:
        home = "; only images have a view" if column == "view" and table.modality != "images" else ""
        return f"{found}: the {table.modality} of this index name none{home}"
    if column in IDS:  # whose records there are is nobody's business but theirs
        return f"{found}; the {table.modality} of this index have {len(known):,} others"
    close = get_close_matches(unknown[0].casefold(), {value.casefold(): value for value in known}, 1)
    meant = f"; did you mean {next(value for value in known if value.casefold() == close[0])}?" if close else ";"
    more = f" ... ({len(known):,} in all)" if len(known) > _NAMED else ""
    named = ", ".join(f'"{value}"' if "," in value else value for value in known[:_NAMED])
    return f"{found}{meant} choose from what the index holds: {named}{more}"


def _bound_range(one: Comparison, column: str, table: "ShardTable") -> Tree:
    """An age or a date: by its order, or within any of some ranges, of which each has to hold some record's."""
    if one.operator in ORDERS:
        return _ordered(one, column)
    parts = []
    for place, value in enumerate(one.values, 1):
        part = _within(column, value, one, place)
        if value is not None and not table.matching(part).any():
            raise _fault(one, place, f"no record has {column} {value}; {_extent(table, column)}")
        parts.append(part)
    found = parts[0] if len(parts) == 1 else Or(tuple(parts))
    return Not(found) if one.operator in NEGATIONS else found


def _ordered(one: Comparison, column: str) -> Comparison:
    value = one.values[0]
    if value is None:
        raise _fault(one, 1, f"none has no order: ask {column} == none or {column} != none")
    if ".." in str(value):
        raise _fault(one, 1, f"{value} is a range: ask {column} == {value}")
    low, high = _ends(column, str(value), one, 1)
    return Comparison(column, one.operator, (low if one.operator in ("<", ">=") else high,))


def _within(column: str, value: Value, one: Comparison, place: int) -> Tree:
    if value is None:
        return Comparison(column, "==", (None,))
    low, high = _ends(column, str(value), one, place)
    ends = [Comparison(column, operator, (end,)) for operator, end in ((">=", low), ("<=", high)) if end is not None]
    return And(tuple(ends)) if ends else Comparison(column, "!=", (None,))


def _ends(column: str, text: str, one: Comparison, place: int) -> tuple[Value, Value]:
    """Both ends of "LOW..HIGH", either may be open; of a single value both of its own."""
    first, last = (_number, _number) if column == "age" else (_first_day, _last_day)
    low, dots, high = text.partition("..")
    try:
        return _end(low, first), _end(high if dots else low, last)
    except ValueError as error:
        kind = "number" if column == "age" else "ISO date (2011-05-31, 2011-05, 2011)"
        raise _fault(one, place, f"{text!r} is no {kind} and no range LOW..HIGH of these") from error


def _end(text: str, read: Callable[[str], Value]) -> Value:
    return read(text.strip()) if text.strip() else None


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _first_day(text: str) -> date:
    year, month, day = _date_parts(text)
    return date(year, month or 1, day or 1)


def _last_day(text: str) -> date:
    year, month, day = _date_parts(text)
    return date(year, month or 12, day or monthrange(year, month or 12)[1])


def _date_parts(text: str) -> tuple[int, int, int]:
    """Year, month and day of an ISO date; what is left out is 0."""
    found = _ISO.fullmatch(text)
    parts = [int(part) for part in found.groups() if part is not None] if found else []
    if not parts or 0 in parts:
        raise ValueError(text)
    year, month, day = (*parts, 0, 0)[:3]
    return year, month, day


def _extent(table: "ShardTable", column: str) -> str:
    held = table.column(column)[table.matching(Comparison(column, "!=", (None,)))]
    return f"in this index it is from {held.min()} to {held.max()}" if len(held) else f"it is not known of any of the {table.modality}"


def _fault(one: Comparison, place: int, message: str) -> MedretError:
    """The error, with where it is in the text: at the column (0) or a value (from 1)."""
    message = " ".join(message.split())
    return MedretError(f"where, at character {one.places[place]}: {message}" if one.places else message)
