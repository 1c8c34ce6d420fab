import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from shard_folders import unit, write_images

import index.vector_index
from encoders.errors import MedretError
from index.index_manifest import Certificate
from index.kinds import KINDS, find_kind
from index.planner import SearchPlan
from index.shards import open_shards
from index.stages import build_stage, load_stage
from index.vector_index import VectorIndex

ROWS, DIMENSION = 4000, 96
STAGED = [name for name, kind in KINDS.items() if not kind.exact]


def clustered(rows, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(40, DIMENSION))
    return unit(centres[random.integers(0, 40, rows)] + 0.5 * random.normal(size=(rows, DIMENSION)) + 1)


def table_of(vectors, cuts=(), dtype="float32"):
    folder = Path(tempfile.mkdtemp(prefix="medret-test-"))
    try:
        ids = [f"{number:05d}" for number in np.random.default_rng(7).permutation(len(vectors))]
        return open_shards(write_images(folder / "shards", vectors, ids, cuts, dtype)).table("images")
    finally:
        shutil.rmtree(folder)  # the mapping outlives the names


QUERIES = clustered(30, 2)


@pytest.fixture(scope="module")
def table():
    return table_of(clustered(ROWS, 1), (1000, 1000, 2777))


@pytest.fixture(scope="module")
def stages(table):
    return {name: build_stage(find_kind(name), table, "joint") for name in STAGED}


def through(stage, candidates=60, rows=ROWS):
    """The plan to go through a stage at its top effort."""
    return SearchPlan(
        how="approximate", kind=stage.kind.name, candidates=candidates, effort=stage.efforts()[-1], allowed_rows=rows, rows=rows, reason=""
    )


def assert_same(found, expected):
    for (rows, scores), (other_rows, other_scores) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, other_rows)
        np.testing.assert_array_equal(scores, other_scores)
        assert rows.dtype == np.int64 and scores.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", STAGED)
def test_every_kind_finds_what_an_exact_search_finds_with_the_same_scores(name, dtype, table, stages):
    if dtype == "float16":
        table = table_of(clustered(ROWS, 1), (1000, 2777), dtype)
    stage = stages[name] if dtype == "float32" else build_stage(find_kind(name), table, "joint")
    index = VectorIndex(table, "joint", stage)
    plan = through(stage, {"ivf-rabitq": 400, "ivf-pq": 120}.get(name, 60))

    expected = VectorIndex(table, "joint").search(QUERIES, 10)

    assert_same(index.search(QUERIES, 10, plan=plan), expected)
    assert_same([index.search(query[None], 10, plan=plan)[0] for query in QUERIES], expected)


@pytest.mark.parametrize("name", STAGED)
def test_what_is_not_allowed_excluded_or_removed_is_never_found(name, table, stages):
    random = np.random.default_rng(3)
    nearest = [rows for rows, _ in VectorIndex(table, "joint").search(QUERIES, 40)]
    excluded = [rows[::2] if place % 3 else np.zeros(0, np.int64) for place, rows in enumerate(nearest)]
    index = VectorIndex(table, "joint", stages[name])
    for share in (0.0, 0.001, 0.5):
        allowed = random.random(ROWS) < share
        found = index.search(QUERIES, 10, allowed=allowed, excluded=excluded, plan=through(stages[name], 200))
        for (rows, _), own in zip(found, excluded, strict=True):
            assert allowed[rows].all() and not np.isin(rows, own).any()
            assert len(rows) == min(10, int(allowed.sum()) - int(allowed[own].sum()))


def test_a_query_that_leaves_out_more_than_candidates_can_make_up_for_is_answered_exactly(table, stages):
    index = VectorIndex(table, "joint", stages["scan"])
    excluded = [rows for rows, _ in index.exact.search(QUERIES, 300)]

    found = index.search(QUERIES, 10, excluded=excluded, plan=through(stages["scan"], 15))

    assert_same(found, index.exact.search(QUERIES, 10, excluded=excluded))


def test_a_first_stage_that_finds_too_few_is_made_up_for(table, stages):
    """One list of 64 holds about 60 rows of 4,000: too few for k."""
    index = VectorIndex(table, "joint", stages["ivf-scan"])
    plan = SearchPlan(how="approximate", kind="ivf-scan", candidates=300, effort=1, allowed_rows=ROWS, rows=ROWS, reason="")

    assert_same(index.search(QUERIES, 300, plan=plan), index.exact.search(QUERIES, 300))


