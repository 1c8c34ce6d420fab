import math
from pathlib import Path

import pytest
from handmade_corpora import TEXT, labelled, paired, spoken, table_corpus

from encoders.errors import MedretError
from index.corpora.phantom import write_phantoms
from index.corpora.prompts import prompts_for
from index.corpora.readers import Corpus, open_corpus
from train.samples import Samples, Source, SourceSamples, collect_samples


def collect(*corpora: Corpus, **settings: object) -> Samples:
    return collect_samples([Source(corpus) for corpus in corpora], **settings)


def collect_one(corpus: Corpus, **settings: object) -> SourceSamples:
    (source,) = collect(corpus, **settings).sources
    return source


def ids(samples: list) -> list[str]:
    return [sample.record.id for sample in samples]


def test_samples_follow_the_splits_and_the_test_split_is_never_used(tmp_path):
    rows = [paired(n, split=split) for n, split in enumerate(["train", "validate", "test", "train", "validate", "train", ""])]

    source = collect_one(table_corpus(tmp_path, rows))

    assert (ids(source.train), ids(source.validate)) == (["0", "3", "5"], ["1", "4"])
    assert source.left_out == {"in the test split": 1, "in no split, where others are": 1}
    assert source.notes == ()
    assert source.train[0].sentences == ("The lungs are clear.", "No effusion.")


def test_convirt_leaves_out_and_counts_what_is_no_pair(tmp_path):
    rows = [paired(0), paired(1), paired(2, split="validate"), paired(3, split="validate")]
    rows += [paired(4, text="", Edema="1"), paired(5, text="Ok."), {**paired(6), "path": ""}, paired(7, text="Normal. No effusion.")]

    source = collect_one(table_corpus(tmp_path, rows))

    assert source.left_out == {"report empty or under 3 tokens": 2, "no image": 1}
    assert source.train[-1].sentences == ("No effusion.",)  # "Normal." has two tokens
    assert source.texts == []


@pytest.mark.parametrize("objective", ["medclip", "umcl"])
def test_the_others_use_labelled_images_and_reports_without_an_image(tmp_path, objective):
    rows = [paired(n) for n in range(2)] + [paired(n, split="validate") for n in (2, 3)]
    rows += [paired(4, text="", Edema="1"), paired(5, text="", Edema="0"), paired(6, text="Ok.", Edema="-1"), {**paired(7), "path": ""}]
    rows += [{**paired(8, text="Ok.", Edema="1"), "path": ""}, {**paired(9, split="validate"), "path": ""}]

    source = collect_one(table_corpus(tmp_path, rows), objective=objective)

    assert ids(source.train) == ["0", "1", "4"]
    assert source.train[-1].sentences == ()
    assert ids(source.texts) == ["row8"]
    assert source.left_out == {
        "no report of 3 tokens and no positive label": 2,
        "report empty or under 3 tokens": 1,
        "report without an image, held out": 1,
    }


@pytest.mark.parametrize(("uncertain", "kept"), [("zeros", 2), ("ones", 4), ("mixed", 3), ("ignore", 1)])
def test_an_uncertain_label_makes_an_image_usable_where_its_policy_takes_it_as_positive(tmp_path, uncertain, kept):
    rows = [labelled(n, split=split, Edema="1", Fracture="0") for n, split in enumerate(["train", "validate", "validate"])]
    rows += [labelled(3, Edema="1", Fracture="-1"), labelled(4, Edema="-1", Fracture="0"), labelled(5, Edema="0", Fracture="-1")]
    others = table_corpus(tmp_path / "others", [paired(n, split="train" if n < 2 else "validate") for n in range(4)])
    more = [labelled(6, Edema="1", Fracture="0")] if uncertain == "ignore" else []  # two are needed to learn from

    samples = collect(table_corpus(tmp_path / "labelled", [*rows, *more]), others, objective="umcl", uncertain=uncertain)

    assert len(samples.sources[0].train) - len(more) == kept


def test_a_report_of_short_sentences_alone_is_kept_as_one(tmp_path):
    rows = [*(paired(n, text="Normal. Clear.") for n in range(2)), *(paired(n, split="validate") for n in (2, 3))]

    assert collect_one(table_corpus(tmp_path, rows)).train[0].sentences == ("Normal. Clear.",)


def test_frontal_views_alone_leave_out_lateral_and_unnamed_ones_but_no_report_without_an_image(tmp_path):
    views = ["PA", "ap", "AP AXIAL", "Frontal", "LATERAL", "LL", ""]
    rows = [*(paired(n, view=view) for n, view in enumerate(views)), paired(8, split="validate"), paired(9, split="validate")]
    rows.append({**paired(10, view=""), "path": ""})
    corpus = table_corpus(tmp_path, rows)

    frontal = collect_one(corpus, views="frontal", objective="medclip")

    assert ids(frontal.train) == ["0", "1", "2", "3"]
    assert frontal.left_out == {"not a frontal view": 3}
    assert len(frontal.texts) == 1
    assert len(collect_one(corpus).train) == 7


