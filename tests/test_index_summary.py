import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from index.corpora.summary import render_summary, summarise_corpus

HEADER = ["path", "patient", "study", "view", "split", "findings", "impression", "age", "Edema", "Fracture"]
ROWS = [
    ["a.png", "p1", "s1", "PA", "train", "Edema.", "Edema.", "50", "1", "0"],
    ["b.png", "p1", "s1", "LATERAL", "train", "Edema.", "Edema.", "50", "1", "0"],
    ["c.png", "p1", "s2", "PA", "test", "Clear.", "", "51", "0", "-1"],
    ["d.png", "p2", "s2", "", "test", "Clear.", "", "", "", ""],
    ["e.png", "p3", "", "PA", "", "", "", "", "", "1"],
    ["", "p3", "s3", "", "train", "Text alone.", "", "", "", ""],
    ["", "", "", "", "", "", "", "", "1", ""],
]


def write_table(root: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    path = root / "corpus.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_film(path: Path) -> None:
    """A bright chest between dark air, dark lungs and all."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    lungs = ((abs(x) - 0.45) / 0.25) ** 2 + (y / 0.6) ** 2 < 1
    Image.fromarray(np.where(abs(x) > 0.85, 0, np.where(lungs, 60, 180)).astype(np.uint8)).save(path)


@pytest.fixture
def table(tmp_path):
    for name in "abcd":
        write_film(tmp_path / f"{name}.png")
    return write_table(tmp_path, ROWS)


def reasons(faults) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {fault.reason: (fault.count, fault.examples) for fault in faults}


def test_the_counts_are_those_of_a_count_by_hand(table):
    summary = summarise_corpus(open_corpus(table))

    assert (summary.format, summary.recognised, summary.root) == ("table", True, str(table))
    assert (summary.records, summary.images, summary.studies, summary.patients) == (6, 5, 3, 3)
    assert summary.reports == 3  # s1, s2 and s3 once each; e.png has none
    assert summary.sections == {"findings": 3, "impression": 1}
    assert summary.views == {"PA": 3, "LATERAL": 1, "not given": 1}
    assert summary.splits == {
        "train": {"images": 2, "studies": 2, "patients": 2},
        "test": {"images": 2, "studies": 1, "patients": 2},
        "not given": {"images": 1, "studies": 0, "patients": 1},
    }
    assert summary.labels["Edema"] == {"positive": 2, "negative": 1, "uncertain": 0, "not_mentioned": 1, "not_labelled": 2}
    assert summary.labels["Fracture"] == {"positive": 1, "negative": 2, "uncertain": 1, "not_mentioned": 0, "not_labelled": 2}
    assert (summary.with_patient, summary.with_study, summary.with_age, summary.with_sex) == (6, 5, 3, 0)


def test_every_fault_is_named_with_its_ids(table):
    summary = summarise_corpus(open_corpus(table))

    assert reasons(summary.left_out) == {"row with neither a path nor a text": (1, ("row7",))}
    assert reasons(summary.faults) == {
        "image missing": (1, ("e",)),
        "record without a study": (1, ("e",)),
        "patient in two splits": (1, ("p1",)),
        "study of two patients": (1, ("s2",)),
    }


def test_a_corpus_that_names_no_studies_is_not_at_fault_for_it(tmp_path):
    for name in "ab":
        write_film(tmp_path / f"{name}.png")
    summary = summarise_corpus(open_corpus(write_table(tmp_path, [["a.png"], ["b.png"]], ["path"])))

    assert (summary.studies, summary.patients, summary.faults) == (0, 0, ())


def test_checking_images_decodes_each_and_names_those_at_fault(tmp_path):
    write_film(tmp_path / "good.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    Image.new("L", (96, 96), 7).save(tmp_path / "flat.png")
    Image.fromarray(255 - np.asarray(Image.open(tmp_path / "good.png"))).save(tmp_path / "negative.png")
    corpus = open_corpus(write_table(tmp_path, [["good.png"], ["short.png"], ["flat.png"], ["negative.png"], ["gone.png"]], ["path"]))
    told = []

    summary = summarise_corpus(corpus, check_images=True, progress=lambda done, total: told.append((done, total)))

    found = reasons(summary.faults)
    assert set(found) == {"image missing", "image cannot be decoded", "image is constant", "image looks inverted"}
    assert found["image missing"] == (1, ("gone",))
    assert found["image is constant"] == (1, ("flat",))
    assert found["image looks inverted"] == (1, ("negative",))
    assert found["image cannot be decoded"][1][0].startswith("short: ")
    assert summary.images_checked == 4
    assert "\n4 images checked: 3 can be decoded\n" in render_summary(summary)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_report_counts_whichever_record_of_its_study_holds_it(tmp_path):
    rows = [["a.png", "s1", "", "", "Pain."], ["b.png", "s1", "Clear.", "Normal.", "Pain."], ["c.png", "s1", "Clear.", "", ""]]

    summary = summarise_corpus(open_corpus(write_table(tmp_path, rows, ["path", "study", "findings", "impression", "indication"])))

    assert summary.reports == 1
    assert summary.sections == {"findings": 1, "impression": 1, "indication": 1}


def test_nothing_is_decoded_unless_asked_for(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")

    summary = summarise_corpus(open_corpus(write_table(tmp_path, [["broken.png"]], ["path"])))

    assert (summary.faults, summary.images_checked) == ((), None)


def test_an_empty_corpus_is_an_error(tmp_path):
    with pytest.raises(MedretError, match="no record"):
        summarise_corpus(open_corpus(write_table(tmp_path, [])))


def test_the_text_says_what_the_numbers_say_within_100_columns(table):
    text = render_summary(summarise_corpus(open_corpus(table)))

    lines = text.splitlines()
    assert all(len(line) <= 100 for line in lines if str(table) not in line)
    assert "format: table (recognised)" in lines
    assert ["images", "5"] in [line.split() for line in lines]
    assert ["train", "2", "2", "2"] in [line.split() for line in lines]
    assert ["Edema", "2", "1", "0", "1", "2"] in [line.split() for line in lines]
    assert ["1", "patient", "in", "two", "splits"] in [line.split() for line in lines]


def test_the_dictionary_is_plain_json(table):
    summary = summarise_corpus(open_corpus(table))

    back = json.loads(json.dumps(summary.to_dict()))

    assert back["labels"]["Edema"]["positive"] == 2
    assert back["faults"][0] == {"reason": "image missing", "count": 1, "examples": ["e"]}
    assert back["images_checked"] is None
