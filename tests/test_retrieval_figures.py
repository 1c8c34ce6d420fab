import math
from pathlib import Path

import numpy as np
import pytest
from handmade_index import image_rows, make_engine

from index.corpora.record import LabelState, Record
from index.shards import ShardRow
from retrieval.benchmarks import label_task
from retrieval.evaluation import evaluate_label_precision, evaluate_report_recall
from retrieval.figures import add_intervals, direction_result
from retrieval.filters import Selection
from retrieval.full_rankings import rank_all
from retrieval.measures import MEASURES
from retrieval.resampling import resampled_counts
from retrieval.results import EvaluationResult, PerQuery
from retrieval.units import judge

FINDINGS = ("Edema", "Fracture")


def corpus_engine(folder, seed=0, images=70, dimension=8, **made_by):
    """Random films of 25 patients, in two views and two splits, with few distinct vectors, so that scores tie."""
    draw = np.random.default_rng(seed)
    states = [*LabelState]
    records = [
        Record(
            id=f"i{row:03d}",
            image=Path(f"{row}.png"),
            study_id=f"s{row % 40}",
            patient_id=f"p{row % 40 % 25}",
            split="test" if row % 40 % 25 < 10 else "train",
            view="PA" if row % 3 else "LATERAL",
            labels={finding: states[draw.integers(4)] for finding in FINDINGS if draw.random() < 0.9},
        )
        for row in draw.permutation(images)
    ]
    vectors = draw.normal(size=(20, dimension))[draw.integers(0, 20, images)]
    return make_engine(folder, {"images": (image_rows(records), {"joint": vectors})}, findings=FINDINGS, **made_by)


@pytest.mark.parametrize("by", ["image", "study"])
@pytest.mark.parametrize("uncertain", ["negative", "ignore"])
def test_the_ranking_of_all_is_that_of_asking_for_as_many_answers(tmp_path, monkeypatch, by, uncertain):
    """Block by block, beside the engine's own answers in one go; ties by id."""
    monkeypatch.setattr("retrieval.full_rankings._SCORES_AT_ONCE", 200)
    engine = corpus_engine(tmp_path)
    task = label_task(engine, "image-image", uncertain=uncertain)
    whole = judge(engine, task, 70, by)

    seen = []
    for members, rows, relevance in rank_all(engine, task, whole, by):
        np.testing.assert_array_equal(relevance, whole.relevance[members][:, : len(rows)])
        np.testing.assert_array_equal(np.broadcast_to(rows, relevance.shape), whole.rows[members][:, : len(rows)])
        assert (whole.rows[members][:, len(rows) :] < 0).all()
        seen += members.tolist()

    assert sorted(seen) == list(range(len(task.items)))


def test_every_measure_has_its_figure_for_each_finding_and_view_and_both_means(tmp_path):
    result = evaluate_label_precision(corpus_engine(tmp_path, seed=1), directions=["image-image"], ks=(3,), measures=MEASURES)
    one, each = result.to_dict(), result.directions["image-image"].per_query

    assert list(one["metrics"]) == ["P@3", "recall@3", "nDCG@3", "mAP", "MRR", "median_rank"]
    assert set(one["per_view"]) == {"PA", "LATERAL"}
    assert sum(row["queries"] for row in one["per_view"].values()) == one["queries"] == len(each.ids) == len(set(each.ids))
    for name, figure in one["metrics"].items():
        assert figure["value"] == pytest.approx(np.mean([row[name]["value"] for row in one["per_class"].values()]))
        if name != "median_rank":
            assert one["other_average"]["micro"][name]["value"] == pytest.approx(each.scores[name].mean())
            of_view = each.scores[name][[view == "PA" for view in each.views]]
            assert one["per_view"]["PA"][name]["value"] == pytest.approx(of_view.mean())


