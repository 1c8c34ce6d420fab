from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.batches import ORDER, choose_texts, drop_words, epoch_batches, read_ahead, seeded, seeded_torch


@settings(deadline=None)
@given(
    studies=st.lists(st.integers(0, 12), min_size=2, max_size=80).filter(lambda s: len(set(s)) > 1),
    size=st.integers(2, 20),
    seed=st.integers(0, 99),
)
def test_no_study_occurs_twice_in_a_batch_and_no_row_twice_in_an_epoch(studies, size, seed):
    batches = epoch_batches(np.array(studies), size, np.random.default_rng(seed))

    rows = np.concatenate(batches).tolist()
    assert len(set(rows)) == len(rows)
    assert len({len(batch) for batch in batches}) == 1
    for batch in batches:
        assert 2 <= len(batch) <= size
        assert len({studies[row] for row in batch}) == len(batch)


def test_an_epoch_over_studies_of_few_images_leaves_out_fewer_rows_than_it_has_batches():
    studies = np.repeat(np.arange(500), 2)

    batches = epoch_batches(studies, 64, np.random.default_rng(0))

    assert len(batches) == 16  # 1000 / 64, rounded up
    assert {len(batch) for batch in batches} == {62}
    assert 1000 - sum(map(len, batches)) < 16


def test_a_corpus_smaller_than_a_batch_is_one_batch():
    (batch,) = epoch_batches(np.arange(7), 64, np.random.default_rng(0))

    assert sorted(batch.tolist()) == list(range(7))


def test_what_an_epoch_leaves_out_changes_from_epoch_to_epoch():
    studies = np.array([0] * 6 + [1, 2])
    seen = {row for epoch in range(40) for batch in epoch_batches(studies, 3, seeded(0, ORDER, epoch)) for row in batch.tolist()}

    assert seen == set(range(8))


def test_a_single_study_gives_no_batch():
    with pytest.raises(ValueError, match="two studies"):
        epoch_batches(np.zeros(5, dtype=np.int64), 4, np.random.default_rng(0))


def test_random_numbers_depend_on_the_seed_and_the_place_alone():
    draws = {seeded(seed, purpose, step).integers(2**62) for seed in range(3) for purpose in range(3) for step in range(3)}

    assert len(draws) == 27
    assert seeded(1, 2, 3).integers(2**62) == seeded(1, 2, 3).integers(2**62)
    assert torch.equal(torch.rand(3, generator=seeded_torch(1, 2)), torch.rand(3, generator=seeded_torch(1, 2)))


REPORT = ("The lungs are clear.", "No effusion.", "The heart is large.")


def test_each_sentence_of_a_report_is_drawn_as_often_as_any_other():
    counts = Counter(choose_texts([REPORT] * 6000, "sentence", np.random.default_rng(0)))

    assert set(counts) == set(REPORT)
    chi_squared = sum((count - 2000) ** 2 / 2000 for count in counts.values())
    assert chi_squared < 13.8  # 99.9 % quantile at 2 degrees of freedom


def test_several_sentences_keep_their_order_and_every_number_of_them_occurs():
    texts = set(choose_texts([REPORT] * 500, "sentences", np.random.default_rng(0)))

    first, second, third = REPORT
    assert texts == {first, second, third, f"{first} {second}", f"{first} {third}", f"{second} {third}", " ".join(REPORT)}


def test_a_whole_report_is_all_its_sentences():
    assert choose_texts([REPORT, REPORT[:1]], "report", np.random.default_rng(0)) == [" ".join(REPORT), REPORT[0]]


def test_an_unknown_unit_of_text_is_refused():
    with pytest.raises(ValueError, match="paragraph"):
        choose_texts([REPORT], "paragraph", np.random.default_rng(0))


def test_films_are_read_ahead_in_the_order_of_the_batches():
    films = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    batches = [np.array([3, 1]), np.array([19, 0]), np.array([7, 8])]

    read = list(read_ahead(films, batches))

    assert [rows.tolist() for rows, _ in read] == [batch.tolist() for batch in batches]
    for rows, taken in read:
        np.testing.assert_array_equal(taken.numpy(), films[rows])
    assert list(read_ahead(films, [])) == []


def test_a_fault_while_reading_ahead_reaches_the_reader():
    with pytest.raises(IndexError):
        list(read_ahead(np.zeros((2, 4, 4), dtype=np.uint8), [np.array([0]), np.array([9])]))


def test_each_word_is_dropped_as_often_as_asked_but_never_one_that_says_no():
    texts = drop_words(
        ["Small left pleural effusion."] * 5000 + ["There is No pneumothorax, not even a small one."] * 5000, 0.2, np.random.default_rng(0)
    )

    kept = Counter(word for text in texts[:5000] for word in text.split())
    assert all(abs(count - 4000) < 150 for count in kept.values())
    assert len(kept) == 4
    assert all({"No", "not"} <= set(text.split()) for text in texts[5000:])


def test_a_text_never_loses_its_last_word_and_a_share_of_0_changes_nothing():
    assert set(drop_words(["Cardiomegaly."] * 100, 0.9, np.random.default_rng(0))) == {"Cardiomegaly."}
    assert drop_words(list(REPORT), 0.0, np.random.default_rng(0)) == list(REPORT)
