import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.errors import MedretError
from index import scan
from index.kinds import find_kind
from index.quantiser import Quantiser
from index.scan import ScanStage, load_scan


def stage_of(codes):
    """A scan of given codes: the quantiser is the identity, so that a query of whole numbers up to 127 is its own code."""
    dimension = codes.shape[1]
    identity = Quantiser(np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32), 1.0)
    return ScanStage(find_kind("scan"), identity, codes)


def sorted_by_numpy(codes, query, count, allowed):
    """All rows whose product is at least the count-th best; where ties make it more than twice as many, the first of them."""
    products = codes.astype(np.int64) @ query.astype(np.int64)
    rows = np.flatnonzero(allowed)
    rows = rows[np.argsort(-products[rows], kind="stable")]
    if len(rows) > count:
        rows = rows[products[rows] >= products[rows[count - 1]]][: 2 * count]
    return rows.tolist()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 63, 64, 65, 128, 700, 4096, 4097, 9000]),
    queries=st.sampled_from([1, 2, 3, 70]),
    count=st.sampled_from([1, 5, 64, 300, 10_000]),
    levels=st.sampled_from([1, 2, 127]),
    share=st.sampled_from([None, 0.0, 0.02, 0.6]),
    seed=st.integers(0, 1000),
)
def test_candidates_are_those_of_sorting_all_products(rows, queries, count, levels, share, seed):
    random = np.random.default_rng(seed)
    codes = random.integers(-levels, levels + 1, (rows, 8)).astype(np.int8)
    asked = random.integers(-levels, levels + 1, (queries, 8)).astype(np.int8)
    asked[:, 0] = 127  # the largest value of each query, so that quantising it changes nothing
    allowed = None if share is None else random.random(rows) < share

    found = stage_of(codes).candidates(asked.astype(np.float32), count, None, allowed)

    reachable = np.ones(rows, bool) if allowed is None else allowed
    assert [own.tolist() for own in found] == [sorted_by_numpy(codes, query, count, reachable) for query in asked]
    assert all(own.dtype == np.int64 for own in found)


def test_candidates_do_not_depend_on_how_rows_and_queries_are_cut(monkeypatch):
    random = np.random.default_rng(0)
    codes = random.integers(-127, 128, (10_000, 64)).astype(np.int8)
    asked = random.normal(size=(150, 64)).astype(np.float32)
    whole = stage_of(codes).candidates(asked, 40, None, None)

    for at_once, queries in ((64, 37), (5000, 1024)):
        monkeypatch.setattr(scan, "_ROWS_AT_ONCE", ((1024, at_once),))
        monkeypatch.setattr(scan, "_QUERIES_AT_ONCE", queries)
        monkeypatch.setattr(scan, "_ROWS_OF_ONE", at_once)
        monkeypatch.setattr(scan, "_POOLED", 1000)
        cut = stage_of(codes).candidates(asked, 40, None, None)
        assert all(np.array_equal(one, other) for one, other in zip(whole, cut, strict=True))
        (alone,) = stage_of(codes).candidates(asked[:1], 40, None, None)
        assert np.array_equal(alone, whole[0])


def test_identical_rows_do_not_flood_the_candidates():
    found = stage_of(np.full((50_000, 8), 3, np.int8)).candidates(np.ones((20, 8), np.float32), 10, None, None)

    assert all(own.tolist() == list(range(20)) for own in found)


def test_threads_that_search_one_stage_find_what_one_thread_finds():
    random = np.random.default_rng(3)
    stage = stage_of(random.integers(-127, 128, (20_000, 64)).astype(np.int8))
    asked = random.normal(size=(4, 30, 64)).astype(np.float32)
    expected = [stage.candidates(part, 20, None, None) for part in asked]
    found = [[] for _ in asked]

    def search(number):
        for _ in range(5):
            found[number] = [stage.candidates(query[None], 20, None, None)[0] for query in asked[number]]
            together = stage.candidates(asked[number], 20, None, None)
            assert all(np.array_equal(one, other) for one, other in zip(found[number], together, strict=True))

    threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for own, other in zip(found, expected, strict=True):
        assert all(np.array_equal(one, two) for one, two in zip(own, other, strict=True))


def test_a_saved_scan_is_mapped_and_grows(tmp_path):
    random = np.random.default_rng(4)
    codes = random.integers(-127, 128, (1000, 64)).astype(np.int8)
    asked = random.normal(size=(3, 64)).astype(np.float32)
    files = stage_of(codes[:900]).save(tmp_path, "images-joint")

    loaded = load_scan(find_kind("scan"), *(tmp_path / file for file in files), rows=900, dimension=64)
    loaded.read_ahead()
    loaded.add([codes[900:950].astype(np.float32), codes[950:].astype(np.float32)])

    assert files == ["images-joint.codes.npy", "images-joint.quantiser.npz"]
    assert loaded.rows == 1000
    expected = stage_of(codes).candidates(asked, 15, None, None)
    assert all(np.array_equal(one, other) for one, other in zip(loaded.candidates(asked, 15, None, None), expected, strict=True))


def test_codes_that_are_cut_or_of_other_rows_are_refused(tmp_path):
    files = stage_of(np.ones((90, 64), np.int8)).save(tmp_path, "x")
    paths = [tmp_path / file for file in files]

    with pytest.raises(MedretError, match=r"holds \(90, 64\) int8, expected \(91, 64\)"):
        load_scan(find_kind("scan"), *paths, rows=91, dimension=64)
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    with pytest.raises(MedretError, match="cannot be read"):
        load_scan(find_kind("scan"), *paths, rows=90, dimension=64)


def test_the_first_answer_of_a_process_needs_no_torch_and_is_the_same(tmp_path):
    """The products are integers, so that NumPy and torch find the same rows."""
    program = """
import sys
import numpy as np
from index.quantiser import fit_quantiser
from index.kinds import KINDS
from index.scan import build_scan

vectors = np.random.default_rng(3).standard_normal((5000, 80)).astype(np.float32)
stage = build_scan(KINDS["scan"], fit_quantiser([vectors], 5000), [vectors])
first = stage.candidates(vectors[:1], 50, None, None)[0]
assert "torch" not in sys.modules
second = stage.candidates(vectors[:1], 50, None, None)[0]
assert "torch" in sys.modules
assert first.tolist() == second.tolist() and len(first) == 50
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)
