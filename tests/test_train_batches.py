import threading
import time
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from handmade_corpora import Row, labelled, paired, spoken, table_corpus

from encoders.errors import MedretError
from encoders.preprocess import Preprocessing
from index.corpora.phantom import write_phantoms
from index.corpora.prompts import prompts_for
from index.corpora.readers import Corpus, open_corpus
from train.batches import Batch, BatchPlanner, read_ahead, validation_batches
from train.config import TrainConfig
from train.data import TrainingData, load_training_data
from train.epochs import epoch_batches
from train.samples import Source, collect_samples
from train.seeds import ORDER, SENTENCES, VALIDATION, WORDS, seeded
from train.texts import choose_texts, drop_words

CONFIG = TrainConfig(batch_size=8, word_dropout=0.0)
MEDCLIP = replace(CONFIG, objective="medclip")
UMCL = replace(CONFIG, objective="umcl")
MIXES = (MEDCLIP, UMCL, replace(UMCL, prompts="continuous", start="x"))


def load(folder: Path, *corpora: Corpus, weights: tuple[float, ...] = (), objective: str = "umcl", workers: int = 0) -> TrainingData:
    sources = [Source(corpus, weight) for corpus, weight in zip(corpora, weights or [0.0] * len(corpora), strict=True)]
    samples = collect_samples(sources, objective=objective)
    return load_training_data(samples, Preprocessing(size=16, fit="squash"), folder / "cache", workers=workers)


