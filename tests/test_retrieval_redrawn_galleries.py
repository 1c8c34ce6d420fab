"""Intervals of queries that belong to no patient: beside candidates written out as often as they were drawn."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_retrieval_figures import corpus_engine, queries

from retrieval.benchmarks import label_task
from retrieval.figures import add_intervals, direction_result
from retrieval.measures import MEASURES, measure_rankings
from retrieval.owners import number_owners
from retrieval.redrawn_galleries import redraw_galleries, redrawn_measures
from retrieval.resampling import resampled_counts
from retrieval.results import EvaluationResult
from retrieval.units import judge


def written_out(hits, owners, counts, ks, denominator):
    """Each measure of each resample, (B,), of rankings written out; NaN where nothing relevant was drawn."""
    rows = [np.repeat(hits, times[owners])[None] for times in counts]
    scored = [measure_rankings(row, row.sum(axis=1), MEASURES, ks, denominator) for row in rows]
    return {name: np.array([one[name][0] if row.any() else np.nan for one, row in zip(scored, rows, strict=True)]) for name in scored[0]}


@given(
    seed=st.integers(0, 10**6), length=st.integers(1, 60), patients=st.integers(1, 30), share=st.sampled_from([0.1, 0.5, 1]),
    few=st.booleans(), denominator=st.sampled_from(["k", "min(k, relevant)"]),
)  # fmt: skip
def test_a_ranking_of_drawn_patients_scores_as_if_it_were_written_out(seed, length, patients, share, few, denominator):
    draw = np.random.default_rng(seed)
    hits, owners = draw.random(length) < share, draw.integers(0, patients, length)
    counts = draw.multinomial(patients, np.full(patients, 1 / patients), 9)
    measures = ("P", "recall", "nDCG") if few else MEASURES  # few: as deep as k answers need

    found = redrawn_measures(hits, owners, counts.T.astype(np.float32), measures, (1, 5, 70), denominator)

    plain = written_out(hits, owners, counts, (1, 5, 70), denominator)
    assert set(found) == {name for name in plain if not few or name.partition("@")[0] in measures}
    for name, values in found.items():
        np.testing.assert_allclose(values, plain[name], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("by", ["image", "study"])
def test_the_whole_gallery_is_drawn_again_however_little_of_it_was_kept(tmp_path, monkeypatch, by):
    """Two answers were kept; films of one patient come and go together, and what is not known of a finding is no candidate."""
    monkeypatch.setattr("retrieval.redrawn_galleries._ROWS_AT_ONCE", 100)
    engine = corpus_engine(tmp_path)
    task = label_task(engine, "image-image", uncertain="ignore")
    kept, whole = (judge(engine, task, depth, by, exclude_same_patient=False) for depth in (2, 70))

    patients, found = redraw_galleries(engine, task, kept, by, ("P", "recall", "mAP"), (2,), "k", 30, 5)

    owners = number_owners(engine.table("images"), np.arange(70))
    assert patients == owners.max() + 1
    counts = np.concatenate(list(resampled_counts(patients, 30, 5)))
    for query, (rows, hits) in enumerate(zip(whole.rows, whole.relevance, strict=True)):
        plain = written_out(hits[rows >= 0], owners[rows[rows >= 0]], counts, (2,), "k")
        for name, values in found.items():
            np.testing.assert_allclose(values[:, query], plain[name], err_msg=name)


def test_figures_of_redrawn_galleries_leave_out_the_queries_that_nothing_answers():
    """Three queries, the last of another finding and unanswered in two of five resamples."""
    nan = np.nan
    drawn = np.array([[0.1, 0.3, nan], [0.2, 0.2, 0.8], [0.3, nan, 0.6], [0.4, 0.6, nan], [nan, nan, 0.7]])
    ranks = np.where(np.isnan(drawn), nan, np.round(10 * drawn))
    scores = {"P@5": np.array([0.2, 0.3, 0.7]), "median_rank": np.array([2.0, 3.0, 7.0])}
    each = replace(
        queries(scores, [0, 1, 2], [0, 0, 1]), unit="prompts", redraw=lambda resamples, seed: (8, {"P@5": drawn, "median_rank": ranks})
    )

    result = EvaluationResult(benchmark="x", directions={"d": direction_result(each, {"average": "findings"}, 5)})
    found = add_intervals(result, resamples=5).directions["d"]

    assert found.protocol["interval"] == "95% of 5 resamples of 8 patients among the candidates, seed 0"
    macro = [0.2, (0.2 + 0.8) / 2, (0.3 + 0.6) / 2, 0.5, 0.7]
    assert [found.metrics["P@5"].low, found.metrics["P@5"].high] == pytest.approx(np.quantile(macro, [0.025, 0.975]))
    of_a = found.per_class["a"][1]
    assert [of_a["P@5"].low, of_a["P@5"].high] == pytest.approx(np.quantile([0.2, 0.2, 0.3, 0.5], [0.025, 0.975]))
    micro = found.other_average["micro"]
    assert micro["P@5"].high == pytest.approx(np.quantile([0.2, 0.4, 0.45, 0.5, 0.7], 0.975))
    assert [micro["median_rank"].low, micro["median_rank"].high] == [2.0, 7.0]  # 2, 2, 4.5, 5, 7


def test_intervals_of_a_text_hold_the_precision_of_other_galleries_as_often_as_they_say():
    """Galleries of 100 patients with two films each, drawn from one population, of which many tell the expectation."""
    draw, patients, k = np.random.default_rng(0), 100, 50

    def gallery():
        owners = np.repeat(np.arange(patients), 2)
        hits = (draw.random(patients) < 0.15)[owners] & (draw.random(2 * patients) < 0.8)
        order = np.argsort(draw.normal(0, 0.7, patients)[owners] + draw.normal(0, 0.7, 2 * patients) - hits)
        return hits[order], owners[order]

    truth = np.mean([gallery()[0][:k].mean() for _ in range(2000)])
    held = 0
    for _ in range(200):
        drawn = draw.multinomial(patients, np.full(patients, 1 / patients), 300).T.astype(np.float32)
        low, high = np.nanquantile(redrawn_measures(*gallery(), drawn, ("P",), (k,))[f"P@{k}"], [0.025, 0.975])
        held += low <= truth <= high

    assert 0.91 <= held / 200 <= 0.985
