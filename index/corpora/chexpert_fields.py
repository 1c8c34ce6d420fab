"""What CheXpert's rows say of an image: its path's parts, its view, the patient's age and sex."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoders.errors import MedretError
from index.corpora.csvfile import read_csv
from index.corpora.record import Tally

SPLITS = {"train": "train", "valid": "validate", "test": "test"}  # as the release names them -> as a Record does

_PATH = re.compile(r"(?:^|/)((train|valid|test)/(patient\d+)/(study\d+)/(view\d+[^/.]*))(\.[^/]*)?$")
_SEXES = {"male": "M", "female": "F", "unknown": None}


@dataclass(frozen=True, slots=True)
class ChexpertPath:
    """What a CheXpert path says: "train/patient00001/study1/view1_frontal", its parts, and the suffix (".jpg")."""

    id: str
    split: str
    patient: str
    study: str
    view: str
    suffix: str


def chexpert_id(path: str) -> str:
    """Return the record id of an image by any of its paths: without the dataset's folder and the suffix.

    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg" is "train/patient00001/study1/view1_frontal".

    Raises:
        MedretError: If the path is none of CheXpert's.
    """
    parsed = parse_path(path)
    if parsed is None:
        raise MedretError(f"'{path[-120:]}' is no CheXpert path, expected .../train/patient00001/study1/view1_frontal.jpg. Check the list.")
    return parsed.id


def parse_path(path: str) -> ChexpertPath | None:
    """Take a CheXpert path apart, whatever its prefix and suffix; None where it is none."""
    match = _PATH.search(path.strip().replace("\\", "/"))
    if match is None:
        return None
    id, folder, patient, study, view, suffix = match.groups(default="")
    return ChexpertPath(id, SPLITS[folder], patient, f"{patient}/{study}", view, suffix)


def read_paths(
    table: Path, column: str, required: Sequence[str], seen: set[str], tally: Tally
) -> Iterator[tuple[dict[str, str], ChexpertPath]]:
    """Yield each row of a table with its path taken apart, once for each image; the others are counted as left out.

    Args:
        table: A CSV file.
        column: Of the paths.
        required: Further columns that it must have.
        seen: Ids of images that came before; those of this table are added.
        tally: Counts what is left out.

    Raises:
        MedretError: If the file is damaged or lacks a column.
    """
    for number, row in enumerate(read_csv(table, (column, *required)), start=2):
        parsed = parse_path(row[column])
        if parsed is None:
            tally.leave_out(f"{table.name}: {column} is no CheXpert path", f"row {number}")
        elif parsed.id in seen:
            tally.leave_out(f"{table.name}: image listed twice, the first row counts", parsed.id)
        else:
            seen.add(parsed.id)
            yield row, parsed


def view_of(path: ChexpertPath, plane: str, projection: str) -> str:
    """Return the projection of a frontal film, "Frontal" where it is not known, or "LATERAL"."""
    lateral = plane.strip().lower() == "lateral" or (not plane.strip() and path.view.lower().endswith("lateral"))
    return "LATERAL" if lateral else projection.strip() or "Frontal"


def age_of(text: str, id: str, tally: Tally) -> float | None:
    """Return an age in years; None for a blank, and, counted as a fault, for 0 and for what is no age."""
    if not text.strip():
        return None
    try:
        age = float(text)
    except ValueError:
        age = -1.0
    if 0 < age < 150:
        return age
    tally.fault("age is 0, taken as not known" if age == 0 else "age is no number of years", id)
    return None


def sex_of(text: str, id: str, tally: Tally) -> str | None:
    """Return "F" or "M"; None for a blank and for "Unknown", and, counted as a fault, for anything else."""
    word = text.strip().lower()
    if word and word not in _SEXES:
        tally.fault("sex is none of Male, Female, Unknown", id)
    return _SEXES.get(word)
