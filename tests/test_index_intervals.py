"""Intervals of a recall: Wilson's by the equation its ends solve, effective trials by cases that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.intervals import effective_trials, share_interval, two_sided, wilson_interval


@given(hits=st.integers(0, 500), count=st.integers(1, 500))
def test_the_ends_are_the_proportions_that_lie_z_standard_errors_away(hits, count):
    mean = min(hits / count, 1.0)

    interval = wilson_interval(mean, count, 1.96)

    for end in (interval.low, interval.high):
        assert (mean - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / count, abs=1e-9)
    assert 0 <= interval.low <= mean + 1e-12 and mean - 1e-12 <= interval.high <= 1


def test_95_percent_is_1_96_standard_errors():
    assert two_sided(0.95) == pytest.approx(1.959964, abs=1e-6)


def test_perfect_queries_count_once_each_whatever_their_hits():
    assert effective_trials(np.ones(1000), 10) == pytest.approx(1000)
    assert share_interval(np.ones(1000), 10, 1.96).low == pytest.approx(1000 / (1000 + 1.96**2))


def test_queries_that_find_all_or_nothing_count_once_each():
    assert effective_trials(np.repeat([1.0, 0.0], [700, 300]), 10) == pytest.approx(1000, rel=1e-2)


def test_misses_that_come_alone_count_almost_hit_by_hit_and_never_more():
    shares = np.random.default_rng(0).binomial(50, 0.8, 4000) / 50

    assert 0.8 * 200_000 < effective_trials(shares, 50) <= 200_000


@pytest.mark.parametrize("lost", [0.002, 0.01])
def test_the_lower_end_lies_below_the_truth_also_where_few_queries_lose_everything(lost):
    """The case that deceives an interval by hits: nearly all queries are perfect, and some rare kind finds nothing."""
    random = np.random.default_rng(1)
    truth = (1 - lost) * 0.999
    runs = 1000

    shares = random.binomial(10, 0.999, (runs, 1000)) / 10 * (random.random((runs, 1000)) >= lost)
    low = np.array([share_interval(run, 10, two_sided(0.95)).low for run in shares])

    assert (low <= truth).mean() >= 0.96  # of one side 97.5 % are meant