def test_images_of_one_split_ask_for_those_of_another(tmp_path):
    engine = corpus_engine(tmp_path)
    result = evaluate_label_precision(engine, directions=["image-image"], ks=(3,), splits=["train"], ask_splits=["test"])

    each = result.directions["image-image"].per_query
    splits = dict(zip(engine.table("images").ids(np.arange(70)), engine.table("images").column("split"), strict=True))
    assert {splits[id.split("|")[0]] for id in each.ids} == {"test"}
    assert {splits[id] for id in engine.table("images").ids(np.unique(each.rows[each.rows >= 0]))} == {"train"}
    assert result.to_dict()["protocol"]["ask_splits"] == ["test"]
    assert label_task(engine, "image-image", selection=Selection(splits=("train",))).allowed.sum() == result.to_dict()["candidates"]


def test_a_finding_that_no_image_asks_for_is_named(tmp_path):
    """Fracture is only ever doubtful: under "positive" it has candidates, and nobody to ask."""
    states = [{"Edema": LabelState.POSITIVE, "Fracture": LabelState.UNCERTAIN}, {"Edema": LabelState.POSITIVE}]
    records = [Record(id=str(row), image=Path("x"), labels=labels) for row, labels in enumerate(states)]
    engine = make_engine(tmp_path, {"images": (image_rows(records), {"joint": np.eye(2)})}, findings=FINDINGS)

    result = evaluate_label_precision(engine, directions=["image-image"], uncertain="positive").to_dict()

    assert set(result["per_class"]) == {"Edema"}
    assert result["protocol"]["left_out"] == {"findings without a query (Fracture)": 1}


def test_identical_texts_are_one_candidate_or_each(tmp_path):
    """The second film is nearest to the first report, which says the same as its own."""
    texts = {"s1": "Clear.", "s2": "Clear.", "s3": "Edema."}
    films = [Record(id=f"i{study}", image=Path(study), study_id=study) for study in texts]
    reports = [ShardRow(Record(id=study, image=None, study_id=study), text=text) for study, text in texts.items()]
    spread = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]])
    engine = make_engine(tmp_path, {"images": (image_rows(films), {"joint": spread}), "reports": (reports, {"joint": np.eye(3)})})

    once, each = (evaluate_report_recall(engine, directions=["image-report"], same_text=way).to_dict() for way in ("once", "each"))

    assert (once["candidates"], each["candidates"]) == (2, 3)
    assert (once["metrics"]["R@1"]["value"], each["metrics"]["R@1"]["value"]) == (1, pytest.approx(2 / 3))
    assert [each["metrics"][f"R@{k}"]["chance"] for k in (1, 5)] == [pytest.approx(1 / 3), 1]
    assert each["protocol"]["identical_texts"] == "a candidate and a query each"


def queries(scores, units, findings, names=("a", "b"), views=None):
    """Queries of which nothing is known but their scores."""
    count, none = len(units), np.zeros((len(units), 0), dtype=np.int64)
    return PerQuery(
        ids=tuple(map(str, range(count))),
        names=names,
        findings=np.array(findings),
        units=np.array(units),
        views=views or (None,) * count,
        scores=scores,
        chance={name: np.zeros(count) for name in scores},
        find="images",
        rows=none,
        hits=none.astype(bool),
        cosines=none.astype(np.float32),
        candidates=np.empty(0, dtype=object),
        gallery=np.empty(0, dtype=np.bool_),
        answers=np.ones(count, dtype=np.int64),
        reachable=np.full(count, 5),
        unit="patients",
        relevant=lambda place: none[0],
        struck=lambda place: none[0],
    )


