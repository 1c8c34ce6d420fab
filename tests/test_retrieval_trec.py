"""Runs and judgements in TREC's format, against pytrec-eval and by hand."""

import numpy as np
import pytest
import pytrec_eval

from encoders.errors import MedretError
from retrieval.metrics import average_precision, precision_at_k
from retrieval.outside_runs import evaluate_trec
from retrieval.trec import judge_run, read_qrels, read_run, write_qrels, write_run


def written(folder, run, qrels):
    """A run of given (query, document, score) and judgements of given (query, document, grade), read again."""
    (folder / "run").write_text("".join(f"{query} Q0 {name} 1 {score} x\n" for query, name, score in run))
    (folder / "qrels").write_text("".join(f"{query} 0 {name} {grade}\n" for query, name, grade in qrels))
    return read_run(folder / "run"), read_qrels(folder / "qrels")


def names(run, ranked):
    return [[run.documents[place] for place in row if place >= 0] for row in ranked]


def test_what_is_written_scores_the_same_in_pytrec_eval_also_where_scores_tie(tmp_path):
    draw = np.random.default_rng(4)
    documents = [f"d{number:02d}" for number in range(40)]
    queries = [f"q{number}" for number in range(25)]
    scores = draw.integers(0, 6, size=(25, 40)).astype(np.float32) / 8  # many ties, here ordered by id ascending
    order = np.argsort(-scores, axis=1, kind="stable")[:, :30]
    relevant = draw.random((25, 40)) < 0.3
    relevant[:, 0] = True
    write_run(tmp_path / "run", queries, [[documents[i] for i in row] for row in order], np.take_along_axis(scores, order, axis=1))
    write_qrels(tmp_path / "qrels", queries, [[([documents[i] for i in np.flatnonzero(row)], 1)] for row in relevant])

    with (tmp_path / "run").open() as run, (tmp_path / "qrels").open() as qrels:
        outside = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"P_5,10", "map"}).evaluate(pytrec_eval.parse_run(run))
    qrels = read_qrels(tmp_path / "qrels")
    judged = judge_run(read_run(tmp_path / "run"), qrels)

    np.testing.assert_array_equal(judged.ranked, order)
    np.testing.assert_allclose(precision_at_k(judged.relevance, 10), [outside[query]["P_10"] for query in queries])
    np.testing.assert_allclose(average_precision(judged.relevance, qrels.relevant), [outside[query]["map"] for query in queries])


def test_equal_scores_of_an_outside_run_rank_by_id_and_its_rank_column_is_not_read(tmp_path):
    run, _ = written(tmp_path, [("q", "b", 0.5), ("q", "a", 0.5), ("q", "c", 0.9)], [("q", "a", 1)])

    assert names(run, run.ranked) == [["c", "a", "b"]]


def test_a_negative_grade_strikes_a_document_and_a_silent_query_stays(tmp_path):
    run, qrels = written(
        tmp_path,
        [("q1", "own", 0.9), ("q1", "a", 0.8), ("q1", "z", 0.7)],
        [("q1", "own", -1), ("q1", "a", 2), ("q2", "a", 1), ("q2", "b", 0)],
    )
    judged = judge_run(run, qrels)

    assert names(run, judged.ranked) == [["a", "z"], []]
    assert judged.relevance.tolist() == [[True, False, False], [False, False, False]]
    assert qrels.relevant.tolist() == [1, 1]


def test_ids_with_blanks_and_signs_come_back_as_words(tmp_path):
    write_run(tmp_path / "run", ["a b|Lung_Opacity"], [["50% x", "é"]], np.array([[1, 0]], dtype=np.float32))

    run = read_run(tmp_path / "run")
    assert run.queries == ("a%20b|Lung_Opacity",)
    assert run.documents == ("50%25%20x", "é")


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        ("", "is empty, expected lines of query Q0 document rank score tag"),
        ("q Q0 d 1 0.5\n", "line 1: 5 words, expected 6"),
        ("q Q0 d 1 0.5 x\n\nq Q0 e 2 nan x\n", "line 3: the score is nan, expected a number"),
        ("q Q0 d 1 0.5 x\nq Q0 d 2 0.4 x\n", "query q has document d more than once"),
        ("other Q0 d 1 0.5 x\n", "1 of its 1 queries are not in"),
        ("q Q0 strange 1 0.5 x\n", "none of its 1 documents is in"),
    ],
)
def test_a_run_that_cannot_be_scored_is_one_line(tmp_path, run, fault):
    (tmp_path / "run").write_text(run)
    (tmp_path / "qrels").write_text("q 0 d 1\n")

    with pytest.raises(MedretError, match=fault):
        evaluate_trec(tmp_path / "run", tmp_path / "qrels")


def test_bytes_and_grades_that_are_none_are_refused(tmp_path):
    (tmp_path / "run").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "qrels").write_text("q 0 d high\n")

    with pytest.raises(MedretError, match="is no text in UTF-8"):
        read_run(tmp_path / "run")
    with pytest.raises(MedretError, match="line 1: the grade is high, expected a number"):
        read_qrels(tmp_path / "qrels")
