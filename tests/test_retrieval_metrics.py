import itertools
import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval import resampling
from retrieval.metrics import (
    average_precision,
    chance_average_precision,
    chance_precision,
    chance_ranks,
    first_match_ranks,
    first_relevant_rank,
    mean_reciprocal_rank,
    median_rank,
    pack_findings,
    precision_at_k,
    ranked_relevance,
    recall_at_k,
)
from retrieval.resampling import bootstrap_interval

RELEVANCE = arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 30)))


def trec(relevance, measures):
    """Score rankings with trec_eval, handing it −rank as the score: it orders ties its own way."""
    qrels = {f"q{q}": {f"d{d}": int(hit) for d, hit in enumerate(row)} for q, row in enumerate(relevance)}
    run = {f"q{q}": {f"d{d}": float(-d) for d in range(len(row))} for q, row in enumerate(relevance)}
    scored = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    return [scored[f"q{q}"] for q in range(len(relevance))]


@given(RELEVANCE)
def test_precision_is_that_of_trec_eval(relevance):
    expected = trec(relevance, {"P_5", "P_10", "P_100"})

    for k in (5, 10, 100):
        np.testing.assert_allclose(precision_at_k(relevance, k), [query[f"P_{k}"] for query in expected])


@given(RELEVANCE)
def test_reciprocal_rank_and_success_are_those_of_trec_eval(relevance):
    ranks = first_relevant_rank(relevance)
    expected = trec(relevance, {"recip_rank", "success_1", "success_5", "success_10"})

    assert mean_reciprocal_rank(ranks) == pytest.approx(np.mean([query["recip_rank"] for query in expected]))
    for k in (1, 5, 10):
        assert recall_at_k(ranks, k) == pytest.approx(np.mean([query[f"success_{k}"] for query in expected]))


@given(relevance=arrays(bool, st.tuples(st.integers(1, 6), st.integers(0, 12))), k=st.integers(1, 20))
def test_precision_at_k_equals_a_count_by_hand(relevance, k):
    expected = [sum(hits[:k]) / k for hits in relevance.tolist()]

    np.testing.assert_allclose(precision_at_k(relevance, k), expected)


@given(RELEVANCE)
def test_average_precision_is_that_of_trec_eval(relevance):
    np.testing.assert_allclose(average_precision(relevance), [query["map"] for query in trec(relevance, {"map"})], atol=1e-12)


@given(relevance=arrays(bool, st.tuples(st.integers(1, 6), st.integers(0, 12))), beyond=st.integers(0, 4))
def test_average_precision_equals_a_mean_by_hand(relevance, beyond):
    """Relevant candidates that are not in the ranking add nothing and count all the same."""
    expected = []
    for hits in relevance.tolist():
        at = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        expected.append(sum(at) / max(1, len(at) + beyond))

    np.testing.assert_allclose(average_precision(relevance, relevance.sum(axis=1) + beyond), expected)


def test_a_ranking_with_all_relevant_candidates_first_has_average_precision_one():
    np.testing.assert_allclose(average_precision(np.array([[True, True, False, False]])), [1.0])


def test_equal_scores_have_the_order_they_were_ranked_in():
    """The best of two equally scored candidates comes first, so it alone decides the first precision."""
    scores = np.array([[0.5, 0.5]])
    ranked = np.argsort(-scores, axis=1, kind="stable")
    first, second = (ranked_relevance(ranked, np.array([1]), np.array(masks)) for masks in ([1, 0], [0, 1]))

    np.testing.assert_allclose(np.concatenate([average_precision(first), average_precision(second)]), [1.0, 0.5])


@pytest.mark.parametrize(("relevant", "candidates"), [(1, 1), (1, 2), (2, 5), (3, 6), (6, 6), (0, 4)])
def test_chance_average_precision_is_the_mean_over_all_orders(relevant, candidates):
    orders = np.array(list(itertools.permutations([True] * relevant + [False] * (candidates - relevant))), dtype=bool)

    expected = average_precision(orders).mean()

    assert chance_average_precision(np.array([relevant]), np.array([candidates]))[0] == pytest.approx(expected)


