import itertools
import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.measures import MEASURES, chance_measures, measure_rankings, summarise

KS = (1, 5, 10)
OUTSIDE = {f"{name}@{k}": f"{of}_{k}" for name, of in (("P", "P"), ("recall", "recall"), ("nDCG", "ndcg_cut")) for k in (5, 10)}
OUTSIDE |= {"mAP": "map", "MRR": "recip_rank"}


@given(relevance=arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 30))), beyond=st.integers(0, 3))
def test_measures_are_those_of_trec_eval(relevance, beyond):
    """Documents d100, ... are relevant and not in the run."""
    judged = [{f"d{d}": int(hit) for d, hit in enumerate(row)} | {f"d{100 + d}": 1 for d in range(beyond)} for row in relevance]
    run = {f"q{q}": {f"d{d}": float(-d) for d in range(len(row))} for q, row in enumerate(relevance)}
    qrels = {f"q{q}": row for q, row in enumerate(judged)}
    scored = pytrec_eval.RelevanceEvaluator(qrels, set(OUTSIDE.values())).evaluate(run)

    found = measure_rankings(relevance, relevance.sum(axis=1) + beyond, MEASURES, KS)

    for name, outside in OUTSIDE.items():
        np.testing.assert_allclose(found[name], [scored[f"q{q}"][outside] for q in range(len(relevance))], atol=1e-12, err_msg=name)


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(0, 9))))
def test_measures_equal_a_count_by_hand(relevance):
    found = measure_rankings(relevance, relevance.sum(axis=1), MEASURES, KS)

    for query, row in enumerate(relevance.tolist()):
        ranks = [rank for rank, hit in enumerate(row, 1) if hit]
        assert found["median_rank"][query] == (ranks[0] if ranks else math.inf)
        for k in KS:
            ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(ranks)) + 1))
            gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k)
            assert found[f"nDCG@{k}"][query] == pytest.approx(gain / ideal if ranks else 0)
            assert found[f"recall@{k}"][query] == pytest.approx(sum(rank <= k for rank in ranks) / max(1, len(ranks)))


@pytest.mark.parametrize("denominator", ["k", "min(k, relevant)"])
@pytest.mark.parametrize(("relevant", "candidates"), [(1, 1), (1, 4), (2, 5), (6, 6), (3, 7), (0, 3)])
def test_chance_is_the_mean_over_all_orders(relevant, candidates, denominator):
    """k above the candidates included; of ranks chance is the median over all orders."""
    orders = np.array(list(itertools.permutations([True] * relevant + [False] * (candidates - relevant))))
    counts = np.full(len(orders), relevant)
    found = measure_rankings(orders, counts, MEASURES, KS, denominator)

    expected = summarise(found, np.ones(len(orders), bool))

    chance = chance_measures(np.array([relevant]), np.array([candidates]), MEASURES, KS, denominator)
    assert {name: values[0] for name, values in chance.items()} == pytest.approx(expected)


def test_chance_of_many_queries_is_that_of_each():
    relevant, candidates = np.array([3, 1, 3, 0, 40]), np.array([9, 5, 9, 4, 5000])

    together = chance_measures(relevant, candidates, MEASURES, KS)

    for query in range(5):
        alone = chance_measures(relevant[[query]], candidates[[query]], MEASURES, KS)
        assert {name: values[query] for name, values in together.items()} == {name: values[0] for name, values in alone.items()}


def test_random_orders_of_a_large_gallery_reach_chance():
    """A simulation: 4,000 orders of 2,000 candidates, 37 of them relevant."""
    draw = np.random.default_rng(0)
    relevance = draw.random((4000, 2000)).argsort(axis=1) < 37
    counts, galleries = np.full(4000, 37), np.full(4000, 2000)

    found, chance = measure_rankings(relevance, counts, MEASURES, (10,)), chance_measures(counts, galleries, MEASURES, (10,))

    for name, values in found.items():
        if name != "median_rank":
            assert values.mean() == pytest.approx(chance[name][0], abs=4 * values.std() / math.sqrt(4000))
    assert np.median(found["median_rank"]) == pytest.approx(chance["median_rank"][0], abs=2)


def test_figures_over_no_query_are_not_numbers():
    found = measure_rankings(np.zeros((0, 3), bool), np.zeros(0, int), MEASURES, (5,))

    assert all(math.isnan(figure) for figure in summarise(found, np.zeros(0, bool)).values())
