"""What may be answered: rows of a split or view, and the rows of the same patient or study that are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError

if TYPE_CHECKING:
    from index.shards import ShardTable


def rows_with(table: "ShardTable", column: str, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the rows whose `column` (split, view, ...) is one of the wanted values.

    Returns:
        (rows,) bool.

    Raises:
        MedretError: If no row has such a value; the values that there are, are named.
    """
    values = np.asarray(table.column(column), dtype=object)
    marked: NDArray[np.bool_] = np.isin(values.astype(str), list(wanted)) & present(values)
    if not marked.any():
        known = sorted({str(value) for value in values if value is not None})
        raise MedretError(
            f"no record has {column} {' or '.join(wanted)}; choose from what the index holds: {', '.join(known[:12]) or 'none'}"
        )
    return marked


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records take part.

    Attributes:
        splits: Records of these splits; None for all.
        views: Images of these views, as the source spells them; None for all.
    """

    splits: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None

    def rows(self, table: "ShardTable") -> NDArray[np.bool_]:
        """Mark the rows of a table that take part; views restrict images only."""
        chosen = np.ones(table.rows, dtype=np.bool_)
        if self.splits is not None:
            chosen &= rows_with(table, "split", self.splits)
        if self.views is not None and table.modality == "images":
            chosen &= rows_with(table, "view", self.views)
        return chosen


EVERYTHING = Selection()


def present(values: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Mark the values of a column that are not None."""
    return np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))


def number_values(
    values: Sequence[str | None] | NDArray[np.object_], others: Sequence[str | None] | NDArray[np.object_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the values of two columns alike, so that equal ids have equal numbers across two tables.

    Returns:
        (len(values),) and (len(others),) int64 from 0; -1 for None, which equals nothing.
    """
    numbers: dict[str, int] = {}

    def numbered(column: Sequence[str | None] | NDArray[np.object_]) -> NDArray[np.int64]:
        found = (-1 if value is None else numbers.setdefault(value, len(numbers)) for value in column)
        return np.fromiter(found, dtype=np.int64, count=len(column))

    return numbered(values), numbered(others)


class Groups:
    """Rows by the number of their group (patient, study), looked up without a scan.

    Args:
        numbers: (N,) int64 group of each row; negative for none.
    """

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self._sorted = numbers[self._order]

    def rows(self, number: int) -> NDArray[np.int64]:
        """Return the rows of one group, ascending; none for a negative number."""
        if number < 0:
            return np.empty(0, dtype=np.int64)
        start, stop = np.searchsorted(self._sorted, [number, number + 1])
        return self._order[start:stop]


def same_owner_rows(asking: "ShardTable", rows: NDArray[np.int64], candidates: "ShardTable") -> list[NDArray[np.int64]]:
    """Find, for each asking record, the candidates of its patient; of its study where its source names no patient.

    Args:
        asking: The records that ask.
        rows: (Q,) int64, their rows.
        candidates: The records that may be found.

    Returns:
        Q arrays of int64 candidate rows, ascending.
    """
    asked, held = number_values(_owners(asking)[rows], _owners(candidates))
    groups = Groups(held)
    return [groups.rows(int(number)) for number in asked]


def _owners(table: "ShardTable") -> NDArray[np.object_]:
    owners = np.full(table.rows, None, dtype=object)
    for column in ("study_id", "patient_id"):  # the patient is written last
        values = table.column(column)
        known = present(values)
        owners[known] = [f"{column} {value}" for value in values[known]]
    return owners