def test_the_smaller_denominator_lets_a_perfect_ranking_reach_one():
    relevance = np.array([[True, True, False, False, False], [False] * 5])
    relevant = np.array([2, 0])

    np.testing.assert_allclose(precision_at_k(relevance, 5), [0.4, 0])
    np.testing.assert_allclose(precision_at_k(relevance, 5, relevant, "min(k, relevant)"), [1, 0])


def test_a_denominator_that_needs_the_relevant_ones_says_so():
    with pytest.raises(ValueError, match="relevant"):
        precision_at_k(np.ones((1, 5), bool), 5, denominator="min(k, relevant)")


def test_a_cut_off_below_one_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        precision_at_k(np.ones((1, 5), bool), 0)


@pytest.mark.parametrize("denominator", ["k", "min(k, relevant)"])
@pytest.mark.parametrize(("relevant", "candidates", "k"), [(2, 5, 3), (1, 6, 6), (3, 4, 6), (0, 4, 2), (5, 5, 2)])
def test_chance_precision_is_the_mean_over_all_orders(relevant, candidates, k, denominator):
    labels = [True] * relevant + [False] * (candidates - relevant)
    orders = np.array(list(itertools.permutations(labels)))
    counts = np.full(len(orders), relevant)

    expected = precision_at_k(orders, k, counts, denominator).mean()

    assert chance_precision(np.array([relevant]), np.array([candidates]), k, denominator)[0] == pytest.approx(expected)


def test_chance_precision_is_the_prevalence_for_cut_offs_within_the_candidates():
    np.testing.assert_allclose(chance_precision(np.array([200]), np.array([1600]), 100), [0.125])


@pytest.mark.parametrize(("relevant", "candidates"), [([1], 5), ([2], 6), ([1, 3], 6), ([1, 1, 4], 7)])
def test_chance_ranks_are_those_over_all_orders(relevant, candidates):
    ranks = []
    for count in relevant:
        orders = np.array(list(itertools.permutations([True] * count + [False] * (candidates - count))))
        ranks.append(first_relevant_rank(orders))
    pooled = np.concatenate(ranks)

    recall, median, reciprocal = chance_ranks(relevant, candidates, (1, 3, 10))

    assert recall == pytest.approx({k: np.mean(pooled <= k) for k in (1, 3, 10)})
    assert median == np.median(pooled)
    assert reciprocal == pytest.approx(np.mean(1 / pooled))


@pytest.mark.parametrize("candidates", [1, 2, 737, 10_000])
def test_with_one_own_candidate_chance_has_closed_forms(candidates):
    recall, median, reciprocal = chance_ranks([1, 1, 1], candidates, (1, 10))

    assert recall[1] == pytest.approx(1 / candidates)
    assert recall[10] == pytest.approx(min(1, 10 / candidates))
    assert median == (candidates + 1) / 2
    assert reciprocal == pytest.approx(sum(1 / rank for rank in range(1, candidates + 1)) / candidates)


@given(st.data())
def test_the_rank_of_the_first_match_is_its_place_in_the_sorted_list(data):
    queries, candidates = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    scores = data.draw(arrays(np.float32, (queries, candidates), elements=st.sampled_from([0.0, 0.25, 0.5])))  # many ties
    asked = data.draw(arrays(np.int64, queries, elements=st.integers(0, 3)))
    held = data.draw(arrays(np.int64, candidates, elements=st.integers(0, 3)))

    expected = []
    for query in range(queries):
        order = sorted(range(candidates), key=lambda place, query=query: (-scores[query, place], place))
        expected.append(next((rank for rank, place in enumerate(order, 1) if held[place] == asked[query]), math.inf))

    np.testing.assert_array_equal(first_match_ranks(scores, asked, held), expected)


