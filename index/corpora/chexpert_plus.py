"""CheXpert Plus: one table of images with reports, labels in JSON lines beside it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from encoders.errors import MedretError
from index.corpora.chexpert_fields import SPLITS, age_of, parse_path, read_paths, sex_of, view_of
from index.corpora.labels import UNLABELLED, LabelColumns
from index.corpora.record import LabelState, Record, Tally
from index.corpora.report import section_report

LABEL_SETS = ("impression", "findings", "report")

_BLANKS = ("", "nan", "none")
_SECTION = "section_"


def label_file(release: Path, labels: str | None) -> Path | None:
    """Return the label file of a set; None asks for "impression" and gives None where that file is not there.

    Raises:
        MedretError: If the set is unknown, or was asked for and is not there.
    """
    if labels is not None and labels not in LABEL_SETS:
        raise MedretError(f"{release}: '{labels}' is no label set of CheXpert Plus. Choose one of {', '.join(LABEL_SETS)}.")
    name = f"{labels or LABEL_SETS[0]}_fixed.json"
    for path in (release / "chexbert_labels" / name, release / name):
        if path.is_file():
            return path
    if labels is None:
        return None
    raise MedretError(f"{release}: no chexbert_labels/{name}. Unpack chexbert_labels.zip into this folder.")


def read_plus(release: Path, tally: Tally, labels: str | None = None) -> Iterator[Record]:
    """Yield a record per row of df_chexpert_plus_*.csv.

    Reports were de-identified image by image, so the images of one study can carry different texts, and different
    labels: each record keeps its own, and studies whose texts differ are counted as a fault. An image is the .jpg that
    the table names where that is there, and the .png of the release otherwise: beside the table, or in PNG/ or PNG/PNG/.

    Args:
        release: The folder with the table.
        tally: Counts what is left out or at fault.
        labels: One of LABEL_SETS; None takes "impression", or no labels where that file is not there.

    Raises:
        MedretError: If a file is damaged or lacks a column.
    """
    table = sorted(release.glob("df_chexpert_plus_*.csv*"))[-1]
    file = label_file(release, labels)
    if file is None:
        tally.fault(f"no label file: chexbert_labels/{LABEL_SETS[0]}_fixed.json is not there", release.name)
    labels_of = _read_labels(file, tally) if file else {}
    unpacked = _unpacked(release)
    seen: set[str] = set()
    texts: dict[str, int] = {}  # of each study, the hash of its first report
    for row, parsed in read_paths(table, "path_to_image", (), seen, tally):
        sections = _sections(row)
        text = hash(tuple(sections.items()))
        if texts.setdefault(parsed.study, text) != text:
            tally.fault("image whose report differs from that of its study's first image", parsed.id)
        yield Record(
            id=parsed.id,
            image=_image(release, unpacked, parsed.id, parsed.suffix),
            patient_id=parsed.patient,
            study_id=parsed.study,
            view=view_of(parsed, _cell(row, "frontal_lateral"), _cell(row, "ap_pa")),
            split=SPLITS.get(_cell(row, "split"), parsed.split),
            labels=labels_of.get(parsed.id, UNLABELLED),
            sections=sections,
            age=age_of(_cell(row, "age"), parsed.id, tally),
            sex=sex_of(_cell(row, "sex"), parsed.id, tally),
        )
    for id in sorted(labels_of.keys() - seen):
        tally.leave_out(f"{file.name if file else ''}: labels of an image that the table does not list", id)


def _cell(row: Mapping[str, str], column: str) -> str:
    text = row.get(column, "").strip()
    return "" if text.lower() in _BLANKS else text


def _sections(row: Mapping[str, str]) -> dict[str, str]:
    """The report's sections from their own columns; from the whole report where all of those are blank."""
    columns = [column for column in row if column.startswith(_SECTION)]
    sections = {column.removeprefix(_SECTION).replace("_", " "): _cell(row, column) for column in columns}
    sections = {name: text for name, text in sections.items() if text}
    return sections or section_report(_cell(row, "report"))


def _unpacked(release: Path) -> Path:
    """Return the folder that the PNG archives were unpacked into: the release itself where it is none of the usual ones."""
    usual = (release, release / "PNG", release / "PNG" / "PNG")
    return next((folder for folder in usual if any((folder / split).is_dir() for split in ("train", "valid"))), release)


def _image(release: Path, unpacked: Path, id: str, suffix: str) -> Path:
    listed = release / f"{id}{suffix or '.jpg'}"
    return listed if listed.exists() else unpacked / f"{id}.png"


def _read_labels(path: Path, tally: Tally) -> dict[str, Mapping[str, LabelState]]:
    columns: LabelColumns | None = None
    labels: dict[str, Mapping[str, LabelState]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise MedretError(f"{path}, line {number}: no JSON object. Fetch the file again.") from error
        parsed = parse_path(str(row["path_to_image"])) if isinstance(row, dict) and "path_to_image" in row else None
        if parsed is None:
            raise MedretError(f"{path}, line {number}: no path_to_image that is a CheXpert path. Fetch the file again.")
        columns = columns or LabelColumns(path, [str(key) for key in row])
        cells = {str(key): _label_text(value) for key, value in row.items()}
        try:
            labels[parsed.id] = columns.read(cells, parsed.id, tally)
        except KeyError as error:
            raise MedretError(f"{path}, line {number}: lacks {error}, which line 1 has. Fetch the file again.") from error
    return labels


def _label_text(value: object) -> str:
    blank = value is None or value != value  # JSON as pandas writes it spells a blank null or NaN
    return "" if blank else str(value)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise MedretError(f"{path}: cannot be read as UTF-8 text. Fetch the file again.") from error
