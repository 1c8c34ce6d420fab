import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from encoders.errors import MedretError
from retrieval.answers import Query
from retrieval.filters import parse_condition
from retrieval.query_file import read_query
from retrieval.question import Question
from retrieval.terms import AskedTerm, Term, compose, parse_weight, read_term

X, Y = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)


def asked(vector, weight=1.0, scale=1.0):
    return AskedTerm(term=Term(text="a", weight=weight), asker="text", vector=vector, scale=scale)


def test_terms_are_added_by_weight_over_scale_and_the_sum_is_a_unit_vector():
    np.testing.assert_allclose(compose([asked(X, 3), asked(Y, 4)]), [[0.6, 0.8, 0]], atol=1e-7)
    np.testing.assert_allclose(compose([asked(X, 1, 0.5), asked(Y, -1, 0.25)]), [np.array([1, -2, 0]) / math.sqrt(5)], atol=1e-7)


def test_one_term_alone_is_its_own_vector_whatever_its_scale_and_turned_round_below_0():
    vector = np.float32([0.1, 0.7, 0.3])
    vector /= np.linalg.norm(vector)

    np.testing.assert_array_equal(compose([asked(vector, 0.3, 0.7)]), vector[None])
    np.testing.assert_allclose(compose([asked(vector, -2)]), -vector[None], atol=1e-7)


@pytest.mark.parametrize("weight", [1e308, 1e-308, 3.0])
def test_only_the_ratio_of_weights_counts_however_large_they_are(weight):
    np.testing.assert_allclose(compose([asked(X, weight, 0.1), asked(Y, -weight, 0.2)])[0], [2 / 5**0.5, -1 / 5**0.5, 0], rtol=1e-6)


def test_terms_that_cancel_ask_for_nothing():
    with pytest.raises(MedretError, match="cancel"):
        compose([asked(X, 0.5), asked(X, -0.5)])


@pytest.mark.parametrize("weight", ["abc", "", "0", "nan", "inf", "1,5"])
def test_a_weight_in_an_option_is_a_finite_number_other_than_0(weight):
    with pytest.raises(MedretError, match=rf"--text:{weight}: the weight is no finite number"):
        parse_weight(weight, "--text")


@pytest.mark.parametrize(
    "wrong", [{"text": "a", "id": "b"}, {"weight": 2.0}, {"text": "a", "weight": 0.0}, {"text": "a", "weight": math.inf}]
)
def test_a_term_that_makes_no_sense_is_a_wrong_call(wrong):
    with pytest.raises(ValueError, match="term"):
        Term(**wrong)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"txt": "a"}, "'txt'"),
        ({"text": 3}, "text is a int"),
        ({"text": "a", "weight": "0.5"}, "expected a number"),
        ({"text": "a", "weight": True}, "expected a number"),
        ({"text": "a", "weight": 10**400}, "expected a finite number"),
        ({"weight": 2}, "one of text"),
    ],
)
def test_a_term_in_json_that_is_none_says_why(given, fault):
    with pytest.raises(ValueError, match=fault):
        read_term(given)


def test_the_short_form_of_a_query_has_one_term():
    query = Query(text="edema", k=3)

    assert query.terms == (Term(text="edema"),)
    assert replace(query, k=5).terms == query.terms
    with pytest.raises(ValueError, match="not both"):
        Query(text="edema", terms=(Term(text="effusion"),))


def test_lists_and_paths_as_text_are_taken_for_what_they_say():
    listed = Query(terms=[Term(image="film.png")], without=["edema"], splits=["test"], views=["PA"], only=[parse_condition("sex=F")])
    told = Query(terms=(Term(image=Path("film.png")),), without=("edema",), splits=("test",), views=("PA",), only=listed.only)

    assert listed == told and hash(listed.selection) == hash(told.selection)
    assert Query(image="film.png") == Query(image=Path("film.png"))


def test_json_can_say_all_that_a_query_has():
    said = {"terms": [{"text": "a", "weight": 2}], "without": ["b"], "find": "reports", "k": 3, "offset": 1, "min_score": 0.5}
    said |= {"collapse": "study", "splits": ["test"], "views": ["PA"], "only": ["sex=F"], "where": "age > 3", "vector": "features"}
    said |= {"exclude_same_patient": False, "exclude_same_study": True, "best_sentence": True}

    query = read_query(said)

    assert {field.name for field in fields(Query)} - set(said) == {"text", "label", "image", "id"}
    assert query.terms == (Term(text="a", weight=2),)
    assert (query.without, query.k, query.offset, query.min_score, query.collapse) == (("b",), 3, 1, 0.5, "study")
    assert (query.splits, query.views, list(map(str, query.only)), query.where) == (("test",), ("PA",), ["sex=F"], "age > 3")
    assert read_query({"text": "c", "k": None}, {"k": 7, "find": "reports"}) == Query(text="c", k=7, find="reports")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"txt": "a"}, "unknown field 'txt', expected name, text"),
        ({"text": "a", "k": "3"}, "k is a str, expected a whole number"),
        ({"text": "a", "k": True}, "k is a bool"),
        ({"text": "a", "k": 0}, "k is 0"),
        ({"text": "a", "offset": -1}, "offset is -1"),
        ({"text": "a", "without": "b"}, "without is a str, expected a list of strings"),
        ({"text": "a", "collapse": "film"}, "collapse is 'film'"),
        ({"text": "a", "only": ["sex"]}, "expected COLUMN=VALUE"),
        ({"k": 3}, "a query is one of text"),
    ],
)
def test_a_query_in_json_that_is_none_says_why(said, fault):
    with pytest.raises(ValueError, match=fault):
        read_query(said)


@pytest.mark.parametrize(
    ("term", "whose"),
    [
        (Term(text="small left effusion"), "phrase"),
        (Term(text="Small left effusion. No pneumothorax."), "text"),
        (Term(label="Edema"), "phrase"),
        (Term(id="r005"), "text"),
    ],
)
def test_scores_of_a_few_words_are_read_against_phrases_and_those_of_reports_against_reports(term, whose):
    asked = AskedTerm(term=term, asker="text", vector=np.eye(1, 4, dtype=np.float32)[0])

    assert Question(query=Query(terms=(term,)), terms=(asked,), vector=asked.vector[None]).measured_as == whose
