import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade_index import image_rows, make_engine
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import unit

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from index.corpora.record import Record
from index.corpora.report import split_sentences
from index.encode import EncodeOptions, encode_corpus
from index.folder import build_index
from index.shards import ShardRow
from retrieval.engine import Query, SearchEngine
from retrieval.sentences import best_sentences, sentence_spans

MEDRET = Path(sys.executable).with_name("medret")
REPORTS = {
    "s1": "1. Mild pulmonary edema.2. No pneumothorax, seen at 9 a.m. today. 3. Displaced rib fracture.",
    "s2": "The heart is normal. The lungs are clear.",
    "s3": "--",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A table of reports, a tiny random encoder, and an index with the sentences and one without."""
    home = tmp_path_factory.mktemp("sentences")
    lines = ["id,study,text", *(f'r{name},{name},"{text}"' for name, text in REPORTS.items())]
    (home / "table.csv").write_text("\n".join(lines) + "\n")
    encoder = build_encoder(texts=list(REPORTS.values()), size=32, dimension=16, max_tokens=24).eval()
    save_checkpoint(encoder, home / "encoder")
    for name, units in (("whole", ("report",)), ("cut", ("report", "sentence"))):
        options = EncodeOptions(vectors=("joint", "features"), text_units=units)
        encode_corpus(open_corpus(home / "table.csv"), encoder, home / f"{name}-shards", options=options)
        build_index(home / f"{name}-shards", home / name, home / "encoder")
    return home


@pytest.fixture(scope="module")
def engines(home):
    return {name: SearchEngine.load(home / name, device="cpu") for name in ("whole", "cut")}


def plainly(engine, text: str, query: np.ndarray, vector: str) -> str:
    """The best sentence of a text, sentence by sentence."""
    return max(split_sentences(text), key=lambda sentence: float(engine.encode_texts([sentence], vector)[0] @ query))


@pytest.mark.parametrize("vector", ["joint", "features"])
@pytest.mark.parametrize("text", ["Displaced rib fracture.", "No pneumothorax, seen at 9 a.m. today.", "edema", "normal heart"])
def test_the_best_sentence_is_the_one_nearest_to_the_query_held_or_not(engines, text, vector):
    for name, asked in (("whole", True), ("cut", None)):
        engine = engines[name]

        hits = engine.search(Query(text=text, find="reports", vector=vector, best_sentence=asked)).hits

        query = engine.encode_texts([text], vector)[0]
        for hit in hits:
            if not split_sentences(hit.text):
                assert hit.sentence is hit.sentence_span is None
                continue
            assert hit.sentence == plainly(engine, hit.text, query, vector)
            start, stop = hit.sentence_span
            assert hit.text[start:stop] == hit.sentence


def test_sentences_that_are_held_are_not_encoded_and_others_only_where_they_are_asked_for(tmp_path):
    reports = {"a": "Edema. Fracture.", "b": "Clear. Normal.", "c": "Old cut."}
    rows = [ShardRow(Record(id=id, image=None, study_id=id), text=text) for id, text in reports.items()]
    cut = [("a#1", "Edema."), ("a#2", "Fracture."), ("b#1", "Clear."), ("b#2", "Quite normal."), ("c#1", "Old cut.")]
    sentences = [ShardRow(Record(id=id, image=None, study_id=id[0]), text=text) for id, text in cut]
    vectors = unit(np.array([[1, 0.1], [0.1, 1], [1, 0], [0, 1], [1, 1]]))
    parts = {"reports": (rows, {"joint": np.eye(3, 2) + 0.1}), "sentences": (sentences, {"joint": vectors})}
    engine = make_engine(tmp_path, parts)  # without an encoder
    hits = engine.search(Query(id="a", find="reports", exclude_same_patient=False, best_sentence=False)).hits

    found = best_sentences(engine, np.array([0, 1], np.float32), hits, encode=False)

    assert dict(zip([hit.id for hit in hits], found, strict=True)) == {
        "b": None,  # cut otherwise by whoever encoded it
        "c": ("Old cut.", 0, 8, pytest.approx(0.5**0.5)),
    }
    assert all(hit.sentence is None for hit in hits)
    assert [hit.sentence for hit in engine.search(Query(id="b", find="reports", exclude_same_patient=False)).hits] == [
        "Old cut.",
        "Fracture.",
    ]


def test_queries_together_get_the_sentences_of_queries_one_by_one_by_a_single_look_up(engines, monkeypatch):
    texts = ["edema", "rib fracture", "normal heart", "clear lungs"]
    asked = [Query(text=text, find="reports", k=k, vector=vector) for k, text in enumerate(texts, 1) for vector in ("joint", "features")]
    asked.append(Query(text="edema", find="reports", best_sentence=False))
    alone = [engines["cut"].search(query).hits for query in asked]
    sentences, looked = engines["cut"].table("sentences"), []
    find = type(sentences).rows_of
    monkeypatch.setattr(type(sentences), "rows_of", lambda table, *what: looked.append(table.modality) or find(table, *what))

    together = [answer.hits for answer in engines["cut"].search_all(asked)]

    assert [[hit.sentence for hit in hits] for hits in together] == [[hit.sentence for hit in hits] for hits in alone]
    assert len({hit.sentence for hits in together for hit in hits} - {None}) > 2
    assert {hit.sentence for hit in together[-1]} == {None}
    assert looked.count("sentences") == 2  # for joint vectors, and for features


def test_an_image_has_the_best_sentence_of_its_report_but_not_by_features(tmp_path):
    reports = [ShardRow(Record(id="s", image=None, study_id="s"), text="Edema. Fracture.")]
    cut = [ShardRow(Record(id=f"s#{place}", image=None, study_id="s"), text=text) for place, text in ((1, "Edema."), (2, "Fracture."))]
    both = {"joint": np.eye(2), "features": np.eye(2)}
    films = image_rows([Record(id="i", image=None, study_id="s"), Record(id="j", image=None)])
    engine = make_engine(tmp_path, {"images": (films, both), "reports": (reports, {"joint": np.eye(1, 2)}), "sentences": (cut, both)})

    assert [hit.sentence for hit in engine.search(Query(id="j", best_sentence=True)).hits] == ["Fracture."]
    assert [hit.sentence for hit in engine.search(Query(id="j")).hits] == [None]
    with pytest.raises(MedretError, match="'features' vectors of images and of sentences"):
        engine.search(Query(id="j", vector="features", best_sentence=True))
    with pytest.raises(ValueError, match="best_sentence goes with images and reports"):
        Query(id="j", find="sentences", best_sentence=True)


@given(
    st.lists(st.sampled_from(["1.", "2.", "-", "Edema.", "effusion.The", "heart", "\n", "\n\n", "Dr.", "J.", "2. 5", "cm.", "…", "?"])).map(
        " ".join
    )
)
def test_spans_follow_each_other_and_hold_their_sentences(text):
    spans = sentence_spans(text)

    assert [span.sentence for span in spans] == split_sentences(text)
    assert all("".join(text[start:stop].split()) == "".join(sentence.split()) for sentence, start, stop in spans)
    edges = [edge for span in spans for edge in (span.start, span.stop)]
    assert edges == sorted(edges)


def medret(*arguments: object, code: int = 0) -> str:
    """What a command says, on standard output or, where it fails, on standard error."""
    wide = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([str(MEDRET), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, env=wide)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_the_command_line_shows_the_best_sentence_of_each_report_and_ranks_sentences(home):
    asked = ("query", "--index", home / "whole", "--text", "Displaced rib fracture.", "--find", "reports")

    table = medret(*asked)
    hits = {hit["id"]: hit for hit in json.loads(medret(*asked, "--format", "json"))}
    ranked = json.loads(
        medret("query", "--index", home / "cut", "--text", "The lungs are clear.", "--find", "sentences", "--format", "json")
    )
    missing = medret("query", "--index", home / "whole", "--text", "edema", "--find", "sentences", code=1)

    assert any(line.rstrip().endswith("  Displaced rib fracture.") for line in table.splitlines())
    assert hits["s1"]["sentence"] == "Displaced rib fracture."
    assert hits["s1"]["text"][slice(*hits["s1"]["sentence_span"])] == "Displaced rib fracture."
    assert hits["s3"]["sentence"] is None
    assert (ranked[0]["id"], ranked[0]["text"]) == ("s2#2", "The lungs are clear.")
    assert missing.count("\n") == 1
    assert "holds no sentences" in missing
    assert "--text-unit report,sentence" in missing
