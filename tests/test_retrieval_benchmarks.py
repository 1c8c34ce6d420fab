from pathlib import Path

import numpy as np
import pytest
from handmade_index import image_rows, make_engine
from handmade_lists import CLASSES, listed_path, write_lists

from encoders.errors import MedretError
from index.corpora.prompts import FINDING_PROMPTS, prompts_for
from index.corpora.record import FINDINGS, LabelState, Record
from index.shards import ShardRow
from retrieval.benchmarks import label_task, pair_task, published_task
from retrieval.filters import Selection, parse_where
from retrieval.published_lists import listed_corpus, load_published_lists

P, N, U = LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN


@pytest.fixture
def lists(tmp_path):
    """3 candidates, 2 image queries and 1 text query of each class."""
    return write_lists(tmp_path / "lists", 3, 2, 1)


def write_films(root: Path, folder, suffix=".jpg") -> Path:
    published = load_published_lists(folder)
    paths = [candidate.path for candidate in published.image_candidates] + [path for _, path in published.image_queries]
    for path in paths:
        file = (root / Path(path).relative_to("CheXpert-v1.0-small")).with_suffix(suffix)
        file.parent.mkdir(parents=True)
        file.touch()
    return root


def test_the_published_lists_are_read_as_they_are(lists):
    published = load_published_lists(lists)

    assert published.classes == tuple(finding for finding in FINDINGS if finding in CLASSES)
    assert (len(published.image_candidates), len(published.image_queries), len(published.text_queries)) == (24, 16, 8)
    assert published.image_candidates[0].id == "train/patient00001/study1/view1_frontal"
    assert published.image_candidates[0].positive == {"Atelectasis"}
    assert published.text_queries[0] == ("Atelectasis", "Atelectasis is seen, in wording 0.")


def test_a_folder_without_the_lists_says_what_was_expected(tmp_path):
    with pytest.raises(MedretError, match="image-retrieval/"):
        load_published_lists(tmp_path / "nowhere")


def test_a_query_for_no_chexpert_finding_is_refused(lists):
    (lists / "text-retrieval" / "query.csv").write_text("Variable,Text\nHiccups,Hiccups are seen.\n")

    with pytest.raises(MedretError, match="Hiccups"):
        load_published_lists(lists)


def test_a_label_that_is_neither_0_nor_1_is_refused_by_line(lists):
    path = lists / "image-retrieval" / "candidate.csv"
    path.write_text(path.read_text().replace(",1.0", ",-1.0", 1))

    with pytest.raises(MedretError, match="line 2"):
        load_published_lists(lists)


@pytest.mark.parametrize("name", ["image-retrieval/candidate.csv", "image-retrieval/query.csv", "text-retrieval/query.csv"])
def test_what_is_listed_twice_is_refused(lists, name):
    first = (lists / name).read_text().splitlines()[1]
    with (lists / name).open("a") as file:
        file.write(f"\n{first}\n")

    with pytest.raises(MedretError, match=rf"{name}: lists .* more than once"):
        load_published_lists(lists)


