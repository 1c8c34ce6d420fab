import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from retrieval.roc import area_intervals, area_under_curve, finding_areas


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(3, 40), st.integers(1, 6))
def test_the_area_is_that_of_scikit_learn_with_ties_and_weights(seed, rows, levels):
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, levels + 1, rows) / 3.0
    positive = np.arange(rows) % 3 == 0
    weights = draw.integers(0, 3, (4, rows))
    weights[:, :2] += 1  # a positive and a negative at least

    np.testing.assert_allclose(area_under_curve(scores, positive), [roc_auc_score(positive, scores)])
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(area_under_curve(scores, positive, weights), expected)


@pytest.mark.parametrize("positive", [np.zeros(4, dtype=bool), np.ones(4, dtype=bool), np.zeros(0, dtype=bool)])
def test_without_a_positive_or_a_negative_there_is_no_area(positive):
    assert np.isnan(area_under_curve(np.arange(len(positive), dtype=float), positive)).all()


def test_records_that_nobody_judged_do_not_count():
    scores = np.array([[3.0], [2.0], [1.0], [9.0]])
    positive = np.array([[True], [False], [False], [False]])
    judged = np.array([[True], [True], [True], [False]])

    assert finding_areas(scores, positive, judged) == 1.0


def test_intervals_draw_patients_whole_and_average_within_each_resample(monkeypatch):
    monkeypatch.setattr("retrieval.resampling._COUNTS_AT_ONCE", 12 * 70)  # 70 resamples at a time
    draw = np.random.default_rng(3)
    owners = np.repeat(np.arange(12), 3)
    positive = np.stack([draw.random(36) < 0.4, draw.random(36) < 0.5], axis=1)
    scores = draw.normal(size=(36, 2)) + positive
    judged = np.ones_like(positive)
    counts = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), 500)
    plain = []
    for drawn in counts:  # records written out as often as their patient was drawn
        rows = np.repeat(np.arange(36), drawn[owners])
        plain.append([roc_auc_score(positive[rows, place], scores[rows, place]) for place in range(2)])

    ends, mean = area_intervals(scores, positive, judged, owners, np.array([True, True]), resamples=500, seed=5)

    np.testing.assert_allclose(ends, np.quantile(plain, [0.025, 0.975], axis=0).T)
    np.testing.assert_allclose(mean, np.quantile(np.mean(plain, axis=1), [0.025, 0.975]))
