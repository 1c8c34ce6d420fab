"""A small corpus in OpenI's layout."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

MESH = ("normal", "Cardiomegaly/mild", "Pleural Effusion/left", "Pulmonary Atelectasis", "No Indexing")
STUDIES = 30


def write_openi(root: Path) -> None:
    """Thirty studies of noise, each label six times; the first two have only a lateral film, the last three are training data."""
    (root / "images").mkdir()
    draw = np.random.default_rng(0)
    reports, films, splits = [], [], []
    for uid in range(STUDIES):
        reports.append([uid, MESH[uid % 5], "", "Chest", "", "", f"Finding number {uid} is seen.", f"Impression {uid % 7}."])
        splits.append([uid, "validate" if uid < STUDIES - 3 else "train"])
        for number, view in enumerate(["Lateral"] if uid < 2 else ["Frontal", "Frontal", "Lateral"]):
            films.append([uid, f"{uid}_{number}.dcm.png", view])
            Image.fromarray(draw.integers(0, 255, (40, 40), dtype=np.uint8)).save(root / "images" / f"{uid}_{number}.dcm.png")
    for name, head, rows in (
        ("indiana_reports", "uid,MeSH,Problems,image,indication,comparison,findings,impression", reports),
        ("indiana_projections", "uid,filename,projection", films),
        ("split", "uid,split", splits),
    ):
        with (root / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head.split(","), *rows])
