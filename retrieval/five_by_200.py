"""Lists of the 5x200 kind: images that show one of five findings and nothing else, 200 of each.

Source: GLoRIA, Huang et al., ICCV 2021, and its preprocessing code; its own list was never released.
"""

import csv
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.atomic import whole_file
from encoders.errors import MedretError
from index.corpora.chexpert_fields import chexpert_id
from index.corpora.csvfile import read_csv, read_header
from index.corpora.record import LabelState
from retrieval.filters import Selection

if TYPE_CHECKING:
    from index.shards import ShardTable

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
RULE = (
    "frontal images with a report, positive for one of the five findings, for no other finding positive or uncertain (No Finding is not "
    "asked), the image of lowest id of each study, in the order of their ids drawn without replacement"
)
_FRONTAL = ("ap", "pa", "frontal")
_TEXTS = ("Report Impression", "report", "text")
_IDS: Mapping[str, tuple[tuple[str, Callable[[str], str]], ...]] = {  # the first of these columns that a list has names its images
    "chexpert-5x200": (("id", str.strip), ("Path", chexpert_id)),
    "mimic-5x200": (("id", str.strip), ("dicom_id", str.strip), ("Path", lambda path: Path(path.strip()).stem)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """A row of a list: an image, its finding, and the text that the list gives for its study (None where it gives none)."""

    id: str
    finding: str
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FiveList:
    """The listed images, and where they come from, as a protocol says it."""

    images: tuple[ListedImage, ...]
    origin: Mapping[str, str | int]


def load_five_list(path: Path, benchmark: str) -> FiveList:
    """Read a list: a column that names the image, the five findings as 0 or 1, and the text where it has one.

    CheXpert's images are named by "Path", MIMIC's by "dicom_id" or "Path", both by medret's record "id". The text is "Report
    Impression" (as in GLoRIA's and ALTA's files), "report" or "text".

    Args:
        path: A CSV file, plain or gzipped.
        benchmark: "chexpert-5x200" or "mimic-5x200".

    Raises:
        MedretError: If a column is missing, a row names no image, has no text though there is a column for it, or is not
            positive for exactly one of the five, or an image is listed twice.
    """
    header = read_header(path)
    named = next(((column, read) for column, read in _IDS[benchmark] if column in header), None)
    if named is None:
        known = " or ".join(column for column, _ in reversed(_IDS[benchmark]))
        raise MedretError(f"{path}: no column that names the images, expected {known}. Add it, or name another list")
    text = next((column for column in _TEXTS if column in header), None)
    images = [_listed(path, number, row, named, text) for number, row in enumerate(read_csv(path, FIVE), start=1)]
    seen: set[str] = set()
    for number, image in enumerate(images, start=1):
        if image.id in seen:
            raise MedretError(f"{path}, row {number}: {image.id} is listed a second time. List each image once")
        seen.add(image.id)
    if not images:
        raise MedretError(f"{path}: lists no image")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return FiveList(images=tuple(images), origin={"list": f"{len(images)} images, SHA-256 {digest}"})


def _listed(path: Path, number: int, row: Mapping[str, str], named: tuple[str, Callable[[str], str]], text: str | None) -> ListedImage:
    column, read = named
    try:
        id = read(row[column])
    except MedretError as error:
        raise MedretError(f"{path}, row {number}: {error}") from error
    if not id:
        raise MedretError(f"{path}, row {number}: {column} is blank, expected an image")
    states = {finding: row[finding].strip() for finding in FIVE}
    if unknown := next((name for name, state in states.items() if state not in ("", "0", "0.0", "1", "1.0")), None):
        raise MedretError(f"{path}, row {number}: {unknown} is neither 0 nor 1. Lists name images of one finding only")
    positive = [finding for finding, state in states.items() if state in ("1", "1.0")]
    if len(positive) != 1:
        raise MedretError(f"{path}, row {number}: positive for {len(positive)} of the five findings, expected exactly one")
    said = None if text is None else " ".join(row[text].split())
    if said == "":
        raise MedretError(
            f"{path}, row {number}: {text} is blank. Leave the image out, or leave the column out to take the index's reports"
        )
    return ListedImage(id=id, finding=positive[0], text=said)


def draw_five_list(images: "ShardTable", has_report: NDArray[np.bool_], selection: Selection, per_class: int, seed: int) -> FiveList:
    """Make a list from the labels of an index by RULE.

    Args:
        images: The index's images.
        has_report: (rows,) bool.
        selection: Which images may be listed; where it names no view, frontal ones.
        per_class: How many of each finding.
        seed: Of the draw; each finding has a stream of its own.

    Raises:
        MedretError: If the index has no labels for one of the five, or too few such images; it says how many there are.
    """
    if missing := [finding for finding in FIVE if finding not in images.findings]:
        raise MedretError(f"the images of this index have no labels for {', '.join(missing)}. Give a list: medret evaluate NAME LIST.csv")
    states = images.labels(images.findings)
    marked = (states == LabelState.POSITIVE) | (states == LabelState.UNCERTAIN)
    asked = np.array([finding != "No Finding" for finding in images.findings])
    alone = marked[:, asked].sum(axis=1) == 1
    allowed = selection.rows(images) & has_report & alone
    if selection.views is None:
        allowed &= np.isin([(view or "").casefold() for view in images.column("view")], _FRONTAL)
    chosen: list[ListedImage] = []
    counts: dict[str, int] = {}
    for place, finding in enumerate(FIVE):
        rows = np.flatnonzero(allowed & (states[:, images.findings.index(finding)] == LabelState.POSITIVE))
        ids = _one_of_each_study(images, rows)
        counts[finding] = len(ids)
        if len(ids) >= per_class:
            drawn = np.random.default_rng([seed, place]).choice(len(ids), per_class, replace=False)
            chosen += [ListedImage(id=ids[number], finding=finding) for number in np.sort(drawn)]
    if few := {finding: count for finding, count in counts.items() if count < per_class}:
        there = ", ".join(f"{count} of {finding}" for finding, count in few.items())
        raise MedretError(
            f"too few images show one finding alone: {there}, expected {per_class} each. Select more records, or use --per-class"
        )
    origin: dict[str, str | int] = {"list": f"drawn from the index: {RULE}", "per_class": per_class, "seed": seed}
    return FiveList(images=tuple(chosen), origin=origin)


def _one_of_each_study(images: "ShardTable", rows: NDArray[np.int64]) -> list[str]:
    """The lowest id of each study, ascending."""
    ids = images.ids(rows)
    studies = images.column("study_id")[rows]
    lowest: dict[str, str] = {}
    for id, study in sorted(zip(ids, studies, strict=True)):
        lowest.setdefault(study if study is not None else f"record {id}", id)
    return sorted(lowest.values())


def save_five_list(listed: FiveList, path: Path) -> None:
    """Write ids and findings, no text, so that the same images can be listed again."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", *FIVE])
        table.writerows([image.id, *(int(image.finding == finding) for finding in FIVE)] for image in listed.images)
