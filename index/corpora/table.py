"""A corpus in one table: CSV, TSV, JSON-lines or Parquet, a row per image or per report."""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from encoders.errors import MedretError
from index.corpora.csvfile import read_csv, read_header
from index.corpora.header import quoted
from index.corpora.record import FINDINGS, LabelState, Record, Tally
from index.corpora.report import REPORT_SECTIONS, section_report
from index.corpora.table_columns import TableColumns, age_of, date_of, find_columns, labels_of, sex_of, split_of, state_of, text_of

Row = Mapping[str, Any]

_CSV, _TSV, _JSON, _PARQUET = (".csv",), (".tsv", ".tab"), (".jsonl", ".ndjson"), (".parquet",)
_SUFFIXES = (*_CSV, *_TSV, *_JSON, *_PARQUET)
_IMAGE_SUFFIX = re.compile(r"(\.(png|jpe?g|dcm|dicom|tiff?|bmp))+$", re.IGNORECASE)
# Only headings that a report sets in capitals; a heading in the middle of a line gets a line of its own.
_HEADING = re.compile(
    r"\s*\b(FINDINGS(?: AND |/)IMPRESSION:|(?:CLINICAL )?(?:FINDINGS|IMPRESSION|INDICATION|COMPARISON|TECHNIQUE|HISTORY|CONCLUSION)S?:)\s*"
)
_BATCH = 4096  # rows of a Parquet file in memory at once


def recognises_table(root: Path) -> bool:
    """Whether the path is a table, or a folder with exactly one that has a column for the image path or the text."""
    try:
        path = _table_file(root)
        if root.is_dir():
            find_columns(path, _header(path) if _suffix(path) in _PARQUET else tuple(next(_read_rows(path), {})))
    except MedretError:
        return False
    return True


def find_tables(folder: Path) -> list[Path]:
    """Return the tables that lie in a folder, by name; hidden files are none."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _suffix(path) in _SUFFIXES and not path.name.startswith("."))


def findings_table(root: Path, columns: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the findings that the table's labels name: its finding columns, or all that its label column lists.

    Raises:
        MedretError: As read_table.
    """
    path = _table_file(root)
    found = find_columns(path, _header(path), columns)
    if found.findings or "labels" not in found.roles:
        return tuple(found.findings)
    named: set[str] = set()
    for row in _read_rows(path, [found.roles["labels"]]):
        listed = labels_of(row.get(found.roles["labels"])) or {}
        named.update(finding for finding, state in listed.items() if state is not None)  # a cell that is no list is no finding
    return (*(finding for finding in FINDINGS if finding in named), *sorted(named - set(FINDINGS)))


def read_table(root: Path, tally: Tally, columns: Mapping[str, str] | None = None) -> Iterator[Record]:
    """Yield a record for each row, in the table's order.

    Columns are told by their names (see table_columns.ROLES), and `columns` wins. A record's id is its id column, else
    its path without suffix (with it where the table has a.png and a.jpg), else "row" and the row's number from 1. Image paths are
    relative to the table's folder. A text with headings in capitals ("FINDINGS: ...") is cut at them; one without is taken
    as findings.

    Labels: with a column per finding, 1, 0, -1 and blank are positive, negative, uncertain and not mentioned, and a row
    with blanks only was not labelled. With one column that lists the positives, every other finding that the table
    names is not mentioned, and a row whose cell is blank was not labelled.

    Args:
        root: A table (.csv, .tsv, .jsonl, .ndjson, each also with .gz; .parquet), or a folder with exactly one.
        tally: Counts rows left out (neither path nor text, an id seen before) and cells that are not understood.
        columns: Role ("path", "text", "patient", ...) or report section to column name.

    Raises:
        MedretError: If there is no table or more than one, it is damaged, or a column is not there.
    """
    path = _table_file(root)
    found = find_columns(path, _header(path), columns)
    read_labels = _label_reader(found, findings_table(path, columns), tally)
    shared = _shared_stems(path, found)
    seen: set[str] = set()
    for number, row in enumerate(_read_rows(path, found.names), 1):
        cells = {role: text_of(row.get(column)) for role, column in found.roles.items() if role != "labels"}
        image = _image_path(path.parent, cells.get("path", ""))
        sections = _sections(row, found, cells.get("text", ""))
        id = cells.get("id") or _path_id(path.parent, image, shared) or f"row{number}"
        if image is None and not sections:
            tally.leave_out("row with neither a path nor a text", id)
        elif id in seen:
            tally.leave_out("id seen before", id)
        else:
            seen.add(id)
            yield _record(id, image, sections, read_labels(row, id), cells, tally)


def _record(
    id: str, image: Path | None, sections: dict[str, str], labels: Mapping[str, LabelState], cells: Mapping[str, str], tally: Tally
) -> Record:
    def understood(role: str, read: Callable[[str], Any]) -> Any:
        cell = cells.get(role, "")
        value = read(cell) if cell else None
        if cell and value is None and cell.lower() not in ("unknown", "u", "o", "other"):
            tally.fault(f"{role} not understood, left empty", id)
        return value

    return Record(
        id=id,
        image=image,
        patient_id=cells.get("patient") or None,
        study_id=cells.get("study") or None,
        view=cells.get("view") or None,
        split=understood("split", split_of),
        labels=labels,
        sections=sections,
        study_date=understood("date", date_of),
        age=understood("age", age_of),
        sex=understood("sex", sex_of),
    )


