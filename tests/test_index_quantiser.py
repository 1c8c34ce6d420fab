import numpy as np
import pytest
from shard_folders import unit

from encoders.errors import MedretError
from index.quantiser import fit_quantiser, load_quantiser


def drawn(rows, dimension, directions, seed=0):
    """Unit vectors about a mean far from 0 that vary in a few directions, and hardly in the others."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(dimension, directions)))[0]
    vectors = random.normal(size=(rows, directions)) @ basis.T + 0.001 * random.normal(size=(rows, dimension))
    return unit(vectors + 3 * random.normal(size=dimension))


@pytest.mark.parametrize("dimension", [8, 40])
def test_where_all_directions_are_kept_products_differ_by_a_constant_of_the_query(dimension):
    """<q, R'(x - m)> is <q, x> - <q, m>: the mean is taken from the stored vectors only, so the order stays."""
    vectors, queries = drawn(500, dimension, 5), unit(np.random.default_rng(1).normal(size=(6, dimension)))
    quantiser = fit_quantiser([vectors[:200], vectors[200:]], 500)
    assert quantiser.dimension == dimension

    compacted = quantiser.project_queries(queries) @ quantiser.project(vectors).T

    expected = queries.astype(np.float64) @ (vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)).T
    np.testing.assert_allclose(compacted, expected, rtol=0, atol=2e-6)


def test_the_length_is_the_smallest_multiple_of_32_that_keeps_97_percent_of_the_variance():
    for directions in (10, 70, 90):
        vectors = drawn(3000, 200, directions)
        variances = np.sort(np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2)[::-1]
        expected = next(p for p in range(64, 200, 32) if variances[:p].sum() >= 0.97 * variances.sum())

        assert fit_quantiser([vectors], 3000).dimension == expected


def test_the_same_rows_give_the_same_compaction_however_they_are_cut(tmp_path):
    vectors = drawn(50_000, 16, 4)

    whole, cut = fit_quantiser([vectors], 50_000), fit_quantiser([vectors[:7], vectors[7:7], vectors[7:41_000], vectors[41_000:]], 50_000)

    np.testing.assert_array_equal(whole.rotation, cut.rotation)
    np.testing.assert_array_equal(whole.quantise(vectors), cut.quantise(vectors))


def test_codes_use_their_whole_range_and_rank_as_the_vectors_do():
    vectors, queries = drawn(2000, 64, 12), drawn(20, 64, 12)
    quantiser = fit_quantiser([vectors], 2000)

    codes, asked = quantiser.quantise(vectors), quantiser.quantise_queries(queries)

    assert codes.dtype == asked.dtype == np.int8
    assert np.abs(codes.astype(int)).max() == 127
    assert (np.abs(asked.astype(int)).max(axis=1) == 127).all()
    exact, coarse = queries @ vectors.T, asked.astype(int) @ codes.astype(int).T
    assert all(np.corrcoef(e, c)[0, 1] > 0.999 for e, c in zip(exact, coarse, strict=True))


def test_mixed_directions_keep_all_products_and_lose_less_of_them_in_the_codes():
    """A first direction that varies ten times as much as the others claims nearly all of the range for itself."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3000, 64)).astype(np.float32)
    vectors[:, 0] *= 10
    queries = random.normal(size=(20, 64)).astype(np.float32)
    plain, mixed = (fit_quantiser([vectors], 3000, mixed=how) for how in (False, True))

    def lost(quantiser):
        error = queries @ quantiser.rotation @ (quantiser.quantise(vectors) / quantiser.scale - quantiser.project(vectors)).T
        return error.std()

    assert plain.dimension == mixed.dimension == 64
    products = [quantiser.project_queries(queries) @ quantiser.project(vectors).T for quantiser in (plain, mixed)]
    np.testing.assert_allclose(products[0], products[1], rtol=0, atol=2e-4)
    assert lost(mixed) < lost(plain) / 2


@pytest.mark.parametrize("vectors", [np.zeros((1, 8), np.float32), unit(np.ones((5, 8)))], ids=["zero", "identical"])
def test_vectors_without_any_variance_get_codes_of_zero(vectors):
    quantiser = fit_quantiser([vectors], len(vectors))

    assert np.abs(quantiser.quantise_queries(np.zeros((2, 8), np.float32))).max() == 0
    assert quantiser.quantise(vectors).shape == (len(vectors), 8)


def test_a_compaction_is_read_as_it_was_saved(tmp_path):
    vectors = drawn(300, 96, 6)
    quantiser = fit_quantiser([vectors], 300)
    quantiser.save(tmp_path / "x.npz")

    np.testing.assert_array_equal(load_quantiser(tmp_path / "x.npz", 96).quantise(vectors), quantiser.quantise(vectors))
    with pytest.raises(MedretError, match=r"expected.*\(64,\)|length"):
        load_quantiser(tmp_path / "x.npz", 64)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:500])
    with pytest.raises(MedretError, match="cannot be read"):
        load_quantiser(tmp_path / "x.npz", 96)
