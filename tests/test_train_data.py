from pathlib import Path

import numpy as np
import pytest
from handmade_corpora import Row, labelled, paired, spoken, table_corpus

from encoders.errors import MedretError
from encoders.preprocess import Preprocessing
from index.corpora.record import NULL_LABEL, LabelState
from index.films import Films
from train.data import TrainingData, load_training_data
from train.samples import Source, collect_samples


def load(folder: Path, *tables: list[Row], weights: tuple[float, ...] = (), objective: str = "umcl", **settings: int) -> TrainingData:
    """The data of a corpus for each table, with films of 16 pixels."""
    corpora = [table_corpus(folder / f"corpus{number}", rows) for number, rows in enumerate(tables)]
    sources = [Source(corpus, weight) for corpus, weight in zip(corpora, weights or [0.0] * len(corpora), strict=True)]
    samples = collect_samples(sources, objective=objective)
    return load_training_data(samples, Preprocessing(size=16, fit="squash"), folder / "cache", **settings)


def mix(folder: Path, weights: tuple[float, ...] = (), **settings: int) -> TrainingData:
    """Pairs (two films a study), films with labels, reports with labels; all ids are numbers from 0."""
    pairs = [paired(n, patient=n // 2, text=f"Finding number {n // 2}.", Edema="1", Fracture="-1") for n in range(6)]
    pairs += [paired(n, split="validate", Edema="0") for n in (8, 9)]
    films = [labelled(n, Pneumonia="1", Edema="0") for n in range(4)] + [labelled(n, split="validate", Pneumonia="1") for n in (4, 5)]
    reports = [spoken(n, f"Spoken number {n}.", Fracture="1") for n in range(3)]
    return load(folder, pairs, films, reports, weights=weights, **settings)


def test_a_mix_keeps_every_row_with_its_corpus_labels_and_film(tmp_path):
    data = mix(tmp_path, cache_size=18)

    assert data.findings == ("Edema", "Pneumonia", "Fracture")
    train = data.train
    assert [record.id for record in train.records] == ["0", "1", "2", "3", "4", "5", "0", "1", "2", "3"]
    assert train.sources.tolist() == [0] * 6 + [1] * 4
    assert train.films[np.arange(10)][:, 9, 9].tolist() == [0, 10, 20, 30, 40, 50, 0, 10, 20, 30]
    assert [bool(sentences) for sentences in train.sentences] == [True] * 6 + [False] * 4
    positive, negative, uncertain, unasked = LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN, NULL_LABEL
    assert train.states[0].tolist() == [positive, unasked, uncertain]
    assert train.states[6].tolist() == [negative, positive, unasked]
    assert train.states.dtype == np.int8
    assert (data.validate.sources.tolist(), data.validate.films.shape) == ([0, 0, 1, 1], (4, 16, 16))


def test_equal_ids_of_two_corpora_are_two_studies(tmp_path):
    data = mix(tmp_path)

    assert data.train.studies.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 5, 6]
    everything = np.concatenate([data.train.studies, data.validate.studies])
    assert len(np.unique(everything)) == 3 + 4 + 4


def test_each_study_has_its_report_once_among_the_texts(tmp_path):
    data = mix(tmp_path)

    assert data.texts.sentences == [(f"Finding number {n}.",) for n in range(3)] + [(f"Spoken number {n}.",) for n in range(3)]
    assert data.texts.sources.tolist() == [0, 0, 0, 2, 2, 2]
    assert data.texts.studies[:3].tolist() == [0, 1, 2]  # those of the films
    assert not np.isin(data.texts.studies[3:], data.train.studies).any()
    assert data.texts.states[3].tolist() == [NULL_LABEL, NULL_LABEL, LabelState.POSITIVE]


def test_corpora_weigh_what_they_are_given_or_as_many_rows_as_they_have(tmp_path):
    data = mix(tmp_path, weights=(0, 2.5, 0))

    assert data.weights == (6, 2.5, 3)
    assert [(note.format, note.images, note.studies, note.texts, note.validation_images) for note in data.corpora] == [
        ("table", 6, 3, 3, 2),
        ("table", 4, 4, 0, 2),
        ("table", 0, 0, 3, 0),
    ]


def test_films_stay_in_step_with_their_reports_when_some_cannot_be_read(tmp_path):
    pairs = [paired(n, patient=n // 2, text=f"Finding number {n}.") for n in range(8)] + [paired(n, split="validate") for n in (8, 9, 10)]
    (tmp_path / "corpus0").mkdir()
    (tmp_path / "corpus0" / "3.png").write_bytes(b"broken")

    data = load(tmp_path, pairs, [labelled(n, split="", Edema="1") for n in range(20)], cache_size=18)

    assert [record.id for record in data.train.records[:7]] == ["0", "1", "2", "4", "5", "6", "7"]
    films = data.train.films[np.arange(len(data.train))]
    assert films.shape == (7 + 18, 18, 18)
    assert films[:, 9, 9].tolist() == [10 * int(record.id) for record in data.train.records]
    assert [sentences[0] for sentences in data.train.sentences[:7]] == [f"Finding number {record.id}." for record in data.train.records[:7]]
    assert data.train.studies[:7].tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert data.left_out == {"film cannot be read": 1}
    assert [note.left_out for note in data.corpora] == [{"film cannot be read": 1}, {}]
    assert data.notes == ("Corpus 2 (table): The corpus has no validation split of two studies: 2 of 20 patients (2 images) are held out.",)


def test_training_films_are_kept_larger_by_an_eighth_than_the_encoder_sees_them(tmp_path):
    corpus = table_corpus(tmp_path, [paired(n, split=split) for n, split in enumerate(["train"] * 2 + ["validate"] * 2)])

    data = load_training_data(collect_samples([Source(corpus)]), Preprocessing(size=224), tmp_path / "cache")

    assert data.train.films.shape == (2, 256, 256)  # ConVIRT's own figures
    assert data.validate.films.shape == (2, 224, 224)


def test_the_datas_fingerprint_changes_with_whatever_is_learned_from(tmp_path):
    rows = [paired(n, split=split, Edema="1") for n, split in enumerate(["train"] * 3 + ["validate"] * 2)]

    def mark(changed: list[Row], weight: float = 0.0, size: int = 20, further: str = "Edema.") -> str:
        data = load(tmp_path, changed, [spoken(0, f"There is {further}")], weights=(weight, 1), cache_size=size)
        return data.fingerprint()

    marks = [
        mark(rows),
        mark([*rows[:2], {**rows[2], "text": "The heart is large."}, *rows[3:]]),
        mark([*rows[:2], {**rows[2], "Edema": "0"}, *rows[3:]]),
        mark([*rows[:2], {**rows[2], "study": "s1", "patient": "p1"}, *rows[3:]]),
        mark([rows[1], rows[0], *rows[2:]]),
        mark(rows, weight=7),
        mark(rows, size=24),
        mark(rows, further="no edema."),
    ]
    assert len(set(marks)) == len(marks)
    assert mark(rows) == marks[0]
    assert mark(rows, weight=3) == marks[0]  # as many as there are rows


def test_a_split_whose_films_cannot_be_read_is_refused(tmp_path):
    rows = [paired(n, split=split) for n, split in enumerate(["train", "train", "validate", "validate"])]
    (tmp_path / "corpus1").mkdir()
    (tmp_path / "corpus1" / "3.png").write_bytes(b"broken")

    with pytest.raises(MedretError, match=r"validate split: 1 studies with a readable film.*3"):
        load(tmp_path, rows, rows)


def test_films_of_several_arrays_are_read_as_one():
    parts = [np.random.default_rng(n).integers(0, 256, (n, 4, 4), dtype=np.uint8) for n in (3, 0, 5)]
    films, joined = Films(parts), np.concatenate(parts)

    rows = np.array([7, 0, 3, 2, 3])
    np.testing.assert_array_equal(films[rows], joined[rows])
    np.testing.assert_array_equal(films[2:6], joined[2:6])
    assert (films.shape, len(films), films[np.array([], dtype=np.int64)].shape) == ((8, 4, 4), 8, (0, 4, 4))


@pytest.mark.parametrize("row", [-1, 8])
def test_a_film_that_is_not_there_is_refused(row):
    with pytest.raises(IndexError, match="of 8"):
        Films([np.zeros((8, 4, 4), dtype=np.uint8)])[np.array([0, row])]
