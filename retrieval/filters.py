"""What may be answered: records that meet conditions on their metadata."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.record import NULL_LABEL, LabelState

if TYPE_CHECKING:
    from index.shards import ShardTable

_IDS = ("id", "patient_id", "study_id")
_WORDS = ("view", "split", "sex", "tags")  # letter case does not matter
_RANGES = ("age", "study_date")
_ALIASES = {"patient": "patient_id", "study": "study_id", "date": "study_date", "tag": "tags"}
_NAMED = 12  # values that a message lists
_SOUGHT_ALONE = 16  # values

End = TypeVar("End", float, date)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a record must say of itself to take part.

    Attributes:
        column: A metadata column (id, patient_id, study_id, view, split, sex, age, study_date, tags) or a finding.
        values: Any of these. Of a finding: positive, negative, uncertain or not_mentioned. Of age and study_date: a value, or a
            range "LOW..HIGH" whose ends belong to it and may be left out; "2011" and "2011-05" are ranges of days. The empty
            string selects records without a value: of a finding, those in which nobody looked for it.
    """

    column: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        quoted = [f'"{value}"' if "," in value else value for value in self.values]
        return f"{self.column}={','.join(quoted)}"

    def rows(self, table: "ShardTable") -> NDArray[np.bool_]:
        """Mark the rows that meet it: (rows,) bool, no removed row among them.

        Raises:
            MedretError: If the column or a value is not known, or no record's age or date is in a range; what there is, is named.
        """
        column = _find_column(table, self.column)
        if column in _RANGES:
            marked = _in_ranges(table, column, self.values)
        elif column in _IDS or column in _WORDS:
            marked = rows_with(table, column, self.values)
        else:
            states = [_state(column, value) for value in self.values]
            marked = np.isin(table.labels([column])[:, 0], states)
        return marked if table.live is None else marked & table.live


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