@pytest.mark.parametrize("split", ["train", ""])
def test_without_a_validation_split_a_tenth_of_the_patients_is_held_out_and_said(tmp_path, split):
    opened = table_corpus(tmp_path, [paired(n, patient=n // 2, split=split) for n in range(80)])

    source = collect_one(opened, seed=1)

    kept, held_out = ({sample.record.patient_id for sample in part} for part in (source.train, source.validate))
    assert not kept & held_out
    assert (len(kept), len(held_out)) == (36, 4)
    assert "4 of 40 patients (8 images) are held out" in source.notes[0]
    assert held_out == {sample.record.patient_id for sample in collect_one(opened, seed=1).validate}
    assert held_out != {sample.record.patient_id for sample in collect_one(opened, seed=2).validate}


def test_reports_without_an_image_of_a_patient_held_out_are_not_learned_from(tmp_path):
    rows = [paired(n, split="") for n in range(40)] + [{**paired(n, split=""), "path": "", "study": f"t{n}"} for n in range(40)]

    source = collect_one(table_corpus(tmp_path, rows), objective="umcl")

    held_out = {sample.record.patient_id for sample in source.validate}
    assert len(held_out) == 4
    assert {sample.record.patient_id for sample in source.texts} == {f"p{n}" for n in range(40)} - held_out
    assert source.left_out == {"report without an image, held out": 4}


def test_each_corpus_of_a_mix_holds_out_its_own_patients(tmp_path):
    unsplit = table_corpus(tmp_path / "unsplit", [labelled(n, split="", Pneumonia="1") for n in range(30)])
    split = table_corpus(tmp_path / "split", [paired(n, split="validate" if n > 7 else "train") for n in range(10)])
    reports = table_corpus(tmp_path / "reports", [spoken(n, TEXT, split="", Edema="1") for n in range(10)])

    first, second, third = collect(unsplit, split, reports, objective="medclip").sources

    assert (len(first.train), len(first.validate), len(first.notes)) == (27, 3, 1)
    assert (ids(second.train), ids(second.validate), second.notes) == ([str(n) for n in range(8)], ["8", "9"], ())
    assert (third.train, third.validate, len(third.texts), third.notes) == ([], [], 10, ())


def test_who_is_held_out_is_ranked_by_hash_whoever_else_joins_the_corpus(tmp_path):
    small = collect_one(table_corpus(tmp_path / "small", [paired(n, split="") for n in range(40)]))
    large = collect_one(table_corpus(tmp_path / "large", [paired(n, split="") for n in range(80)]))

    before = {sample.record.patient_id for sample in small.validate}
    after = {sample.record.patient_id for sample in large.validate}
    assert (len(before), len(after)) == (4, 8)
    again = after & {f"p{number}" for number in range(40)}
    assert again <= before or before <= again


@pytest.mark.parametrize(
    "rows",
    [
        [paired(n, text="") for n in range(4)],
        [paired(0), paired(1, split="test"), paired(2, split="test")],
        [paired(n, patient=0) for n in range(6)],
        [paired(0), paired(1)],
    ],
    ids=["no text", "one pair", "one study", "too few to hold out"],
)
@pytest.mark.parametrize("objective", ["convirt", "umcl"])
def test_a_corpus_with_too_little_to_learn_from_is_refused_in_one_line(tmp_path, rows, objective):
    with pytest.raises(MedretError, match=r"expected at least 2 .*medret corpus") as error:
        collect(table_corpus(tmp_path, rows), objective=objective)

    assert "\n" not in str(error.value)


def test_each_corpus_of_a_mix_must_be_of_use_to_the_objective(tmp_path):
    pairs = table_corpus(tmp_path / "pairs", [paired(n, split="validate" if n > 1 else "train") for n in range(4)])
    labels = table_corpus(tmp_path / "labels", [labelled(n, split="", Edema="1") for n in range(9)])

    assert len(collect(pairs, labels, objective="umcl").sources) == 2
    with pytest.raises(MedretError, match=r"labels.*0 studies with an image and a report to learn from.*9 report empty"):
        collect(pairs, labels, objective="convirt")


def test_reports_alone_are_no_data_to_learn_images_from(tmp_path):
    reports = table_corpus(tmp_path, [spoken(n, TEXT) for n in range(9)])

    with pytest.raises(MedretError, match="reports alone, expected a corpus with images"):
        collect(reports, objective="medclip")


def test_labels_used_are_those_that_some_training_record_may_be_positive_for(tmp_path):
    labels = table_corpus(tmp_path / "labels", [labelled(n, split="", Pneumonia="1", Fracture="0") for n in range(9)])
    reports = table_corpus(tmp_path / "reports", [spoken(n, TEXT, Pleural_Effusion="-1", Edema="") for n in range(2)])

    assert collect(labels, reports, objective="umcl").findings == ("Pneumonia", "Pleural Effusion")
    assert collect(labels, reports, objective="umcl", findings=("Pneumonia", "Fracture")).findings == ("Pneumonia", "Fracture")


def test_a_finding_that_no_corpus_labels_is_refused_with_those_that_are(tmp_path):
    labels = table_corpus(tmp_path / "labels", [labelled(n, split="", Pneumonia="1", Fracture="0") for n in range(9)])
    reports = table_corpus(tmp_path / "reports", [spoken(n, TEXT, Pleural_Effusion="1") for n in range(2)])

    with pytest.raises(MedretError, match=r"no label Edema in any corpus. Labelled are: Pneumonia, Pleural Effusion, Fracture. Change"):
        collect(labels, reports, objective="umcl", findings=("Pneumonia", "Edema"))


def test_only_a_finding_that_is_asked_for_makes_an_image_usable(tmp_path):
    rows = [labelled(n, split="", Pneumonia=str(n % 2), Fracture=str(1 - n % 2)) for n in range(20)]

    source = collect_one(table_corpus(tmp_path, rows), objective="umcl", findings=("Pneumonia",))

    assert {int(id) % 2 for id in ids(source.train + source.validate)} == {1}
    assert source.left_out == {"no report of 3 tokens and no positive label": 10}


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_a_weight_below_nothing_is_refused(tmp_path, weight):
    with pytest.raises(MedretError, match=f"weight is {weight}"):
        Source(table_corpus(tmp_path, [paired(0)]), weight)


def test_the_vocabulary_is_learned_from_each_training_report_once(tmp_path):
    rows = [paired(0, patient=0), paired(1, patient=0), paired(2, text="The heart is large.")]
    corpus = table_corpus(tmp_path, [*rows, *(paired(n, split="validate") for n in (3, 4))])

    assert collect(corpus).training_texts() == [TEXT, "The heart is large."]


def test_the_vocabulary_knows_the_prompts_of_images_without_a_report(tmp_path):
    labels = table_corpus(tmp_path / "labels", [labelled(n, split="", Pneumonia="1") for n in range(9)])
    reports = table_corpus(tmp_path / "reports", [spoken(0, "The heart is large."), spoken(1, "The heart is small.", split="validate")])

    texts = collect(labels, reports, objective="medclip").training_texts()

    assert texts == ["The heart is large.", *prompts_for("Pneumonia")]


def test_studies_of_different_patients_are_different_though_numbered_alike(tmp_path):
    rows = [{**paired(n, split=split), "study": "1"} for n, split in enumerate(["train", "train", "validate", "validate"])]

    assert len(collect_one(table_corpus(tmp_path, rows)).train) == 2


def test_of_a_corpus_that_names_no_view_all_films_count_as_frontal_and_that_is_said(tmp_path):
    rows = [*(paired(n, view="") for n in range(4)), paired(8, split="validate", view=""), paired(9, split="validate", view="")]
    corpus = table_corpus(tmp_path, rows)

    frontal = collect_one(corpus, views="frontal")

    assert ids(frontal.train) == ["0", "1", "2", "3"]
    assert frontal.notes == ("table: names no views, so that all its films are used.",)


def test_phantoms_bring_all_their_frontal_films_with_reports_and_labels(tmp_path):
    written = write_phantoms(tmp_path / "phantoms", 20, 0)

    source = collect_one(open_corpus(tmp_path / "phantoms"), objective="medclip")

    assert len(source.train) + len(source.validate) + sum(source.left_out.values()) == written.images
    assert all(sample.sentences and sample.record.labels for sample in source.train)


@pytest.fixture
def pediatric(tmp_path: Path) -> Corpus:
    """Films as a public set of children's pneumonia has them: a kind in words, and a column for each of two labels."""
    rows = [
        {"path": f"{n}.png", "patient_id": f"person{n // 2}", "kind": kind, "Pneumonia": str(int(kind != "normal"))}
        | {"No Finding": str(int(kind == "normal"))}
        for n, kind in enumerate(["normal", "bacteria", "virus"] * 20)
    ]
    return table_corpus(tmp_path / "pediatric", rows)


def test_a_table_of_films_and_label_columns_is_learned_from_as_it_is(pediatric):
    samples = collect(pediatric, objective="umcl")

    assert samples.findings == ("No Finding", "Pneumonia")
    assert len(samples.sources[0].train) + len(samples.sources[0].validate) == 60
    assert samples.sources[0].left_out == {}