def pairs(count: int, study: int = 1, **labels: str) -> list[Row]:
    """Films with reports that name their study, some of them in the validation split."""
    rows = [paired(n, patient=n // study, text=f"Report of study {n // study}. It has a second sentence.", **labels) for n in range(count)]
    return rows + [paired(n, split="validate", text=f"Held out {n}.", **labels) for n in range(count, count + 5)]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    """Pairs labelled with edema, some with nothing; films with pneumonia, some with a fracture too; reports of fractures."""
    folder = tmp_path_factory.mktemp("mix")
    paired_rows = [{**row, "Edema": str(int(n % 6 > 1))} for n, row in enumerate(pairs(30, study=2))]
    films = [labelled(n, split="validate" if n > 20 else "train", Pneumonia="1", Fracture=str(n % 2)) for n in range(25)]
    reports = [spoken(n, f"Spoken number {n}. Its second sentence.", Fracture="1") for n in range(12)]
    return [table_corpus(folder / str(number), rows) for number, rows in enumerate((paired_rows, films, reports))]


@pytest.fixture(scope="module")
def data(corpora: list[Corpus], tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return load(tmp_path_factory.mktemp("cache"), *corpora, weights=(2, 1, 1))


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches agree in everything."""
    return all(np.array_equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(Batch))


def test_convirt_on_one_corpus_draws_order_and_texts_as_an_epoch_and_a_step_have_them(tmp_path):
    one = load(tmp_path, table_corpus(tmp_path / "corpus", pairs(45, study=3)), objective="convirt")
    config = TrainConfig(batch_size=7, seed=3, text_sample="sentences", texts_per_image=3)
    planner = BatchPlanner(one, config)

    step = 0
    for epoch in range(4):
        for rows in epoch_batches(one.train.studies, 7, seeded(3, ORDER, epoch)):
            batch = planner.batch(step)
            reports = [one.train.sentences[row] for row in rows] * 3
            texts = drop_words(choose_texts(reports, "sentences", seeded(3, SENTENCES, step)), 0.2, seeded(3, WORDS, step))
            assert batch.rows.tolist() == rows.tolist()
            assert batch.texts == tuple(texts)
            np.testing.assert_array_equal(batch.partners, np.tile(np.eye(len(rows), dtype=bool), 3))
            step += 1
        assert planner.epoch_of(step) == epoch + 1
    assert planner.steps_per_epoch == len(epoch_batches(one.train.studies, 7, seeded(3, ORDER, 0)))


def test_convirts_validation_batches_are_the_held_out_pairs_once_with_a_sentence_each(tmp_path):
    one = load(tmp_path, table_corpus(tmp_path / "corpus", pairs(9)), objective="convirt")
    config = TrainConfig(batch_size=3, seed=3, texts_per_image=3)

    batches = validation_batches(one, config)

    cut = epoch_batches(one.validate.studies, 3, seeded(3, VALIDATION))
    assert [batch.rows.tolist() for batch in batches] == [rows.tolist() for rows in cut]
    for number, (batch, rows) in enumerate(zip(batches, cut, strict=True)):
        texts = choose_texts([one.validate.sentences[row] for row in rows], "sentence", seeded(3, VALIDATION, number))
        assert batch.texts == tuple(texts)
        assert (batch.partners == np.eye(len(rows), dtype=bool)).all()


@pytest.mark.parametrize("config", MIXES)
def test_any_step_can_be_had_in_any_order_from_any_planner(data, config):
    planner = BatchPlanner(data, config)
    in_order = [planner.batch(step) for step in range(25)]

    for steps in (range(24, -1, -1), np.random.default_rng(0).permutation(25).tolist()):
        again = BatchPlanner(data, config)
        assert all(same(again.batch(step), in_order[step]) for step in steps)
    assert not any(same(first, second) for first, second in pairwise(in_order))
    assert not same(BatchPlanner(data, replace(config, seed=1)).batch(0), in_order[0])


def test_threads_that_decode_and_read_change_no_batch(corpora, data, tmp_path):
    again = load(tmp_path, *corpora, weights=(2, 1, 1), workers=3)
    planner = BatchPlanner(again, replace(MEDCLIP, workers=3))

    read = list(read_ahead(lambda step: (planner.batch(step), planner.epoch_of(step)), range(10)))

    assert again.fingerprint() == data.fingerprint()
    assert all(same(batch, BatchPlanner(data, MEDCLIP).batch(step)) for step, (batch, _) in enumerate(read))


@pytest.mark.parametrize("config", MIXES)
def test_the_images_of_a_batch_come_from_each_corpus_by_its_weight(data, config):
    planner = BatchPlanner(data, config)

    for step in range(12):
        batch = planner.batch(step)
        assert np.bincount(data.train.sources[batch.rows]).tolist() == [5, 3]  # 2 and 1 of 3 parts; the third has no images
        assert len(set(data.train.studies[batch.rows].tolist())) == 8
        np.testing.assert_array_equal(batch.image_labels, data.train.states[batch.rows] == 1)


def test_each_corpus_runs_through_its_own_epochs_and_the_first_counts_them(data):
    planner = BatchPlanner(data, UMCL)

    films = np.concatenate([planner.batch(step).rows for step in range(7)])
    films = films[data.train.sources[films] == 1]
    assert sorted(films.tolist()) == np.flatnonzero(data.train.sources == 1).tolist()  # 7 batches of 3 are its 21
    assert planner.steps_per_epoch == 6  # of the 30 pairs, 5 at a time
    assert [planner.epoch_of(step) for step in (0, 3, 6)] == [0, 0.5, 1]


def test_weights_of_nothing_share_a_batch_by_the_numbers_of_images(corpora, tmp_path):
    data = load(tmp_path, *corpora[:2])

    assert np.bincount(data.train.sources[BatchPlanner(data, UMCL).batch(0).rows]).tolist() == [5, 3]  # 30 and 21 images


def test_a_batch_too_small_for_every_corpus_is_refused(data):
    with pytest.raises(MedretError, match=r"batch_size is 2, expected 3 or more: a row of each corpus. Raise batch_size"):
        BatchPlanner(replace(data, corpora=(*data.corpora[:2], data.corpora[1])), replace(UMCL, batch_size=2))


def source_of(text: str) -> str:
    """Which of the three corpora a text is from; prompts stand for the films."""
    first = text.split(" ")[0]
    return {"Report": "pairs", "It": "pairs", "Spoken": "reports", "Its": "reports"}.get(first, "films")


def test_medclip_draws_its_texts_from_each_corpus_by_weight_and_from_all_its_texts_alike(data):
    planner = BatchPlanner(data, MEDCLIP)
    texts: Counter[str] = Counter()
    kept = 0
    for step in range(750):
        batch = planner.batch(step)
        assert len(batch.texts) == len(batch.rows) == 8
        own = ~batch.image_labels.any(axis=1)
        kept += own.sum()
        texts.update(text for text, slot in zip(batch.texts, own, strict=True) if not slot)

    drawn = sum(texts.values())
    assert drawn + kept == 6000
    expected = {"pairs": drawn / 2, "films": drawn / 4, "reports": drawn / 4}
    found = Counter(dict.fromkeys(expected, 0))
    for text, count in texts.items():
        found[source_of(text)] += count
    assert sum((found[name] - count) ** 2 / count for name, count in expected.items()) < 13.8  # 99.9 % at 2 degrees of freedom
    sentences = {text: count for text, count in texts.items() if source_of(text) == "reports"}
    assert len(sentences) == 13  # the second sentence is the same in all 12
    firsts = [count for text, count in sentences.items() if text.startswith("Spoken")]
    assert sum((count - np.mean(firsts)) ** 2 / np.mean(firsts) for count in firsts) < 31.3  # 99.9 % at 11
    prompts = {text for text in texts if source_of(text) == "films"}
    assert prompts == {*prompts_for("Pneumonia"), *prompts_for("Fracture")}


def test_medclip_labels_each_text_by_its_study_or_its_prompt_and_pairs_it_with_its_study_alone(data):
    planner = BatchPlanner(data, MEDCLIP)
    seen = 0
    for step in range(60):
        batch = planner.batch(step)
        for column, text in enumerate(batch.texts):
            positive = {data.findings[place] for place in np.flatnonzero(batch.text_labels[column])}
            partners = [data.train.studies[row] for row in batch.rows[batch.partners[:, column]]]
            match source_of(text):
                case "films":
                    (finding,) = positive
                    assert text in prompts_for(finding)
                    assert not partners
                case "reports":
                    assert (positive, partners) == ({"Fracture"}, [])
                case _ if text.startswith("Report"):
                    seen += len(partners)
                    number = int(text.split()[-1].strip("."))
                    assert {data.train.sentences[row][0] for row in batch.rows[batch.partners[:, column]]} <= {text}
                    assert positive == ({"Edema"} if data.texts.states[number, data.findings.index("Edema")] == 1 else set())
    assert seen


def test_medclip_texts_drawn_alike_share_a_finding_with_their_image_and_come_from_all_corpora(data):
    planner = BatchPlanner(data, replace(MEDCLIP, text_draw="alike"))
    shared, strangers, seen = 0, 0, set()
    for step in range(60):
        batch = planner.batch(step)
        for slot in np.flatnonzero(batch.image_labels.any(axis=1)):
            assert batch.image_labels[slot] @ batch.text_labels[slot] > 0
            shared += 1
            strangers += not batch.partners[slot, slot]
            seen.add(source_of(batch.texts[slot]))
    assert seen == {"pairs", "films", "reports"}
    assert strangers > shared / 2


def test_a_medclip_image_without_a_positive_label_brings_its_own_report_in_its_place(data):
    planner = BatchPlanner(data, MEDCLIP)
    own = 0
    for step in range(30):
        batch = planner.batch(step)
        for slot in np.flatnonzero(~batch.image_labels.any(axis=1)):
            assert batch.partners[slot, slot]
            assert batch.texts[slot] in data.train.sentences[batch.rows[slot]]
            own += 1
    assert own


def test_medclip_learns_from_labelled_films_alone(corpora, tmp_path):
    data = load(tmp_path, corpora[1])

    batch = BatchPlanner(data, MEDCLIP).batch(0)

    assert set(batch.texts) <= {*prompts_for("Pneumonia"), *prompts_for("Fracture")}
    assert (batch.text_labels.sum(axis=1) == 1).all()
    assert not batch.partners.any()


def test_umcl_gives_each_image_its_report_or_its_labels_in_words_and_adds_reports_without_an_image(data):
    planner = BatchPlanner(data, UMCL)
    for step in range(20):
        batch = planner.batch(step)
        assert len(batch.texts) == 8 + 3  # a third of 8 images by weight
        for slot, row in enumerate(batch.rows):
            text, labels = batch.texts[slot], batch.text_labels[slot]
            np.testing.assert_array_equal(labels, batch.image_labels[slot])
            if data.train.sentences[row]:
                assert text in data.train.sentences[row]
                assert batch.partners[slot].tolist() == [slot == column for column in range(11)]
            else:
                words = [prompts_for(data.findings[place]) for place in np.flatnonzero(labels)]
                assert all(any(prompt in text for prompt in some) for some in words)
                assert not batch.partners[slot].any()
        assert {source_of(text) for text in batch.texts[8:]} == {"reports"}
        assert (batch.text_labels[8:, data.findings.index("Fracture")] == 1).all()
    seen = [
        text.split(".")[0] for step in range(4) for text in BatchPlanner(data, replace(UMCL, text_sample="report")).batch(step).texts[8:]
    ]
    assert sorted(seen) == sorted({f"Spoken number {n}" for n in range(12)})  # each once in an epoch of 4 batches of 3


def test_umcl_adds_no_more_reports_than_there_are_images(corpora, tmp_path):
    data = load(tmp_path, corpora[0], corpora[2], weights=(1, 1000))

    batch = BatchPlanner(data, UMCL).batch(0)

    assert (len(batch.rows), len(batch.texts)) == (7, 14)


def test_reports_without_an_image_of_a_corpus_with_images_enter_in_their_proportion(tmp_path):
    rows = pairs(24) + [{**paired(100 + n, text=f"Spoken number {n}."), "path": ""} for n in range(6)]
    data = load(tmp_path, table_corpus(tmp_path / "corpus", rows))

    batch = BatchPlanner(data, UMCL).batch(0)

    assert [source_of(text) for text in batch.texts] == ["pairs"] * 8 + ["reports"] * 2  # 24 to 6


def test_continuous_prompts_are_further_columns_in_place_of_words_for_labels(data):
    config = MIXES[2]

    batch = BatchPlanner(data, config).batch(0)

    assert batch.prompts == data.findings == ("Edema", "Pneumonia", "Fracture")
    assert [source_of(text) for text in batch.texts] == ["pairs"] * 5 + ["reports"] * 3
    np.testing.assert_array_equal(batch.text_labels[8:], np.eye(3))
    assert batch.partners.shape == (8, 11)
    assert not batch.partners[:, 8:].any()


def test_continuous_prompts_suffice_where_no_image_has_a_report(corpora, tmp_path):
    data = load(tmp_path, corpora[1])

    for batch in (BatchPlanner(data, MIXES[2]).batch(0), *validation_batches(data, MIXES[2])):
        assert batch.texts == ()
        assert batch.partners.shape == (len(batch.rows), 2)
        assert batch.text_labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("config", MIXES)
def test_validation_batches_hold_images_of_all_corpora_each_once_with_its_own_text(data, config):
    batches = validation_batches(data, config)

    rows = np.concatenate([batch.rows for batch in batches])
    assert len(set(rows.tolist())) == len(rows) == 8  # of 5 and 4
    assert set(data.validate.sources[rows].tolist()) == {0, 1}
    assert all(same(first, second) for first, second in zip(batches, validation_batches(data, config), strict=True))
    for batch in batches:
        own = (batch.image_labels[:, None] == batch.text_labels).all(axis=2) & batch.image_labels.any(axis=1)[:, None]
        assert (own | batch.partners).any(axis=1).all() or config.prompts == "continuous"


@pytest.mark.parametrize("config", MIXES)
def test_a_held_out_film_of_a_finding_that_no_training_film_shows_is_like_nothing(tmp_path, config):
    shown = {"Edema": "1", "Fracture": "0"}
    films = [labelled(n, split="train" if n < 6 else "validate", **shown) for n in range(9)]
    films.append(labelled(9, split="validate", Edema="0", Fracture="1"))
    data = load(tmp_path, table_corpus(tmp_path / "corpus", films))

    (batch,) = validation_batches(data, config)

    assert data.findings == ("Edema",)
    assert sorted(batch.image_labels[:, 0].tolist()) == [0, 1, 1, 1]
    assert len(batch.texts) == (0 if config.prompts == "continuous" else 3)
    assert batch.text_labels.all()
    assert not batch.partners.any()


def test_uncertain_labels_count_as_the_policy_has_them(tmp_path):
    data = load(tmp_path, table_corpus(tmp_path / "corpus", pairs(20, Edema="-1", Fracture="1")))
    labels = {policy: BatchPlanner(data, replace(UMCL, uncertain=policy)).batch(0) for policy in ("zeros", "ones", "ignore")}

    assert [batch.image_labels[0].tolist() for batch in labels.values()] == [[0, 1], [1, 1], [0, 0]]
    assert [batch.text_labels[0].tolist() for batch in labels.values()] == [[0, 1], [1, 1], [0, 0]]


def test_a_batch_in_which_nothing_is_alike_is_refused_with_its_step(tmp_path):
    films = table_corpus(tmp_path / "films", [labelled(n, split="", Pneumonia="1") for n in range(20)])
    reports = table_corpus(tmp_path / "reports", [spoken(n, "There is a fracture.", Fracture="1") for n in range(20)])
    data = load(tmp_path, films, reports, weights=(1e-9, 1))

    with pytest.raises(MedretError, match=r"step 5: none of 6 images shares a label with any of 6 texts.*expected at least one. Raise"):
        BatchPlanner(data, replace(MEDCLIP, batch_size=7)).batch(4)


def test_equal_sets_are_asked_for_where_only_they_are_alike(tmp_path):
    films = [labelled(n, split="", Pneumonia="1", Fracture="1") for n in range(20)]
    data = load(tmp_path, table_corpus(tmp_path / "films", films))

    assert len(BatchPlanner(data, MIXES[2]).batch(0).prompts) == 2
    equal = replace(MIXES[2], relation="equal")
    with pytest.raises(MedretError, match="none of"):  # no prompt has both
        BatchPlanner(data, equal).batch(0)
    with pytest.raises(MedretError, match="validation, step 1: none of 2 images"):
        validation_batches(data, equal)


def test_words_are_left_out_of_all_texts_alike(data):
    whole, short = (BatchPlanner(data, replace(UMCL, word_dropout=share)).batch(3) for share in (0.0, 0.5))

    words, fewer = ([len(text.split()) for text in batch.texts] for batch in (whole, short))
    assert all(1 <= after <= before for before, after in zip(words, fewer, strict=True))
    assert sum(fewer) < 0.75 * sum(words)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "corpus"
    write_phantoms(folder, 30, 0)
    return folder


@pytest.mark.parametrize("objective", ["convirt", "medclip", "umcl"])
def test_phantoms_are_planned_for_every_objective(phantoms, objective):
    data = load(phantoms.parent, open_corpus(phantoms), objective=objective)

    planner = BatchPlanner(data, TrainConfig(objective=objective, batch_size=16, texts_per_image=1))

    for step in range(planner.steps_per_epoch):
        batch = planner.batch(step)
        assert len(batch.texts) == len(batch.rows)
        assert batch.image_labels.shape == (len(batch.rows), len(data.findings))
        assert batch.partners.shape == (len(batch.rows), len(batch.texts))


def test_steps_are_loaded_ahead_in_their_order():
    loaded: list[int] = []

    def load_step(step: int) -> int:
        loaded.append(step)
        return 10 * step

    ahead = read_ahead(load_step, range(3, 7))
    assert next(ahead) == 30
    for _ in range(200):
        if len(loaded) == 2:
            break
        time.sleep(0.01)
    assert loaded == [3, 4]  # the next one, and no other
    assert list(ahead) == [40, 50, 60]
    assert list(read_ahead(load_step, [])) == []


def test_a_fault_while_reading_ahead_reaches_the_reader_and_ends_the_thread():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda step: 1 // step, [2, 1, 0, 5]))

    assert threading.active_count() == before
