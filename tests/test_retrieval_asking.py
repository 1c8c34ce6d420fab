"""What `medret query` can be asked, through the installed command, and the example of the README."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus
from index.folder import build_index
from retrieval.engine import Query, SearchEngine, Term

MEDRET = Path(sys.executable).with_name("medret")
TEXTS = ("Mild pulmonary edema.", "Displaced rib fracture on the left.", "Lungs are clear.", "Small left effusion.")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Twelve films of four studies, a tiny random encoder, and their index in medret-index."""
    home = tmp_path_factory.mktemp("asking")
    draw = np.random.default_rng(0)
    lines = ["path,text,patient,study,view,split,Edema"]
    for row in range(12):
        Image.fromarray(draw.integers(0, 255, (5, 4), dtype=np.uint8)).resize((48, 60)).save(home / f"f{row:02d}.png")
        lines.append(f"f{row:02d}.png,{TEXTS[row % 4]},p{row % 2},s{row % 4},PA,test,{int(row % 4 == 0)}")
    (home / "table.csv").write_text("\n".join(lines) + "\n")
    encoder = build_encoder(texts=TEXTS, size=32, dimension=16, max_tokens=24).eval()
    save_checkpoint(encoder, home / "encoder")
    encode_corpus(
        open_corpus(home / "table.csv"),
        encoder,
        home / "shards",
        options=EncodeOptions(vectors=("joint", "features"), text_units=("report", "sentence")),
    )
    build_index(home / "shards", home / "medret-index", home / "encoder")
    return home


@pytest.fixture(scope="module")
def engine(home):
    return SearchEngine.load(home / "medret-index", device="cpu")


def query(home, *arguments):
    return subprocess.run([MEDRET, "query", *map(str, arguments)], capture_output=True, text=True, cwd=home, timeout=120)


