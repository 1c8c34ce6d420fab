import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.errors import MedretError
from encoders.preprocess import Preprocessing
from index.corpora.readers import Corpus, open_corpus
from train.pairs import collect_pairs, load_training_data

TEXT = "The lungs are clear. No effusion."


def corpus(folder: Path, rows: list[dict[str, str]]) -> Corpus:
    """A table corpus; every image is as bright as its row number."""
    for number, row in enumerate(rows):
        if row.get("path") and not (folder / row["path"]).exists():
            Image.fromarray(np.full((20, 24), 10 * number % 250, dtype=np.uint8)).save(folder / row["path"])
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "text", "patient", "study", "view", "split"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return open_corpus(folder / "table.csv")


def row(number: int, patient: int | None = None, text: str = TEXT, split: str = "train", view: str = "PA") -> dict[str, str]:
    patient = number if patient is None else patient
    return {"path": f"{number}.png", "text": text, "patient": f"p{patient}", "study": f"s{patient}", "view": view, "split": split}


def test_pairs_follow_the_splits_and_the_test_split_is_never_used(tmp_path):
    rows = [row(n, split=split) for n, split in enumerate(["train", "validate", "test", "train", "validate", "train", ""])]

    pairs = collect_pairs(corpus(tmp_path, rows))

    assert [pair.record.id for pair in pairs.train] == ["0", "3", "5"]
    assert [pair.record.id for pair in pairs.validate] == ["1", "4"]
    assert pairs.left_out == {"in the test split": 1, "in no split, where others are": 1}
    assert pairs.notes == ()
    assert pairs.train[0].sentences == ("The lungs are clear.", "No effusion.")


def test_empty_and_short_reports_and_rows_without_an_image_are_left_out_and_counted(tmp_path):
    rows = [row(0), row(1), row(2, split="validate"), row(3, split="validate")]
    rows += [row(4, text=""), row(5, text="Ok."), {**row(6), "path": ""}, row(7, text="Normal. No effusion.")]

    pairs = collect_pairs(corpus(tmp_path, rows))

    assert pairs.left_out == {"report empty or under 3 tokens": 2, "no image": 1}
    assert pairs.train[-1].sentences == ("No effusion.",)  # "Normal." has two tokens


def test_a_report_of_short_sentences_alone_is_kept_as_one(tmp_path):
    pairs = collect_pairs(
        corpus(tmp_path, [*(row(n, text="Normal. Clear.") for n in range(2)), *(row(n, split="validate") for n in (2, 3))])
    )

    assert pairs.train[0].sentences == ("Normal. Clear.",)


def test_frontal_views_alone_leave_out_lateral_and_unnamed_ones(tmp_path):
    views = ["PA", "ap", "AP AXIAL", "Frontal", "LATERAL", "LL", ""]
    rows = [*(row(n, view=view) for n, view in enumerate(views)), row(8, split="validate"), row(9, split="validate")]

    frontal = collect_pairs(corpus(tmp_path, rows), views="frontal")

    assert [pair.record.id for pair in frontal.train] == ["0", "1", "2", "3"]
    assert frontal.left_out == {"not a frontal view": 3}
    assert len(collect_pairs(open_corpus(tmp_path / "table.csv")).train) == 7


