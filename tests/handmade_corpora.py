"""Small corpora on disk: tables with films, reports and labels."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from index.corpora.readers import Corpus, open_corpus

TEXT = "The lungs are clear. No effusion."
Row = dict[str, str]


def table_corpus(folder: Path, rows: Sequence[Row]) -> Corpus:
    """A table corpus; its films, where there is none yet, are each as bright as ten times their row's number."""
    folder.mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        if row.get("path") and not (folder / row["path"]).exists():
            Image.fromarray(np.full((20, 24), 10 * number % 250, dtype=np.uint8)).save(folder / row["path"])
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return open_corpus(folder / "table.csv")


def paired(number: int, patient: int | None = None, text: str = TEXT, split: str = "train", view: str = "PA", **labels: str) -> Row:
    """A film with a report: patient and study are numbered alike."""
    patient = number if patient is None else patient
    row = {"path": f"{number}.png", "text": text, "patient": f"p{patient}", "study": f"s{patient}", "view": view, "split": split}
    return row | _columns(labels)


def labelled(number: int, patient: int | None = None, split: str = "train", **labels: str) -> Row:
    """A film with labels and no report; a space in a finding's name is an underscore here."""
    patient = number if patient is None else patient
    return {"path": f"{number}.png", "patient_id": f"p{patient}", "split": split} | _columns(labels)


def spoken(number: int, text: str, split: str = "train", **labels: str) -> Row:
    """A report with labels and no film."""
    return {"id": f"{number}", "text": text, "patient": f"p{number}", "split": split} | _columns(labels)


def _columns(labels: dict[str, str]) -> Row:
    return {name.replace("_", " "): state for name, state in labels.items()}
