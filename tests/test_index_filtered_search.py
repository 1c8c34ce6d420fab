"""Filters keep the promise: what is found among allowed rows is exact, or meets the recall that was certified without a filter."""

import numpy as np
import pytest
from shard_folders import unit, write_images

from index.askers import Sample
from index.contract import certify
from index.kinds import find_kind
from index.shards import open_shards
from index.stages import build_stage
from index.vector_index import VectorIndex

ROWS, DIMENSION, K, QUERIES = 16_000, 64, 10, 16
TUNE, HELD = 100, 300
SHARES = (0.95, 0.5, 0.1, 0.01, 0.001)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Clusters with a falling spectrum, queries of their kind, and queries that lie apart, as texts do."""
    draw = np.random.default_rng(5)
    asked = TUNE + HELD + QUERIES
    spread = np.linspace(1, 0.2, DIMENSION)
    centres = draw.normal(size=(400, DIMENSION)) * spread
    chosen = draw.integers(0, 400, ROWS + asked)
    vectors = unit(centres[chosen] + 0.8 * draw.normal(size=(len(chosen), DIMENSION)) * spread + 0.6 * spread)
    apart = unit(vectors[ROWS:] * 0.5 + unit(draw.normal(size=(1, DIMENSION))) + 0.2 * draw.normal(size=(asked, DIMENSION)) * spread)
    folder = tmp_path_factory.mktemp("archive")
    stored = write_images(folder / "shards", vectors[:ROWS], [f"{row:06d}" for row in range(ROWS)], cuts=(6_000, 11_500))
    return open_shards(stored).table("images"), vectors[:ROWS], {"image": vectors[ROWS:], "text": apart}


@pytest.fixture(scope="module")
def queries(archive):
    return {asker: vectors[TUNE + HELD :] for asker, vectors in archive[2].items()}


@pytest.fixture(scope="module", params=["scan", "ivf-scan", "ivf-pq", "ivf-flat", "ivf-rabitq", "hnsw"])
def searched(request, archive):
    table, _, asked = archive
    stage = build_stage(find_kind(request.param), table, "joint")
    nothing = [np.empty(0, np.int64)] * HELD
    samples = {
        asker: Sample(tune=vectors[:TUNE], held=vectors[TUNE : TUNE + HELD], tune_own=nothing[:TUNE], held_own=nothing, drawn="images")
        for asker, vectors in asked.items()
    }
    return VectorIndex(table, "joint", stage, certify(VectorIndex(table, "joint", stage), samples, 0.98, ks=(K,)))


def found_by_numpy(vectors, query, allowed):
    rows = np.flatnonzero(allowed)
    return rows[np.argsort(-(vectors[rows] @ query), kind="stable")[:K]]


def mask(name, vectors, query, share, draw):
    """The rows to allow: any; the half of space, or less, that is far from the query; all but the query's best rows."""
    if name == "random":
        return draw.random(len(vectors)) < share
    if name == "far":
        mean, direction = vectors.mean(axis=0), np.linalg.eigh(np.cov(vectors[::100], rowvar=False))[1][:, -1]
        values = (vectors @ direction - mean @ direction) * np.sign((query - mean) @ direction)
    elif name == "other findings":
        scores = vectors @ query
        values = scores + draw.normal(size=len(scores)) * scores.std()
    else:
        values = vectors @ query
    return values <= np.quantile(values, share)


def test_every_kind_meets_the_contract_here_without_a_filter(searched):
    assert [(one.asker, one.met) for one in searched.certificates] == [("image", True), ("text", True)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", ["random", "far", "other findings", "not the best"])
def test_a_filtered_search_is_exact_or_meets_the_contract(searched, archive, queries, name, share):
    vectors = archive[1]
    draw = np.random.default_rng(1)
    for asker in ("image", "text"):
        recalls, ways = [], set()
        for query in queries[asker]:
            allowed = mask(name, vectors, query, share, draw)
            ways.add(searched.plan(K, asker=asker, allowed_rows=int(allowed.sum())).how)
            rows, scores = searched.search(query[None], K, asker=asker, allowed=allowed)[0]
            expected = found_by_numpy(vectors, query, allowed)
            assert allowed[rows].all()
            assert len(rows) == len(expected)
            np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)
            recalls.append(len(np.intersect1d(rows, expected)) / max(len(expected), 1))
        assert np.mean(recalls) >= (1 if ways == {"exact"} else 0.98)


def test_a_batch_finds_within_a_filter_what_its_queries_find_alone(searched, archive, queries):
    vectors = archive[1]
    allowed = np.random.default_rng(2).random(len(vectors)) < 0.5
    excluded = [np.arange(place, place + 40) for place in range(QUERIES)]

    together = searched.search(queries["image"], K, allowed=allowed, excluded=excluded)

    for place, (rows, scores) in enumerate(together):
        alone_rows, alone_scores = searched.search(queries["image"][[place]], K, allowed=allowed, excluded=excluded[place : place + 1])[0]
        assert rows.tolist() == alone_rows.tolist()
        np.testing.assert_array_equal(scores, alone_scores)
        assert not np.isin(rows, excluded[place]).any()


def test_the_checks_are_what_keeps_the_promise(archive, queries):
    """Without them, the same settings lose most of what is left when the query's best half is not allowed."""
    table, vectors, _ = archive
    stage = build_stage(find_kind("scan"), table, "joint")
    recalls = []
    for query in queries["text"]:
        allowed = mask("not the best", vectors, query, 0.5, None)
        proposed = stage.candidates(query[None], 15, None, allowed)[0]
        recalls.append(len(np.intersect1d(proposed, found_by_numpy(vectors, query, allowed))) / K)
    assert np.mean(recalls) < 0.9


def test_removed_rows_are_gone_at_once(searched, archive, queries):
    vectors = archive[1]
    nearest = searched.search(queries["image"], K)
    gone = np.unique(np.concatenate([rows[:5] for rows, _ in nearest]))
    live = np.ones(len(vectors), bool)
    live[gone] = False
    searched.table.live = live
    try:
        left = VectorIndex(searched.table, "joint", searched.stage, searched.certificates)
        plan, found = left.plan(K, asker="image"), left.search(queries["image"], K)
    finally:
        searched.table.live = None

    assert (plan.how, plan.allowed_rows, plan.checked) == ("approximate", len(vectors) - len(gone), False)
    recalls = [
        len(np.intersect1d(rows, found_by_numpy(vectors, query, live))) / K
        for (rows, _), query in zip(found, queries["image"], strict=True)
    ]
    assert not np.isin(np.concatenate([rows for rows, _ in found]), gone).any()
    assert np.mean(recalls) >= 0.98
