"""Whose a record is: the rows of the same patient, or of the same study where no patient is named."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from index.shards import ShardTable


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
    asked, held = number_values(owner_names(asking)[rows], owner_names(candidates))
    groups = Groups(held)
    return [groups.rows(int(number)) for number in asked]


def study_names(table: "ShardTable", rows: NDArray[np.int64]) -> NDArray[np.object_]:
    """Name the study of each row, or the record itself where it has none: what its report is called. (R,) str."""
    studies = table.column("study_id")[rows]
    return np.where(present(studies), studies, np.array(table.ids(rows), dtype=object))


def owner_names(table: "ShardTable") -> NDArray[np.object_]:
    """Name each row's patient, else its study: (rows,) str, None where neither is named."""
    owners = np.full(table.rows, None, dtype=object)
    for column in ("study_id", "patient_id"):  # the patient is written last
        values = table.column(column)
        known = present(values)
        owners[known] = [f"{column} {value}" for value in values[known]]
    return owners


def number_owners(table: "ShardTable", rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number whose each row is, from 0: equal for the rows of a patient, else of a study; a row of neither is its own.

    Args:
        table: The records.
        rows: (R,) int64.

    Returns:
        (R,) int64.
    """
    owners = owner_names(table)[rows]
    alone = ~present(owners)
    owners[alone] = [f"record {row}" for row in rows[alone].tolist()]
    numbers: NDArray[np.int64] = np.unique(owners.astype(str), return_inverse=True)[1]
    return numbers
