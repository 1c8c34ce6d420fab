import numpy as np
import pytest

from index import integer_products as products


@pytest.fixture(params=["integer", "float"])
def way(request, monkeypatch):
    """Both ways to multiply: machines without integer instructions take the second."""
    if request.param == "float":
        monkeypatch.setattr(products, "has_integer_products", lambda: False)
    elif not products.has_integer_products():
        pytest.skip("this CPU has no exact int8 products")


@pytest.mark.parametrize("queries", [1, 2, 16, 65])
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (63, 96), (130, 8), (64, 100), (300, 2048)])
def test_products_of_extreme_codes_are_those_of_int64(way, queries, rows, columns):
    random = np.random.default_rng(columns)
    asked = random.choice(np.array([-127, 127], np.int8), (queries, columns))
    codes = random.choice(np.array([-127, -1, 0, 127], np.int8), (rows, columns))
    codes[0], asked[-1] = 127, 127  # the highest sum there can be
    out = np.full((queries, rows), 7, np.int32)

    products.integer_products(asked, codes, out)

    np.testing.assert_array_equal(out, asked.astype(np.int64) @ codes.astype(np.int64).T)
