import numpy as np
import pytest

from encoders.errors import MedretError
from index.cells import load_cells, measure_cells


def test_a_wide_cell_comes_before_a_narrow_one_whose_centre_is_nearer():
    """A radius of 0.5 reaches 0.6 x 0.5 beyond its centre for a query of length 1: 0.4 + 0.3 > 0.6."""
    centres = np.array([[0.6, 0], [0.4, 0], [0, 0.2]], np.float32)
    wide = centres[1] + 0.5 * np.array([[0, 1], [0, -1]], np.float32)  # nearest to the second centre
    cells = measure_cells(centres, np.concatenate([centres[:1], wide[1:]]))
    np.testing.assert_allclose(cells.radii, [0, 0.5, 0], atol=1e-6)

    lists, products = cells.likeliest(np.array([[1, 0], [0.1, 0]], np.float32), 3)

    assert lists.tolist() == [[1, 0, 2]] * 2  # a query's length changes no order
    np.testing.assert_allclose(products, [[0.4, 0.6, 0], [0.04, 0.06, 0]], atol=1e-6)


def test_what_was_saved_for_other_lists_or_is_damaged_is_refused(tmp_path):
    path, centres = tmp_path / "x.cells.npz", np.eye(4, dtype=np.float32)
    measure_cells(centres, centres).save(path)

    assert load_cells(path, centres).radii.tolist() == [0, 0, 0, 0]
    with pytest.raises(MedretError, match=r"made for 4 lists, found 3\. Run medret build-index again"):
        load_cells(path, centres[:3])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MedretError, match="cannot be read"):
        load_cells(path, centres)