@pytest.mark.parametrize("average", ["findings", "queries"])
def test_intervals_are_those_of_a_slow_bootstrap_over_patients(average):
    """Every query of a drawn patient is written out as often as the patient was drawn; then plain means and medians."""
    draw = np.random.default_rng(4)
    units, findings = draw.integers(10, 17, 40), draw.integers(0, 2, 40)
    views = tuple(np.where(draw.random(40) < 0.5, "PA", "AP").tolist())
    scores = {"P@5": draw.random(40), "median_rank": draw.integers(1, 30, 40).astype(float)}
    each = queries(scores, units, findings, views=views)
    result = EvaluationResult(benchmark="x", directions={"d": direction_result(each, {"average": average}, 5)})

    found = add_intervals(result, resamples=200, seed=3).directions["d"]

    patients = np.unique(units)
    rows = [
        [query for patient, times in zip(patients, counts, strict=True) for _ in range(times) for query in np.flatnonzero(units == patient)]
        for counts in np.concatenate(list(resampled_counts(len(patients), 200, 3)))
    ]

    def interval(name, statistic):
        method = "closest_observation" if name == "median_rank" else "linear"
        return pytest.approx(np.quantile([statistic(np.array(row)) for row in rows], [0.025, 0.975], method=method))

    for name, values in scores.items():
        plain = np.median if name == "median_rank" else np.mean

        def over(row, mask, values=values, plain=plain):
            return plain(values[row[mask[row]]])

        def macro(row, over=over):
            return np.mean([over(row, findings == place) for place in (0, 1)])

        def micro(row, over=over):
            return over(row, np.ones(40, dtype=bool))

        overall, other = (macro, micro) if average == "findings" else (micro, macro)
        assert [found.metrics[name].low, found.metrics[name].high] == interval(name, overall)
        beside = found.other_average["micro" if average == "findings" else "macro"][name]
        assert [beside.low, beside.high] == interval(name, other)
        of_b = found.per_class["b"][1][name]
        assert [of_b.low, of_b.high] == interval(name, lambda row, over=over: over(row, findings == 1))
        of_view = found.per_view["PA"][1][name]
        assert [of_view.low, of_view.high] == interval(name, lambda row, over=over: over(row, np.array(views) == "PA"))
    assert found.protocol["interval"] == "95% of 200 resamples of 7 patients who ask, seed 3"


def test_the_interval_of_independent_queries_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    each = queries({"P@5": values}, np.arange(400), np.zeros(400, dtype=int))

    found = add_intervals(EvaluationResult(benchmark="x", directions={"d": direction_result(each, {}, 5)}), resamples=5000)

    half = 1.96 * values.std() / math.sqrt(400)
    figure = found.directions["d"].metrics["P@5"]
    assert (figure.low, figure.high) == (pytest.approx(values.mean() - half, abs=2e-3), pytest.approx(values.mean() + half, abs=2e-3))


def test_queries_of_one_patient_have_no_interval():
    each = queries({"P@5": np.array([0.2, 0.4])}, [7, 7], [0, 0])
    found = add_intervals(EvaluationResult(benchmark="x", directions={"d": direction_result(each, {}, 5)}))

    assert found.directions["d"].protocol["interval"] == "none: fewer than two patients who ask"
    assert found.to_dict()["metrics"]["P@5"] == {"value": pytest.approx(0.3), "chance": 0}


@pytest.mark.parametrize("by", ["image", "study"])
@pytest.mark.parametrize("rule", ["any", "finding"])
def test_one_search_for_many_galleries_finds_what_one_for_each_does(tmp_path, monkeypatch, by, rule):
    """Where doubtful labels leave each query candidates of its own."""
    engine = corpus_engine(tmp_path, seed=2)
    task = label_task(engine, "image-image", uncertain="ignore", rule=rule)
    each = judge(engine, task, 9, by)

    def ranked():
        found = rank_all(engine, task, each, by)
        return {
            query: (rows[rows >= 0].tolist(), row[rows >= 0].tolist())
            for members, rows, hits in found
            for query, row in zip(members.tolist(), hits, strict=True)
        }

    alone = ranked()
    monkeypatch.setattr("retrieval.units.MOST_FINDINGS", 0)

    together = judge(engine, task, 9, by)

    for name in ("rows", "relevance", "relevant", "candidates", "cosines"):
        np.testing.assert_array_equal(getattr(together, name), getattr(each, name), err_msg=name)
    assert ranked() == alone
