"""The measuring scripts: as they are run, on small archives; their truth and their archives against plain ways."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from archive_vectors import geometry, make_archive
from clock import cached_share, forget, in_turns, resident
from contenders import Contender, Setting, Truth, find_truth
from drawn_vectors import ClipLike, Tiled, unit
from peers import autofaiss_choice, usual_lists
from results_file import Results
from search import choose, verdict

from index.shards import open_shards

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def archive(work):
    return make_archive(work, "clip", 3000, block=1024, queries=50)


def test_an_archive_holds_what_was_asked_for_across_a_gap(archive):
    shards = open_shards(archive.shards, verify=True)
    measured = geometry(archive)

    assert (shards.table("images").rows, shards.table("reports").rows) == (3000, 2000)
    np.testing.assert_array_equal(archive.vectors()[1024:2048], ClipLike().images(1024, 1))  # block 1, drawn alone
    assert measured["nearest image of an image"] > 0.7 > 0.5 > measured["nearest image of a text"] > 0.3
    assert measured["variance in k directions"]["128"] == pytest.approx(0.96, abs=0.01)


def test_tiling_keeps_the_distance_between_neighbours():
    rng = np.random.default_rng(0)
    spread = np.arange(1, 33) ** -0.7
    films = unit((rng.standard_normal((600, 32)) * spread).astype(np.float32))
    products = films @ films.T
    np.fill_diagonal(products, -1)

    tiled = Tiled(films, 6000).images(6000, 0)
    near = tiled[:500] @ tiled.T
    near[np.arange(500), np.arange(500)] = -1

    assert np.median(near.max(axis=1)) == pytest.approx(np.median(products.max(axis=1)), abs=0.005)
    assert np.median((films[:100] @ tiled.T).max(axis=1)) > np.median(products.max(axis=1))  # films are still among their likes


def test_truth_is_a_full_sort_and_recall_counts_ties_but_no_row_twice(archive):
    vectors, queries = archive.vectors(), archive.queries["text"][:8]
    allowed = np.arange(3000) % 7 == 0
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    products[:, ~allowed] = -np.inf

    truth = find_truth(vectors, queries, allowed)

    np.testing.assert_array_equal(truth.rows, np.argsort(-products, axis=1)[:, :10])
    assert truth.recall(truth.rows, queries, vectors) == 1
    half = truth.rows.copy()
    half[:, 5:] = half[:, :5]
    assert truth.recall(half, queries, vectors) == 0.5
    half[:, 5:] = -1
    assert truth.recall(half, queries, vectors) == 0.5
    doubled = np.concatenate([vectors, vectors])
    assert truth.recall(truth.rows + len(vectors), queries, doubled) == 1  # other rows, equally near


def test_the_fastest_setting_that_reaches_the_recall_is_chosen():
    class Ladder(Contender):
        """Answers `right` of ten rows; the name of a setting is the row that it waits at."""

        def ladder(self, asker):
            return [[Setting("a", {"right": 5}), Setting("b", {"right": 8})], [Setting("c", {"right": 9}), Setting("d", {"right": 10})]]

        def search(self, queries, setting, threads):
            return np.tile(np.where(np.arange(10) < setting.values["right"], np.arange(10), -1), (len(queries), 1))

    vectors = np.eye(16, dtype=np.float32)
    queries = np.repeat(np.linspace(1, 0.1, 10, dtype=np.float32)[None], 3, axis=0) @ vectors[:10]
    truth = find_truth(vectors, queries)

    assert choose(Ladder(), "image", queries, vectors, truth)[0].words == "d"
    assert choose(Ladder(), "image", queries, vectors, truth, 0.8)[0].words in ("b", "c")
    short = Truth(np.full((3, 10), 15), np.full((3, 10), 2.0))  # what nobody finds
    assert choose(Ladder(), "image", queries, vectors, short)[1] == 0


def test_peers_are_also_compared_where_they_find_as_much():
    def one(recall, p50, ours, **more):
        asked = {"recall": recall, "p50": p50, "rates": {"1": 1.0}}
        return {"build": 9.0, "medret": ours, "askers": {"image": {**asked, **more}}}

    same = {"setting": "nprobe 128", "recall": 0.996, "p50": 0.003}
    found = {"medret x": one(0.995, 0.002, True), "a": one(0.991, 0.001, False, same=same)}

    said = verdict(found, "image")

    assert "latency: medret x is 0.50 × as fast as a" in said
    assert "as medret x (0.9950), a takes 3.00 ms (nprobe 128; 0.9960): medret x is 1.50 × as fast" in said
    found["a"]["askers"]["image"]["same"] = {**same, "recall": 0.9949}
    assert "None of them finds as much as medret x does (0.9950)." in verdict(found, "image")


def test_figures_are_kept_and_those_of_something_else_refused(tmp_path):
    path = tmp_path / "figures.json"
    Results(path, {"rows": 1}).measure("one", lambda: {"value": 1})

    assert Results(path, {"rows": 1}).measure("one", lambda: pytest.fail("measured again"))["value"] == 1
    assert Results(path, {"rows": 1}, again=True).measure("one", lambda: {"value": 2})["value"] == 2
    with pytest.raises(SystemExit, match="Name another --json"):
        Results(path, {"rows": 2})


def test_files_are_dropped_from_the_page_cache(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))

    assert cached_share(path) == 1
    forget([path])
    assert cached_share(path) == 0


def test_calls_take_turns_and_slow_ones_are_not_repeated():
    order = []
    times = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert (order, [len(taken) for taken in times.values()]) == (list("ababab"), [2, 2])
    assert [len(taken) for taken in in_turns({"a": lambda: None}, rounds=5, patience=-1).values()] == [1]
    assert resident()["all"] >= resident()["anonymous"] > 0


def test_peers_are_set_up_as_they_are_by_default():
    assert autofaiss_choice(601_000, 512, 16 << 30) == "HNSW32"
    assert autofaiss_choice(601_000, 512, 1 << 30) == "IVF4096,Flat"
    assert usual_lists(601_000) == 1024


def test_the_script_prints_its_tables(work):
    make_archive(work, "clip", 3000, queries=200)
    command = [sys.executable, str(BENCHMARKS / "search.py"), str(work), "--rows", "3000", "--quick", "--contenders", "SQ8"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    figures = json.loads((work / "search-clip-3000.json").read_text())["sections"]
    assert figures["exact"]["recall"]["medret flat"]["image"]["recall"] == 1
    assert "| medret scan |" in done.stdout and "#### text queries, recall@10" in done.stdout
    assert set(figures) == {"exact", "approximate: faiss IVF,SQ8"}
    assert figures["approximate: faiss IVF,SQ8"]["askers"]["text"]["recall"] >= 0.99
