"""What becomes of a composed, limited, collapsed query: against plain versions, over given vectors."""

import json

import numpy as np
import pytest
from handmade_index import image_rows, make_engine, unit

from encoders.errors import MedretError
from index.corpora.record import LabelState, Record
from index.score_scale import LEVELS, ScoreScale
from index.shards import ShardRow
from index.vector_index import VectorIndex
from retrieval.answers import Query
from retrieval.candidates import Candidates
from retrieval.explanation import explain
from retrieval.query_file import answer_file, read_query
from retrieval.terms import Term

ROWS, DIMENSION = 300, 16
STATES = list(LabelState)


@pytest.fixture(scope="module")
def vectors():
    return unit(np.random.default_rng(5).normal(size=(ROWS, DIMENSION)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory, vectors):
    """300 images of 40 patients and 90 studies, some without a patient or a study, and a report of each fifth image."""
    draw = np.random.default_rng(6)
    studies = draw.integers(0, 90, ROWS)
    records = [
        Record(
            id=f"i{row:03d}",
            image=None,
            patient_id=None if row % 50 == 0 else f"p{study % 40}",
            study_id=None if row % 25 == 0 else f"s{study}",
            labels={"Pleural Effusion": STATES[row % 4]} if row % 3 else {},
        )
        for row, study in enumerate(studies.tolist())
    ]
    reports = [ShardRow(Record(id=f"r{row:03d}", image=None), text=f"Text {row}.") for row in range(0, ROWS, 5)]
    parts = {
        "images": (image_rows(records), {"joint": vectors}),
        "reports": (reports, {"joint": unit(np.random.default_rng(7).normal(size=(len(reports), DIMENSION)))}),
    }
    return make_engine(tmp_path_factory.mktemp("answering"), parts, findings=["Pleural Effusion"])


def in_order(scores):
    return np.argsort(-scores, kind="stable")  # ids ascend with the rows


def found(answer):
    return [hit.id for hit in answer.hits]


def named(rows):
    return [f"i{row:03d}" for row in rows]


ONE, TWO = Term(id="i000", weight=2.0), Term(id="i075", weight=-0.5)  # without a patient or a study


def test_a_composed_query_ranks_by_the_sum_of_its_terms(engine, vectors):
    answer = engine.search(Query(terms=(ONE, TWO), k=7))

    scores = vectors @ unit((2 * vectors[0] - 0.5 * vectors[75])[None])[0]
    scores[[0, 75]] = -9  # what asks is no answer
    assert found(answer) == named(in_order(scores)[:7])
    np.testing.assert_allclose([hit.score for hit in answer.hits], np.sort(scores)[::-1][:7], atol=1e-6)
    assert answer.plan.reason == "exact over all 300 rows"


def test_where_images_and_texts_ask_together_each_weighs_as_much_as_its_scores_deviate(engine, vectors):
    table = engine.table("images")
    scales = [
        ScoreScale(asker=asker, drawn="x", pairs=9, mean=0.0, deviation=deviation, quantiles=tuple(LEVELS))
        for asker, deviation in (("image", 0.4), ("text", 0.1))
    ]
    before = engine.opened.index("images")
    engine.opened._indexes["images", "joint"] = VectorIndex(table, "joint", scales=scales)
    try:
        answer = engine.search(Query(terms=(ONE, Term(id="r005")), k=3))
        alone = engine.search(Query(id="i001", k=3))
    finally:
        engine.opened._indexes["images", "joint"] = before

    report = engine.stored_vectors("reports", np.array([1]))[0]
    np.testing.assert_allclose(answer.vector, unit((2 / 0.4 * vectors[0] + 1 / 0.1 * report)[None])[0], atol=1e-6)
    assert [hit.percentile for hit in answer.hits] == [None] * 3
    np.testing.assert_allclose([hit.percentile for hit in alone.hits], [min(100 * hit.score, 90) for hit in alone.hits], atol=0.1)


def test_an_explanation_adds_up_to_the_scores(engine, vectors):
    answer = engine.search(Query(terms=(ONE, TWO, Term(id="i010")), k=5))

    explanation = explain(engine, answer)

    rows = [int(id[1:]) for id in found(answer)]
    np.testing.assert_allclose(explanation.cosines, vectors[rows] @ vectors[[0, 75, 10]].T, atol=1e-6)
    np.testing.assert_allclose(explanation.cosines @ explanation.counts, [hit.score for hit in answer.hits], atol=1e-6)
    assert [term["weight"] for term in explanation.to_dict()["terms"]] == [2, -0.5, 1]


@pytest.mark.parametrize("by", ["study", "patient"])
@pytest.mark.parametrize(("k", "offset"), [(5, 0), (10, 7), (60, 10), (300, 0)])
def test_collapsing_keeps_the_best_of_each_and_skips_after_it(engine, vectors, by, k, offset):
    answer = engine.search(Query(id="i000", k=k, offset=offset, collapse=by))

    records = engine.table("images").records(np.arange(ROWS))
    seen, kept = set(), []
    for row in in_order(vectors @ vectors[0])[1:].tolist():
        owner = records[row]["study_id"] or row
        if by == "patient":
            owner = records[row]["patient_id"] or owner
        if owner not in seen:
            seen.add(owner)
            kept.append(row)
    assert found(answer) == named(kept[offset : offset + k])
    assert [hit.rank for hit in answer.hits] == list(range(offset + 1, offset + 1 + len(answer.hits)))
    short = f"{len(answer.hits)} answers instead of {k}"
    assert any(short in note and f"each {by} answers once" in note for note in answer.notes) == (len(answer.hits) < k)


def test_duplicates_are_the_same_vector_or_the_same_text(tmp_path):
    near, far = np.sqrt(1 - 0.9996**2), np.sqrt(1 - 0.9990**2)
    given = np.array([[1, 0, 0], [0.9996, near, 0], [0.9990, 0, far], [0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    texts = ["Clear.", "Edema.", "Mass.", "Nodule seen.", " nodule  SEEN.", "x"]
    rows = [ShardRow(Record(id=f"i{row:03d}", image=None), text=text) for row, text in enumerate(texts)]
    engine = make_engine(tmp_path, {"reports": (rows, {"joint": given})})

    answer = engine.search(Query(id="i005", find="reports", collapse="duplicates"))

    # the film that asks is orthogonal to all but i002, which comes first; equal scores follow by id
    assert found(answer) == ["i002", "i000", "i003"]


def test_a_least_score_cuts_and_says_so(engine, vectors):
    scores = np.sort(vectors @ vectors[0])[::-1][1:]

    answer = engine.search(Query(id="i000", k=50, min_score=float((scores[6] + scores[7]) / 2)))

    assert len(answer.hits) == 7
    assert answer.notes[-1].startswith("7 answers instead of 50: no other scores")


def test_the_study_of_a_query_can_be_left_out_without_its_patient(engine):
    records = engine.table("images").records(np.arange(ROWS))
    asking = records[1]

    of_study, of_patient = (
        {hit.id for hit in engine.search(Query(id=asking["id"], k=ROWS, **left_out)).hits}
        for left_out in ({"exclude_same_study": True}, {"exclude_same_patient": True, "exclude_same_study": True})
    )

    assert of_study == {one["id"] for one in records if one["study_id"] != asking["study_id"]}
    assert of_patient == {one["id"] for one in records if one["patient_id"] != asking["patient_id"]}


def test_of_several_records_that_ask_no_patient_answers(engine):
    records = engine.table("images").records(np.arange(ROWS))
    patients = {records[row]["patient_id"] for row in (1, 2)}

    answer = engine.search(Query(terms=(Term(id="i001"), Term(id="i002", weight=-0.2)), k=ROWS))

    assert len(patients) == 2
    assert set(found(answer)) == {one["id"] for one in records if one["patient_id"] not in patients}
    assert any("query's own patients" in note for note in answer.notes)


def test_without_a_finding_goes_by_labels_and_by_likeness_where_nobody_looked(engine, vectors):
    """Of the rows whose label is missing, those in the highest tenth of all rows go; row 3n has no label, others one of the four states."""
    text = vectors[9] * np.float32(1)
    candidates = Candidates(lambda texts, vector: text[None])
    table = engine.table("images")

    mask, notes = candidates.of(Query(text="x", without=("pleural_effusion",)), table)

    scores = vectors @ text
    unlabelled = np.arange(ROWS) % 3 == 0
    shown = np.array([STATES[row % 4] in (LabelState.POSITIVE, LabelState.UNCERTAIN) for row in range(ROWS)]) & ~unlabelled
    like = unlabelled & (scores >= np.sort(scores)[-30])
    np.testing.assert_array_equal(mask, ~(shown | like))
    assert f"left out {shown.sum()} images labelled positive or uncertain for Pleural Effusion, and {like.sum()} of 100" in notes[0]


def test_without_what_is_no_finding_leaves_out_the_tenth_most_like_it(engine, vectors):
    candidates = Candidates(lambda texts, vector: vectors[[9]])

    mask, notes = candidates.of(Query(text="x", without=("pacemaker",)), engine.table("images"))

    np.testing.assert_array_equal(np.flatnonzero(~mask), np.sort(in_order(vectors @ vectors[9])[:30]))
    assert notes == ("without 'pacemaker': left out 30 images, as their cosine to it is in the highest tenth",)


def many_queries():
    kinds = [{}, {"collapse": "study"}, {"offset": 3}, {"only": ["patient_id=p1,p2"]}, {"find": "reports"}, {"min_score": 0.2}]
    single = [{"id": f"i{row:03d}", "k": 5, **kinds[row % len(kinds)]} for row in range(150)]
    return [*single, {"terms": [{"id": "i001"}, {"id": "r010", "weight": -0.5}], "k": 4, "name": "composed"}]


def test_a_file_of_queries_is_answered_in_order_as_if_asked_one_by_one(engine, tmp_path):
    asked = many_queries()
    (tmp_path / "queries.jsonl").write_text("\n\n".join(map(json.dumps, asked)))

    assert answer_file(engine, tmp_path / "queries.jsonl", tmp_path / "answers.jsonl") == len(asked)

    told = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [one["line"] for one in told] == [2 * place + 1 for place in range(len(asked))]
    assert told[-1]["name"] == "composed" and "name" not in told[0]
    for one, query in zip(told, asked, strict=True):
        answer = engine.search(read_query(query))
        assert one["hits"] == [hit.to_dict() for hit in answer.hits]
        assert (one["plan"], one["notes"]) == (answer.plan.reason, list(answer.notes))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "is no JSON"),
        ("[1]", "is a list"),
        ('{"id": "i001", "k": 0}', "k is 0"),
        ('{"id": "i001", "where": "age >"}', "where"),
        ('{"id": "nobody"}', "nobody: no such record"),
        ('{"terms": [{"id": "i001"}, {"id": "i001", "weight": -1}]}', "cancel"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named_and_nothing_is_written(engine, tmp_path, line, fault):
    lines = ['{"id": "i001"}'] * 70 + [line] + ['{"id": "i002"}'] * 3
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))

    with pytest.raises(MedretError, match=rf"queries\.jsonl line 71: .*{fault}"):
        answer_file(engine, tmp_path / "queries.jsonl", tmp_path / "answers.jsonl")

    assert [path.name for path in tmp_path.iterdir()] == ["queries.jsonl"]


def test_a_name_that_is_no_unicode_is_repeated_as_it_was_given(engine, tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"id": "i001", "name": "\\ud800 ü"}\n')

    answer_file(engine, tmp_path / "queries.jsonl", tmp_path / "answers.jsonl")

    assert json.loads((tmp_path / "answers.jsonl").read_text("utf-8"))["name"] == "\ud800 ü"


def test_a_file_without_queries_is_refused(engine, tmp_path):
    (tmp_path / "queries.jsonl").write_text("\n")

    with pytest.raises(MedretError, match="holds no queries"):
        answer_file(engine, tmp_path / "queries.jsonl", tmp_path / "answers.jsonl")
