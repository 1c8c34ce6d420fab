import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.epochs import epoch_batches
from train.seeds import ORDER, seeded


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
