"""Linear probes: how much a linear classifier on frozen image vectors learns from 1 %, 10 % and all of the labels."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from encoders.checkpoint import read_notes
from encoders.errors import MedretError
from retrieval.columns import spelled_findings
from retrieval.engine import SearchEngine
from retrieval.evaluation import read_selection, say_selection
from retrieval.filters import Condition
from retrieval.owners import number_owners, present
from retrieval.qrels import LabelRelevance, UncertainPolicy
from retrieval.results import EvaluationResult
from retrieval.roc import finding_areas
from retrieval.zero_shot import area_result, labelled_images, per_image

PROBE_DIRECTIONS = ("image-label",)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn: the inverse of the L2 penalty
_PARTS = ("train", "validate", "test")
_SHARES = (0.7, 0.1, 0.2)  # of the patients, where the source names no split
_MOST_STEPS = 1000

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def evaluate_linear_probe(
    engine: SearchEngine,
    *,
    directions: Sequence[str] = PROBE_DIRECTIONS,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    image_vector: str | None = None,
    views: Sequence[str] | None = None,
    only: Sequence[Condition] = (),
    where: str | None = None,
    findings: Sequence[str] | None = None,
    uncertain: UncertainPolicy = "negative",
    seed: int = 0,
    resamples: int = 2000,
) -> EvaluationResult:
    """Learn a logistic regression for each finding on frozen vectors, and score it on test images: AUC; chance is 0.5.

    Vectors are standardised by the images that are learned from. Fractions are of the training patients, drawn in one random
    order, so that each fraction holds the smaller ones. One L2 penalty for all findings of a fraction is chosen by the mean area
    on the validation images. Where the images that take part name all of train, validate and test, those are the parts;
    otherwise patients are drawn into 70 %, 10 % and 20 %. The protocol says which.

    Args:
        engine: An index of labelled images.
        directions: PROBE_DIRECTIONS.
        fractions: Of the training patients, each above 0 and at most 1.
        image_vector: "features" (the encoder's output, as published) or "joint"; None takes features where the index has them.
        views: Only images of these views; all by default.
        only: Only images that meet these conditions.
        where: Only images that this expression is true of.
        findings: Those to learn; all that the index has labels for by default.
        uncertain: What an uncertain label counts as, in training too: "negative", "positive", or "ignore".
        seed: Of the order of the patients.
        resamples: Of test patients, behind each interval; 0 for none.

    Raises:
        MedretError: If no selected image is labelled, a part has no image, or no finding can be learned and scored.
        ValueError: If a fraction is not above 0 and at most 1.

    Source: ConVIRT, Zhang et al., MLHC 2022, arXiv:2010.00747, section 4.1: linear classification on frozen image vectors.
    """
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions are {tuple(fractions)}, expected above 0 and at most 1")
    table = engine.table("images")
    vector = image_vector or ("features" if "features" in table.dimensions else "joint")
    selection = read_selection(None, views, only, where)
    names = spelled_findings(table, findings)
    rows, relevance = labelled_images(engine, selection, names, uncertain)
    parts, division = _divide(engine, rows, seed)
    probe = _Probe(engine.stored_vectors("images", rows, vector), relevance)
    order = _patients_in_order(engine, rows[parts["train"]], seed)
    scores: dict[str, Floats] = {}
    learned: list[str] = []
    for fraction in sorted(fractions):
        metric = f"AUC {100 * fraction:.4g}%"
        train = parts["train"][order < max(1, round(fraction * (order.max() + 1)))]
        strength, scores[metric] = probe.choose(train, parts["validate"], parts["test"])
        learned.append(f"{100 * fraction:.4g}%: {len(train)} images (C {strength:g})")
    protocol = {"direction": "image-label", "vector": vector, **say_selection(selection), "parts": division, "learned_from": learned}
    protocol |= {"test_images_that_the_encoder_may_have_learned_from": _learned_from(engine, rows[parts["test"]])}
    protocol |= {"model": "L2 logistic regression on standardised vectors, C by validation area", "fits_cut_short": probe.cut_short}
    protocol |= {"uncertain": uncertain, "seed": seed}
    tested = LabelRelevance(findings=names, positive=relevance.positive[parts["test"]], judged=relevance.judged[parts["test"]])
    result = area_result(engine, rows[parts["test"]], tested, scores, protocol, resamples)
    places = np.concatenate([parts[part] for part in _PARTS])
    shown = LabelRelevance(findings=names, positive=relevance.positive[places], judged=relevance.judged[places])
    result = replace(result, per_image=per_image(engine, {part: rows[parts[part]] for part in _PARTS}, shown, scores))
    return EvaluationResult(benchmark="linear-probe", directions=dict.fromkeys(directions, result))


@dataclass(slots=True)
class _Probe:
    """(N, D) float32 vectors and what the labels of the N images say; counts the fits that reached the most steps."""

    vectors: NDArray[np.float32]
    relevance: LabelRelevance
    cut_short: int = 0
    positive: NDArray[np.bool_] = field(init=False)  # (N, K)
    judged: NDArray[np.bool_] = field(init=False)  # (N, K)

    def __post_init__(self) -> None:
        self.positive = (self.relevance.positive[:, None] & self.relevance.bits) != 0
        self.judged = (self.relevance.judged[:, None] & self.relevance.bits) != 0

    def choose(self, train: Rows, validate: Rows, test: Rows) -> tuple[float, Floats]:
        """Return the strength that does best on `validate`, and the (len(test), K) scores of the classifiers that have it."""
        shift, width = self.vectors[train].mean(axis=0), self.vectors[train].std(axis=0)
        scale = (1 / np.where(width > 0, width, 1)).astype(np.float32)
        asked = np.concatenate([validate, test])
        every = np.stack([self._scores(train, asked, shift, scale, place) for place in range(self.judged.shape[1])], axis=2)
        held = len(validate)
        areas = np.stack([finding_areas(scores[:held], self.positive[validate], self.judged[validate]) for scores in every])  # (C, K)
        kept = ~np.isnan(areas).any(axis=0)
        if not kept.any():
            raise MedretError(
                f"no finding has positives and negatives among both the {len(train)} images learned from and the {held} of validation; "
                "give more images, or larger fractions: --fraction 0.1 --fraction 1"
            )
        best = int(areas[:, kept].mean(axis=1).argmax())
        return STRENGTHS[best], every[best, held:]

    def _scores(self, train: Rows, asked: Rows, shift: NDArray[np.float32], scale: NDArray[np.float32], place: int) -> Floats:
        """The scores of the asked images for one finding by each strength, (C, A); NaN where there is nothing to learn from."""
        from sklearn.linear_model import LogisticRegression

        rows = train[self.judged[train, place]]
        answers = self.positive[rows, place]
        scores = np.full((len(STRENGTHS), len(asked)), np.nan)
        if answers.all() or not answers.any():
            return scores
        known, sought = ((self.vectors[some] - shift) * scale for some in (rows, asked))
        for number, strength in enumerate(STRENGTHS):
            fitted = LogisticRegression(C=strength, max_iter=_MOST_STEPS)
            with warnings.catch_warnings(action="ignore"):  # of fits that are cut short: they are counted
                fitted.fit(known, answers)
            self.cut_short += int(fitted.n_iter_[0] >= _MOST_STEPS)
            scores[number] = fitted.decision_function(sought)
        return scores


def _divide(engine: SearchEngine, rows: Rows, seed: int) -> tuple[dict[str, Rows], str]:
    """The places in `rows` of each part, and how they were told apart."""
    named = engine.table("images").column("split")[rows]
    parts = {part: np.flatnonzero(named == part) for part in _PARTS}
    division = "the source's train, validate and test"
    if not all(map(len, parts.values())):
        place = _patients_in_order(engine, rows, seed) / max(1, len(np.unique(number_owners(engine.table("images"), rows))))
        part = np.searchsorted(np.cumsum(_SHARES[:2]), place, side="right")
        parts = {name: np.flatnonzero(part == number) for number, name in enumerate(_PARTS)}
        division = "patients drawn, 70 % train, 10 % validate, 20 % test, as the images do not name all three"
    if empty := [name for name, held in parts.items() if not len(held)]:
        raise MedretError(f"{len(rows)} labelled images leave none to {' and '.join(empty)}: a probe needs more patients")
    counts = ", ".join(f"{len(held)} {name}" for name, held in parts.items())
    return parts, f"{division} ({counts} images)"


def _learned_from(engine: SearchEngine, rows: Rows) -> str:
    """Say how many of some images may be among those that the encoder learned from, as far as it is noted in its checkpoint.

    A training takes the split "train" of its corpora, all but the held-out patients where they name no split; the notes name their
    formats alone.
    """
    try:
        notes = read_notes(engine.encoder_folder).get("training", {})
    except MedretError:
        return "not known, as there is no encoder beside the index"
    learned = {corpus["format"] for corpus in notes.get("corpora", [])}
    shared = sorted(learned & {part.manifest.corpus["format"] for part in engine.opened.shards.parts})
    splits = engine.table("images").column("split")[rows]
    count = int(np.count_nonzero((splits == "train") | ~present(splits))) if shared else 0
    return f"{count} of {len(rows)}, as it learned from {', '.join(shared)}" if count else "none that its notes tell of"


def _patients_in_order(engine: SearchEngine, rows: Rows, seed: int) -> Rows:
    """The place of each row's patient in a random order of the patients, (len(rows),) from 0."""
    owners = number_owners(engine.table("images"), rows)
    places: Rows = np.random.default_rng(seed).permutation(int(owners.max()) + 1)[owners]
    return places