@pytest.mark.parametrize("inner", ["", "CheXpert-v1.0-small", "CheXpert-v1.0"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_listed_images_are_found_wherever_the_release_lies(lists, tmp_path, inner, suffix):
    write_films(tmp_path / "images" / inner, lists, suffix)

    records = list(listed_corpus(load_published_lists(lists), tmp_path / "images").records())

    assert len(records) == 24 + 16
    assert all(record.image.is_file() for record in records)
    assert records[0].id == "train/patient00001/study1/view1_frontal"
    assert (records[0].patient_id, records[0].study_id) == ("patient00001", "patient00001/study1")
    assert records[0].labels["Atelectasis"] is P
    assert records[0].labels["Edema"] is N
    assert not records[-1].labels


def test_missing_images_are_counted_and_the_first_ten_named(lists, tmp_path):
    root = write_films(tmp_path / "images", lists)
    for number in range(1, 13):
        (root / Path(listed_path(number)).relative_to("CheXpert-v1.0-small")).unlink()

    with pytest.raises(MedretError) as caught:
        listed_corpus(load_published_lists(lists), root)

    assert "12 of the 40 listed images are missing" in str(caught.value)
    assert listed_path(10) in str(caught.value)
    assert listed_path(11) not in str(caught.value)


def listed_engine(folder, published, without=()):
    ids = [candidate.id for candidate in published.image_candidates]
    ids += [path.removeprefix("CheXpert-v1.0-small/").removesuffix(".jpg") for _, path in published.image_queries]
    records = [Record(id=id, image=None) for id in [*ids, "train/patient77777/study1/view1_frontal"] if id not in without]
    vectors = np.random.default_rng(0).normal(size=(len(records), 8))
    return make_engine(folder, {"images": (image_rows(records), {"joint": vectors, "features": vectors})})


def test_only_listed_images_are_candidates_and_only_their_class_is_relevant(lists, tmp_path):
    published = load_published_lists(lists)
    engine = listed_engine(tmp_path / "index", published)

    task = published_task(engine, published, "image-image", "features")

    assert task.allowed.sum() == 24
    assert [published.classes[place] for place in task.classes] == [name for name in CLASSES for _ in range(2)]
    for place, name in enumerate(published.classes):
        rows = np.flatnonzero(task.relevance.positive & task.relevance.bits[place])
        assert {engine.table("images").ids()[row] for row in rows} == {c.id for c in published.image_candidates if name in c.positive}


def test_an_image_missing_from_the_index_is_named(lists, tmp_path):
    published = load_published_lists(lists)
    engine = listed_engine(tmp_path / "index", published, without=["train/patient00002/study1/view1_frontal"])

    with pytest.raises(MedretError, match=r"1 of the 40 listed images are missing: train/patient00002/study1/view1_frontal"):
        published_task(engine, published, "image-image", "features")


def test_missing_features_are_named_before_anything_is_ranked(lists, tmp_path):
    published = load_published_lists(lists)
    records = [Record(id="x", image=None)]
    engine = make_engine(tmp_path / "index", {"images": (image_rows(records), {"joint": np.ones((1, 2))})})

    with pytest.raises(MedretError, match="features"):
        published_task(engine, published, "image-image", "features")


LABELLED = [  # id, study, split, view, labels
    ("a", "s1", "train", "PA", {"Edema": P, "Fracture": N}),
    ("b", "s1", "train", "LATERAL", {"Edema": P, "Fracture": N}),
    ("c", "s2", "test", "PA", {"Edema": U, "Fracture": P}),
    ("d", "s3", "test", "PA", {"Edema": N, "Fracture": N}),
    ("e", "s4", "test", "PA", {}),
    ("f", "s5", "test", "AP", {"Edema": P}),
]


def labelled_engine(folder, rows=LABELLED, findings=("Edema", "Fracture", "Lung Lesion")):
    records = [
        Record(id=id, image=Path(f"{id}.png"), study_id=study, patient_id=study, split=split, view=view, labels=labels)
        for id, study, split, view, labels in rows
    ]
    vectors = np.random.default_rng(0).normal(size=(len(records), 4))
    return make_engine(folder, {"images": (image_rows(records), {"joint": vectors})}, findings=findings)


def test_prompts_ask_for_each_finding_that_some_candidate_has(tmp_path):
    task = label_task(labelled_engine(tmp_path), "text-image")

    assert task.texts == (*FINDING_PROMPTS["Edema"], *FINDING_PROMPTS["Fracture"])
    assert task.allowed.tolist() == [True, True, True, True, False, True]
    assert task.left_out == {"images without any label": 1, "findings without a positive candidate (Lung Lesion)": 1}


def test_positive_images_ask_for_each_of_their_findings(tmp_path):
    task = label_task(labelled_engine(tmp_path), "image-image")

    asked = [(int(task.rows[item]), task.relevance.findings[place]) for item, place in zip(task.items, task.classes, strict=True)]
    assert asked == [(0, "Edema"), (1, "Edema"), (5, "Edema"), (2, "Fracture")]


def test_a_policy_for_uncertain_labels_changes_candidates_not_queries(tmp_path):
    engine = labelled_engine(tmp_path)

    ignored = label_task(engine, "image-image", uncertain="ignore")
    positive = label_task(engine, "image-image", uncertain="positive")

    assert ignored.classes.tolist() == positive.classes.tolist()
    assert (ignored.relevance.judged & 1).tolist() == [1, 1, 0, 1, 0, 1]
    assert (positive.relevance.positive & 1).tolist() == [1, 1, 1, 0, 0, 1]


def test_a_finding_nobody_looked_for_leaves_the_candidate_out_for_that_finding(tmp_path):
    task = label_task(labelled_engine(tmp_path), "image-image")

    assert (task.relevance.judged & 2).tolist() == [2, 2, 2, 2, 0, 0]


def test_splits_and_views_restrict_queries_and_candidates(tmp_path):
    task = label_task(labelled_engine(tmp_path), "image-image", selection=Selection(splits=("test",), views=("PA",)))

    assert np.flatnonzero(task.allowed).tolist() == [2, 3]
    assert task.rows.tolist() == [2]


def test_what_is_asked_of_the_view_chooses_the_images_that_ask_but_no_report(tmp_path):
    images = [
        Record(id=f"i{row}", image=Path(f"i{row}.png"), study_id=f"s{row}", split=split, view=view, labels={"Edema": P})
        for row, (split, view) in enumerate([("test", "PA"), ("test", "AP"), ("train", "PA"), ("train", "AP")])
    ]
    records = [Record(id=one.study_id, image=None, study_id=one.study_id, split=one.split, labels=one.labels) for one in images]
    reports = [ShardRow(record, text="Edema.") for record in records]
    tables = {"images": (image_rows(images), {"joint": np.eye(4)}), "reports": (reports, {"joint": np.eye(4)})}
    engine = make_engine(tmp_path, tables, findings=("Edema",))

    task = label_task(engine, "image-report", selection=Selection(where=parse_where("view == PA and split == test")))

    assert (task.rows.tolist(), np.flatnonzero(task.allowed).tolist()) == ([0], [0, 1])


def test_the_draw_of_queries_repeats_and_keeps_its_size(tmp_path):
    rows = [(f"i{row:02d}", f"s{row}", "test", "PA", {"Edema": P if row % 2 else N}) for row in range(60)]
    engine = labelled_engine(tmp_path, rows, ("Edema",))

    first, again, other = (label_task(engine, "image-image", max_queries=7, seed=seed) for seed in (3, 3, 4))

    assert len(first.rows) == 7
    assert all(row % 2 for row in first.rows)
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()


def test_a_corpus_without_labels_points_to_report_recall(tmp_path):
    with pytest.raises(MedretError, match="report-recall"):
        label_task(labelled_engine(tmp_path / "a", [("a", "s", None, None, {})], ()), "text-image")
    with pytest.raises(MedretError, match="report-recall"):
        label_task(labelled_engine(tmp_path / "b", [("a", "s", None, None, {})]), "text-image")


def test_labels_without_a_positive_are_refused(tmp_path):
    with pytest.raises(MedretError, match="positive"):
        label_task(labelled_engine(tmp_path, [("a", "s", None, None, {"Edema": N})]), "text-image")


def test_texts_cannot_be_compared_with_features_of_images(tmp_path):
    with pytest.raises(ValueError, match="joint"):
        label_task(labelled_engine(tmp_path), "text-image", vector="features")


def test_every_chexpert_finding_has_several_prompts_and_any_other_gets_some():
    assert set(FINDING_PROMPTS) == set(FINDINGS)
    assert all(len(set(prompts)) >= 3 for prompts in FINDING_PROMPTS.values())
    assert prompts_for("hiatal_hernia") == ("Hiatal hernia.", "There is hiatal hernia.", "Findings consistent with hiatal hernia.")


def paired_engine(folder):
    images = [
        Record(id="i1", image=Path("1"), study_id="s1"),
        Record(id="i2", image=Path("2"), study_id="s1"),
        Record(id="i3", image=Path("3"), study_id="s2"),
        Record(id="i4", image=Path("4"), study_id="s3"),
        Record(id="i5", image=Path("5")),
        Record(id="i6", image=Path("6"), study_id="s9"),
    ]
    texts = [("s4", "Nobody's."), ("s2", "Clear."), ("s1", "Edema."), ("s3", "Clear."), ("i5", "Fracture.")]
    reports = [ShardRow(Record(id=id, image=None, study_id=id if id[0] == "s" else None), text=text) for id, text in texts]
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    return make_engine(folder, {"images": (image_rows(images), {"joint": vectors}), "reports": (reports, {"joint": vectors[:5]})})


def test_each_image_is_paired_with_its_studys_report_and_identical_texts_are_one(tmp_path):
    task = pair_task(paired_engine(tmp_path))

    assert task.images.tolist() == [0, 1, 2, 3, 4]
    assert task.texts.tolist() == [1, 2, 4]  # "Clear.", "Edema.", "Fracture."; nobody's report has no image
    assert task.image_text.tolist() == [1, 1, 0, 0, 2]
    assert len(set(task.image_study.tolist())) == 4
    assert task.image_study[0] == task.image_study[1]
    assert task.left_out == {"images without a report": 1, "reports without a selected image": 1}


def test_without_any_pair_there_is_nothing_to_recall(tmp_path):
    images = image_rows([Record(id="a", image=Path("a"), study_id="s1")])
    reports = [ShardRow(Record(id="s2", image=None, study_id="s2"), text="Clear.")]
    engine = make_engine(tmp_path, {"images": (images, {"joint": np.ones((1, 2))}), "reports": (reports, {"joint": np.ones((1, 2))})})

    with pytest.raises(MedretError, match="none of the 1 selected images has a report"):
        pair_task(engine)
