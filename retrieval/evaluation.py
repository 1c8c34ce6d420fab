"""Put a benchmark's queries through the engine and score the answers, with the level of chance beside each figure."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.asked import label_queries, pair_queries
from retrieval.benchmarks import (
    LABEL_DIRECTIONS,
    PUBLISHED_DIRECTIONS,
    RECALL_DIRECTIONS,
    LabelTask,
    PairTask,
    label_task,
    pair_task,
    published_task,
)
from retrieval.engine import SearchEngine
from retrieval.filters import Condition, Selection, parse_where
from retrieval.matches import PairRanks, rank_pairs
from retrieval.metrics import (
    Denominator,
    chance_precision,
    chance_ranks,
    mean_reciprocal_rank,
    median_rank,
    precision_at_k,
    recall_at_k,
)
from retrieval.published_lists import load_published_lists
from retrieval.qrels import UncertainPolicy
from retrieval.results import DirectionResult, EvaluationResult, Score
from retrieval.units import By, Judged, judge, number_units


def evaluate_chexpert_8x200(
    engine: SearchEngine,
    lists: Path,
    *,
    directions: Sequence[str] = PUBLISHED_DIRECTIONS,
    ks: Sequence[int] = (5, 10, 50, 100),
    image_vector: str = "features",
    exclude_same_patient: bool = False,
    denominator: Denominator = "k",
) -> EvaluationResult:
    """Score ConVIRT's retrieval benchmark: P@k, averaged over the queries; chance is 12.5 %.

    Args:
        engine: An index that holds at least the 1,680 listed images.
        lists: The folder of the published lists.
        directions: Some of "image-image" and "text-image"; the first is the primary one.
        ks: Cut-offs.
        image_vector: What image-image compares: "features" (before projection, as published) or "joint".
        exclude_same_patient: Leave out the candidates of an image query's patient; published: no.
        denominator: "k" as published, or "min(k, relevant)".

    Raises:
        MedretError: If a list is damaged, a listed image is not in the index, or the index lacks the vectors.

    Source: Zhang et al., MLHC 2022, arXiv:2010.00747, section 4.2 (k = 5, 10, 100) and Table 2 (5, 10, 50).
    """
    published = load_published_lists(lists)
    results = {}
    for direction in directions:
        vector = image_vector if direction == "image-image" else "joint"
        task = published_task(engine, published, direction, vector)
        protocol = {"relevance": "the published label of the query's class is 1", "average": "queries"}
        results[direction] = score_labels(engine, task, ks, "image", exclude_same_patient, denominator, protocol)
    return EvaluationResult(benchmark="chexpert-8x200", directions=results)


def evaluate_label_precision(
    engine: SearchEngine,
    *,
    directions: Sequence[str] | None = None,
    ks: Sequence[int] = (5, 10, 50),
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    only: Sequence[Condition] = (),
    where: str | None = None,
    findings: Sequence[str] | None = None,
    uncertain: UncertainPolicy = "negative",
    image_vector: str = "joint",
    by: By = "image",
    exclude_same_patient: bool = True,
    max_queries: int | None = 1000,
    seed: int = 0,
    denominator: Denominator = "k",
    prompts: Mapping[str, Sequence[str]] | None = None,
) -> EvaluationResult:
    """Score any labelled corpus: P@k for each finding, and their mean over the findings.

    Args:
        engine: The index to be scored.
        directions: Some of "text-image", "image-image" and "image-report"; all that the index allows by default.
        ks: Cut-offs.
        splits: Only records of these splits ask and are candidates; all by default.
        views: Only images of these views ask and are candidates; all by default.
        only: Only records that meet these conditions ask and are candidates.
        where: Only records that meet this expression (`parse_where`) ask and are candidates.
        findings: Those to ask for; all that the index has labels for by default.
        uncertain: What an uncertain label of a candidate counts as: "negative", "positive", or "ignore".
        image_vector: What image-image compares; the other directions always compare joint vectors.
        by: Candidates are images, or each study by its best "study" image.
        exclude_same_patient: Leave out the candidates of an image query's patient.
        max_queries: Image queries of each finding, drawn with `seed`; None takes all.
        seed: Of that draw.
        denominator: "k", or "min(k, relevant)".
        prompts: Finding to texts, instead of the built-in ones.

    Raises:
        MedretError: If the selection has no labels, no positive candidate or no query, or the index lacks what is compared.
    """
    if directions is None:
        directions = [name for name in LABEL_DIRECTIONS if name != "image-report" or "reports" in engine.modalities]
    selection = read_selection(splits, views, only, where)
    results = {}
    for direction in directions:
        task = label_task(
            engine,
            direction,
            vector=image_vector if direction == "image-image" else "joint",
            selection=selection,
            findings=findings,
            uncertain=uncertain,
            max_queries=max_queries,
            seed=seed,
            prompts=prompts,
        )
        protocol = {
            **say_selection(selection),
            "relevance": "positive for the query's finding",
            "uncertain": uncertain,
            "average": "findings",
        }
        protocol |= {"prompts": "built-in" if prompts is None else "given"} if direction == "text-image" else {}
        protocol |= {"max_queries": max_queries, "seed": seed} if direction != "text-image" else {}
        results[direction] = score_labels(engine, task, ks, by, exclude_same_patient, denominator, protocol)
    return EvaluationResult(benchmark="label-precision", directions=results)


def evaluate_report_recall(
    engine: SearchEngine,
    *,
    directions: Sequence[str] = RECALL_DIRECTIONS,
    ks: Sequence[int] = (1, 5, 10),
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    only: Sequence[Condition] = (),
    where: str | None = None,
    by: By = "image",
) -> EvaluationResult:
    """Score how high each image ranks its own report, and each report its own images.

    Identical texts are one candidate and one query; an image is a text's own if its study bears that text.

    Args:
        engine: The index to be scored; every text of the selection is ranked, never a batch.
        directions: Some of "image-report" and "report-image"; the first is the primary one.
        ks: Cut-offs.
        splits: Only records of these splits; all by default.
        views: Only images of these views; all by default.
        only: Only records that meet these conditions.
        where: Only records that meet this expression (`parse_where`).
        by: "image", or "study": each study is one query and one candidate, scored by its best image.

    Raises:
        MedretError: If no selected image has a report.
    """
    selection = read_selection(splits, views, only, where)
    task = pair_task(engine, selection)
    results = {direction: score_pairs(engine, task, direction, ks, by, say_selection(selection)) for direction in directions}
    return EvaluationResult(benchmark="report-recall", directions=results)


BENCHMARKS: Mapping[str, tuple[Callable[..., EvaluationResult], tuple[str, ...]]] = {  # what measures each, and its directions
    "label-precision": (evaluate_label_precision, LABEL_DIRECTIONS),
    "report-recall": (evaluate_report_recall, RECALL_DIRECTIONS),
    "chexpert-8x200": (evaluate_chexpert_8x200, PUBLISHED_DIRECTIONS),
}


def read_selection(
    splits: Sequence[str] | None, views: Sequence[str] | None, only: Sequence[Condition], where: str | None = None
) -> Selection:
    """Return the selection that options of an evaluation stand for; MedretError where the expression is malformed."""
    named = {"splits": None if splits is None else tuple(splits), "views": None if views is None else tuple(views)}
    return Selection(**named, only=tuple(only), where=None if where is None else parse_where(where))


def say_selection(selection: Selection) -> dict[str, Any]:
    """Return what a protocol says of a selection; the texts can be read again."""
    chosen = {name: list(values) if values else "all" for name, values in (("splits", selection.splits), ("views", selection.views))}
    only = {"only": [str(condition) for condition in selection.only]} if selection.only else {}
    return chosen | only | ({} if selection.where is None else {"where": str(selection.where)})


def score_labels(
    engine: SearchEngine,
    task: LabelTask,
    ks: Sequence[int],
    by: By,
    exclude_same_patient: bool,
    denominator: Denominator,
    protocol: Mapping[str, Any],
) -> DirectionResult:
    """Ask, score each finding, and average over what the protocol says."""
    judged = judge(engine, task, max(ks), by, exclude_same_patient)
    answerable = judged.relevant > 0
    classes = np.where(answerable, task.classes, -1)
    scores = _precisions(judged, ks, denominator)
    names = task.relevance.findings
    chosen = [(place, classes == place) for place in range(len(names)) if (classes == place).any()]
    per_class = {names[place]: (int(np.count_nonzero(mine)), _means(scores, mine)) for place, mine in chosen}
    left_out = dict(task.left_out)
    if not answerable.all():
        left_out["queries without a relevant candidate"] = int(np.count_nonzero(~answerable))
    options = {
        "direction": task.direction,
        "vector": task.vector,
        "k": list(ks),
        "denominator": denominator,
        "candidates": "each study by its best image" if by == "study" and task.find == "images" else task.find,
        **({} if task.rows is None else {"exclude_same_patient": exclude_same_patient}),
        **protocol,
        "left_out": left_out,
    }
    if protocol["average"] == "queries":
        overall = _means(scores, answerable)
    else:
        overall = {name: _mean_score([each[name] for _, each in per_class.values()]) for name in scores}
    units = number_units(engine.table(task.find), by)[task.allowed]
    return DirectionResult(
        protocol=options,
        queries=int(np.count_nonzero(answerable)),
        candidates=len(np.unique(units)),
        metrics=overall,
        per_class=per_class,
        per_query=label_queries(
            engine,
            task,
            judged,
            by,
            {name: values for name, (values, _) in scores.items()},
            {name: chance for name, (_, chance) in scores.items()},
        ),
    )


def _precisions(judged: Judged, ks: Sequence[int], denominator: Denominator) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """P@k and its chance level, (Q,) each, by name."""
    return {
        f"P@{k}": (
            precision_at_k(judged.relevance, k, judged.relevant, denominator),
            chance_precision(judged.relevant, judged.candidates, k, denominator),
        )
        for k in ks
    }


def _means(scores: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], chosen: NDArray[np.bool_]) -> dict[str, Score]:
    if not chosen.any():
        return {name: Score(math.nan, math.nan) for name in scores}
    return {name: Score(float(value[chosen].mean()), float(chance[chosen].mean())) for name, (value, chance) in scores.items()}


def _mean_score(scores: Sequence[Score]) -> Score:
    if not scores:
        return Score(math.nan, math.nan)
    return Score(float(np.mean([score.value for score in scores])), float(np.mean([score.chance for score in scores])))


def score_pairs(
    engine: SearchEngine, task: PairTask, direction: str, ks: Sequence[int], by: By, protocol: Mapping[str, Any]
) -> DirectionResult:
    """Rank one side's own among all of the other, and say what a random order would reach."""
    pairs = rank_pairs(engine, task, direction, by, max(ks))
    recall, median, reciprocal = chance_ranks(pairs.own, pairs.candidates, ks)
    ranks = pairs.ranks
    scores = {**{f"R@{k}": (ranks <= k).astype(np.float64) for k in ks}, "median_rank": ranks, "MRR": 1 / ranks}
    metrics = {f"R@{k}": Score(recall_at_k(ranks, k), recall[k]) for k in ks}
    metrics |= {"median_rank": Score(median_rank(ranks), median), "MRR": Score(mean_reciprocal_rank(ranks), reciprocal)}
    options = {
        "direction": direction,
        "vector": "joint",
        "k": list(ks),
        "by": by,
        "identical_texts": "one candidate and one query",
        "own": "the report of the image's study, or any identical one",
        **protocol,
        "left_out": dict(task.left_out),
    }
    return DirectionResult(
        protocol=options,
        queries=len(ranks),
        candidates=pairs.candidates,
        metrics=metrics,
        per_query=pair_queries(pairs, by, scores, _chance_of_each(pairs, ks)),
    )


def _chance_of_each(pairs: PairRanks, ks: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """What a random order is expected to score for each query by itself."""
    counts, places = np.unique(pairs.own, return_inverse=True)
    figures = []
    for count in counts.tolist():
        recall, median, reciprocal = chance_ranks([count], pairs.candidates, ks)
        figures.append({**{f"R@{k}": recall[k] for k in ks}, "median_rank": median, "MRR": reciprocal})
    return {name: np.array([one[name] for one in figures])[places] for name in figures[0]}
