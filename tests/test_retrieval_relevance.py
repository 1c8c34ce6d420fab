"""Which candidates answer an image, by each rule of relevance: held against a count step by step."""

from pathlib import Path

import numpy as np
import pytest
from handmade_index import image_rows, make_engine
from test_retrieval_evaluation import FINDINGS, labelled_corpus, labelled_engine, stored

from encoders.errors import MedretError
from index.corpora.record import LabelState, Record
from retrieval.evaluation import evaluate_label_precision
from retrieval.metrics import count_relevant, ranked_relevance

POSITIVE, NEGATIVE, UNCERTAIN = LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN


def read(record, uncertain):
    """The findings that a record is positive for, and those that are known of it."""
    known = {finding for finding, state in record.labels.items() if not (uncertain == "ignore" and state is UNCERTAIN)}
    doubtful = (POSITIVE, UNCERTAIN) if uncertain == "positive" else (POSITIVE,)
    return {finding for finding in known if record.labels[finding] in doubtful}, known


def plain_query(asking, scores, records, rule, uncertain, by):
    """Whether each candidate is relevant, in the order of rank; None where the image does not ask."""
    wanted = {finding for finding, state in asking.labels.items() if state is POSITIVE}
    if not wanted:
        return None
    if rule == "exact":
        wanted, known = read(asking, uncertain)
        if len(known) < len(FINDINGS):
            return None
    left_out = {asking.study_id if by == "study" else asking.id}
    units = {}
    for record, score in zip(records, scores, strict=True):
        positive, known = read(record, uncertain)
        counts = len(known) == len(FINDINGS) if rule == "exact" else wanted <= known or bool(wanted & positive)
        if not record.labels or not counts:
            continue
        unit = record.study_id if by == "study" else record.id
        own = record.patient_id == asking.patient_id if asking.patient_id else record.study_id == asking.study_id
        if own:
            left_out.add(unit)
        best, shown = units.get(unit, ((np.inf, ""), set()))
        units[unit] = (min(best, (-score, record.id)), shown | positive)
    left = [unit for name, unit in units.items() if name not in left_out]
    return [shown == wanted if rule == "exact" else bool(shown & wanted) for _, shown in sorted(left, key=lambda unit: unit[0])]


@pytest.mark.parametrize("uncertain", ["negative", "positive", "ignore"])
@pytest.mark.parametrize("by", ["image", "study"])
@pytest.mark.parametrize("rule", ["any", "exact"])
def test_each_rule_is_that_of_a_plain_count(tmp_path, uncertain, by, rule):
    corpus = labelled_corpus(seed=len(uncertain))
    records, reports, *_ = corpus
    engine = labelled_engine(tmp_path, corpus, None)
    vectors = stored(engine, "images").astype(np.float64)

    found = evaluate_label_precision(engine, relevance=rule, uncertain=uncertain, by=by, ks=(5, 40), measures=("P", "mAP")).directions

    assert list(found) == ["image-image", "image-report"]
    for direction, one in found.items():
        images = direction == "image-image"
        candidates = records if images else [row.record for row in reports]
        scores = (vectors @ (vectors if images else stored(engine, "reports").astype(np.float64)).T).astype(np.float32)
        asked = [
            plain_query(record, own, candidates, rule, uncertain, by if images else "image")
            for record, own in zip(records, scores, strict=True)
        ]
        ranked = [relevance for relevance in asked if relevance is not None and any(relevance)]
        precise = [np.mean([sum(relevance[: i + 1]) / (i + 1) for i, hit in enumerate(relevance) if hit]) for relevance in ranked]
        assert one.queries == len(ranked) > 5
        assert one.metrics["mAP"].value == pytest.approx(np.mean(precise))
        for k in (5, 40):
            assert one.metrics[f"P@{k}"].value == pytest.approx(np.mean([sum(relevance[:k]) / k for relevance in ranked]))
            chance = [min(k, len(relevance)) * np.mean(relevance) / k for relevance in ranked]
            assert one.metrics[f"P@{k}"].chance == pytest.approx(np.mean(chance))
        each = one.per_query
        assert [len(each.relevant(query)) for query in range(len(each.ids))] == each.answers.tolist() == [sum(some) for some in ranked]
        assert (one.per_class, one.protocol["average"], set(each.findings.tolist())) == ({}, "queries", {-1})


def test_a_text_shows_nothing_that_another_record_could_share(tmp_path):
    engine = labelled_engine(tmp_path, labelled_corpus(seed=1), None)

    with pytest.raises(MedretError, match="in text-image a text asks"):
        evaluate_label_precision(engine, directions=("text-image",), relevance="exact")
    with pytest.raises(ValueError, match="expected one of finding, any, exact"):
        evaluate_label_precision(engine, directions=("image-image",), relevance="some")


def test_a_study_of_two_patients_is_no_candidate_of_either(tmp_path):
    """Study s1 has a film of p1, who asks, and one of p2: the ranking, its count and what is said to answer agree to leave it out."""
    who = [("a", "p1", "s0"), ("b", "p1", "s1"), ("c", "p2", "s1"), ("d", "p3", "s2"), ("e", "p4", "s3")]
    records = [
        Record(id=id, image=Path(id), patient_id=patient, study_id=study, labels={"Edema": NEGATIVE if id == "e" else POSITIVE})
        for id, patient, study in who
    ]
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    engine = make_engine(tmp_path, {"images": (image_rows(records), {"joint": vectors})}, findings=("Edema",))

    each = evaluate_label_precision(engine, directions=("image-image",), by="study", ks=(4,)).directions["image-image"].per_query

    asks = each.ids.index("a|Edema")
    assert each.rows[asks].tolist() == [3, 4, -1, -1]
    assert (each.relevant(asks).tolist(), each.answers[asks], each.reachable[asks]) == ([3], 1, 2)
    assert each.scores["P@4"][asks] == 0.25
    assert set(each.struck(asks).tolist()) == {0, 1, 2}


def test_masks_are_compared_by_all_findings_where_they_have_to_be_the_same():
    candidates = np.array([0b011, 0b001, 0b100, 0b011], dtype=np.uint16)
    ranked, asked = np.array([[0, 1, 2, -1], [3, 2, -1, -1]]), np.array([0b011, 0b001], dtype=np.uint16)

    assert ranked_relevance(ranked, asked, candidates, exact=True).tolist() == [[True, False, False, False], [False] * 4]
    assert ranked_relevance(ranked, asked, candidates).tolist() == [[True, True, False, False], [True, False, False, False]]
    assert count_relevant(asked, candidates, exact=True).tolist() == [2, 1]
