import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrieval.significance import class_weights, holm, paired_randomisation

DRAW = np.random.default_rng(0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7), st.integers(1, 3))
def test_few_units_are_swapped_in_every_way(differences, queries):
    """Each of the 2^N signs of N patients, whose queries are swapped together, is counted by hand."""
    second = np.repeat(np.array(differences, float), queries)
    units = np.repeat(np.arange(len(differences)), queries)
    observed = abs(sum(differences))
    swaps = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in itertools.product((1, -1), repeat=len(differences))
    ]

    tested = paired_randomisation(np.zeros(len(second)), second, units)

    assert tested.p == pytest.approx(np.mean([swap >= observed for swap in swaps]))
    assert tested.difference == pytest.approx(-np.mean(differences))


def test_many_units_agree_with_the_permutation_test_of_scipy():
    first, second = DRAW.normal(0.12, 1, 60), DRAW.normal(0, 1, 60)

    expected = stats.permutation_test(
        (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )

    assert paired_randomisation(first, second, np.arange(60), resamples=20_000).p == pytest.approx(expected.pvalue, abs=0.015)


def test_of_two_equal_systems_p_is_uniform():
    """Under the null hypothesis p <= 0.1 happens in one of ten experiments."""
    ps = [paired_randomisation(*DRAW.normal(size=(2, 30)), np.arange(30), resamples=199, seed=seed).p for seed in range(300)]

    assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 300))


def test_the_queries_of_one_patient_are_one_observation():
    """A hundred queries of three patients, all better: with queries for units p would be 2^-99; it is 2 / 2^3."""
    assert paired_randomisation(np.ones(100), np.zeros(100), np.arange(100) % 3).p == pytest.approx(0.25)


def test_equal_scores_are_no_difference():
    assert paired_randomisation(np.ones(9), np.ones(9), np.arange(9)) == (0.0, 1.0, 0)


def test_a_mean_over_findings_weighs_each_finding_the_same():
    classes = np.array([4, 4, 4, 7])
    scores = np.array([1.0, 0.5, 0.0, 0.25])

    assert class_weights(classes) @ scores == pytest.approx((0.5 + 0.25) / 2)
    assert paired_randomisation(scores, np.zeros(4), np.arange(4), weights=class_weights(classes)).difference == pytest.approx(0.375)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_the_least_level_at_which_the_step_down_procedure_rejects(ps):
    """By Holm's own words: at level a the smallest p is rejected if below a / m, then the next if below a / (m - 1), ..."""

    def rejected(level):
        gone = []
        for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
            if ps[place] * (len(ps) - rank) > level:
                break
            gone.append(place)
        return gone

    for place, adjusted in enumerate(holm(np.array(ps))):
        assert place in rejected(min(1.0, adjusted) if adjusted < 1 else math.inf)
        assert adjusted == 0 or place not in rejected(math.nextafter(adjusted, 0))


def test_what_was_not_tested_does_not_count_in_holms_correction():
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])


@pytest.mark.parametrize(("first", "resamples"), [(np.ones(2), 10), (np.array([1.0, 1.0, np.inf]), 10), (np.ones(3), 0)])
def test_a_wrong_pairing_is_refused(first, resamples):
    with pytest.raises(ValueError, match="expected"):
        paired_randomisation(first, np.ones(3), np.arange(3), resamples=resamples)
