import base64
import io
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from handmade_index import make_engine
from PIL import Image

from index.corpora.record import LabelState, Record
from index.encode import EncodeSummary
from index.planner import exact_plan
from index.shards import ShardRow
from retrieval.answers import Answer, Query
from retrieval.evaluation import evaluate_label_precision
from retrieval.report import render_answers, render_evaluation
from retrieval.tables import encoding_notes, figure, plain_value, render_answer, render_encoding, render_metrics, render_result

FINDING = "Cardiomegaly"
REPORT = "Heart <b>big</b> & wide."


@pytest.fixture
def engine(tmp_path: Path):
    """Six films of three patients, half of them with an enlarged heart, and a report for each patient."""
    rows, reports = [], []
    for number in range(6):
        Image.fromarray(np.full((60, 80), 40 * number, np.uint8)).save(tmp_path / f"film{number}.png")
        record = Record(
            id=f"record-{number}",
            image=tmp_path / f"film{number}.png",
            patient_id=f"patient-{number // 2}",
            study_id=f"study-{number // 2}",
            view="PA",
            split="test",
            labels={FINDING: LabelState.POSITIVE if number < 3 else LabelState.NEGATIVE},
            study_date=date(2020, 1, 1),
        )
        rows.append(ShardRow(record, path=f"film{number}.png"))
        if number % 2 == 0:
            reports.append(ShardRow(Record(id=f"study-{number // 2}", image=None, study_id=record.study_id), text=REPORT))
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    parts = {"images": (rows, {"joint": vectors[:6]}), "reports": (reports, {"joint": vectors[6:]})}
    return make_engine(tmp_path / "index", parts, findings=[FINDING], root=str(tmp_path))


