"""Search on a GPU finds what search on the CPU finds. The tests marked gpu need one, and a FAISS that can use it."""

from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from shard_folders import unit, write_images

from encoders.errors import MedretError
from index.askers import Sample
from index.contract import certify
from index.gpu import Gpu, GpuExact, build_cagra, move_to_gpu
from index.index_manifest import Certificate
from index.kinds import find_kind
from index.late_stage import LateStage
from index.shards import open_shards
from index.stages import build_stage
from index.vector_index import VectorIndex

ROWS, DIMENSION = 6000, 64
GPUS = faiss.get_num_gpus() if hasattr(faiss, "GpuIndexFlatIP") else 0
no_gpu = pytest.mark.skipif(GPUS == 0, reason="FAISS sees no GPU")


class CpuNames(SimpleNamespace):
    """FAISS's CPU classes under the names of its GPU ones: the way through index.gpu without a GPU."""

    def __init__(self, room=True):
        def flat(resources, dimension, config):
            if not room:
                raise RuntimeError("Error in alloc: cudaMalloc error out of memory [2]")
            return faiss.IndexFlatIP(dimension)

        super().__init__(
            METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
            SearchParametersIVF=faiss.SearchParametersIVF,
            GpuIndexFlatConfig=SimpleNamespace,
            GpuIndexFlatIP=flat,
            StandardGpuResources=lambda: None,
            get_num_gpus=lambda: 1,
            knn_gpu=lambda resources, queries, block, k, metric, device: faiss.knn(queries, block, k, metric=metric),
            index_cpu_to_gpu=lambda resources, device, searcher: searcher,
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(40, DIMENSION))
    vectors = unit(centres[draw.integers(0, 40, ROWS)] + draw.normal(size=(ROWS, DIMENSION)))
    vectors[100:120] = vectors[100]  # ties
    folder = tmp_path_factory.mktemp("gpu")
    return open_shards(write_images(folder / "shards", vectors, [f"{row:05d}" for row in range(ROWS)], cuts=(2500,))).table("images")


@pytest.fixture(params=["held", "block by block", pytest.param("a GPU", marks=[pytest.mark.gpu, no_gpu])])
def gpu(request, monkeypatch):
    if request.param != "a GPU":
        monkeypatch.setattr("index.gpu.load_faiss", lambda: CpuNames(room=request.param == "held"))
    return Gpu("cuda")


def queries_of(table):
    return table.vectors("joint", np.arange(0, ROWS, 300))


def same(found, expected):
    for (rows, scores), (other_rows, other_scores) in zip(found, expected, strict=True):
        assert rows.tolist() == other_rows.tolist()
        np.testing.assert_array_equal(scores, other_scores)


@pytest.mark.parametrize("k", [1, 10, 2500])
def test_exact_search_on_a_gpu_is_that_of_the_cpu_filtered_or_not(table, gpu, k):
    host, queries = VectorIndex(table, "joint"), queries_of(table)
    allowed = np.random.default_rng(1).random(ROWS) < 0.3
    excluded = [np.arange(row, row + 5) for row in range(0, ROWS, 300)]

    moved = move_to_gpu(host, gpu)

    assert isinstance(moved.exact, GpuExact)
    same(moved.search(queries, k), host.search(queries, k))
    same(moved.search(queries, k, allowed=allowed, excluded=excluded), host.search(queries, k, allowed=allowed, excluded=excluded))


def test_removed_rows_are_not_on_the_gpu(table, gpu):
    live = np.random.default_rng(2).random(ROWS) < 0.9
    queries = queries_of(table)
    table.live = live
    try:
        host = VectorIndex(table, "joint")
        moved = move_to_gpu(host, gpu)
        found, expected = moved.search(queries, 10), host.search(queries, 10)
    finally:
        table.live = None

    same(found, expected)
    assert live[np.concatenate([rows for rows, _ in found])].all()


def certified(effort):
    return [
        Certificate(
            asker="image",
            k=10,
            target=0.9,
            recall=0.95,
            low=0.9,
            high=1.0,
            queries=99,
            drawn="images",
            candidates=60,
            effort=effort,
            p50_ms=1.0,
            p99_ms=1.0,
            met=True,
        )
    ]


@pytest.mark.parametrize("kind", ["ivf-scan", "ivf-flat"])
def test_inverted_lists_on_a_gpu_find_what_they_find_on_the_cpu(table, gpu, kind):
    queries = queries_of(table)
    host = VectorIndex(table, "joint", build_stage(find_kind(kind), table, "joint"), certified(2))

    moved = move_to_gpu(host, gpu)

    assert moved.plan(10, asker="image").reason == host.plan(10, asker="image").reason
    assert host.plan(10, asker="image").how == "approximate"
    same(moved.search(queries, 10), host.search(queries, 10))
    allowed = np.random.default_rng(1).random(ROWS) < 0.5
    same(moved.search(queries, 10, allowed=allowed), host.search(queries, 10, allowed=allowed))


def test_lists_that_were_not_opened_yet_are_moved_too(table, gpu):
    kind = find_kind("ivf-flat")
    late = LateStage(kind, ROWS, lambda: build_stage(kind, table, "joint"))

    moved = move_to_gpu(VectorIndex(table, "joint", late, certified(2)), gpu)

    assert moved.plan(10, asker="image").how == "approximate"


@pytest.mark.parametrize("kind", ["scan", "hnsw", "ivf-rabitq"])
def test_a_kind_without_gpu_code_is_searched_exactly_there(table, gpu, kind):
    host = VectorIndex(table, "joint", build_stage(find_kind(kind), table, "joint"), certified(64))

    moved = move_to_gpu(host, gpu)

    assert moved.plan(10, asker="image").reason == f"exact over all {ROWS:,} rows"
    same(moved.search(queries_of(table), 10), VectorIndex(table, "joint").search(queries_of(table), 10))


@pytest.mark.skipif(GPUS > 0, reason="FAISS sees a GPU")
def test_a_faiss_without_gpu_code_says_what_to_install():
    with pytest.raises(MedretError, match=r"--device cuda: faiss-cpu cannot use a GPU.*medret\[gpu\].*--device cpu"):
        Gpu("cuda")


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("index.gpu.load_faiss", CpuNames)

    with pytest.raises(MedretError, match=r"--device cuda:3: .* sees 1 GPUs"):
        Gpu("cuda:3")


def test_a_graph_without_cuvs_says_what_to_install(table, monkeypatch):
    monkeypatch.setattr("index.gpu.load_faiss", CpuNames)

    with pytest.raises(MedretError, match=r"CAGRA needs FAISS with cuVS.*medret\[gpu-cuvs\]"):
        build_cagra(table, "joint", Gpu())


@pytest.mark.gpu
@pytest.mark.skipif(GPUS == 0 or not hasattr(faiss, "GpuIndexCagra"), reason="no GPU, or FAISS without cuVS")
def test_a_cagra_graph_is_certified_and_meets_its_certificate(table):
    stage = build_cagra(table, "joint", Gpu())
    draw, nothing = np.random.default_rng(4), [np.empty(0, np.int64)] * 200
    queries = unit(table.vectors("joint", draw.integers(0, ROWS, 300)) + 0.05 * draw.normal(size=(300, DIMENSION)))
    sample = Sample(tune=queries[:100], held=queries[100:], tune_own=nothing[:100], held_own=nothing, drawn="images")

    certificates = certify(VectorIndex(table, "joint", stage), {"image": sample}, 0.95, ks=(10,))

    assert [one.met for one in certificates] == [True]
