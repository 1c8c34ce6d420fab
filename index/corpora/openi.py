"""OpenI (Indiana University) chest films in the public CSV layout, and what its MeSH indexing says in CheXpert's words."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from encoders.errors import MedretError
from index.corpora.csvfile import find_csv, read_csv
from index.corpora.header import quoted
from index.corpora.record import FINDINGS, LabelState, Record, Tally

_REPORTS, _PROJECTIONS = "indiana_reports", "indiana_projections"
_SECTIONS = ("indication", "comparison", "findings", "impression")
_SPLITS = ("train", "validate", "test")
_IMAGE_FOLDERS = ("images/images_normalized", "images_normalized", "images")
_IMAGE_SUFFIXES = re.compile(r"(\.dcm)?\.(png|jpe?g)$|\.dcm$", re.IGNORECASE)
_NOT_INDEXED = "no indexing"

_OUTSIDE_THE_LUNG = frozenset(
    {"abdomen", "adipose tissue", "aorta", "breast", "cardiophrenic angle", "clavicle", "costophrenic angle", "diaphragm", "heart"}
    | {"humerus", "lymph nodes", "mediastinum", "neck", "paratracheal", "pleura", "ribs", "scapula", "shoulder", "spine", "sternum"}
    | {"sulcus", "thoracic vertebrae"}
)


class Meaning(NamedTuple):
    """What a MeSH heading says in CheXpert's words: `findings`, if a qualifier is among `only` and none among `unless`."""

    findings: tuple[str, ...]
    only: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()

    def holds(self, qualifiers: frozenset[str]) -> bool:
        """Whether the heading with these qualifiers means the findings; an empty `only` asks for none."""
        return (not self.only or bool(self.only & qualifiers)) and not self.unless & qualifiers


# MeSH heading (lower case) to finding. What is not here stays a tag: causes (emphysema, COPD, fibrosis), healed change
# (calcified granuloma, a scar of the lung), bones other than fractures, markings, volumes, and two that fit no one finding:
# a blunted costophrenic angle (fluid or thickening) and spinal fusion (an operation; its hardware is not always named).
# CheXpert's hierarchy is not applied: edema, consolidation, pneumonia and atelectasis do not imply Lung Opacity here.
FINDINGS_OF_MESH: Mapping[str, Meaning] = MappingProxyType(
    {
        "normal": Meaning(("No Finding",)),
        "cardiomegaly": Meaning(("Cardiomegaly",)),  # of any degree, "borderline" included
        "cardiac shadow": Meaning(("Cardiomegaly",), only=frozenset({"enlarged"})),
        "mediastinum": Meaning(("Enlarged Cardiomediastinum",), only=frozenset({"enlarged", "prominent"})),
        "opacity": Meaning(("Lung Opacity",), unless=_OUTSIDE_THE_LUNG),
        "infiltrate": Meaning(("Lung Opacity",)),
        "airspace disease": Meaning(("Lung Opacity",)),
        "density": Meaning(("Lung Opacity",), only=frozenset({"lung", "retrocardiac"})),  # elsewhere mostly bone or calcium
        "nodule": Meaning(("Lung Lesion",), unless=_OUTSIDE_THE_LUNG),
        "mass": Meaning(("Lung Lesion",), unless=_OUTSIDE_THE_LUNG),
        "cavitation": Meaning(("Lung Lesion",)),  # "cavitary lesion" to CheXpert's labeler
        "pulmonary edema": Meaning(("Edema",)),
        "pulmonary congestion": Meaning(("Edema",)),  # doubtful: congestion comes before edema; CheXpert's labeler counts it
        "heart failure": Meaning(("Edema",)),  # doubtful in the same way
        "consolidation": Meaning(("Consolidation",)),
        "pneumonia": Meaning(("Pneumonia",)),
        "pulmonary atelectasis": Meaning(("Atelectasis",)),
        "pneumothorax": Meaning(("Pneumothorax",)),
        "hydropneumothorax": Meaning(("Pneumothorax", "Pleural Effusion")),
        "hemopneumothorax": Meaning(("Pneumothorax", "Pleural Effusion")),
        "pleural effusion": Meaning(("Pleural Effusion",)),
        "hemothorax": Meaning(("Pleural Effusion",)),
        "thickening": Meaning(("Pleural Other",), only=frozenset({"pleura"})),
        "cicatrix": Meaning(("Pleural Other",), only=frozenset({"pleura"})),
        "fractures, bone": Meaning(("Fracture",)),  # old ones too: the indexing does not tell
        "catheters, indwelling": Meaning(("Support Devices",)),
        "tube, inserted": Meaning(("Support Devices",)),
        "implanted medical device": Meaning(("Support Devices",)),
        "medical device": Meaning(("Support Devices",)),
        "stents": Meaning(("Support Devices",)),
        "surgical instruments": Meaning(("Support Devices",)),  # doubtful: clips and sternal wires, seen but supporting nothing
    }
)
_NAMED = tuple(finding for finding in FINDINGS if any(finding in meaning.findings for meaning in FINDINGS_OF_MESH.values()))


@dataclass(frozen=True, slots=True)
class _Study:
    labels: Mapping[str, LabelState] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def recognises_openi(root: Path) -> bool:
    """Whether the folder holds indiana_reports.csv and indiana_projections.csv."""
    return root.is_dir() and find_csv(root, _REPORTS) is not None and find_csv(root, _PROJECTIONS) is not None


