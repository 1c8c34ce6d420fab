"""One way to open any corpus: recognise its format, hand out its records."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from encoders.errors import MedretError
from index.corpora.record import Record, Tally

FORMATS = ("mimic-cxr-jpg", "chexpert", "openi", "table", "dicom", "images")  # as tried: what knows more of its films comes first

_MARKS = {  # what each format is recognised by, for the message when none is
    "mimic-cxr-jpg": "mimic-cxr-2.0.0-metadata.csv(.gz)",
    "chexpert": "train.csv or valid.csv, or df_chexpert_plus_*.csv",
    "openi": "indiana_reports.csv and indiana_projections.csv",
    "dicom": "DICOM files",
    "table": "a .csv, .parquet or .jsonl file",
    "images": "JPEG or PNG files",
}


@dataclass(frozen=True, slots=True)
class _Reader:
    recognises: Callable[[Path], bool]
    read: Callable[..., Iterator[Record]]
    findings: Callable[..., tuple[str, ...]]
    options: frozenset[str]  # of open_corpus's options, those that this format understands


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus on disk: iterate its records as often as needed, always in the same order.

    Attributes:
        format: One of FORMATS.
        root: The absolute folder or file that was opened.
        recognised: True where the format was told from the folder, False where the user named it.
        findings: The findings that its labels can name, in the source's order; empty where it has no labels.
        options: What the format's reader is told besides the root.
    """

    format: str
    root: Path
    recognised: bool
    findings: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def records(self, tally: Tally | None = None) -> Iterator[Record]:
        """Yield every record; `tally` counts what was left out or found at fault.

        Raises:
            MedretError: If a file of the corpus cannot be read, or there is no record at all.
        """
        tally = Tally() if tally is None else tally
        empty = True
        for record in _reader(self.format).read(self.root, tally, **self.options):
            empty = False
            yield record
        if empty:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in tally.left_out.most_common(3))
            why = f"left out: {reasons}" if reasons else "its files list none"
            raise MedretError(f"{self.root}: no record in this {self.format} corpus ({why}). Check the folder, or name --format.")


def open_corpus(
    path: Path,
    format: str | None = None,
    *,
    reports: Path | None = None,
    columns: Mapping[str, str] | None = None,
    labels: str | None = None,
) -> Corpus:
    """Open a corpus on disk without reading its records.

    Args:
        path: The dataset's folder, or a table file.
        format: One of FORMATS, or None to recognise it.
        reports: Where the reports lie when not beside the images (MIMIC: a folder, or mimic_cxr_sectioned.csv).
        columns: For a table: which of its columns is what.
        labels: Which of the source's label sets to take.

    Raises:
        MedretError: If the path does not exist, no format is recognised, or the format has no such option.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise MedretError(f"{path}: no such file or folder. Check the path of the corpus.")
    if format is not None and format not in FORMATS:
        raise MedretError(f"{path}: '{format}' is no corpus format. Choose one of {', '.join(FORMATS)}.")
    name = format or _recognise(path)
    reader = _reader(name)
    reports = None if reports is None else Path(reports).absolute()
    options = {key: value for key, value in (("reports", reports), ("columns", columns), ("labels", labels)) if value is not None}
    for key in options.keys() - reader.options:
        able = ", ".join(other for other in FORMATS if key in _reader(other).options)
        flag = "--column" if key == "columns" else f"--{key}"  # repeated, so the command line names one
        raise MedretError(f"{path}: a {name} corpus has no option {flag} (understood by {able}). Leave it out, or name another --format.")
    findings = reader.findings(path, **options)
    return Corpus(format=name, root=path, recognised=format is None, findings=findings, options=MappingProxyType(options))


def _recognise(path: Path) -> str:
    try:
        for name in FORMATS:
            if name == "images" and path.is_dir():
                _refuse_several_tables(path)  # one of them may hold the films' labels
            if _reader(name).recognises(path):
                return name
    except OSError as error:
        raise MedretError(f"{path}: cannot be read ({error.strerror or error}). Check its permissions.") from error
    looked_for = "; ".join(f"{name}: {mark}" for name, mark in _MARKS.items())
    kind = "folder" if path.is_dir() else "file"
    raise MedretError(f"{path}: this {kind} is none of the known corpora (looked for {looked_for}). Check the path, or name --format.")


def _refuse_several_tables(folder: Path) -> None:
    from index.corpora.table import find_tables

    tables = find_tables(folder)
    if len(tables) > 1:
        more = ", ..." if len(tables) > 5 else ""
        raise MedretError(
            f"{folder}: this folder holds {len(tables)} tables ({', '.join(table.name for table in tables[:5])}{more}) and is no other "
            f"corpus. Name one of them, e.g. {tables[0]}, or name --format."
        )


def _reader(name: str) -> _Reader:
    """Import one format's reader; the others, and what they need, are left alone."""
    if name == "mimic-cxr-jpg":
        from index.corpora.mimic import findings_mimic, read_mimic, recognises_mimic

        return _Reader(recognises_mimic, read_mimic, findings_mimic, frozenset({"reports", "labels"}))
    if name == "chexpert":
        from index.corpora.chexpert import findings_chexpert, read_chexpert, recognises_chexpert

        return _Reader(recognises_chexpert, read_chexpert, findings_chexpert, frozenset({"labels"}))
    if name == "openi":
        from index.corpora.openi import findings_openi, read_openi, recognises_openi

        return _Reader(recognises_openi, read_openi, findings_openi, frozenset())
    if name == "dicom":
        from index.corpora.dicom import findings_dicom, read_dicom, recognises_dicom

        return _Reader(recognises_dicom, read_dicom, findings_dicom, frozenset())
    if name == "table":
        from index.corpora.table import findings_table, read_table, recognises_table

        return _Reader(recognises_table, read_table, findings_table, frozenset({"columns"}))
    if name == "images":
        from index.corpora.images import findings_images, read_images, recognises_images

        return _Reader(recognises_images, read_images, findings_images, frozenset())
    raise ValueError(f"'{name}' is no corpus format, expected one of {FORMATS}")
