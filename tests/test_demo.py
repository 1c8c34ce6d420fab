"""`make demo`, as a newcomer runs it, finds what it drew on patients it has not seen."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SIDED = ("Pleural Effusion", "Pneumothorax", "Atelectasis", "Lung Opacity")


def share_on_the_left(medret: Path, demo: Path, finding: str, *sides: str) -> float:
    """Of the boxes drawn for a finding in the ten best films for it and for a side: the share on the patient's left."""
    words = [part for text in (finding, *sides) for part in ("--text", text)]
    asked = [medret, "query", *words, "--index", demo / "index", "--format", "json"]
    ids = {hit["id"] for hit in json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)}
    with (demo / "corpus" / "boxes.csv").open() as file:
        drawn = [row["side"] for row in csv.DictReader(file) if row["dicom_id"] in ids and row["finding"] == finding]
    return drawn.count("left") / len(drawn)


def shares_on_findings(demo: Path) -> dict[str, float]:
    """Of the films that rank among the first five rightly: how often the peak of each way lies on what was drawn."""
    command = [sys.executable, ROOT / "benchmarks" / "similarity_maps.py", demo / "index", demo / "corpus", "--first", "5"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [re.fullmatch(r"(.+?) +(\d\.\d+) of \d+ .*", line) for line in told]
    return {line[1]: float(line[2]) for line in lines if line is not None}


@pytest.mark.demo
@pytest.mark.timeout(1200)
def test_the_demo_retrieves_findings_on_unseen_patients_far_above_chance(tmp_path):
    medret = Path(sys.executable).with_name("medret")
    started = time.monotonic()
    command = ["make", "--no-print-directory", "demo-run", f"DEMO={tmp_path / 'demo'}", f"MEDRET={medret}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "OMP_NUM_THREADS")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(f"demo: {time.monotonic() - started:.0f} s")

    result = json.loads((tmp_path / "demo" / "label-precision.json").read_text())

    text_to_image = result["metrics"]["P@5"]
    assert result["protocol"]["direction"] == "text-image"
    assert text_to_image["value"] >= 0.6
    assert 0.10 <= text_to_image["chance"] <= 0.20
    page = (tmp_path / "demo" / "results.html").read_text()
    assert f"{text_to_image['value']:.3f}" in page
    assert f"{text_to_image['chance']:.3f}" in page
    assert "data:image/jpeg;base64," in page
    assert str(tmp_path / "demo" / "results.html") in done.stdout.splitlines()[-1]
    shares = [[share_on_the_left(medret, tmp_path / "demo", name, *side) for side in (["right"], [], ["left"])] for name in SIDED]
    right, neither, left = (sum(column) / len(SIDED) for column in zip(*shares, strict=True))
    assert right < neither < left and left - right >= 0.3, shares
    peaks = shares_on_findings(tmp_path / "demo")
    assert peaks["similarity map"] >= 0.8 > peaks["map of the query alone"], peaks
    assert peaks["random place"] < 0.2, peaks