def _label_reader(found: TableColumns, findings: tuple[str, ...], tally: Tally) -> Callable[[Row, str], dict[str, LabelState]]:
    def understood(states: Mapping[str, LabelState | None], id: str) -> dict[str, LabelState]:
        for finding in (finding for finding, state in states.items() if state is None):
            known = finding in found.findings or finding in FINDINGS  # else a cell says it
            name = finding[:40] if known else quoted(finding)
            tally.fault(f"label of {name} not understood, expected 1, 0, -1 or blank; taken as not labelled", id)
        return {finding: state for finding, state in states.items() if state is not None}

    def from_columns(row: Row, id: str) -> dict[str, LabelState]:
        cells = {finding: row.get(column) for finding, column in found.findings.items()}
        if not any(text_of(cell) for cell in cells.values()):
            return {}
        return understood({finding: state_of(cell) for finding, cell in cells.items()}, id)

    def from_list(row: Row, id: str) -> dict[str, LabelState]:
        listed = labels_of(row.get(found.roles["labels"]))
        return {} if listed is None else understood(dict.fromkeys(findings, LabelState.NOT_MENTIONED) | listed, id)

    if found.findings:
        return from_columns
    return from_list if "labels" in found.roles else lambda row, id: {}


def _sections(row: Row, found: TableColumns, text: str) -> dict[str, str]:
    sections = {}
    if text:
        lines = _HEADING.sub(r"\n\1 ", text).splitlines()
        sections = section_report("\n" + "\n".join(f" {line.lstrip()}" for line in lines))  # the parser wants one leading space
        if not any(name in sections for name in (*REPORT_SECTIONS, "last_paragraph")):
            sections = {"findings": text}
    return sections | {name: cell for name, column in found.sections.items() if (cell := text_of(row.get(column)))}


def _image_path(folder: Path, cell: str) -> Path | None:
    return folder / cell if cell else None


def _path_id(folder: Path, image: Path | None, shared: Set[str]) -> str | None:
    if image is None:
        return None
    inside = _inside(folder, image)
    stem = _IMAGE_SUFFIX.sub("", inside)
    return inside if stem in shared else stem


def _shared_stems(path: Path, found: TableColumns) -> set[str]:
    """Return the paths without suffix that are those of several images: a table may list a.png and a.jpg, in any order."""
    if "path" not in found.roles:
        return set()
    wanted = [found.roles[role] for role in ("id", "path") if role in found.roles]
    first: dict[str, str] = {}
    shared: set[str] = set()
    for row in _read_rows(path, wanted):
        id, cell = (text_of(row.get(found.roles[role])) if role in found.roles else "" for role in ("id", "path"))
        image = _image_path(path.parent, cell)
        if image is not None and not id:
            inside = _inside(path.parent, image)
            stem = _IMAGE_SUFFIX.sub("", inside)
            if first.setdefault(stem, inside) != inside:
                shared.add(stem)
    return shared


def _inside(folder: Path, image: Path) -> str:
    return (image.relative_to(folder) if image.is_relative_to(folder) else image).as_posix()


def _table_file(root: Path) -> Path:
    """Return the table that `root` is, or the only one that it holds."""
    root = root.absolute()
    if not root.is_dir():
        if _suffix(root) not in _SUFFIXES:
            raise MedretError(f"{root}: no table, expected {', '.join(_SUFFIXES)}. Save it as one of these.")
        return root
    tables = find_tables(root)
    if len(tables) == 1:
        return tables[0]
    found = f"{len(tables)} tables ({', '.join(path.name for path in tables[:5])})" if tables else "no table"
    raise MedretError(f"{root}: {found} in this folder, expected exactly one ({', '.join(_SUFFIXES)}). Name the table's own file.")


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _header(path: Path) -> tuple[str, ...]:
    if _suffix(path) in (*_CSV, *_TSV):
        return read_header(path, _delimiter(path))
    if _suffix(path) in _PARQUET:
        return tuple(_open_parquet(path).schema_arrow.names)
    return tuple(dict.fromkeys(name for row in _read_json(path) for name in row))


def _read_rows(path: Path, columns: list[str] | None = None) -> Iterator[Row]:
    """Yield rows that hold at least `columns` (all of them if None); a Parquet file may hold large ones besides."""
    if _suffix(path) in (*_CSV, *_TSV):
        return read_csv(path, delimiter=_delimiter(path))
    return _read_parquet(path, columns) if _suffix(path) in _PARQUET else _read_json(path)


def _delimiter(path: Path) -> str:
    return "\t" if _suffix(path) in _TSV else ","


def _read_json(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise MedretError(f"{path}, line {number}: no JSON object, expected one a line. Mend the line.")
                    yield row
    except FileNotFoundError as error:
        raise MedretError(f"{path}: no such file. Check the path.") from error
    except (OSError, EOFError, ValueError) as error:  # the error's own text may quote the line
        raise MedretError(f"{path}, line {number or 1}: not readable as JSON ({type(error).__name__}). Mend the file.") from error


def _read_parquet(path: Path, columns: list[str] | None) -> Iterator[Row]:
    import pyarrow as pa

    try:
        for batch in _open_parquet(path).iter_batches(batch_size=_BATCH, columns=columns):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise MedretError(f"{path}: the Parquet data is damaged ({type(error).__name__}). Fetch the file again.") from error


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise MedretError(f"{path}: cannot be read as Parquet ({type(error).__name__}). Check the path or fetch it again.") from error
