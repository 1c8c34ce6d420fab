"""Predictions by hand and against small builds."""

import itertools

import numpy as np
import pytest
from given_machine import MACHINE
from scale import COUNTS, prediction_table
from shard_folders import unit, write_images

from index.calibration import calibrate
from index.cost import code_bytes, predict
from index.kinds import KINDS, find_kind
from index.shards import open_shards
from index.stages import build_stage


def test_exact_search_reads_every_vector_once():
    flat = predict("flat", 601_000, 512, MACHINE)

    assert flat.latency_s == pytest.approx(601_000 * 512 * 4 / 25e9, abs=2e-4)
    assert (flat.build_s, flat.disk_bytes, flat.memory_bytes) == (0, 0, 0)
    assert flat.mapped_bytes == 601_000 * 2048


def test_a_scan_reads_a_quarter_of_the_dimensions_in_bytes():
    scan = predict("scan", 601_000, 512, MACHINE, candidates=50)

    assert scan.mapped_bytes == scan.disk_bytes == 601_000 * 128
    assert scan.latency_s == pytest.approx(601_000 * 128 / 25e9 + 50 * 5e-7, abs=2e-4)


def test_fetched_rows_cost_what_their_dtype_and_length_say():
    few, many = (predict("ivf-pq", 601_000, 768, MACHINE, candidates=count, half=True).latency_s for count in (50, 550))

    assert many - few == pytest.approx(500 * 1e-6 * 768 / 512)


@pytest.mark.parametrize("kind", KINDS)
def test_more_vectors_never_cost_less(kind):
    every = [predict(kind, rows, 512, MACHINE) for rows in (1_000, 20_000, 601_000, 10_000_000, 100_000_000)]

    for fewer, more in itertools.pairwise(every):
        for cost in ("build_s", "certify_s", "memory_bytes", "mapped_bytes", "disk_bytes", "latency_s"):
            assert getattr(fewer, cost) <= getattr(more, cost), cost


@pytest.mark.parametrize(("factory", "size"), [("Flat", 256), ("IVF64,SQ8", 64), ("IVF64,PQ16x4fs", 8), ("PQ32", 32), ("SQfp16", 128)])
def test_the_code_of_a_factory_string_has_as_many_bytes_as_faiss_says(factory, size):
    assert code_bytes(factory, 64) == size


@pytest.mark.parametrize("kind", ["scan", "ivf-scan", "ivf-pq", "ivf-rabitq", "hnsw"])
def test_a_small_build_takes_about_the_bytes_predicted(tmp_path, kind):
    random = np.random.default_rng(0)
    rows = 20_000
    vectors = unit(random.standard_normal((rows, 12)) @ random.standard_normal((12, 256)) + 0.1 * random.standard_normal((rows, 256)))
    table = open_shards(write_images(tmp_path, vectors, [str(row) for row in range(rows)])).table("images")

    stage = build_stage(find_kind(kind), table, "joint")
    (tmp_path / "stage").mkdir()
    size = sum((tmp_path / "stage" / name).stat().st_size for name in stage.save(tmp_path / "stage", "x"))
    predicted = predict(kind, rows, 256, calibrate())

    assert size == pytest.approx(predicted.disk_bytes, rel=0.5)


def test_the_machine_is_measured_within_plausible_bounds():
    measured = calibrate()

    assert 0.5e9 < measured.flat_bytes < 1e12
    assert 0.5e9 < measured.code_bytes < 1e12
    assert 1e9 < measured.float_flops < 1e14
    assert 1e-8 < measured.gather_s < 1e-4
    assert 1e-8 < measured.half_gather_s < 1e-4


def test_the_table_has_a_line_for_each_kind_and_size():
    lines = prediction_table(MACHINE).splitlines()

    assert len(lines) == 2 + len(COUNTS) * len(KINDS)
    assert {line.count("|") for line in lines} == {9}