def rows_with(table: "ShardTable", column: str, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the rows whose value in a string column is one of those wanted; "" stands for none.

    Returns:
        (rows,) bool; removed rows are not marked.

    Raises:
        MedretError: If no record has one of the values; values that there are, are named.
    """
    values = {value for value in wanted if value}
    rows = table.rows_of(column, values)
    if _distinct_among(table, column, rows, values) < len(values):
        known = set(table.distinct(column))
        spelled = {value.casefold(): value for value in known} if column in _WORDS else {}
        values = {value if value in known else spelled.get(value.casefold(), value) for value in values}
        if unknown := sorted(values - known):
            raise MedretError(_unknown_values(table, column, unknown, sorted(known)))
        rows = table.rows_of(column, values)
    marked = np.zeros(table.rows, dtype=np.bool_)
    marked[rows] = True
    if "" in wanted:
        marked |= _without(table, column)
    return marked


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records take part.

    Attributes:
        splits: Records of these splits; None for all.
        views: Images of these views, as the source spells them; None for all.
        only: Conditions that every record meets, texts too: a condition on the view leaves no report.
    """

    splits: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    only: tuple[Condition, ...] = ()

    def rows(self, table: "ShardTable") -> NDArray[np.bool_]:
        """Mark the rows of a table that take part, (rows,) bool: no removed row; `views` restrict images only.

        Raises:
            MedretError: If a condition asks for what no record has.
        """
        chosen = np.ones(table.rows, dtype=np.bool_) if table.live is None else table.live.copy()
        if self.splits is not None:
            chosen &= rows_with(table, "split", self.splits)
        if self.views is not None and table.modality == "images":
            chosen &= rows_with(table, "view", self.views)
        for condition in self.only:
            chosen &= condition.rows(table)
        return chosen

    def of_texts(self) -> "Selection":
        """Return what is left of it for records that have no view."""
        return replace(self, views=None, only=tuple(one for one in self.only if _plain(one.column) != "view"))


EVERYTHING = Selection()


def _find_column(table: "ShardTable", name: str) -> str:
    """The column or finding of this name; letter case, and what stands between words, does not matter."""
    columns = (*_IDS, *_WORDS, *_RANGES)
    plain = {_plain(known): known for known in (*table.findings, *columns)}  # a column wins over a finding of its name
    found = _ALIASES.get(name.casefold()) or plain.get(_plain(name))
    if found is None:
        findings = f"; findings: {', '.join(table.findings)}" if table.findings else "; no findings"
        raise MedretError(f"no column or finding {name!r}. Columns: {', '.join(columns)}{findings}")
    return found


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _state(finding: str, name: str) -> int:
    states = {_plain(state.name): int(state) for state in LabelState} | {"": NULL_LABEL}
    if _plain(name) not in states:
        known = ", ".join(state.name.lower() for state in LabelState)
        raise MedretError(f"{finding} is asked to be {name!r}; choose from: {known}, or nothing for records in which nobody looked")
    return states[_plain(name)]


def _distinct_among(table: "ShardTable", column: str, rows: NDArray[np.int64], values: set[str]) -> int:
    """How many of the values the rows hold; numbering a whole column, which takes longer than finding a value, only for many."""
    if len(values) == 1:
        return min(len(rows), 1)
    if column == "tags" or len(values) <= _SOUGHT_ALONE:
        return sum(bool(len(table.rows_of(column, [value]))) for value in values)
    return len(np.unique(table.codes(column)[rows]))


def _without(table: "ShardTable", column: str) -> NDArray[np.bool_]:
    if column == "tags":
        return np.fromiter((not tags for tags in table.column("tags")), dtype=np.bool_, count=table.rows)
    empty: NDArray[np.bool_] = table.codes(column) < 0
    return empty


def _unknown_values(table: "ShardTable", column: str, unknown: Sequence[str], known: Sequence[str]) -> str:
    found = f"no record has {column} {' or '.join(unknown)}"
    if not known:
        home = "; only images have a view" if column == "view" and table.modality != "images" else ""
        return f"{found}: the {table.modality} of this index name none{home}"
    if column in _IDS:  # whose records there are is nobody's business but theirs
        return f"{found}; the {table.modality} of this index have {len(known):,} others"
    more = f" ... ({len(known):,} in all)" if len(known) > _NAMED else ""
    return f"{found}; choose from what the index holds: {', '.join(known[:_NAMED])}{more}"


def _in_ranges(table: "ShardTable", column: str, values: Sequence[str]) -> NDArray[np.bool_]:
    held = table.column(column)
    missing = np.isnan(held) if column == "age" else np.isnat(held)
    known = ~missing if table.live is None else ~missing & table.live
    marked = np.zeros(table.rows, dtype=np.bool_)
    for value in values:
        if not value:
            marked |= missing
            continue
        low, high = _range(value, float, float) if column == "age" else _range(value, _first_day, _last_day)
        inside = known.copy()
        if low is not None:
            inside &= held >= np.array(low, dtype=held.dtype)
        if high is not None:
            inside &= held <= np.array(high, dtype=held.dtype)
        if not inside.any():
            there = held[known]
            extent = f"from {there.min()} to {there.max()}" if len(there) else f"not known of any of the {table.modality}"
            raise MedretError(f"no record has {column} {value}; in this index it is {extent}")
        marked |= inside
    return marked


def _range(text: str, first: Callable[[str], End], last: Callable[[str], End]) -> tuple[End | None, End | None]:
    """Both ends of "LOW..HIGH", either may be open; of a single value the value twice."""
    low, dots, high = text.partition("..")
    try:
        ends = (first(low) if low.strip() else None, last(high if dots else low) if (high if dots else low).strip() else None)
    except (ValueError, OverflowError) as error:
        raise MedretError(f"{text!r} is no number, no ISO date (2011-05-31, 2011-05, 2011) and no range LOW..HIGH of these") from error
    return ends


def _first_day(text: str) -> date:
    year, month, day = _date_parts(text)
    return date(year, month or 1, day or 1)


def _last_day(text: str) -> date:
    year, month, day = _date_parts(text)
    if day:
        return date(year, month, day)
    following = date(year + 1, 1, 1) if month in (0, 12) else date(year, month + 1, 1)
    return following - timedelta(days=1)


def _date_parts(text: str) -> tuple[int, int, int]:
    """Year, month and day of an ISO date; what is left out is 0."""
    parts = [int(part) for part in text.strip().split("-")]
    if len(parts) > 3 or 0 in parts:
        raise ValueError(text)
    year, month, day = (*parts, 0, 0)[:3]
    return year, month, day