@pytest.mark.parametrize("split", ["train", ""])
def test_without_a_validation_split_a_tenth_of_the_patients_is_held_out_and_said(tmp_path, split):
    rows = [row(n, patient=n // 2, split=split) for n in range(80)]
    opened = corpus(tmp_path, rows)

    pairs = collect_pairs(opened, seed=1)

    kept, held_out = ({pair.record.patient_id for pair in part} for part in (pairs.train, pairs.validate))
    assert not kept & held_out
    assert (len(kept), len(held_out)) == (36, 4)
    assert "4 of 40 patients (8 images) are held out" in pairs.notes[0]
    assert held_out == {pair.record.patient_id for pair in collect_pairs(opened, seed=1).validate}
    assert held_out != {pair.record.patient_id for pair in collect_pairs(opened, seed=2).validate}


def test_who_is_held_out_is_ranked_by_hash_whoever_else_joins_the_corpus(tmp_path):
    small = collect_pairs(corpus(tmp_path, [row(n, split="") for n in range(40)]))
    (tmp_path / "more").mkdir()
    large = collect_pairs(corpus(tmp_path / "more", [row(n, split="") for n in range(80)]))

    before = {pair.record.patient_id for pair in small.validate}
    after = {pair.record.patient_id for pair in large.validate}
    assert (len(before), len(after)) == (4, 8)
    again = after & {f"p{number}" for number in range(40)}
    assert again <= before or before <= again


@pytest.mark.parametrize(
    "rows",
    [
        [row(n, text="") for n in range(4)],
        [row(0), row(1, split="test"), row(2, split="test")],
        [row(n, patient=0) for n in range(6)],
        [row(0), row(1)],
    ],
    ids=["no text", "one pair", "one study", "too few to hold out"],
)
def test_a_corpus_with_too_little_to_learn_from_is_refused_in_one_line(tmp_path, rows):
    with pytest.raises(MedretError, match=r"expected at least 2 .*medret corpus") as error:
        collect_pairs(corpus(tmp_path, rows))

    assert "\n" not in str(error.value)


def test_the_vocabulary_is_learned_from_each_training_report_once(tmp_path):
    rows = [row(0, patient=0), row(1, patient=0), row(2, text="The heart is large."), *(row(n, split="validate") for n in (3, 4))]

    assert collect_pairs(corpus(tmp_path, rows)).training_texts() == [TEXT, "The heart is large."]


def test_studies_of_different_patients_are_different_though_numbered_alike(tmp_path):
    rows = [{**row(n, split=split), "study": "1"} for n, split in enumerate(["train", "train", "validate", "validate"])]

    assert len(collect_pairs(corpus(tmp_path, rows)).train) == 2


def test_films_stay_in_step_with_their_reports_when_some_cannot_be_read(tmp_path):
    rows = [row(n, patient=n // 2, text=f"Finding number {n}.") for n in range(8)] + [row(n, split="validate") for n in (8, 9, 10)]
    (tmp_path / "3.png").write_bytes(b"broken")
    pairs = collect_pairs(corpus(tmp_path, rows))

    data = load_training_data(pairs, Preprocessing(size=16, fit="squash"), tmp_path / "cache", cache_size=18)

    assert [record.id for record in data.train.records] == ["0", "1", "2", "4", "5", "6", "7"]
    assert data.train.films.shape == (7, 18, 18)
    assert data.train.films[:, 9, 9].tolist() == [10 * int(record.id) for record in data.train.records]
    assert [sentences[0] for sentences in data.train.sentences] == [f"Finding number {record.id}." for record in data.train.records]
    assert data.train.studies.tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert data.validate.films.shape == (3, 16, 16)
    assert data.left_out == {"film cannot be read": 1}


def test_training_films_are_kept_larger_by_an_eighth_than_the_encoder_sees_them(tmp_path):
    pairs = collect_pairs(corpus(tmp_path, [row(n, split=split) for n, split in enumerate(["train"] * 2 + ["validate"] * 2)]))

    data = load_training_data(pairs, Preprocessing(size=224), tmp_path / "cache")

    assert data.train.films.shape[1:] == (256, 256)  # ConVIRT's own figures
    assert data.validate.films.shape[1:] == (224, 224)


def test_the_datas_fingerprint_changes_with_a_report_and_with_the_order(tmp_path):
    rows = [row(n, split=split) for n, split in enumerate(["train"] * 3 + ["validate"] * 2)]

    def mark(changed: list[dict[str, str]]) -> str:
        return load_training_data(collect_pairs(corpus(tmp_path, changed)), Preprocessing(size=16), tmp_path / "cache").fingerprint()

    first = mark(rows)
    assert mark(rows) == first
    assert mark([*rows[:2], {**rows[2], "text": "The heart is large."}, *rows[3:]]) != first
    assert mark([rows[1], rows[0], *rows[2:]]) != first


def test_a_split_whose_films_cannot_be_read_is_refused(tmp_path):
    for number in (2, 3):
        (tmp_path / f"{number}.png").write_bytes(b"broken")
    pairs = collect_pairs(corpus(tmp_path, [row(n, split=split) for n, split in enumerate(["train", "train", "validate", "validate"])]))

    with pytest.raises(MedretError):
        load_training_data(pairs, Preprocessing(size=16), tmp_path / "cache")
