"""Lists in the form of ConVIRT's retrieval benchmark, for tests."""

import csv
from pathlib import Path

from index.corpora.record import FINDINGS

CLASSES = ("Atelectasis", "Cardiomegaly", "Edema", "Fracture", "Pleural Effusion", "Pneumonia", "Pneumothorax", "No Finding")


def listed_path(number: int, study: int = 1) -> str:
    return f"CheXpert-v1.0-small/train/patient{number:05d}/study{study}/view1_frontal.jpg"


def write_lists(folder: Path, per_class: int, image_queries: int, text_queries: int) -> Path:
    """Write the four files: patients 1.. are the candidates, class by class, and 90001.. the image queries."""
    candidates = [(finding, listed_path(1 + place * per_class + i)) for place, finding in enumerate(CLASSES) for i in range(per_class)]
    queries = [
        (finding, listed_path(90001 + place * image_queries + i)) for place, finding in enumerate(CLASSES) for i in range(image_queries)
    ]
    texts = [(finding, f"{finding} is seen, in wording {i}.") for finding in CLASSES for i in range(text_queries)]
    for name, column, rows in (("image-retrieval", "Path", queries), ("text-retrieval", "Text", texts)):
        (folder / name).mkdir(parents=True)
        _write(folder / name / "query.csv", ["Variable", column], rows)
        held = [
            [path, "Male", "60", "Frontal", "AP", *("1.0" if other == finding else "0.0" for other in FINDINGS)]
            for finding, path in candidates
        ]
        _write(folder / name / "candidate.csv", ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS], held)
    return folder


def _write(path: Path, header, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