def test_a_batch_cut_into_parts_is_answered_as_a_whole(table, stages, monkeypatch):
    searched = VectorIndex(table, "joint", stages["scan"])
    own = [np.arange(number) for number in range(len(QUERIES))]
    whole = searched.search(QUERIES, 10, excluded=own, plan=through(searched.stage))

    monkeypatch.setattr(index.exact, "_CANDIDATES_AT_ONCE", 60 * 7)

    assert_same(searched.search(QUERIES, 10, excluded=own, plan=through(searched.stage)), whole)


def test_without_a_certificate_no_search_is_approximate(table, stages):
    index = VectorIndex(table, "joint", stages["ivf-scan"])

    assert index.plan(10, asker="image").how == "exact"
    assert_same(index.search(QUERIES, 10), index.exact.search(QUERIES, 10))


def test_a_search_runs_with_the_settings_that_its_certificate_names(stages):
    shared = {"target": 0.99, "recall": 1.0, "low": 1.0, "high": 1.0, "queries": 9, "drawn": "", "p50_ms": 1.0, "p99_ms": 1.0, "met": True}
    certificate = Certificate(asker="image", k=10, candidates=33, effort=None, **shared)
    large = table_of(clustered(30_000, 1))
    stage = build_stage(find_kind("scan"), large, "joint")
    index = VectorIndex(large, "joint", stage, [certificate])

    plan = index.plan(10, asker="image")

    assert (plan.how, plan.candidates, plan.effort) == ("approximate", 33, None)
    assert index.plan(10, asker="text").how == "exact"
    assert index.plan(11, asker="image").how == "exact"
    assert_same(index.search(QUERIES, 10), index.exact.search(QUERIES, 10))


@pytest.mark.parametrize("name", STAGED)
def test_identical_films_are_ordered_by_id(name):
    """Forty copies of each film: their scores are the same to the last bit, and ids decide."""
    table = table_of(np.repeat(clustered(25, 1), 40, axis=0))
    stage = build_stage(find_kind(name), table, "joint")
    index = VectorIndex(table, "joint", stage)

    found = index.search(QUERIES, 40, plan=through(stage, 1000, 1000))

    assert_same(found, index.exact.search(QUERIES, 40))
    for rows, scores in found:
        assert len(set(scores.tolist())) == 1
        assert table.ids(rows) == sorted(table.ids(rows))


@pytest.mark.parametrize("damage", [np.nan, 30.0])
def test_a_damaged_vector_is_not_served(damage, tmp_path):
    vectors = clustered(300, 1)
    path = write_images(tmp_path, vectors, [str(number) for number in range(300)]) / "images-00000.arrow"
    stage = build_stage(find_kind("scan"), open_shards(tmp_path).table("images"), "joint")
    content = path.read_bytes()
    at = content.index(vectors[7].tobytes())
    path.write_bytes(content[:at] + np.float32(damage).tobytes() + content[at + 4 :])
    index = VectorIndex(open_shards(tmp_path).table("images"), "joint", stage)

    with pytest.raises(MedretError, match=r"row 7 of the images has norm .*medret verify"):
        index.search(vectors[7:8], 5, plan=through(stage, 50, 300))


@pytest.mark.parametrize("name", [*STAGED, "IVF16,SQ8", "Flat"])
def test_a_stage_is_loaded_as_it_was_saved(name, table, stages, tmp_path):
    stage = stages.get(name) or build_stage(find_kind(name), table, "joint")
    files = [f"g00001/{file}" for file in stage.save(tmp_path_of(tmp_path), "images-joint")]

    loaded = load_stage(find_kind(name), tmp_path, files, table, "joint")
    loaded.read_ahead()

    plan = through(stage)
    assert_same(
        VectorIndex(table, "joint", loaded).search(QUERIES, 10, plan=plan),
        VectorIndex(table, "joint", stage).search(QUERIES, 10, plan=plan),
    )
    with pytest.raises(MedretError, match=rf"lacks a file .* medret compact --rebuild --index {tmp_path.parent}$"):
        load_stage(find_kind(name), tmp_path, files[:-1], table, "joint")


def tmp_path_of(folder):
    (folder / "g00001").mkdir()
    return folder / "g00001"


def test_a_stage_of_other_rows_is_refused(table, stages):
    with pytest.raises(MedretError, match="holds 4000 rows, its shards 10"):
        VectorIndex(table_of(clustered(10, 1)), "joint", stages["scan"])


def test_the_exact_kind_has_no_stage(table):
    assert build_stage(find_kind("flat"), table, "joint") is None


def test_a_wrong_call_is_refused(table, stages):
    index = VectorIndex(table, "joint", stages["scan"])
    with pytest.raises(ValueError, match="NaN"):
        index.search(np.full((1, DIMENSION), np.nan, np.float32), 5)
    assert index.search(np.zeros((0, DIMENSION), np.float32), 5, plan=through(stages["scan"])) == []