@given(st.data())
def test_bitmask_relevance_is_a_shared_finding(data):
    findings = data.draw(st.sampled_from([1, 14, 16, 17, 32, 33, 64]))
    candidates = data.draw(arrays(bool, (7, findings)))
    queries = data.draw(arrays(bool, (3, findings)))
    ranked = data.draw(arrays(np.int64, (3, 5), elements=st.integers(-1, 6)))

    relevance = ranked_relevance(ranked, pack_findings(queries), pack_findings(candidates))

    expected = [[row >= 0 and bool(np.any(queries[q] & candidates[row])) for row in ranked[q]] for q in range(3)]
    np.testing.assert_array_equal(relevance, expected)


@pytest.mark.parametrize(("findings", "kind"), [(14, np.uint16), (16, np.uint16), (17, np.uint32), (64, np.uint64)])
def test_masks_are_as_narrow_as_the_findings_allow(findings, kind):
    assert pack_findings(np.ones((2, findings), bool)).dtype == kind


def test_more_findings_than_bits_are_refused():
    with pytest.raises(ValueError, match="65 findings"):
        pack_findings(np.ones((2, 65), bool))


def test_without_candidates_nothing_is_relevant():
    relevance = ranked_relevance(np.full((2, 3), -1), np.ones(2, np.uint16), np.empty(0, np.uint16))

    assert not relevance.any()


def test_a_query_that_finds_nothing_relevant_has_an_infinite_rank():
    ranks = first_relevant_rank(np.array([[False, True], [False, False]]))

    np.testing.assert_array_equal(ranks, [2, math.inf])
    assert mean_reciprocal_rank(ranks) == 0.25
    assert median_rank(ranks) == math.inf


def test_figures_over_no_query_are_not_numbers():
    none = np.empty(0)

    assert all(math.isnan(figure) for figure in (recall_at_k(none, 1), mean_reciprocal_rank(none), median_rank(none)))


def means_of(values):
    return lambda counts: counts @ values / counts.sum(axis=1)


def test_a_bootstrap_resamples_as_a_slow_loop_over_lists_of_units_does():
    """Each row of counts, written out as the units drawn, gives the statistic; quantiles by sorting and interpolating."""
    values = np.random.default_rng(5).normal(size=9)
    drawn = []

    def by_hand(counts):
        drawn.extend(counts.tolist())
        return np.array([np.mean([value for value, times in zip(values, row, strict=True) for _ in range(times)]) for row in counts])

    low, high = bootstrap_interval(by_hand, 9, resamples=201, confidence=0.9, seed=3)

    assert len(drawn) == 201 and all(sum(row) == 9 for row in drawn)
    means = sorted(float(np.dot(row, values)) / 9 for row in drawn)
    assert (low, high) == (pytest.approx(means[10]), pytest.approx(means[190]))  # 5 % and 95 % of 200 steps


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    """The bootstrap of a mean of N values has the standard deviation s / sqrt(N)."""
    values = np.random.default_rng(0).normal(2, 3, size=400)
    half = 1.96 * values.std() / math.sqrt(len(values))

    low, high = bootstrap_interval(means_of(values), 400, resamples=20_000)

    assert (low, high) == (pytest.approx(values.mean() - half, abs=0.02), pytest.approx(values.mean() + half, abs=0.02))


def test_a_bootstrap_repeats_with_its_seed_and_does_not_depend_on_how_many_resamples_are_drawn_at_once(monkeypatch):
    values = np.arange(7.0)
    first = bootstrap_interval(means_of(values), 7, resamples=50, seed=1)

    assert bootstrap_interval(means_of(values), 7, resamples=50, seed=1) == first
    assert bootstrap_interval(means_of(values), 7, resamples=50, seed=2) != first
    monkeypatch.setattr(resampling, "_COUNTS_AT_ONCE", 20)
    assert bootstrap_interval(means_of(values), 7, resamples=50, seed=1) == first


def test_equal_units_leave_no_uncertainty():
    assert bootstrap_interval(means_of(np.full(6, 0.25)), 6, resamples=10) == (0.25, 0.25)


@pytest.mark.parametrize("wrong", [{"units": 0}, {"units": 3, "resamples": 0}, {"units": 3, "confidence": 1.0}])
def test_a_bootstrap_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 or more"):
        bootstrap_interval(means_of(np.ones(3)), **wrong)
