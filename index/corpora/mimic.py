"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 as PhysioNet hands it out, whole or in part."""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

from encoders.errors import MedretError
from index.corpora.csvfile import find_csv, read_csv, read_header
from index.corpora.header import quoted
from index.corpora.labels import UNLABELLED, LabelColumns
from index.corpora.mimic_reports import ReportSource
from index.corpora.record import FINDINGS, LabelState, Record, Tally

LABEL_SETS = {
    "chexpert": "mimic-cxr-2.0.0-chexpert",
    "negbio": "mimic-cxr-2.0.0-negbio",
    "test-set": "mimic-cxr-2.1.0-test-set-labeled",
}

_METADATA = "mimic-cxr-2.0.0-metadata"
_SPLIT = "mimic-cxr-2.0.0-split"
_DICOM_LIST = "cxr-record-list"
_SPLITS = ("train", "validate", "test")
_NUMBER = re.compile(r"\d{1,12}")
_DICOM_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")
_VIEW_OF_CODE = {  # ViewCodeSequence_CodeMeaning, for the images whose ViewPosition is blank
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    "lateral": "LATERAL",
    "left lateral": "LL",
    "right lateral": "RL",
    "left anterior oblique": "LAO",
    "right anterior oblique": "RAO",
}


def recognises_mimic(root: Path) -> bool:
    """Say whether a folder is MIMIC-CXR-JPG, or MIMIC-CXR as DICOM (which read_mimic refuses with advice)."""
    return root.is_dir() and any(find_csv(root, stem) for stem in (_METADATA, _DICOM_LIST))


def findings_mimic(root: Path, reports: Path | None = None, labels: str | None = None) -> tuple[str, ...]:
    """Return the findings that the label file names; () where the default label file is not there.

    Raises:
        MedretError: If the folder has no metadata file, or the label set asked for is unknown or its file is missing.
    """
    _needed(root, _METADATA)
    return FINDINGS if _label_file(root, labels) else ()


def read_mimic(root: Path, tally: Tally, reports: Path | None = None, labels: str | None = None) -> Iterator[Record]:
    """Yield a record per row of the metadata file, in its order.

    A partial download is no fault: image files need not exist. Ids are as in the files ("10000032", "50414267"); the
    record's id is the dicom_id. A blank ViewPosition is inferred from ViewCodeSequence_CodeMeaning where that says it.

    Args:
        root: The folder with mimic-cxr-2.0.0-metadata.csv and -split.csv (or .csv.gz) and files/.
        tally: Counts what is left out or at fault.
        reports: Where the reports lie when they are not beside the images; see ReportSource.
        labels: One of LABEL_SETS; None takes "chexpert" where its file is there, and no labels otherwise.

    Raises:
        MedretError: If a file is missing, damaged or lacks a column.
    """
    root = root.absolute()
    metadata = _needed(root, _METADATA)
    splits = _read_splits(_needed(root, _SPLIT), tally)
    label_file = _label_file(root, labels)
    if label_file is None:
        tally.fault(f"no label file: {LABEL_SETS['chexpert']}.csv(.gz) is not there", root.name)
    labels_of = _read_labels(label_file, tally) if label_file else {}
    source = ReportSource(root, reports, tally)
    seen: set[str] = set()
    studies: set[str] = set()
    for row in read_csv(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
        dicom_id, subject, study = row["dicom_id"].strip(), row["subject_id"].strip(), row["study_id"].strip()
        if reason := _unusable(dicom_id, subject, study, seen):
            tally.leave_out(f"{metadata.name}: {reason}", dicom_id)
            continue
        seen.add(dicom_id)
        studies.add(study)
        if dicom_id not in splits:
            tally.fault("image without a row in the split file", dicom_id)
        yield Record(
            id=dicom_id,
            image=root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom_id}.jpg",
            patient_id=subject,
            study_id=study,
            view=_view(row),
            split=splits.get(dicom_id),
            labels=labels_of.get(study, UNLABELLED),
            sections=source.sections(subject, study),
            study_date=_date(row.get("StudyDate", ""), dicom_id, tally),
        )
    for dicom_id in sorted(splits.keys() - seen):
        tally.leave_out("row of the split file without a row in the metadata file", dicom_id)
    for study in sorted(labels_of.keys() - studies):
        tally.leave_out("row of the label file without an image in the metadata file", study)


def _needed(root: Path, stem: str) -> Path:
    path = find_csv(root, stem)
    if path is not None:
        return path
    if find_csv(root, _DICOM_LIST) and not find_csv(root, _METADATA):
        raise MedretError(
            f"{root}: this is MIMIC-CXR as DICOM (cxr-record-list.csv), which has neither labels nor split. Read it with "
            "--format dicom, or put the metadata, split and label files of MIMIC-CXR-JPG beside its JPEG images."
        )
    raise MedretError(f"{root}: no {stem}.csv or {stem}.csv.gz. Download it from MIMIC-CXR-JPG into this folder.")


def _label_file(root: Path, labels: str | None) -> Path | None:
    if labels is None:
        return find_csv(root, LABEL_SETS["chexpert"])
    if labels not in LABEL_SETS:
        raise MedretError(f"{root}: '{labels}' is no label set of MIMIC-CXR-JPG. Choose one of {', '.join(LABEL_SETS)}.")
    return _needed(root, LABEL_SETS[labels])


def _read_splits(path: Path, tally: Tally) -> dict[str, str | None]:
    splits: dict[str, str | None] = {}
    for row in read_csv(path, ("dicom_id", "split")):
        dicom_id, split = row["dicom_id"].strip(), row["split"].strip()
        if split not in _SPLITS:
            tally.fault(f"{path.name}: split is {quoted(split)}, expected one of {', '.join(_SPLITS)}", dicom_id)
        if dicom_id in splits and splits[dicom_id] != split:
            tally.fault(f"{path.name}: image in two splits, the first counts", dicom_id)
        splits.setdefault(dicom_id, split if split in _SPLITS else None)
    return splits


def _read_labels(path: Path, tally: Tally) -> dict[str, Mapping[str, LabelState]]:
    columns = LabelColumns(path, read_header(path))
    labels: dict[str, Mapping[str, LabelState]] = {}
    for row in read_csv(path, ("study_id",)):
        study = row["study_id"].strip()
        if study in labels:
            tally.fault(f"{path.name}: study labelled twice, the first row counts", study)
            continue
        labels[study] = columns.read(row, study, tally)
    return labels


def _unusable(dicom_id: str, subject: str, study: str, seen: set[str]) -> str | None:
    if not study:
        return "row without a study"
    if not (_DICOM_ID.fullmatch(dicom_id) and _NUMBER.fullmatch(subject) and _NUMBER.fullmatch(study)):
        return "dicom_id, subject_id or study_id is not of their form"
    return "image listed twice, the first row counts" if dicom_id in seen else None


def _view(row: Mapping[str, str]) -> str | None:
    code = row.get("ViewCodeSequence_CodeMeaning", "").strip().lower()
    return row["ViewPosition"].strip() or _VIEW_OF_CODE.get(code)


def _date(text: str, dicom_id: str, tally: Tally) -> date | None:
    if not text.strip():
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        tally.fault("StudyDate is not YYYYMMDD", dicom_id)
        return None
