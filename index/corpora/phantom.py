"""A small synthetic corpus of chest films with reports, in the layout of MIMIC-CXR-JPG 2.0.0.

It shows that the whole of medret works, without data that need a licence. It teaches nothing about patients.
"""

import csv
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

from PIL import Image

from encoders.atomic import whole_folder
from encoders.errors import MedretError
from index.corpora.phantom_cases import MAX_PATIENTS, PhantomImage, PhantomPatient, PhantomStudy, draw_patient
from index.corpora.phantom_findings import Box, draw_film
from index.corpora.phantom_report import write_report
from index.corpora.record import FINDINGS

BOX_COLUMNS = ("dicom_id", *(column.name for column in fields(Box)))
METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
SPLIT_COLUMNS = ("dicom_id", "study_id", "subject_id", "split")
LABEL_COLUMNS = ("subject_id", "study_id", *sorted(FINDINGS))

_JPEG_QUALITY = 95  # as MIMIC-CXR-JPG
_README = """Phantoms: a synthetic corpus of chest radiographs in the layout of MIMIC-CXR-JPG 2.0.0
======================================================================================

Made by `medret phantoms` with seed {seed} for {patients} patients{combinations}. Every film, report, date and number here is
made up; none shows or describes a person. Not for any medical use.

files/p1X/p1XXXXXXX/sXXXXXXXX/<dicom_id>.jpg   frontal films, 8-bit grey JPEG, histogram-equalised
files/p1X/p1XXXXXXX/sXXXXXXXX.txt              the report of the study
mimic-cxr-2.0.0-metadata.csv.gz                view, size and time of each film
mimic-cxr-2.0.0-split.csv.gz                   train, validate, test: by patient, 70/10/20
mimic-cxr-2.0.0-chexpert.csv.gz                labels of each study: 1.0 stated, 0.0 denied, -1.0 called possible,
mimic-cxr-2.0.0-negbio.csv.gz                  blank not mentioned (both files say the same)
boxes.csv                                      where each stated finding is drawn

boxes.csv has one row for each side of a finding: pixels[y_min:y_max, x_min:x_max] of the stored image. `side` is the
patient's: the patient's left is the picture's right. A finding that is called possible is drawn faintly or not at
all and has no box.
"""
_LICENSE = """CC0 1.0 Universal: no rights reserved.

To the extent possible under law, the makers of medret waive all copyright and related rights to these synthetic
pictures and reports. https://creativecommons.org/publicdomain/zero/1.0/
"""


@dataclass(frozen=True, slots=True)
class PhantomSummary:
    """What was written; `findings` counts the images whose study is labelled 1.0, in the order of FINDINGS."""

    patients: int
    studies: int
    images: int
    reports: int
    findings: dict[str, int]