def test_a_page_holds_the_query_film_and_each_hit_in_order_without_outside_references(engine, tmp_path):
    answer = engine.search(Query(id="record-0", k=3))

    page = render_answers(engine, [answer])

    scores = [f"{hit.score:.3f}" for hit in answer.hits]
    assert re.findall(r"<span>(-?\d\.\d{3})", page) == scores
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    films = [base64.b64decode(code) for code in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    levels = [float(np.asarray(Image.open(io.BytesIO(film))).mean()) for film in films]
    expected = [0.0, *(40.0 * int(hit.id[-1]) for hit in answer.hits)]
    assert levels == pytest.approx(expected, abs=1)


def test_a_page_names_the_label_that_was_asked_for(engine):
    page = render_answers(engine, [Answer(query=Query(label="Pleural Effusion"), hits=(), plan=exact_plan("flat", 0))])

    assert "<q>Pleural Effusion</q><span>label → images</span>" in page


def test_report_text_is_escaped(engine):
    page = render_answers(engine, [engine.search(Query(id="record-0", find="reports", k=3))])

    assert "Heart &lt;b&gt;big&lt;/b&gt; &amp; wide." in page
    assert "<b>big" not in page


def test_ids_and_paths_appear_only_when_asked_for(engine, tmp_path):
    answer = engine.search(Query(id="record-0", k=3))
    secrets = [secret for hit in answer.hits for secret in (hit.id, hit.patient_id, hit.study_id, str(hit.path))]

    assert not [secret for secret in secrets if secret in render_answers(engine, [answer])]
    assert [secret for secret in secrets if secret not in render_answers(engine, [answer], with_ids=True)] == []


def test_a_film_that_is_gone_is_said_to_be_unreadable(engine, tmp_path):
    answer = engine.search(Query(id="record-0", k=1))
    (tmp_path / f"film{answer.hits[0].id[-1]}.png").unlink()

    assert "image could not be read" in render_answers(engine, [answer])


def test_an_evaluation_shows_each_direction_and_marks_hits_by_their_label(engine):
    result = evaluate_label_precision(engine, directions=["image-image"], ks=[1, 2], exclude_same_patient=True).to_dict()

    page = render_evaluation(engine, result)

    assert "label-precision: image-image" in page
    assert page.count("<tr") == 1 + 1 + 1  # head, macro, one finding
    shown = engine.search(Query(id="record-0", k=5))
    relevant = sum(hit.labels[FINDING] == "positive" for hit in shown.hits)
    first = page[page.index('<section class="answer">') : page.index("</section>")]
    assert first.count("✓") == relevant
    assert first.count("✗") == len(shown.hits) - relevant


def test_examples_keep_to_the_directions_splits_and_views_of_the_protocol(tmp_path):
    who = [("a", "test", "PA"), ("b", "test", "LATERAL"), ("c", "train", "PA"), ("d", "test", "PA"), ("e", "test", "PA")]
    labels = {"hiatal hernia": LabelState.POSITIVE}  # a finding without built-in prompts
    images = [ShardRow(Record(id=f"r-{id}", image=None, split=split, view=view, labels=labels)) for id, split, view in who]
    reports = [ShardRow(Record(id="r-a", image=None, split="test", labels=labels), text=REPORT)]
    parts = {"images": (images, {"joint": np.eye(5)}), "reports": (reports, {"joint": np.ones((1, 5))})}
    engine = make_engine(tmp_path, parts, findings=list(labels))
    result = evaluate_label_precision(engine, directions=["image-image"], splits=["test"], views=["PA"], ks=[1]).to_dict()

    page = render_evaluation(engine, result, with_ids=True)

    assert re.findall(r"record: (r-\w)", page) == ["r-d", "r-e"]  # asked by r-a; by the protocol no other may be found


def test_a_hit_is_marked_neither_right_nor_wrong_where_nobody_looked(tmp_path):
    states = {"a": LabelState.POSITIVE, "b": LabelState.POSITIVE, "c": LabelState.NEGATIVE}
    records = [Record(id=id, image=None, labels={FINDING: states[id]} if id in states else {}) for id in "abcd"]
    engine = make_engine(tmp_path, {"images": ([ShardRow(record) for record in records], {"joint": np.eye(4)})}, findings=[FINDING])

    page = render_evaluation(engine, evaluate_label_precision(engine, directions=["image-image"]).to_dict())

    marks = re.findall(r'title="(not )?positive for the finding"', page)
    assert sorted(marks) == ["", "not "]
    assert page.count('<article class="hit">') == 3


def test_figures_over_no_query_are_dashes_on_the_page(tmp_path):
    states = {"a": LabelState.POSITIVE, "b": LabelState.NEGATIVE}  # the only positive film cannot find itself
    records = [Record(id=id, image=None, labels={FINDING: state}) for id, state in states.items()]
    engine = make_engine(tmp_path, {"images": ([ShardRow(record) for record in records], {"joint": np.eye(2)})}, findings=[FINDING])

    page = render_evaluation(engine, evaluate_label_precision(engine, directions=["image-image"], ks=[1]).to_dict())

    assert re.findall(r"<td>all</td><td>0</td>\s*<td>(.*?)</td>", page) == ["-"]


def test_a_report_asks_for_reports_where_the_index_holds_no_images(tmp_path):
    rows = [ShardRow(Record(id=id, image=None), text=text) for id, text in (("a", "Clear."), ("b", "Edema."))]
    engine = make_engine(tmp_path, {"reports": (rows, {"joint": np.eye(2)})})

    page = render_answers(engine, [engine.search(Query(id="a", find="reports", k=1))])

    assert "Edema." in page
    assert "record → reports" in page


def test_the_table_of_an_evaluation_puts_chance_beside_each_figure(engine):
    result = evaluate_label_precision(engine, directions=["image-image"], ks=[1], exclude_same_patient=False).to_dict()

    lines = render_result(result).splitlines()

    assert lines[0] == "label-precision: 3 queries, 6 candidates"
    assert lines[1].split() == ["finding", "queries", "P@1", "chance"]
    value, chance = (f"{result['metrics']['P@1'][key]:.3f}" for key in ("value", "chance"))
    assert lines[2].split() == ["macro", "3", value, chance]
    assert float(chance) == pytest.approx(2 / 5)  # the asking film is no candidate: 2 of 5 others are positive
    assert lines[-1].startswith("protocol: ")


def test_the_table_of_an_answer_fits_the_terminal(engine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    lines = render_answer(engine.search(Query(id="record-0", k=4))).splitlines()

    assert len(lines) == 1 + 4
    assert max(map(len, lines)) <= 100


def test_what_encoding_left_out_or_cut_is_said_and_what_did_not_happen_is_not():
    nothing = {"failures": 0, "texts_cut": 0, "without_text": 4, "left_out": {}, "shards": 3, "resumed_shards": 0, "done": {}}
    nothing |= {"complete": True, "compute": {}, "seconds": 0.0, "rates": {}, "peak_rss": 0}
    clean = EncodeSummary(folder=Path("shards"), encoder="abc", images=1200, reports=0, sentences=0, **nothing)
    faulty = replace(clean, compute={"pixels": "cache 512"}, reports=7, failures=2, texts_cut=5, left_out={"no file": 3}, resumed_shards=1)

    assert render_encoding(clean) == "shards: 1,200 images by encoder abc"
    assert encoding_notes(clean, 64, pseudonymised=False) == []  # without reports, studies without text are no matter
    notes = encoding_notes(faulty, 64, pseudonymised=True)
    for words in (
        "3 rows of the corpus left out: no file",
        "1 of 3 shards",
        "4 studies",
        "5 texts",
        "64 tokens",
        "2 images",
        "a cache of 512-pixel squares",
        "look before",
    ):
        assert sum(words in note for note in notes) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [(True, "yes"), (None, "none"), ([1, 5], "1, 5"), ({"no label": 3}, "3 no label"), ({}, "nothing"), ("k", "k"), (1, "1")],
)
def test_options_of_a_protocol_read_as_words(value, words):
    assert plain_value(value) == words


def test_shares_have_three_decimals_ranks_one_and_missing_figures_a_dash():
    assert [figure(0.25), figure(201.0), figure(None)] == ["0.250", "201.0", "-"]
    assert render_metrics({"epoch": 3.0, "mrr": 0.123456}) == "epoch 3, mrr 0.1235"
