"""A corpus whose images are also those of published lists: CheXpert's ids, one of five findings each, reports in sections."""

import csv
from pathlib import Path

import numpy as np
from handmade_lists import CLASSES, listed_path
from PIL import Image

from index.corpora.record import FINDINGS
from retrieval.five_by_200 import FIVE

HEADER = ["Unnamed: 0", "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]  # of GLoRIA's and ALTA's files


def write_fives(folder: Path, per_class: int, queries: int = 8) -> Path:
    """Write the table: patients 1.. show the five findings in turn, 90001.. those of the 8x200 queries; one film and report each."""
    folder.mkdir(parents=True)
    shown = [(number, FIVE[number % 5]) for number in range(1, 5 * per_class + 1)]
    shown += [(90001 + place, CLASSES[place]) for place in range(queries)]
    rows = []
    for number, finding in shown:
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels // 4 + np.uint8(30 * CLASSES.index(finding) if finding in CLASSES else 200)).save(folder / f"{number}.png")
        rows.append(
            {
                "id": listed_path(number).removeprefix("CheXpert-v1.0-small/").removesuffix(".jpg"),
                "path": f"{number}.png",
                "patient": f"patient{number:05d}",
                "study": f"patient{number:05d}/study1",
                "view": "AP",
                "findings": f"There is {finding.lower()} of grade {number % 7}, and the heart is stable.",
                "impression": f"{finding}.",
                **{name: int(name == finding) for name in FINDINGS},
            }
        )
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


def write_five_list(path: Path, texts: dict[int, str] | None = None, shown: dict[int, str] | None = None) -> Path:
    """Write a list in the form of ALTA's file, with its column of impressions where texts are given: patient number to text."""
    shown = shown or {number: FIVE[number % 5] for number in (texts or {})}
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER + (["Report Impression"] if texts else []))
        for place, (number, finding) in enumerate(shown.items()):
            labels = ["1.0" if name == finding else "0.0" for name in FINDINGS]
            said = [texts[number]] if texts else []
            table.writerow([place, listed_path(number), "Female", "61", "Frontal", "AP", *labels, *said])
    return path
