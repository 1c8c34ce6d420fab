"""Predictions by hand and against small builds; choices where the machine is a given one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scale import COUNTS, prediction_table
from shard_folders import unit, write_images

from encoders.errors import MedretError
from index.calibration import Calibration, calibrate
from index.cost import check_patience, choose_kind, code_bytes, is_small, predict, resolve_kind
from index.kinds import KINDS, find_kind
from index.shards import open_shards
from index.stages import build_stage

MACHINE = Calibration(
    flat_bytes=25e9,
    code_bytes=25e9,
    list_bytes=10e9,
    float_flops=200e9,
    gather_s=5e-7,
    half_gather_s=1e-6,
    insert_s=2e-5,
    visit_s=4e-7,
    graph_rows=6000,
    memory=24_000_000_000,
)


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


@pytest.mark.parametrize(
    ("rows", "limits", "kind"),
    [
        (50_000, {}, "flat"),  # 4 ms
        (601_000, {}, "ivf-pq"),
        (601_000, {"latency": 0.08}, "flat"),  # 49 ms will do
        (601_000, {"memory": 70e6}, "ivf-pq"),
        (10_000_000, {}, "scan"),  # lists of so many take minutes to make
        (10_000_000, {"latency": 0.020}, "ivf-scan"),  # unless they are asked for
    ],
)
def test_the_kind_follows_from_the_limits(rows, limits, kind):
    choice = choose_kind(rows, 512, MACHINE, 0.99, **limits)

    assert choice.kind == kind
    assert choice.reason.startswith(f"{kind}: ")


def test_a_recall_that_a_thousand_queries_cannot_show_takes_exact_search():
    assert choose_kind(601_000, 512, MACHINE, 0.999).kind == "flat"


def test_what_fits_into_no_memory_is_refused_with_the_least_that_would():
    with pytest.raises(MedretError, match=r"fits into 10 MB: the smallest, ivf-pq, needs 4\d MB"):
        choose_kind(601_000, 512, MACHINE, 0.99, memory=10e6)
    with pytest.raises(MedretError, match="fits into 10 kB: "):
        choose_kind(601_000, 512, MACHINE, 0.99, memory=10e3)


def test_hours_of_building_need_a_yes():
    long = predict("ivf-flat", 100_000_000, 512, MACHINE)

    with pytest.raises(MedretError, match=r"ivf-flat .* hours .*--yes"):
        check_patience(long, yes=False)
    check_patience(long, yes=True)
    check_patience(replace(long, build_s=1800, certify_s=1700), yes=False)


def test_few_vectors_are_searched_exactly_without_measuring_the_machine():
    choice = resolve_kind("auto", 3000, 512, 0.99)

    assert is_small(3000, 512) and not is_small(601_000, 512)
    assert (choice.kind, choice.predictions) == ("flat", ())


def test_an_unknown_kind_is_refused_before_anything_is_measured():
    with pytest.raises(MedretError, match="'flt' is not known"):
        resolve_kind("flt", 3000, 512, 0.99)


def test_the_table_has_a_line_for_each_kind_and_size():
    lines = prediction_table(MACHINE).splitlines()

    assert len(lines) == 2 + len(COUNTS) * len(KINDS)
    assert {line.count("|") for line in lines} == {9}
