"""The first query of a process: the same answers without torch, transformers and FAISS, or by torch, saying why."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_folders import write_images

from encoders.checkpoint import load_checkpoint, save_checkpoint
from encoders.dual import build_encoder
from encoders.export import Export, try_texts
from encoders.plain_text import PlainText
from index.compact import compact_index
from index.corpora.readers import open_corpus
from index.encode import encode_corpus
from index.exact import ExactSearch
from index.folder import build_index, open_index
from index.index_manifest import load_index_manifest
from index.shards import open_shards
from index.verify import verify_index
from retrieval.engine import Query, SearchEngine

MEDRET = str(Path(sys.executable).with_name("medret"))
WORDS = ("edema", "fracture", "effusion", "normal", "heart", "left", "right", "lung")
HEAVY = ("torch", "transformers", "faiss")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Reports of 300 studies in a table and a tiny random encoder, as an index of every way to search."""
    home = tmp_path_factory.mktemp("cold")
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 6)) for _ in range(300)]
    (home / "table.csv").write_text("id,text,study\n" + "".join(f"r{n},{text},s{n}\n" for n, text in enumerate(texts)))
    encoder = build_encoder(texts=texts, size=32, dimension=64, max_tokens=24).eval()
    save_checkpoint(encoder, home / "encoder")
    encode_corpus(open_corpus(home / "table.csv"), encoder, home / "shards")
    for kind in ("flat", "scan", "ivf-flat"):
        build_index(home / "shards", home / kind, home / "encoder", kind)
    return home


def asked_alone(*arguments):
    """Run a command in a new process; return its hits, what it said, and which heavy libraries it loaded, with BLAS's threads."""
    threads = "__import__('threadpoolctl').threadpool_info()"
    said = f"print([name for name in {HEAVY} if name in sys.modules], max(one['num_threads'] for one in {threads}), file=sys.stderr)"
    program = f"import sys; from retrieval.cli import main\ntry: main()\nfinally: {said}"
    own = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True, env=own)
    *said, loaded = done.stderr.splitlines()
    return json.loads(done.stdout), said, loaded


@pytest.mark.parametrize("kind", ["flat", "scan", "ivf-flat"])
def test_the_first_text_query_of_a_process_needs_none_of_the_heavy_libraries(home, kind):
    expected = SearchEngine.load(home / kind, device="cpu").search(Query(text="left lung effusion", find="reports", k=7))

    hits, said, loaded = asked_alone(
        "query", "--text", "left lung effusion", "--find", "reports", "-k", 7, "--index", home / kind, "--format", "json", "--verbose"
    )

    assert loaded == "[] 1"  # and one thread of BLAS: two wait for each other where the machine is busy
    assert any("texts encoded in NumPy, without torch" in line for line in said)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected.hits]
    np.testing.assert_allclose([hit["score"] for hit in hits], [hit.score for hit in expected.hits], atol=1e-5)


