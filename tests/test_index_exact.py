import itertools
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_folders import unit, write_images

import index.exact
from encoders.errors import MedretError
from index.exact import ExactSearch, widen
from index.kinds import faiss_threads
from index.shards import open_shards

# Rows of norm exactly 1 whose inner products are exact in float32: ties are ties, whoever adds up.
EXACT = np.array(
    [[a, b, c, d, 0, 0, 0, 0] for a in (0.5, -0.5) for b in (0.5, -0.5) for c in (0.5, -0.5) for d in (0.5, -0.5)]
    + [[0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]],
    np.float32,
)


def opened(vectors, ids, cuts=(), dtype="float32"):
    folder = Path(tempfile.mkdtemp(prefix="medret-test-"))
    try:
        return ExactSearch(open_shards(write_images(folder / "shards", vectors, ids, cuts, dtype)).table("images"), "joint")
    finally:
        shutil.rmtree(folder)  # the mapping outlives the names


def brute_force(vectors, ids, query, k, allowed, excluded):
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    rows = [row for row in range(len(vectors)) if allowed[row] and row not in set(excluded)]
    rows.sort(key=lambda row: (-scores[row], ids[row]))
    return rows[:k], scores[rows[:k]]


@st.composite
def collections(draw):
    """Vectors with or without exact ties, ids in no order, shards of odd sizes (empty ones too), one seed for the searches."""
    rows = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    exact = draw(st.booleans())
    vectors = EXACT[random.integers(0, draw(st.integers(1, len(EXACT))), rows)] if exact else unit(random.normal(size=(rows, 8)))
    ids = [f"r{number}" for number in random.permutation(rows)]
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=3)))
    return vectors, exact, ids, cuts, draw(st.sampled_from(["float32", "float16"])), random


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(collections(), st.booleans())
def test_a_search_finds_what_sorting_all_scores_and_ids_finds(collection, cut):
    """Also where shards are searched side by side, and piece by piece."""
    vectors, exact, ids, cuts, dtype, random = collection
    limits = {"_VALUES_WORTH_THREADS": 0, "_VALUES_READ_AGAIN": 40} if cut else {}
    count = len(vectors)
    found_by = opened(vectors, ids, cuts, dtype)
    stored = vectors.astype(dtype).astype(np.float32)
    for part, k in itertools.product((0.0, 0.1, 0.5, 1.0), (1, 7, 70)):
        queries = EXACT[random.integers(0, len(EXACT), 2)] if exact else unit(random.normal(size=(2, 8)))
        queries = np.concatenate([queries, stored[random.integers(0, count, 1)]])
        allowed = random.random(count) < part
        excluded = [random.integers(0, count, random.integers(0, count)) for _ in queries]

        with mock.patch.dict(vars(index.exact), limits), faiss_threads(3):
            found = found_by.search(queries, k, allowed=allowed, excluded=excluded)

        for query, left_out, (rows, scores) in zip(queries, excluded, found, strict=True):
            expected_rows, expected_scores = brute_force(stored, ids, query, k, allowed, left_out)
            np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-7)
            assert rows.tolist() == expected_rows
            assert rows.dtype == np.int64 and scores.dtype == np.float32


@pytest.mark.parametrize("excluding", [0, 300])
def test_ties_across_the_boundary_at_k_are_cut_by_id(excluding):
    """Five hundred copies of one vector: far more than any number of candidates looked at first."""
    ids = [f"{number:04d}" for number in np.random.default_rng(0).permutation(500)]
    found = opened(np.repeat(EXACT[:1], 500, axis=0), ids, cuts=(7, 7, 300))
    excluded = [np.array([row for row in range(500) if int(ids[row]) < excluding], np.int64)]

    rows, scores = found.search(EXACT[:1], 4, excluded=excluded)[0]

    assert [ids[row] for row in rows] == [f"{excluding + number:04d}" for number in range(4)]
    assert scores.tolist() == [1, 1, 1, 1]


def test_scores_that_differ_by_less_than_float32_rounding_are_still_in_order():
    """Hundreds of rows within 1e-6 of the best: float32 sums alone cannot rank them."""
    random = np.random.default_rng(1)
    vectors = unit(np.repeat(random.normal(size=(1, 512)), 400, axis=0) + 2e-5 * random.normal(size=(400, 512)))
    ids = [str(number) for number in range(400)]

    rows, _ = opened(vectors, ids, cuts=(133,)).search(vectors[:1], 10)[0]

    assert rows.tolist() == brute_force(vectors, ids, vectors[0], 10, np.ones(400, bool), [])[0]


