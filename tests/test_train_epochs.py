import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.epochs import RowStream, epoch_batches, even_size, share_batch
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


def plain_batches(studies: np.ndarray, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Rows that wait for the next batch are those that came first; a batch takes each study once."""
    queue, batches = rng.permutation(len(studies)).tolist(), []
    late: list[int] = []  # rows met while their study was taken, by the place of their study's first
    while True:
        batch: list[int] = []
        for study in dict.fromkeys(studies[row] for row in late):
            if len(batch) < size:
                batch.append(next(row for row in late if studies[row] == study))
        late = [row for row in late if row not in batch]
        while len(batch) < size and queue:
            row = queue.pop(0)
            (late if studies[row] in {studies[other] for other in batch} else batch).append(row)
        if len(batch) < size:
            return batches
        batches.append(batch)


@settings(deadline=None)
@given(studies=st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(lambda s: len(set(s)) > 1), size=st.integers(2, 9))
def test_rows_wait_their_turn_as_in_the_plain_version(studies, size):
    studies = np.array(studies)

    batches = epoch_batches(studies, size, np.random.default_rng(0))

    assert [batch.tolist() for batch in batches] == plain_batches(studies, even_size(studies, size), np.random.default_rng(0))


def stream(studies: np.ndarray, size: int) -> RowStream:
    return RowStream(100 + np.arange(len(studies)), studies, size, lambda epoch: seeded(0, ORDER, epoch))


def test_a_stream_is_the_batches_of_one_epoch_after_the_other():
    studies = np.repeat(np.arange(4), 3)  # epochs of different lengths
    epochs = [plain_batches(studies, 3, seeded(0, ORDER, epoch)) for epoch in range(12)]
    assert len({len(epoch) for epoch in epochs}) > 1
    one_by_one = [(np.array(batch) + 100).tolist() for epoch in epochs for batch in epoch]

    streamed = stream(studies, 3)

    assert [streamed.batch(number).tolist() for number in range(len(one_by_one))] == one_by_one
    assert streamed.per_epoch == len(epochs[0])


def test_any_batch_of_a_stream_can_be_had_in_any_order():
    studies = np.repeat(np.arange(4), 3)
    streamed = stream(studies, 3)
    in_order = [streamed.batch(number).tolist() for number in range(30)]

    for numbers in (range(29, -1, -1), np.random.default_rng(0).permutation(30).tolist()):
        again = stream(studies, 3)
        assert {number: again.batch(number).tolist() for number in numbers} == dict(enumerate(in_order))


def test_an_epoch_is_over_with_its_last_batch():
    studies = np.repeat(np.arange(4), 3)
    lengths = [len(plain_batches(studies, 3, seeded(0, ORDER, epoch))) for epoch in range(5)]
    streamed = stream(studies, 3)

    assert [streamed.epochs(sum(lengths[:epoch])) for epoch in range(5)] == [0, 1, 2, 3, 4]
    assert streamed.epochs(lengths[0] + 1) == 1 + 1 / lengths[1]


def test_a_stream_of_one_study_gives_it_image_by_image():
    rows = [stream(np.zeros(3, dtype=np.int64), 5).batch(number).tolist() for number in range(3)]

    assert sorted(rows) == [[100], [101], [102]]


@settings(deadline=None)
@given(data=st.data(), weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_shares_of_a_batch_are_those_of_the_weights_to_one_row(data, weights):
    batch_size = data.draw(st.integers(len(weights), 300))

    shares = share_batch(batch_size, weights)

    assert sum(shares) == batch_size
    assert min(shares) >= 1
    ideal = batch_size * np.array(weights) / sum(weights)
    if ideal.min() >= 1:  # nobody had to be given a row
        assert np.abs(np.array(shares) - ideal).max() < 1


@pytest.mark.parametrize(
    ("batch_size", "weights", "shares"),
    [(10, [1, 1, 1], [4, 3, 3]), (7, [5, 3, 1], [4, 2, 1]), (8, [1000, 1, 1], [6, 1, 1]), (4, [2.0], [4]), (3, [9, 1, 9], [1, 1, 1])],
)
def test_what_is_left_goes_to_the_largest_remainder(batch_size, weights, shares):
    assert share_batch(batch_size, weights) == shares


def test_a_batch_too_small_for_a_row_of_each_corpus_is_refused():
    with pytest.raises(ValueError, match="batch_size is 2, expected 3 or more"):
        share_batch(2, [1, 1, 1])
