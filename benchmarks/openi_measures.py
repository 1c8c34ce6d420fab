"""What an encoder reaches on one split of OpenI: own reports, findings, worded questions. Numbers, no printing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.checkpoint import load_checkpoint
from encoders.device import choose_device
from index.corpora.readers import open_corpus
from index.corpora.record import LabelState
from index.encode import EncodeOptions, encode_corpus
from index.folder import build_index
from retrieval.benchmarks import RECALL_DIRECTIONS, label_task, pair_task
from retrieval.engine import SearchEngine
from retrieval.evaluation import evaluate_label_precision
from retrieval.filters import Selection
from retrieval.matches import rank_pairs
from retrieval.metrics import (
    average_precision,
    chance_average_precision,
    chance_precision,
    chance_ranks,
    median_rank,
    precision_at_k,
    recall_at_k,
)
from retrieval.resampling import bootstrap_interval
from retrieval.units import judge, number_units

SPLIT, VIEW = "validate", "Frontal"
RECALL_KS, KS = (1, 5, 10), (5, 10, 50)
WORDED_K = 10

WORDED: Mapping[str, tuple[str, ...]] = {  # as somebody would ask; written before anything was measured, none left out since
    "Cardiomegaly": (
        "enlarged heart",
        "The heart is bigger than normal.",
        "moderate cardiomegaly",
        "increased cardiothoracic ratio",
        "Cardiac silhouette is prominent and enlarged.",
        "big heart",
    ),
    "Pleural Effusion": (
        "pleural effusion",
        "fluid around the lung",
        "There is a small amount of pleural fluid.",
        "blunted costophrenic angle with effusion",
        "bilateral pleural effusions",
        "Effusion at the base of the lung.",
    ),
    "Atelectasis": (
        "atelectasis",
        "partial collapse of the lung",
        "There is basilar atelectasis.",
        "volume loss at the lung base",
        "subsegmental or plate-like atelectasis",
        "Low lung volumes with bibasilar atelectasis.",
    ),
}


class Worded(NamedTuple):
    """How one encoder ranks N studies for each of P prompts of a finding."""

    studies: NDArray[np.int64]  # (P, N) in the order of rank, numbered from 0 in the order of their ids' appearance
    relevance: NDArray[np.bool_]  # (P, N)


def count_studies(openi: Path) -> dict[str, Any]:
    """Count the studies of the split: all, with a frontal film, with labels, and with each finding."""
    labels: dict[str, Mapping[str, LabelState]] = {}
    frontal: set[str] = set()
    for record in open_corpus(openi, "openi").records():
        if record.split == SPLIT and record.study_id is not None:
            labels[record.study_id] = record.labels
            if record.view == VIEW and record.image is not None:
                frontal.add(record.study_id)
    findings = open_corpus(openi, "openi").findings
    having = {name: {study for study, states in labels.items() if states.get(name) == LabelState.POSITIVE} for name in findings}
    return {
        "split": SPLIT,
        "studies": len(labels),
        "without a frontal film": len(labels.keys() - frontal),
        "without labels": sum(not states for states in labels.values()),
        "findings": {name: {"studies": len(studies), "with a frontal film": len(studies & frontal)} for name, studies in having.items()},
    }


def open_engine(openi: Path, checkpoint: Path, folder: Path) -> SearchEngine:
    """Encode the split into `folder`, or go on where that was stopped, and open an engine over it."""
    encoder = load_checkpoint(checkpoint, choose_device(None))
    encode_corpus(open_corpus(openi, "openi"), encoder, folder / "shards", options=EncodeOptions(splits=(SPLIT,)))
    build_index(folder / "shards", folder, checkpoint)
    return SearchEngine.load(folder)


def measure(engine: SearchEngine) -> dict[str, Any]:
    """Score an encoder; candidates are studies, each by its best frontal film. Every figure has its level of chance."""
    by_image = evaluate_label_precision(
        engine, directions=["image-image"], ks=KS, splits=[SPLIT], views=[VIEW], by="study", max_queries=None
    ).directions["image-image"]
    return {
        "encoder": engine.fingerprint,
        "recall": {direction: _recall(engine, direction) for direction in RECALL_DIRECTIONS},
        "findings": _findings(engine),
        "image-image": {name: {"value": score.value, "chance": score.chance} for name, score in by_image.metrics.items()},
    }


def _recall(engine: SearchEngine, direction: str) -> dict[str, Any]:
    """R@k and the median rank; intervals over the queries: studies, or the distinct texts of studies."""
    pairs = rank_pairs(engine, pair_task(engine, _selection()), direction, by="study")
    chance, median, _ = chance_ranks(pairs.own, pairs.candidates, RECALL_KS)
    figures: dict[str, Any] = {"queries": len(pairs.ranks), "candidates": pairs.candidates}
    for k in RECALL_KS:
        hits = (pairs.ranks <= k).astype(np.float64)
        low, high = bootstrap_interval(_mean_of(hits), len(hits))
        figures[f"R@{k}"] = {"value": recall_at_k(pairs.ranks, k), "chance": chance[k], "low": low, "high": high}
    return figures | {"median rank": {"value": median_rank(pairs.ranks), "chance": median}}


def _findings(engine: SearchEngine) -> dict[str, Any]:
    """P@k and AP of the built-in prompts of each finding, averaged over its prompts."""
    task = label_task(engine, "text-image", selection=_selection())
    judged = judge(engine, task, _count_candidates(engine, task.allowed), by="study")
    scores = {f"P@{k}": (precision_at_k(judged.relevance, k), chance_precision(judged.relevant, judged.candidates, k)) for k in KS}
    scores["AP"] = (
        average_precision(judged.relevance, judged.relevant),
        chance_average_precision(judged.relevant, judged.candidates),
    )
    figures = {}
    for place in np.unique(task.classes):
        mine = task.classes == place
        relevant, candidates = int(judged.relevant[mine][0]), int(judged.candidates[mine][0])
        means = {
            name: {"value": float(value[mine].mean()), "chance": float(chance[mine].mean())} for name, (value, chance) in scores.items()
        }
        means["P@50"]["ceiling"] = min(1.0, relevant / 50)
        figures[task.relevance.findings[place]] = {"prompts": int(mine.sum()), "relevant": relevant, "candidates": candidates, **means}
    return figures


def rank_worded(engine: SearchEngine) -> dict[str, Worded]:
    """Rank all labelled studies for each worded prompt of the three findings."""
    task = label_task(engine, "text-image", selection=_selection(), findings=tuple(WORDED), prompts=WORDED)
    studies = number_units(engine.table("images"), "study")
    known = np.unique(studies[task.allowed])
    judged = judge(engine, task, len(known), by="study")
    order = np.searchsorted(known, studies[judged.rows])
    return {
        name: Worded(order[task.classes == place], judged.relevance[task.classes == place])
        for place, name in enumerate(task.relevance.findings)
        if (task.classes == place).any()
    }


def score_worded(rankings: Sequence[Worded]) -> dict[str, Any]:
    """Mean P@10 over the prompts and the seeds, with its 95 % bootstrap interval over the candidate studies.

    A resample draws as many studies as there are; one that is drawn twice stands twice in a row, one that is not drawn
    nowhere. All prompts and seeds are asked of the same resample, since they share the studies.

    Args:
        rankings: Of one finding, one for each seed.
    """
    studies = np.concatenate([ranking.studies for ranking in rankings])
    relevance = np.concatenate([ranking.relevance for ranking in rankings])
    low, high = bootstrap_interval(lambda counts: resampled_precision(studies, relevance, counts, WORDED_K), studies.shape[1])
    rate = float(relevance[0].mean())
    value = float(precision_at_k(relevance, WORDED_K).mean())
    counted = {"prompts": len(rankings[0].studies), "seeds": len(rankings), "base rate": rate}
    return {**counted, f"P@{WORDED_K}": value, "low": low, "high": high, "above the base rate": low > rate}


def resampled_precision(studies: NDArray[np.int64], relevance: NDArray[np.bool_], counts: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Compute the mean P@k of rankings in which each study stands as often as it was drawn.

    Args:
        studies: (Q, N) int64 in the order of rank, each from 0 to N - 1 once.
        relevance: (Q, N) bool.
        counts: (B, N) int64, how often each study was drawn, for each of B resamples.
        k: Cut-off, from 1.

    Returns:
        (B,) float64.
    """
    total = np.zeros(len(counts))
    for order, hits in zip(studies, relevance, strict=True):
        drawn = counts[:, order]  # (B, N) in the order of rank
        ahead = np.cumsum(drawn, axis=1) - drawn
        shown = np.clip(k - ahead, 0, drawn)
        total += shown @ hits.astype(np.int64) / k
    return total / len(studies)


def _mean_of(values: NDArray[np.float64]) -> Any:
    return lambda counts: counts @ values / len(values)


def _selection() -> Selection:
    return Selection(splits=(SPLIT,), views=(VIEW,))


def _count_candidates(engine: SearchEngine, allowed: NDArray[np.bool_]) -> int:
    return len(np.unique(number_units(engine.table("images"), "study")[allowed]))
