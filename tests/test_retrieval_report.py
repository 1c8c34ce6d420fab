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

from encoders.dual import build_encoder
from index.corpora.record import LabelState, Record
from index.encode_summary import EncodeSummary
from index.planner import exact_plan
from index.shards import ShardRow
from retrieval.answers import Answer, Query
from retrieval.encoding import encode_films
from retrieval.evaluation import evaluate_label_precision
from retrieval.filters import parse_condition
from retrieval.maps import beyond_normal, draw_map, says_normal
from retrieval.report import render_answers, render_evaluation
from retrieval.result_tables import figure, plain_value, render_result
from retrieval.tables import encoding_notes, render_answer, render_encoding, render_metrics
from retrieval.terms import Term

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
    assert re.findall(r'class="score">(-?\d\.\d{3})', page) == scores
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    films = [base64.b64decode(code) for code in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    levels = [float(np.asarray(Image.open(io.BytesIO(film))).mean()) for film in films]
    expected = [0.0, *(40.0 * int(hit.id[-1]) for hit in answer.hits)]
    assert levels == pytest.approx(expected, abs=1)


def test_a_page_names_the_label_that_was_asked_for(engine):
    page = render_answers(engine, [Answer(query=Query(label="Pleural Effusion"), hits=(), plan=exact_plan("flat", 0))])

    assert "<q>Pleural Effusion</q>" in page
    assert "label → images" in page


def test_a_page_names_each_term_with_its_weight_and_what_must_not_be_there(engine):
    terms = (Term(text="edema"), Term(text="pacemaker", weight=-0.5), Term(id="record-0", weight=2))
    answer = Answer(query=Query(terms=terms, without=("fracture",)), hits=(), plan=exact_plan("flat", 0))

    page = render_answers(engine, [answer])

    assert re.findall(r"<b>([^<]*)</b>.*?(?:<q>(.*?)</q>|alt=\"(.*?)\")", page.partition("<section")[2]) == [
        ("+1", "edema", ""),
        ("-0.5", "pacemaker", ""),
        ("+2", "", "query film"),
        ("without", "fracture", ""),
    ]
    assert "No hits." in page


def test_a_long_report_is_shown_around_the_sentence_that_answers(engine):
    """And where no sentence is known, its beginning; the whole text is kept behind a switch."""
    sentence, filling = "The heart is <wide>.", "Nothing of note here. " * 40
    text = filling + sentence + " " + filling
    answer = engine.search(Query(id="record-0", k=2))
    marked, plain = (replace(hit, text=text, sentence_span=span) for hit, span in zip(answer.hits, [(880, 900), None], strict=True))
    assert text[880:900] == sentence

    page = render_answers(engine, [replace(answer, hits=(marked, plain))])

    first, second = re.findall(r'<div class="text">(.*?)<details><summary>whole text</summary><p>(.*?)</p>', page, re.DOTALL)
    assert re.fullmatch(r"… [\w. ]{110,160}<mark[^>]*>The heart is &lt;wide&gt;\.</mark>[\w. ]{110,160} …", first[0])
    assert re.fullmatch(r"Nothing [\w. ]{270,320} …", second[0])
    assert "&lt;wide&gt;" in first[1]
    assert page.count("<mark") == 1


def test_a_score_is_read_against_random_pairs_where_they_were_measured(engine):
    answer = engine.search(Query(id="record-0", k=2))
    first, second = answer.hits

    page = render_answers(engine, [replace(answer, hits=(replace(first, percentile=98.765), second))])

    assert re.findall(r"above ([\d.]+) % of random pairs", page) == ["98.8"]


@pytest.mark.parametrize(
    "limit",
    [{"where": 'patient_id == "patient-1"'}, {"where": 'Patient == "patient-1"'}, {"only": (parse_condition("PATIENT=patient-1"),)}],
)
def test_conditions_on_ids_are_kept_off_a_page_without_ids(engine, limit):
    answer = engine.search(Query(id="record-0", k=5, **limit))  # two of them: a note says so
    assert any("patient-1" in note for note in answer.notes)

    assert "patient-1" not in render_answers(engine, [answer])
    assert "a condition on ids" in render_answers(engine, [answer])
    assert "patient-1" in render_answers(engine, [answer], with_ids=True)


def test_a_page_says_in_which_part_of_the_index_was_searched(engine):
    limited = Query(id="record-0", k=2, where="split == none or not split == none", collapse="study", without=("edema",))
    everything = Query(id="record-0", k=2)

    summaries = [
        re.search(r'class="kind">(.*?)<', render_answers(engine, [replace(engine.search(everything), query=query)]))[1]
        for query in (limited, everything)
    ]

    assert summaries[0].endswith("images, in the index where split == none or not split == none, the best of each study")
    assert summaries[1].endswith("images")


def test_maps_lie_over_the_films_with_their_peaks_where_the_query_differs(tmp_path):
    """The query is what a bright square adds to a grey film, so the ring stands on the square of each film that has one."""
    encoder = build_encoder("tiny", "tiny", ["edema"], size=128, dimension=16).eval()
    films, places = [], [(30, 120), (90, 40)]  # row and column of the square's middle, in films of 120 by 160
    for number, (row, column) in enumerate(places):
        film = np.full((120, 160), 90, np.uint8)
        film[row - 12 : row + 12, column - 12 : column + 12] = 220
        Image.fromarray(film).save(tmp_path / f"film{number}.png")
        films.append(encoder.config.preprocessing.square(film))
    plain = encoder.config.preprocessing.square(np.full((120, 160), 90, np.uint8))
    vectors = encode_films(encoder, np.stack([plain, *films]))
    for number, (row, column) in enumerate(places):
        query = vectors[number + 1] - vectors[0]

        drawn = draw_map(encoder, tmp_path / f"film{number}.png", query / np.linalg.norm(query))

        assert (drawn.left * 1.6, drawn.top * 1.2) == pytest.approx((column, row), abs=12 + 5)  # the square, and half a coarse cell
        overlay = Image.open(io.BytesIO(base64.b64decode(drawn.picture.partition(",")[2])))
        assert overlay.size == (140, 105)
        opacity = np.asarray(overlay.convert("RGBA"))[..., 3]
        assert opacity[round(drawn.top * 1.05 - 0.5), round(drawn.left * 1.4 - 0.5)] == opacity.max() > 100


def test_maps_follow_what_a_query_says_beyond_the_prompts_for_a_normal_film(engine, monkeypatch):
    """The unit mean of three prompts along one axis and four along another is (0.6, 0.8); the farthest prompt has a cosine of 0.6 to it."""
    axes = np.array([[1, 0, 0, 0]] * 3 + [[0, 1, 0, 0]] * 4, np.float32)
    monkeypatch.setattr(engine, "encode_texts", lambda texts: axes)

    beyond = beyond_normal(engine, np.array([1, 0, 0, 0], np.float32))

    assert beyond == pytest.approx([0.4, -0.8, 0, 0])
    assert [says_normal(engine, np.array([x, y, 0, 0], np.float32)) for x, y in ((0.96, 0.28), (0.8, -0.6))] == [True, False]


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


def test_an_evaluation_names_nobody_that_its_conditions_name_unless_asked_to(engine):
    limits = {"where": "patient != patient-2", "only": (parse_condition("STUDY=study-0,study-1"),)}
    result = evaluate_label_precision(engine, directions=["image-image"], ks=[1], exclude_same_patient=False, **limits).to_dict()
    named = ("patient-2", "study-0")

    page, with_ids = (render_evaluation(engine, result, with_ids=with_ids) for with_ids in (False, True))

    assert not any(name in page for name in named)
    assert all(name in with_ids for name in named)


def test_views_that_a_protocol_says_in_words_limit_no_example(engine):
    result = evaluate_label_precision(engine, directions=["image-image"], ks=[1]).to_dict()
    result["protocol"]["views"] = "frontal"

    assert render_evaluation(engine, result).count('<article class="hit">') == 4  # all films of the other two patients


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


def test_intervals_views_and_what_others_published_stand_beside_the_figures(engine):
    result = evaluate_label_precision(engine, directions=["image-image"], ks=[1], exclude_same_patient=False).to_dict()
    figures = {"P@1": {"value": 0.5, "chance": 0.25, "low": 0.125, "high": 0.875}}
    table = {"source": "Someone, 2020", "caveat": "other films", "systems": {"theirs": {"P@1": 0.75}}}
    result |= {"metrics": figures, "per_view": {"AP": {**figures, "queries": 2}}, "published": [table]}
    result["protocol"]["interval"] = "95% of 9 resamples of 3 patients"

    page = render_evaluation(engine, result)

    assert page.count("<span>0.125–0.875</span><span>chance 0.250</span>") == 2
    assert page.count('<s style="left:12.5%;width:75.0%">') == 2
    assert "Below a figure: its interval, 95% of 9 resamples of 3 patients." in page
    assert "<td>AP films</td><td>2</td>" in page
    assert "Published: Someone, 2020" in page
    assert "<td>theirs</td><td>0.750</td>" in page
    assert "But: other films" in page


def test_a_report_asks_for_reports_where_the_index_holds_no_images(tmp_path):
    rows = [ShardRow(Record(id=id, image=None), text=text) for id, text in (("a", "Clear."), ("b", "Edema."))]
    engine = make_engine(tmp_path, {"reports": (rows, {"joint": np.eye(2)})})

    page = render_answers(engine, [engine.search(Query(id="a", find="reports", k=1))])

    assert "Edema." in page
    assert "record → reports" in page


def test_the_table_of_an_evaluation_puts_chance_beside_each_figure(engine):
    result = evaluate_label_precision(engine, directions=["image-image"], ks=[1], exclude_same_patient=False).to_dict()

    lines = render_result(result).splitlines()

    assert lines[0] == "label-precision image-image: 3 queries, 6 candidates"
    assert lines[1].split() == ["finding", "queries", "P@1", "chance"]
    value, chance = (f"{result['metrics']['P@1'][key]:.3f}" for key in ("value", "chance"))
    assert lines[2].split() == ["macro", "3", value, chance]
    assert float(chance) == pytest.approx(2 / 5)  # the asking film is no candidate: 2 of 5 others are positive
    assert lines[-1].startswith("protocol: ")


@pytest.mark.parametrize(("terms", "last"), [(0, "report"), (3, "view")])
def test_the_table_of_an_answer_fits_the_terminal(engine, monkeypatch, terms, last):
    """An archive's ids have 44 characters; of 80, three cosines leave no room for the reports and findings of films."""
    monkeypatch.setenv("COLUMNS", "80")
    answer = engine.search(Query(id="record-0", k=4))
    long = {"id": "0123abcd-" * 5, "patient_id": "p10116218", "labels": {"Pleural Effusion": "positive"}, "text": "No effusion. " * 9}
    films = replace(answer, hits=tuple(replace(hit, view="PA", percentile=99.99995, **long) for hit in answer.hits))

    title, *lines = render_answer(films, [[0.5] * terms] * 4).splitlines()

    assert title.split()[-1] == last
    assert len(lines) == 4
    assert max(map(len, [title, *lines])) <= 80
    assert {line.split()[2] for line in lines} == {"99.9999"}  # some pair scores more


def test_a_column_that_says_nothing_of_any_hit_is_left_out(engine):
    answer = engine.search(Query(id="record-0", k=4))
    bare = replace(answer, hits=tuple(replace(hit, view=None, patient_id=None, labels={}, text="Clear.") for hit in answer.hits))

    assert render_answer(bare).splitlines()[0].split() == ["rank", "score", "id", "report"]


def test_what_encoding_left_out_or_cut_is_said_and_what_did_not_happen_is_not():
    nothing = {"failures": 0, "texts_cut": 0, "without_text": 4, "left_out": {}, "shards": 3, "resumed_shards": 0, "done": {}}
    nothing |= {"complete": True, "compute": {}, "seconds": 0.0, "rates": {}, "peak_rss": 0}
    clean = EncodeSummary(folder=Path("shards"), encoder="abc", images=1200, reports=0, sentences=0, **nothing)
    amiss = {"reports": 7, "failures": 2, "texts_cut": 5, "left_out": {"no file": 3}, "resumed_shards": 1}
    faulty = replace(clean, compute={"pixels": "squares 512"}, **amiss)

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
    assert [figure(0.25), figure(201.0), figure(1.0, "median_rank"), figure(None)] == ["0.250", "201.0", "1.0", "-"]
    assert render_metrics({"epoch": 3.0, "mrr": 0.123456}) == "epoch 3, mrr 0.1235"
