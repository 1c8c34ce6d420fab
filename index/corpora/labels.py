"""Label files in CheXpert's manner: a column per finding, 1, 0, -1 or blank in each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from encoders.errors import MedretError
from index.corpora.header import columns_found, quoted
from index.corpora.record import FINDINGS, LabelState, Tally

UNLABELLED: Mapping[str, LabelState] = MappingProxyType({})

_STATES = {"": LabelState.NOT_MENTIONED, "1": LabelState.POSITIVE, "0": LabelState.NEGATIVE, "-1": LabelState.UNCERTAIN}
_STATES |= {f"{value}.0": state for value, state in _STATES.items() if value} | {"-0.0": LabelState.NEGATIVE}
_ALIASES = {"airspace opacity": "Lung Opacity", "no findings": "No Finding"}  # MIMIC-CXR-JPG 2.1.0's test set


class LabelColumns:
    """The findings' columns of one file, whatever their order; rows with equal values share one mapping."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        """Find the 14 findings among a file's columns, regardless of case and by their aliases.

        Raises:
            MedretError: If a finding has no column.
        """
        self._path = path
        self._columns = {finding: column for column in header if (finding := _finding(column))}
        missing = [finding for finding in FINDINGS if finding not in self._columns]
        if missing:
            raise MedretError(f"{path}: no column for {', '.join(missing)}; {columns_found(header, 'Use the published file.')}")
        self._seen: dict[tuple[str, ...], Mapping[str, LabelState]] = {}

    def read(self, row: Mapping[str, str], id: str, tally: Tally) -> Mapping[str, LabelState]:
        """Return a row's labels; a value that is none of 1, 0, -1 and blank counts as a fault and gives no label.

        Args:
            row: Column name to text, as read_csv yields it.
            id: Names the row in the tally.
            tally: Counts the faults.
        """
        values = tuple(row[self._columns[finding]] for finding in FINDINGS)
        labels = self._seen.get(values)
        if labels is None:
            labels = MappingProxyType({f: _STATES[v.strip()] for f, v in zip(FINDINGS, values, strict=True) if v.strip() in _STATES})
            self._seen[values] = labels
        if len(labels) < len(FINDINGS):
            for finding, value in zip(FINDINGS, values, strict=True):
                if finding not in labels:
                    tally.fault(f"{self._path.name}: {finding} is {quoted(value)}, expected 1, 0, -1 or blank; taken as not labelled", id)
        return labels


def _finding(column: str) -> str | None:
    name = " ".join(column.replace("_", " ").split()).casefold()
    return _ALIASES.get(name) or next((finding for finding in FINDINGS if finding.casefold() == name), None)