def hits(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_weights_stand_in_the_names_of_options_and_the_order_is_kept(home, engine):
    terms = (Term(text="edema", weight=0.5), Term(id="f03"), Term(text="--text:2", weight=-0.25), Term(id="s1", weight=3))

    told = hits(
        query(home, "--text:0.5", "edema", "--id", "f03", "--text:-0.25", "--text:2", "--id:3=s1", "-k", 4, "--format=json", "--explain")
    )

    expected = engine.search(Query(terms=terms, k=4))
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in expected.hits]
    np.testing.assert_allclose([hit["score"] for hit in told["hits"]], [hit.score for hit in expected.hits], atol=1e-4)
    values = [next((kind, term[kind]) for kind in ("text", "id") if kind in term) for term in told["terms"]]
    assert values == [("text", "edema"), ("id", "f03"), ("text", "--text:2"), ("id", "s1")]
    assert [term["weight"] for term in told["terms"]] == [0.5, 1, -0.25, 3]
    for hit in told["hits"]:
        total = sum(term["counts"] * cosine for term, cosine in zip(told["terms"], hit["cosines"], strict=True))
        assert total == pytest.approx(hit["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--text:much", "edema"], "--text:much: the weight is no finite number"),
        (["--text:0", "edema"], "--text:0: the weight"),
        (["--image", "f00.png", "--image:0.5", "torn.png"], "torn.png"),
        (["--text", "edema", "--text:-1", "edema"], "cancel"),
        (["--text", "edema", "--without", " "], "empty"),
        (["--text", "edema", "--exclude-same-study"], "study is not known"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_code_1(home, arguments, fault):
    (home / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")

    done = query(home, *arguments)

    (line,) = [line for line in done.stderr.splitlines() if line.startswith("medret: ")]
    assert (done.returncode, fault in line) == (1, True), done.stderr


def test_an_explanation_names_terms_plan_and_what_was_left_out_above_the_hits(home):
    done = query(home, "--text", "edema", "--text:-0.5", "fracture", "--without", "edema", "--explain", "-k", 2)

    assert done.returncode == 0, done.stderr
    assert "t1: text 'edema', weight 1, counts" in done.stdout
    assert "t2: text 'fracture', weight -0.5, counts -" in done.stdout
    assert re.search(r"score = -?\d\.\d{3} × t1 - \d\.\d{3} × t2", done.stdout)
    assert "exact over the 9 allowed rows" in done.stdout
    assert "without 'edema': left out 3 images labelled positive or uncertain for Edema" in done.stdout
    table = done.stdout.partition("\n\n")[2].splitlines()
    assert table[0].split()[:4] == ["rank", "score", "t1", "t2"] and len(table) == 3


def test_answers_are_collapsed_skipped_and_cut(home):
    told = query(home, "--text", "edema", "--collapse", "study", "--offset", 1, "--format", "json", "--verbose")

    found = hits(told)
    assert [hit["rank"] for hit in found] == [2, 3, 4]
    assert len({hit["study_id"] for hit in found}) == 3
    assert "3 answers instead of 10 after the first 1" in told.stderr and "each study answers once" in told.stderr
    assert "opened medret-index" in told.stderr and "ranked images for 1 queries" in told.stderr
    least = found[1]["score"]
    cut = query(home, "--text", "edema", "--collapse", "study", "--min-score", least, "--format", "json")
    assert [hit["rank"] for hit in hits(cut)] == [1, 2, 3]
    assert f"no other scores {least:g} or more" in cut.stderr


@pytest.mark.parametrize(
    ("arguments", "answering"),
    [
        (["--id", "f00"], [row for row in range(12) if row % 2]),  # by default nobody of its patient
        (["--id", "f00", "--include-same-patient"], list(range(1, 12))),
        (["--id", "f00", "--exclude-same-study"], [row for row in range(12) if row % 4]),
        (["--id", "f00", "--exclude-same-patient"], [row for row in range(12) if row % 2]),
        (["--image", "f00.png", "--id", "f01", "--exclude-same-study"], [row for row in range(12) if row % 4 > 1]),
    ],
)
def test_the_records_of_who_asks_are_left_out_as_far_as_is_asked_for(home, arguments, answering):
    found = hits(query(home, *arguments, "-k", 12, "--format", "json"))

    assert sorted(hit["id"] for hit in found) == [f"f{row:02d}" for row in answering]


@pytest.mark.parametrize(("collapse", "count"), [("patient", 2), ("study", 4), ("duplicates", 4)])
def test_of_each_patient_study_or_text_the_best_report_answers_alone(home, collapse, count):
    """Four reports of two patients, all different."""
    every = hits(query(home, "--text", "edema", "--find", "reports", "--format", "json"))
    owner = {"patient": "patient_id", "study": "study_id", "duplicates": "text"}[collapse]

    found = hits(query(home, "--text", "edema", "--find", "reports", "--collapse", collapse, "--format", "json"))

    firsts = {hit[owner]: hit["id"] for hit in reversed(every)}
    assert [hit["id"] for hit in found] == [hit["id"] for hit in every if firsts[hit[owner]] == hit["id"]] and len(found) == count


def test_features_are_compared_and_the_sentence_of_a_films_report_is_named_where_that_is_asked_for(home, engine):
    by_features = hits(query(home, "--id", "f00", "--vector", "features", "-k", 3, "--format", "json"))
    with_sentence, without = (
        hits(query(home, "--text", "edema", "-k", 2, "--format", "json", option)) for option in ("--best-sentence", "--no-best-sentence")
    )

    vectors = engine.stored_vectors("images", np.arange(12), "features")
    others = sorted(range(1, 12, 2), key=lambda row: -float(vectors[row] @ vectors[0]))
    assert [hit["id"] for hit in by_features] == [f"f{row:02d}" for row in others[:3]]
    assert [hit["sentence"] for hit in with_sentence] == [hit["text"] for hit in without]  # reports of one sentence each
    assert [hit["sentence"] for hit in without] == [None, None]


def test_a_file_of_queries_is_answered_in_a_file(home):
    (home / "queries.jsonl").write_text('{"text": "edema", "name": "a"}\n{"terms": [{"text": "edema"}], "find": "reports", "k": 1}\n')

    done = query(home, "--queries", "queries.jsonl", "--out", "answers.jsonl", "-k", 2, "--explain")

    assert (done.returncode, done.stdout) == (0, "answers.jsonl: answers to 2 queries\n"), done.stderr
    first, second = map(json.loads, (home / "answers.jsonl").read_text().splitlines())
    assert (first["line"], first["name"], len(first["hits"]), first["terms"][0]["text"]) == (1, "a", 2, "edema")
    assert (second["line"], len(second["hits"]), second["hits"][0]["modality"]) == (2, 1, "reports")
    with (home / "queries.jsonl").open("a") as file:
        file.write('{"text": "edema", "weight": 2}\n')
    wrong = query(home, "--queries", "queries.jsonl", "--out", "other.jsonl")
    assert wrong.returncode == 1 and "queries.jsonl line 3: unknown field 'weight'" in wrong.stderr
    assert not (home / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("source", "out", "fault"),
    [
        ("nowhere.jsonl", "answers", "nowhere.jsonl: No such file"),
        (".", "answers", ".: Is a directory"),
        ("only.jsonl", "only.jsonl", "only.jsonl: holds the queries"),
        ("only.jsonl", "nowhere/answers", "nowhere/answers: its folder is not there"),
    ],
)
def test_a_file_of_queries_that_cannot_be_read_or_would_be_replaced_is_named(home, source, out, fault):
    (home / "only.jsonl").write_text('{"id": "f00"}\n')

    done = query(home, "--queries", source, "--out", out)

    assert (done.returncode, done.stderr.count("medret: "), f"medret: {fault}" in done.stderr) == (1, 1, True), done.stderr
    assert (home / "only.jsonl").read_text() == '{"id": "f00"}\n' and not (home / "answers").exists()


def test_the_example_of_the_readme_runs_as_it_stands(home):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = re.findall(r"# From Python\n\n```python\n(.*?)```", readme, re.DOTALL)
    (home / "film.png").write_bytes((home / "f01.png").read_bytes())

    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=home, timeout=120)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 5
