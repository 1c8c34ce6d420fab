"""Put a benchmark's queries through the engine and score the answers, with the level of chance beside each figure."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from retrieval.benchmarks import (
    LABEL_DIRECTIONS,
    RECALL_DIRECTIONS,
    label_task,
    pair_task,
)
from retrieval.engine import SearchEngine
from retrieval.figures import direction_result
from retrieval.filters import Condition, Selection, parse_where
from retrieval.full_rankings import rank_all
from retrieval.matches import rank_pairs
from retrieval.measures import COMPLETE, Measure, chance_first_ranks, chance_measures, measure_rankings
from retrieval.metrics import Denominator
from retrieval.qrels import RULES, Rule, UncertainPolicy
from retrieval.redrawn_galleries import redraw_galleries
from retrieval.report_texts import choose_report_text
from retrieval.results import DirectionResult, EvaluationResult
from retrieval.scored_queries import label_queries, pair_queries
from retrieval.tasks import LabelTask, PairTask
from retrieval.units import By, Judged, judge, number_units


def evaluate_label_precision(
    engine: SearchEngine,
    *,
    directions: Sequence[str] | None = None,
    ks: Sequence[int] = (5, 10, 50),
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    only: Sequence[Condition] = (),
    where: str | None = None,
    ask_splits: Sequence[str] | None = None,
    findings: Sequence[str] | None = None,
    uncertain: UncertainPolicy = "negative",
    image_vector: str = "joint",
    by: By = "image",
    exclude_same_patient: bool = True,
    max_queries: int | None = 1000,
    seed: int = 0,
    denominator: Denominator = "k",
    measures: Sequence[Measure] = ("P",),
    prompts: Mapping[str, Sequence[str]] | None = None,
    relevance: Rule = "finding",
) -> EvaluationResult:
    """Score any labelled corpus: P@k for each finding, and their mean over the findings.

    By another rule of relevance than "finding" an image asks once, for all that it shows, and figures are means over the images.

    Args:
        engine: The index to be scored.
        directions: Some of "text-image", "image-image" and "image-report"; all that the index and the rule allow by default.
        ks: Cut-offs.
        splits: Only records of these splits ask and are candidates; all by default.
        views: Only images of these views ask and are candidates; all by default.
        only: Only records that meet these conditions ask and are candidates.
        where: Only records that meet this expression (`parse_where`) ask and are candidates.
        ask_splits: Images of these splits ask, and those of `splits` are ranked; the same ones by default.
        findings: Those to ask for; all that the index has labels for by default.
        uncertain: What an uncertain label of a candidate counts as: "negative", "positive", or "ignore".
        image_vector: What image-image compares; the other directions always compare joint vectors.
        by: Candidates are images, or each study by its best "study" image.
        exclude_same_patient: Leave out the candidates of an image query's patient.
        max_queries: Image queries of each finding, drawn with `seed`; None takes all.
        seed: Of that draw.
        denominator: "k", or "min(k, relevant)".
        measures: Some of MEASURES; those beside "P", "recall" and "nDCG" rank every candidate, in blocks of queries.
        prompts: Finding to texts, instead of the built-in ones.
        relevance: Which candidates answer: "finding" (positive for the query's finding), "any" (a positive finding in common with the
            image that asks), or "exact" (positive for the same ones of `findings` and no other; a study for what its films are
            together positive for).

    Raises:
        MedretError: If the selection has no labels, no positive candidate or no query, or the index lacks what is compared.
    """
    if directions is None:
        able = LABEL_DIRECTIONS if relevance == "finding" else LABEL_DIRECTIONS[1:]
        directions = [name for name in able if name != "image-report" or "reports" in engine.modalities]
    selection = read_selection(splits, views, only, where)
    asking = None if ask_splits is None else read_selection(ask_splits, views, only, where)
    results = {}
    for direction in directions:
        task = label_task(
            engine,
            direction,
            vector=image_vector if direction == "image-image" else "joint",
            selection=selection,
            asking=asking,
            findings=findings,
            uncertain=uncertain,
            max_queries=max_queries,
            seed=seed,
            prompts=prompts,
            rule=relevance,
        )
        protocol = {
            **say_selection(selection),
            "findings": "all" if findings is None else list(task.relevance.findings),
            "relevance": RULES[relevance],
            "uncertain": uncertain,
            "average": "findings" if relevance == "finding" else "queries",
        }
        protocol |= {"prompts": "built-in" if prompts is None else "given"} if direction == "text-image" else {}
        if task.find == "reports" and selection.speaks_of_view:
            protocol["reports_chosen"] = "without regard to views, of which they have none"
        if direction != "text-image":
            protocol |= {"ask_splits": "as ranked" if ask_splits is None else list(ask_splits), "max_queries": max_queries, "seed": seed}
        results[direction] = score_labels(engine, task, ks, by, exclude_same_patient, denominator, protocol, measures)
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
    report_text: str = "index",
    same_text: Literal["once", "each"] = "once",
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
        report_text: Which text stands for a report: "index", or sections, see `choose_report_text`.
        same_text: "once", or "each": identical texts of several studies are several candidates, of which one is an image's own.

    Raises:
        MedretError: If no selected image has a report, or there is no such text.
    """
    selection = read_selection(splits, views, only, where)
    asked, said = choose_report_text(engine, selection, report_text)
    task, protocol = pair_task(asked, selection, same_text == "once"), {"report_text": said, **say_selection(selection)}
    if same_text == "each":
        protocol |= {"identical_texts": "a candidate and a query each", "own": "the report of the image's study"}
    results = {direction: score_pairs(asked, task, direction, ks, by, protocol) for direction in directions}
    return EvaluationResult(benchmark="report-recall", directions=results)


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
    measures: Sequence[Measure] = ("P",),
) -> DirectionResult:
    """Ask, score each query, and average over what the protocol says."""
    judged = judge(engine, task, max(ks), by, exclude_same_patient)
    at_cuts = [name for name in measures if name not in COMPLETE]
    scores = measure_rankings(judged.relevance, judged.relevant, at_cuts, ks, denominator)
    if every_rank := [name for name in measures if name in COMPLETE]:
        scores |= {name: np.zeros(len(task.items)) for name in every_rank}
        for ranked in rank_all(engine, task, judged, by):
            for name, values in measure_rankings(ranked.relevance, judged.relevant[ranked.members], every_rank, ks).items():
                scores[name][ranked.members] = values
    chance = chance_measures(judged.relevant, judged.candidates, measures, ks, denominator)
    options = {
        "direction": task.direction,
        "vector": task.vector,
        "measures": list(measures),
        "k": list(ks),
        "denominator": denominator,
        "candidates": "each study by its best image" if by == "study" and task.find == "images" else task.find,
        **({} if task.rows is None else {"exclude_same_patient": exclude_same_patient}),
        **protocol,
        "left_out": {**task.left_out, **_unscored(task, judged)},
    }
    units = number_units(engine.table(task.find), by)[task.allowed]
    redraw = None
    if task.rows is None:  # texts belong to no patient: what they are put to is what was sampled
        redraw = partial(redraw_galleries, engine, task, judged, by, measures, ks, denominator)
    return direction_result(label_queries(engine, task, judged, by, scores, chance, redraw), options, len(np.unique(units)))