@dataclass(slots=True)
class _Tables:
    """The rows of the side files, collected while films and reports are written."""

    metadata: list[tuple[Any, ...]] = field(default_factory=list)
    split: list[tuple[Any, ...]] = field(default_factory=list)
    labels: list[tuple[Any, ...]] = field(default_factory=list)
    boxes: list[tuple[Any, ...]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    findings: Counter[str] = field(default_factory=Counter)


def write_phantoms(
    out: Path, patients: int, seed: int, progress: Callable[[int], None] | None = None, *, combinations: int | None = None
) -> PhantomSummary:
    """Write a synthetic corpus to `out`, whole or not at all.

    The same seed gives the same bytes (with the same NumPy and Pillow), and the first patients are the same
    whatever their number.

    Args:
        out: A folder that does not exist yet, or is empty.
        patients: How many; about 1.9 studies and 2.8 films each.
        seed: 0 or more.
        progress: Called with the number of patients done, after each.
        combinations: How many sets of findings occur, 1 to MAX_COMBINATIONS; few of them in many patients are many
            false negatives for a loss that takes all other studies of a batch for different. None: as patients have them.

    Raises:
        MedretError: If `out` holds something already, or cannot be written.
        ValueError: If patients is not in 1..MAX_PATIENTS, seed is negative, or combinations is out of range.
    """
    if not 1 <= patients <= MAX_PATIENTS or seed < 0:
        raise ValueError(f"{patients} patients with seed {seed}, expected 1 to {MAX_PATIENTS} patients and a seed of 0 or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedretError(f"{out}: is there already, expected a new or an empty folder. Name another folder, or remove this one first.")
    tables = _Tables()
    with whole_folder(out) as folder:
        for number in range(patients):
            _write_patient(folder, draw_patient(seed, number, combinations), tables)
            if progress is not None:
                progress(number + 1)
        few = "" if combinations is None else f" and {combinations} combinations of findings"
        _write_side_files(folder, tables, _README.format(seed=seed, patients=patients, combinations=few))
    return PhantomSummary(
        patients=patients,
        studies=len(tables.labels),
        images=len(tables.images),
        reports=len(tables.labels),
        findings={name: tables.findings[name] for name in FINDINGS},
    )


def _write_patient(folder: Path, patient: PhantomPatient, tables: _Tables) -> None:
    home = f"files/p{str(patient.subject_id)[:2]}/p{patient.subject_id}"
    for study in patient.studies:
        report = write_report(patient, study)
        _put(folder, f"{home}/s{study.study_id}.txt", report.text.encode(), tables)
        states = (report.labels.get(name) for name in sorted(FINDINGS))
        tables.labels.append((patient.subject_id, study.study_id, *("" if state is None else state for state in states)))
        for image in study.images:
            path = f"{home}/s{study.study_id}/{image.dicom_id}.jpg"
            pixels, boxes = draw_film(patient.anatomy, image.pose, study.findings)
            _put(folder, path, _jpeg(Image.fromarray(pixels)), tables)
            tables.images.append(path)
            tables.metadata.append(_metadata(patient, study, image))
            tables.split.append((image.dicom_id, study.study_id, patient.subject_id, patient.split))
            tables.boxes += [(image.dicom_id, *astuple(box)) for box in boxes]
            tables.findings.update(name for name, state in report.labels.items() if state == 1.0)


def _metadata(patient: PhantomPatient, study: PhantomStudy, image: PhantomImage) -> tuple[Any, ...]:
    views = "+".join(each.pose.view for each in study.images)
    step = {"PA": "CHEST (SINGLE VIEW)", "AP": "CHEST (PORTABLE AP)", "PA+AP": "CHEST (PA AND AP)"}[views]
    return (
        image.dicom_id,
        patient.subject_id,
        study.study_id,
        step,
        image.pose.view,
        image.pose.rows,
        image.pose.columns,
        f"{study.day:%Y%m%d}",
        study.clock,
        step,
        "postero-anterior" if image.pose.view == "PA" else "antero-posterior",
        "Recumbent" if image.recumbent else "Erect",
    )


def _write_side_files(folder: Path, tables: _Tables, readme: str) -> None:
    labels = _table(LABEL_COLUMNS, sorted(tables.labels))
    for name, content in (
        ("metadata", _table(METADATA_COLUMNS, sorted(tables.metadata, key=itemgetter(1, 2, 0)))),  # patient, study, film
        ("split", _table(SPLIT_COLUMNS, sorted(tables.split, key=itemgetter(2, 1, 0)))),
        ("chexpert", labels),
        ("negbio", labels),
    ):
        _put(folder, f"mimic-cxr-2.0.0-{name}.csv.gz", gzip.compress(content, mtime=0), tables)
    _put(folder, "boxes.csv", _table(BOX_COLUMNS, tables.boxes), tables)
    _put(folder, "IMAGE_FILENAMES", "".join(f"{path}\n" for path in sorted(tables.images)).encode(), tables)
    _put(folder, "LICENSE.txt", _LICENSE.encode(), tables)
    _put(folder, "README", readme.encode(), tables)
    sums = "".join(f"{digest}  {path}\n" for path, digest in sorted(tables.hashes.items()))
    (folder / "SHA256SUMS.txt").write_bytes(sums.encode())


def _put(folder: Path, path: str, content: bytes, tables: _Tables) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    tables.hashes[path] = hashlib.sha256(content).hexdigest()


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