def write_film(path):
    """Write a grey JPEG that is decoded at a lower resolution."""
    down, right = np.mgrid[:300, :200]
    Image.fromarray((down // 3 + right // 2).astype(np.uint8)).save(path)
    return path


def test_the_first_image_query_of_a_process_needs_none_of_the_heavy_libraries(home, tmp_path):
    film = write_film(tmp_path / "film.jpg")
    expected = SearchEngine.load(home / "flat", device="cpu").search(Query(image=film, find="reports", k=7))  # by torch

    hits, said, loaded = asked_alone(
        *("query", "--image", film, "--find", "reports", "-k", 7, "--no-best-sentence"),
        *("--index", home / "flat", "--format", "json", "--verbose"),
    )

    assert loaded == "[] 1"
    assert any("1 films encoded in NumPy, without torch" in line for line in said)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected.hits]
    np.testing.assert_allclose([hit["score"] for hit in hits], [hit.score for hit in expected.hits], atol=1e-5)


def test_an_index_of_before_its_encoder_was_tried_without_torch_opens(home, tmp_path):
    build_index(home / "shards", tmp_path / "index", home / "encoder")
    older = json.loads((tmp_path / "index" / "index.json").read_text())
    del older["text_encoder"], older["image_encoder"], older["sha256"]
    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()
    (tmp_path / "index" / "index.json").write_text(json.dumps({**older, "sha256": digest}))

    opened = open_index(tmp_path / "index", verify=True)

    assert (opened.manifest.text_encoder, opened.manifest.image_encoder) == (None, None)


@pytest.mark.parametrize(
    ("half", "tried", "why"),
    [
        ("image", None, "the index was built before its image encoder was tried without torch"),
        ("text", Export(way="torch", reason="activation mish"), "activation mish"),
    ],
)
def test_an_encoder_that_is_not_known_to_agree_runs_by_torch_and_says_why(home, tmp_path, half, tried, why):
    build_index(home / "shards", tmp_path / "index", home / "encoder")
    replace(load_index_manifest(tmp_path / "index"), **{f"{half}_encoder": tried}).save(tmp_path / "index")
    asked = ("--text", "edema") if half == "text" else ("--image", write_film(tmp_path / "film.jpg"))

    _, said, loaded = asked_alone(
        *("query", *asked, "--find", "reports", "--no-best-sentence"),
        *("--index", tmp_path / "index", "--format", "json", "--verbose"),
    )

    assert "'torch'" in loaded
    assert any(f"encoded by torch: {why}" in line for line in said)


def test_building_compares_with_torch_and_verifying_compares_again(home, monkeypatch):
    manifest = load_index_manifest(home / "flat")
    for tried in (manifest.text_encoder, manifest.image_encoder):
        assert tried.way == "numpy" and tried.difference < 1e-6
    assert verify_index(home / "flat").faults == []

    monkeypatch.setattr(PlainText, "_pool", lambda self, hidden: hidden[-1])

    assert try_texts(load_checkpoint(home / "encoder"), home / "encoder").reason.startswith("the vectors differ from torch's by")
    (fault,) = verify_index(home / "flat").faults
    assert "does not agree with torch on this machine" in fault


def test_a_damaged_recording_is_one_line_and_made_anew_by_compacting(home, tmp_path):
    folder = tmp_path / "index"
    made = build_index(home / "shards", folder, home / "encoder")
    replace(made, image_encoder=replace(made.image_encoder, network=made.image_encoder.network[:-40])).save(folder)
    film = write_film(tmp_path / "film.jpg")

    done = subprocess.run(
        [MEDRET, "query", "--image", str(film), "--index", str(folder), "--find", "reports"], capture_output=True, text=True
    )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"medret: {folder}: what was recorded of its image network is damaged")
    assert line.endswith(f"medret compact --rebuild --index {folder}")
    compact_index(folder, rebuild=True)
    assert load_index_manifest(folder).image_encoder == made.image_encoder


def test_another_file_in_place_of_the_encoder_is_refused(home, tmp_path):
    build_index(home / "shards", tmp_path / "index", home / "encoder")
    weights = tmp_path / "index" / "encoder" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # it is linked
    weights.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))

    done = subprocess.run(
        [MEDRET, "query", "--text", "edema", "--index", str(tmp_path / "index"), "--find", "reports"], capture_output=True, text=True
    )

    assert done.returncode == 1
    assert "model.safetensors: is damaged" in done.stderr


def test_the_second_query_of_a_process_opens_the_first_stage(home):
    program = (
        "import sys, numpy as np; from index.folder import open_index; from pathlib import Path\n"
        f"index = open_index(Path({str(home / 'ivf-flat')!r})).index('reports'); loaded = lambda: 'faiss' in sys.modules\n"
        "query = index.table.vectors('joint', np.array([5]))\n"
        "for _ in range(2): index.plan(3, asker='text'); lists = index.stage.lists if loaded() else None; print(loaded(), lists)\n"
        "print(index.plan(3, asker='text').reason)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    first, second, _ = done.stdout.splitlines()
    assert first == "False None"
    assert second == "True 16"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_query_without_faiss_finds_what_sorting_all_scores_finds(tmp_path, monkeypatch, dtype):
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((500, 24)).astype(np.float32)
    vectors[100:103] = vectors[7]  # ties
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = write_images(tmp_path / "shards", vectors, [f"i{n:03d}" for n in range(500)], (90, 101, 400), dtype)
    table = open_shards(folder).table("images")
    search = ExactSearch(table, "joint")
    stored = np.concatenate(table.blocks("joint")).astype(np.float64)
    allowed = draw.random(500) < 0.5
    monkeypatch.delitem(sys.modules, "faiss", raising=False)

    for mask in (None, allowed):
        ((rows, scores),) = search.search(vectors[[7]], 12, allowed=mask)
        exact = np.where(np.ones(500, bool) if mask is None else mask, (stored @ vectors[7].astype(np.float64)).astype(np.float32), -9)
        np.testing.assert_array_equal(rows, np.argsort(-exact, kind="stable")[:12])
        np.testing.assert_array_equal(scores, exact[rows])
    assert "faiss" not in sys.modules