def findings_openi(root: Path) -> tuple[str, ...]:
    """Return the findings that FINDINGS_OF_MESH can name, in CheXpert's order."""
    return _NAMED


def read_openi(root: Path, tally: Tally) -> Iterator[Record]:
    """Yield a record for each image, in the order of the projections file, then one for each report without an image.

    The record's id is the file name without its suffixes, its study the uid. The source names no patients: a uid is
    one patient's study, so the uid stands for the patient as well. An optional split.csv (uid, split) gives the split.

    Args:
        root: The folder with indiana_reports.csv, indiana_projections.csv and images/images_normalized/.
        tally: Counts rows left out (a uid or a file listed twice) and faults (an image without a report row,
            a report without an image row, a study without indexing).

    Raises:
        MedretError: If one of the two files is missing or lacks a column, or a split is none of train, validate, test.
    """
    studies = _read_studies(_required(root, _REPORTS), tally)
    splits = _read_splits(root)
    find_image = _ImageFinder(root)
    seen: set[str] = set()
    pictured: set[str] = set()
    for row in read_csv(_required(root, _PROJECTIONS), ("uid", "filename", "projection")):
        uid, file = row["uid"].strip(), row["filename"].strip()
        id = _IMAGE_SUFFIXES.sub("", file)
        if not id or id in seen:
            tally.leave_out("image listed twice" if id else "row without a file name", id or uid)
            continue
        seen.add(id)
        pictured.add(uid)
        if uid not in studies:
            tally.fault("image without a report row", id)
        yield _record(id, uid, studies.get(uid, _Study()), splits, find_image(file), row["projection"].strip() or None)
    for uid, study in studies.items():
        if uid not in pictured:
            tally.fault("report without an image row", uid)
            yield _record(uid, uid, study, splits, None, None)


def labels_from_mesh(headings: str) -> dict[str, LabelState]:
    """Read a MeSH field ("Opacity/lung/base/left;Cardiomegaly/mild") by FINDINGS_OF_MESH.

    Returns:
        Every finding of the table: POSITIVE where a heading names it, else NOT_MENTIONED; no finding at all where the
        field is blank or says that the study was not indexed, because then nobody looked.
    """
    terms = [tuple(part.strip().lower() for part in heading.split("/")) for heading in headings.split(";") if heading.strip()]
    if not terms or (_NOT_INDEXED,) in terms:
        return {}
    labels = dict.fromkeys(_NAMED, LabelState.NOT_MENTIONED)
    for heading, *qualifiers in terms:
        meaning = FINDINGS_OF_MESH.get(heading)
        if meaning is not None and meaning.holds(frozenset(qualifiers)):
            labels.update(dict.fromkeys(meaning.findings, LabelState.POSITIVE))
    return labels


def _record(id: str, uid: str, study: _Study, splits: Mapping[str, str], image: Path | None, view: str | None) -> Record:
    return Record(
        id=id,
        image=image,
        patient_id=uid or None,
        study_id=uid or None,
        view=view,
        split=splits.get(uid),
        labels=study.labels,
        sections=study.sections,
        tags=study.tags,
    )


def _read_studies(path: Path, tally: Tally) -> dict[str, _Study]:
    studies: dict[str, _Study] = {}
    for row in read_csv(path, ("uid", "MeSH", "Problems", *_SECTIONS)):
        uid = row["uid"].strip()
        if not uid or uid in studies:
            tally.leave_out("report listed twice" if uid else "report without a uid", uid or "(blank)")
            continue
        labels = labels_from_mesh(row["MeSH"] if row["MeSH"].strip() else row["Problems"])
        if not labels:
            tally.fault("study without indexing: no labels", uid)
        sections = {name: row[name].strip() for name in _SECTIONS if row[name].strip()}
        tags = tuple(problem.strip() for problem in row["Problems"].split(";") if problem.strip())
        studies[uid] = _Study(labels, sections, tags)
    return studies


def _read_splits(root: Path) -> dict[str, str]:
    path = find_csv(root, "split")
    if path is None:
        return {}
    splits = {row["uid"].strip(): row["split"].strip() for row in read_csv(path, ("uid", "split"))}
    for uid, split in splits.items():
        if split not in _SPLITS:
            raise MedretError(f"{path}, uid {uid}: the split is {quoted(split)}, expected one of {', '.join(_SPLITS)}. Mend the file.")
    return splits


class _ImageFinder:
    """Find a listed image, whether the disk holds it as .dcm.png (the original) or .dcm.jpg (smaller copies)."""

    def __init__(self, root: Path) -> None:
        folders = [root / name for name in _IMAGE_FOLDERS]
        self._folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        names = sorted(entry.name for entry in self._folder.iterdir()) if self._folder.is_dir() else []
        self._names = set(names)
        self._by_id = {_IMAGE_SUFFIXES.sub("", name): name for name in names if _IMAGE_SUFFIXES.search(name)}

    def __call__(self, file: str) -> Path:
        found = file if file in self._names else self._by_id.get(_IMAGE_SUFFIXES.sub("", file), file)
        return self._folder / found


def _required(root: Path, stem: str) -> Path:
    path = find_csv(root, stem)
    if path is None:
        raise MedretError(f"{root}: no {stem}.csv, expected OpenI's two files {_REPORTS}.csv and {_PROJECTIONS}.csv. Check the folder.")
    return path
