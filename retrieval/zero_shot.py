"""Zero-shot classification: how well an image's likeness to a finding's prompts tells those who have it from those who have not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.prompts import prompts_for
from retrieval.columns import spelled_findings
from retrieval.engine import SearchEngine
from retrieval.evaluation import read_selection, say_selection
from retrieval.filters import Condition, Selection
from retrieval.matches import exact_scores
from retrieval.owners import number_owners
from retrieval.qrels import LabelRelevance, UncertainPolicy, read_relevance
from retrieval.results import DirectionResult, EvaluationResult, PerImage, Score
from retrieval.roc import area_intervals, finding_areas

ZERO_SHOT_DIRECTIONS = ("sentences", "contrast", "continuous")
_WORDING = {
    "sentences": "the mean cosine to the sentences of each finding",
    "contrast": 'the cosine to "FINDING" less that to "no FINDING" (CheXzero\'s templates)',
    "continuous": "the cosine to the encoder's learned prompt of each finding",
}
COUNTED = ("images", "findings")


def evaluate_zero_shot(
    engine: SearchEngine,
    *,
    directions: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    only: Sequence[Condition] = (),
    where: str | None = None,
    findings: Sequence[str] | None = None,
    uncertain: UncertainPolicy = "negative",
    prompts: Mapping[str, Sequence[str]] | None = None,
    resamples: int = 2000,
) -> EvaluationResult:
    """Score images against the prompts of each finding: the area under the ROC curve; chance is 0.5.

    The images that are positive for a finding are told from all others that were looked at for it. The figure over all findings
    is their mean. Intervals are 95 %, by bootstrap over patients.

    Args:
        engine: An index of labelled images.
        directions: Some of ZERO_SHOT_DIRECTIONS: how a finding is worded. All that can be had by default: "continuous" where the
            encoder has learned prompts.
        splits: Only records of these splits; all by default.
        views: Only images of these views; all by default.
        only: Only images that meet these conditions.
        where: Only images that this expression is true of.
        findings: Those to tell apart; all that the index has labels for by default.
        uncertain: What an uncertain label counts as: "negative", "positive", or "ignore".
        prompts: For "sentences": finding to texts, instead of the built-in ones.
        resamples: Of patients, behind each interval; 0 for none.

    Raises:
        MedretError: If no selected image is labelled, no finding can be scored, or learned prompts are asked for and there are none.

    Source: CheXzero, Tiu et al., Nature Biomedical Engineering 2022 (contrast); CoOp, Zhou et al., IJCV 2022 (learned prompts).
    """
    if directions is None:
        directions = ZERO_SHOT_DIRECTIONS if engine.encoder.prompts is not None else ZERO_SHOT_DIRECTIONS[:2]
    selection = read_selection(splits, views, only, where)
    names = spelled_findings(engine.table("images"), findings)
    rows, relevance = labelled_images(engine, selection, names, uncertain)
    results = {}
    for direction in directions:
        asked, prompted, texts = _prompt_vectors(engine, direction, names, prompts or {})
        scores = exact_scores(asked, engine.table("images"), rows, "joint").T.astype(np.float64)  # (N, K)
        protocol = {"direction": direction, "vector": "joint", "score": _WORDING[direction], **say_selection(selection)}
        protocol |= {"prompts": "built-in" if prompts is None else "given"} if direction == "sentences" else {}
        protocol |= {"uncertain": uncertain}
        result = area_result(engine, rows, relevance, {"AUC": scores}, protocol, resamples, prompted)
        results[direction] = replace(result, per_image=per_image(engine, {"test": rows}, relevance, {"AUC": scores}, texts))
    return EvaluationResult(benchmark="zero-shot", directions=results)


def labelled_images(
    engine: SearchEngine, selection: Selection, names: tuple[str, ...], uncertain: UncertainPolicy
) -> tuple[NDArray[np.int64], LabelRelevance]:
    """Return the (N,) int64 rows of the selected images that somebody looked at for any of the findings, and what their labels say.

    Raises:
        MedretError: If there is none.
    """
    table = engine.table("images")
    chosen = np.flatnonzero(selection.rows(table))
    if not len(chosen):
        raise MedretError("the selection holds none of the images of this index; select other records")
    relevance = read_relevance(table.labels(names)[chosen], names, uncertain)
    kept = relevance.judged != 0
    if not kept.any():
        raise MedretError(f"none of the {len(chosen)} selected images has a label; select other records, or encode a corpus with labels")
    judged, positive = relevance.judged[kept], relevance.positive[kept]
    return chosen[kept], LabelRelevance(findings=names, positive=positive, judged=judged)


def per_image(
    engine: SearchEngine,
    parts: Mapping[str, NDArray[np.int64]],
    relevance: LabelRelevance,
    scores: Mapping[str, NDArray[np.float64]],
    texts: Sequence[str] = (),
) -> PerImage:
    """List the images of each part by their rows, of which `relevance` tells in the same order, and what they were asked with."""
    bits = relevance.bits
    states = ((relevance.judged[:, None] & bits) != 0).astype(np.uint8)
    states += states & ((relevance.positive[:, None] & bits) != 0)
    ends = np.cumsum([len(rows) for rows in parts.values()])
    return PerImage(
        ids={part: tuple(engine.table("images").ids(rows)) for part, rows in parts.items()},
        labels=dict(zip(parts, np.split(states, ends[:-1]), strict=True)),
        texts=tuple(texts),
        scores=scores,
    )


def area_result(
    engine: SearchEngine,
    rows: NDArray[np.int64],
    relevance: LabelRelevance,
    scores: Mapping[str, NDArray[np.float64]],
    protocol: Mapping[str, object],
    resamples: int,
    prompted: NDArray[np.bool_] | None = None,
) -> DirectionResult:
    """Turn the scores of N images for K findings into areas, their intervals, and the mean over the findings that every metric has.

    Args:
        engine: The index.
        rows: (N,) int64 rows of the images.
        relevance: What the labels of the N say.
        scores: Metric to (N, K) float64; a column of NaN where a finding has no score.
        protocol: All that shaped the scores.
        resamples: Of patients, behind each interval; 0 for none.
        prompted: (K,) bool, the findings that could be asked for; all by default.

    Raises:
        MedretError: If no finding has both a positive and a negative image.
    """
    names = relevance.findings
    positive, judged = ((masks[:, None] & relevance.bits) != 0 for masks in (relevance.positive, relevance.judged))  # (N, K)
    some = positive & judged
    split = some.any(axis=0) & (judged & ~some).any(axis=0)
    asked = np.ones(len(names), dtype=np.bool_) if prompted is None else prompted
    left_out = {}
    for reason, gone in (("findings without a prompt", ~asked), ("findings without a positive and a negative image", asked & ~split)):
        if gone.any():
            left_out[f"{reason} ({', '.join(np.array(names)[gone])})"] = int(np.count_nonzero(gone))
    kept = np.flatnonzero(split & asked)
    if not len(kept):
        raise MedretError(f"no finding can be scored: {'; '.join(left_out)}. Select other records or findings")
    common = kept[[not any(np.isnan(values[:, place]).all() for values in scores.values()) for place in kept]]
    owners = number_owners(engine.table("images"), rows)
    overall: dict[str, Score] = {}
    per_class: dict[str, tuple[int, dict[str, Score]]] = {names[place]: (int(judged[:, place].sum()), {}) for place in kept}
    for metric, values in scores.items():
        given = kept[~np.isnan(values[:, kept]).all(axis=0)]
        areas = finding_areas(values[:, given], some[:, given], judged[:, given])
        ends, middle = area_intervals(values[:, given], some[:, given], judged[:, given], owners, np.isin(given, common), resamples)
        shared = areas[np.isin(given, common)]
        overall[metric] = Score(float(shared.mean()) if len(shared) else np.nan, 0.5, *middle)
        for place, area, (low, high) in zip(given, areas, ends, strict=True):
            per_class[names[place]][1][metric] = Score(float(area), 0.5, low, high)
    positives = {names[place]: int(some[:, place].sum()) for place in kept}
    average = "findings" if len(common) == len(kept) else f"the {len(common)} findings that each figure could be had for"
    interval = f"95% of {resamples} resamples of {int(owners.max()) + 1} patients, seed 0" if resamples else "none"
    said = {**protocol, "interval": interval, "average": average, "positive_images": positives, "left_out": left_out}
    return DirectionResult(protocol=said, queries=len(rows), candidates=len(kept), metrics=overall, per_class=per_class, counted=COUNTED)


def _prompt_vectors(
    engine: SearchEngine, direction: str, names: Sequence[str], prompts: Mapping[str, Sequence[str]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Sequence[str]]:
    """What is multiplied with image vectors to score each finding, (K, D), which findings there are prompts for, (K,), and their texts."""
    asked = np.ones(len(names), dtype=np.bool_)
    if direction == "sentences":
        each = [tuple(prompts.get(name) or prompts_for(name)) for name in names]
        every = [text for texts in each for text in texts]
        vectors = engine.encode_texts(every).astype(np.float64)
        starts = np.cumsum([0, *(len(texts) for texts in each)])
        return np.stack([vectors[start:stop].mean(axis=0) for start, stop in pairwise(starts)]), asked, every
    if direction == "contrast":
        asked = np.array([name != "No Finding" for name in names])  # "no no finding" asks for nothing
        plain = [name.replace("_", " ") for name in names]
        every = [*plain, *(f"no {name.lower()}" for name in plain)]
        vectors = engine.encode_texts(every).astype(np.float64)
        return vectors[: len(names)] - vectors[len(names) :], asked, every
    if direction != "continuous":
        raise ValueError(f"direction is {direction!r}, expected one of {ZERO_SHOT_DIRECTIONS}")
    learned = engine.encoder.prompts
    if learned is None:
        raise MedretError("this encoder has no learned prompts; ask with --direction sentences or contrast, or learn some by medret train")
    known = {name.casefold() for name in learned.config.names}
    asked = np.array([name.casefold() in known for name in names])
    if not asked.any():
        raise MedretError(f"the encoder's learned prompts name none of {', '.join(names)}; ask with --direction sentences")
    found = engine.encode_labels([name for name, held in zip(names, asked, strict=True) if held])
    vectors = np.zeros((len(names), found.shape[1]))
    vectors[asked] = found
    return vectors, asked, ()