def _unscored(task: LabelTask, judged: Judged) -> dict[str, int]:
    """What cannot be scored: queries that nothing answers, and the findings that have candidates and are left without a query."""
    answerable = judged.relevant > 0
    left_out = {"queries without a relevant candidate": int(np.count_nonzero(~answerable))}
    asked = np.bitwise_or.reduce(task.asked[answerable])
    held = np.bitwise_or.reduce((task.relevance.positive & task.relevance.judged)[task.allowed])
    silent = [name for name, bit in zip(task.relevance.findings, task.relevance.bits, strict=True) if held & ~asked & bit]
    if asked and silent:
        left_out[f"findings without a query ({', '.join(silent)})"] = len(silent)
    return {reason: count for reason, count in left_out.items() if count}


def score_pairs(
    engine: SearchEngine, task: PairTask, direction: str, ks: Sequence[int], by: By, protocol: Mapping[str, Any]
) -> DirectionResult:
    """Rank one side's own among all of the other, and say what a random order would reach."""
    pairs = rank_pairs(engine, task, direction, by, max(ks))
    ranks = pairs.ranks
    scores = {**{f"R@{k}": (ranks <= k).astype(np.float64) for k in ks}, "median_rank": ranks, "MRR": 1 / ranks}
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
    chance = chance_first_ranks(pairs.own, np.full_like(pairs.own, pairs.candidates), ks)
    return direction_result(pair_queries(pairs, by, scores, chance), options, pairs.candidates)
