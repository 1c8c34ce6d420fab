import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.scattered_rows import ScatteredRows

DTYPES = st.sampled_from([np.float32, np.float16])


@given(sizes=st.lists(st.tuples(st.integers(0, 5), DTYPES), min_size=1, max_size=6), dimension=st.integers(1, 9), data=st.data())
def test_rows_are_those_of_the_arrays_one_after_another(sizes, dimension, data):
    random = np.random.default_rng(0)
    memory = [random.standard_normal((rows + 3, dimension)).astype(dtype) for rows, dtype in sizes]  # with room between them
    blocks = [own[1 : 1 + rows] for own, (rows, _) in zip(memory, sizes, strict=True)]
    whole = np.concatenate([block.astype(np.float32) for block in blocks])
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=12) if len(whole) else st.just([]))

    taken = ScatteredRows(blocks, dimension).take(np.array(rows, np.int64))

    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, whole[np.array(rows, np.int64)])


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_refused(row):
    with pytest.raises(ValueError, match="expected 0 to 4"):
        ScatteredRows([np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)], 3).take(np.array([0, row]))
