"""`medret build-index` with kinds and limits, and `medret info`: what they print, store and refuse."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shard_folders import save_manifest, unit

from encoders.checkpoint import copy_checkpoint, default_checkpoint, read_fingerprint
from index.contract import most_recall_shown
from index.corpora.record import Record
from index.index_manifest import Certificate, IndexEntry
from index.manifest import ModalityShards
from index.shards import ShardRow, ShardWriter, open_shards
from retrieval.index_tables import amount, contract_notes, duration
from retrieval.quantities import parse_seconds

MEDRET = Path(sys.executable).with_name("medret")


def medret(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(MEDRET), *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """4,000 images and 900 reports, of as many patients."""
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    basis = random.standard_normal((10, 256))
    modalities = {}
    for modality, count in (("images", 4000), ("reports", 900)):
        text = None if modality == "images" else "Clear."
        rows = [ShardRow(Record(id=f"{modality}{row}", image=None, patient_id=f"{modality}{row}"), text=text) for row in range(count)]
        vectors = unit(random.standard_normal((count, 10)) @ basis + 0.3 * random.standard_normal((count, 256)))
        writer = ShardWriter(folder, modality, {"joint": 256}, ())
        modalities[modality] = ModalityShards(dimensions=writer.dimensions, shards=(writer.write(0, rows, {"joint": vectors}),))
    save_manifest(folder, modalities, encoder=read_fingerprint(default_checkpoint()))
    copy_checkpoint(default_checkpoint(), folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def built(shards, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("index") / "index"
    return out, medret("build-index", shards, "--out", out, "--kind", "scan", "--recall", 0.98)


def test_a_built_index_tells_its_contract_and_info_repeats_it(built):
    out, done = built
    assert done.returncode == 0, done.stderr

    told = medret("info", out)
    held = json.loads(medret("info", out, "--json").stdout)

    assert [line for line in done.stdout.splitlines() if line.startswith(str(out))] == [
        f"{out}: scan index of 4,000 images by joint vectors (256-d)",
        f"{out}: scan index of 900 reports by joint vectors (256-d)",
    ]
    table = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert set(table) <= set(told.stdout.splitlines())
    assert [line.split()[:3] for line in table[:5]] == [
        ["queries", "k", "target"],
        *([asker, k, "0.98"] for asker in ("image", "text") for k in ("10", "50")),
    ]
    assert "images by joint vectors (256-d): scan, 4,000 rows" in told.stdout
    images, reports = held["indexes"]
    assert (images["rows"], images["removed"], images["exact"], held["recall"], held["generation"]) == (4000, 0, False, 0.98, 1)
    assert images["bytes"] >= 4000 * 64
    assert {(one["asker"], one["k"], one["drawn"]) for one in reports["certificates"]} == {
        ("image", 10, "images"),
        ("image", 50, "images"),
        ("text", 10, "reports"),
        ("text", 50, "reports"),
    }
    for one in images["certificates"]:
        assert one["met"] == (one["low"] >= 0.98)
        assert one["low"] <= one["recall"] <= one["high"]


def test_info_says_what_random_pairs_score(built, shards):
    """As a plain count over all pairs of the archive has it; every patient has one image."""
    out, _ = built
    vectors = open_shards(shards).table("images").blocks("joint")[0]
    every = (vectors[:2000] @ vectors[2000:].T).ravel()

    (image, text, phrase), _ = (entry["scales"] for entry in json.loads(medret("info", out, "--json").stdout)["indexes"])
    told = medret("info", out).stdout

    drawn = [(one["asker"], one["drawn"]) for one in (image, text, phrase)]
    assert drawn == [("image", "images"), ("text", "reports"), ("phrase", "prompts")]
    assert 1_999_000 < image["pairs"] < 2_000_000
    assert (image["mean"], image["deviation"]) == pytest.approx((every.mean(), every.std()), abs=0.01)
    for percent, score in image["below"].items():
        assert score == pytest.approx(np.quantile(every, float(percent) / 100), abs=0.02)
    assert f"{image['below']['99.9']:.3f}" in next(line for line in told.splitlines() if line.startswith("  image") and "pairs" in line)


def test_auto_takes_exact_search_for_a_small_archive_and_says_why(shards, tmp_path):
    done = medret("build-index", shards, "--out", tmp_path / "index")

    assert done.returncode == 0, done.stderr
    assert "note: flat: exact search over 4,000 x 256 vectors is quick anyway" in done.stderr.splitlines()
    assert "exact: every search compares all rows" in medret("info", tmp_path / "index").stdout


def test_a_limit_brings_out_what_every_kind_would_cost(shards, tmp_path):
    done = medret("build-index", shards, "--out", tmp_path / "index", "--latency", "1min", "--memory", "3MiB")

    assert done.returncode == 0, done.stderr
    kinds = [line.split()[0] for line in done.stderr.splitlines() if line.split()[0] in ("kind", "flat", "scan", "hnsw", "ivf-scan")]
    assert kinds == ["kind", "flat", "scan", "ivf-scan", "hnsw"]
    (why,) = [line for line in done.stderr.splitlines() if "the fastest that fits" in line]
    assert not why.startswith("note: flat")  # 4 MB of vectors


@pytest.mark.parametrize(
    ("options", "code", "fault"),
    [
        (["--memory", "much"], 2, "--memory: 'much' is no amount of bytes"),
        (["--latency", "5"], 2, "--latency: '5' is no time"),
        (["--recall", "1.2"], 2, "--recall"),
        (["--kind", "scan", "--recall", "1.0"], 2, "--recall 1: no number of queries"),
        (["--kind", "scan", "--latency", "5ms"], 2, "they go with --kind auto"),
        (["--kind", "sacn"], 1, "index kind 'sacn' is not known"),
    ],
)
def test_limits_that_make_no_sense_are_refused(shards, tmp_path, options, code, fault):
    done = medret("build-index", shards, "--out", tmp_path / "index", *options)

    assert done.returncode == code
    assert fault in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "index").exists()


def test_info_of_what_is_no_index_is_one_line(tmp_path):
    done = medret("info", tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert "is no index" in done.stderr and len(done.stderr.splitlines()) == 1


def certificate(**changes) -> Certificate:
    given = {"asker": "text", "k": 10, "target": 0.99, "recall": 0.99, "low": 0.98, "high": 0.995, "queries": 1000, "drawn": "reports"}
    return Certificate(**{**given, "candidates": 50, "effort": 64, "p50_ms": 0.5, "p99_ms": 0.9, "met": False, **changes})


def test_what_is_not_met_is_said_with_its_cause():
    entry = IndexEntry(
        modality="images",
        vector="joint",
        kind="ivf-scan",
        rows=9,
        dimension=8,
        certificates=(
            certificate(),
            certificate(recall=0.7995, low=0.76, queries=60),
            certificate(recall=1.0, low=0.94, queries=60),
            certificate(met=True),
        ),
    )

    assert most_recall_shown(60) == pytest.approx(60 / (60 + 1.96**2), abs=1e-4)
    assert contract_notes([entry], 0.99) == [
        "3 of 4 measurements do not show a recall of 0.99, and such searches are exact: 2 fell short of it; 1 found all, but 60 queries "
        "cannot show more than 0.940"
    ]
    none = IndexEntry(modality="images", vector="joint", kind="scan", rows=1, dimension=8)
    assert contract_notes([none], 0.99) == ["images by joint: too few records to measure recall with, so every search is exact"]


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("0.5 s", 0.5), ("2MIN", 120), ("300us", 3e-4)])
def test_times_are_read_as_people_write_them(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


def test_times_and_amounts_are_worded_for_people():
    assert [duration(one) for one in (0, 0.00053, 0.041, 4.32, 41, 720, 20_000)] == [
        "0 s", "0.53 ms", "41 ms", "4.3 s", "41 s", "12 min", "5.6 h",
    ]  # fmt: skip
    assert [amount(one) for one in (0, 20_000, 320_000, 82_000_000, 1_240_000_000)] == ["0 MB", "0.1 MB", "0.3 MB", "82 MB", "1.24 GB"]