def test_a_query_has_the_same_scores_alone_and_in_a_batch():
    random = np.random.default_rng(2)
    vectors, queries = unit(random.normal(size=(3000, 96))), unit(random.normal(size=(40, 96)))
    index = opened(vectors, [str(number) for number in range(3000)], cuts=(1000, 2047))

    together = index.search(queries, 25)

    for query, (rows, scores) in zip(queries, together, strict=True):
        alone_rows, alone_scores = index.search(query[None], 25)[0]
        np.testing.assert_array_equal(rows, alone_rows)
        np.testing.assert_array_equal(scores, alone_scores)


def test_many_queries_find_what_faiss_own_flat_index_finds():
    random = np.random.default_rng(3)
    vectors, queries = unit(random.normal(size=(2000, 64))), unit(random.normal(size=(1100, 64)))
    flat = faiss.IndexFlatIP(64)
    flat.add(vectors)
    _, expected = flat.search(queries, 5)

    found = opened(vectors, [f"{number:04d}" for number in range(2000)], cuts=(512, 1024, 1536)).search(queries, 5)

    np.testing.assert_array_equal(np.stack([rows for rows, _ in found]), expected)


def test_no_rows_allowed_gives_no_hits():
    rows, scores = opened(EXACT, [str(n) for n in range(len(EXACT))]).search(EXACT[:1], 3, allowed=np.zeros(len(EXACT), bool))[0]

    assert len(rows) == len(scores) == 0


@pytest.mark.parametrize(
    ("queries", "k", "options", "message"),
    [
        (np.ones((2, 7), np.float32), 1, {}, r"expected \(Q, 8\)"),
        (np.ones(8, np.float32), 1, {}, r"expected \(Q, 8\)"),
        (np.full((3, 8), np.nan, np.float32), 1, {}, "3 of 3 queries hold NaN"),
        (np.ones((1, 8), np.float32), 0, {}, "k is 0"),
        (np.ones((1, 8), np.float32), 1, {"allowed": np.ones(3, bool)}, "allowed"),
        (np.ones((1, 8), np.float32), 1, {"excluded": []}, "excluded"),
    ],
)
def test_a_wrong_call_is_refused(queries, k, options, message):
    with pytest.raises(ValueError, match=message):
        opened(EXACT, [str(n) for n in range(len(EXACT))]).search(queries, k, **options)


def test_a_search_leaves_the_number_of_threads_as_it_was():
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        opened(EXACT, [str(n) for n in range(len(EXACT))]).search(EXACT[:1], 3)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_a_batch_holds_a_bounded_number_of_candidates(monkeypatch):
    random = np.random.default_rng(5)
    vectors, queries = unit(random.normal(size=(90, 8))), unit(random.normal(size=(10, 8)))
    ids = [f"{number:02d}" for number in range(90)]
    searched, held = opened(vectors, ids), []
    nearest = searched._nearest
    monkeypatch.setattr(index.exact, "_CANDIDATES_AT_ONCE", 300)
    monkeypatch.setattr(searched, "_nearest", lambda asked, k, allowed: held.append(len(asked) * k) or nearest(asked, k, allowed))

    found = searched.search(queries, 60)

    assert max(held) <= 300 and len(held) > 1
    for query, (rows, _) in zip(queries, found, strict=True):
        assert rows.tolist() == brute_force(vectors, ids, query, 60, np.ones(90, bool), [])[0]


def test_every_half_is_widened_to_the_float_that_it_is():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 32)  # infinities and NaN among them

    np.testing.assert_array_equal(widen(halves, np.empty(halves.shape, np.float32)), halves.astype(np.float32))


@pytest.mark.parametrize("faiss_loaded", [False, True])
def test_a_damaged_vector_is_no_answer_of_an_exact_search(tmp_path, monkeypatch, faiss_loaded):
    """One flipped bit of an exponent makes a huge score of a small one."""
    vectors = unit(np.random.default_rng(0).normal(size=(300, 16)))
    path = write_images(tmp_path, vectors, [str(number) for number in range(300)]) / "images-00000.arrow"
    content = bytearray(path.read_bytes())
    content[content.index(vectors[7].tobytes()) + 3] ^= 0x40
    path.write_bytes(content)
    if not faiss_loaded:
        monkeypatch.delitem(sys.modules, "faiss")
    damaged = ExactSearch(open_shards(tmp_path).table("images"), "joint")

    with pytest.raises(MedretError, match=r"joint vector of row 7 of the images has norm .*medret verify"):
        damaged.search(np.sign(vectors[7:8]), 5)
