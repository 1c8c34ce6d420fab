"""What training is validated by: retrieval on held-out images, in memory."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from index.corpora.prompts import prompts_for
from index.corpora.record import FINDINGS, NULL_LABEL, LabelState, Record
from retrieval.encoding import FilmRows, encode_films, encode_labels, encode_texts
from retrieval.metrics import first_match_ranks, mean_reciprocal_rank, precision_at_k, ranked_relevance, recall_at_k
from retrieval.qrels import number_texts, read_relevance

if TYPE_CHECKING:
    from encoders.dual import DualEncoder

_BLOCK = 1024  # queries scored at once


def paired_validator(
    images: FilmRows,
    texts: Sequence[str],
    labels: NDArray[np.int8] | None = None,
    *,
    findings: Sequence[str] = FINDINGS,
    batch_size: int = 32,
) -> "Callable[[DualEncoder], dict[str, float]]":
    """Make the function that scores an encoder on images with a report, labels, or both; its first figure chooses the best checkpoint.

    Identical texts are one candidate and one query. Where there are two of them or more, the figures are, over the images
    with a text, "mrr", the mean of the mean reciprocal ranks of image → report and report → image; "R@10 image-report";
    and "R@10 report-image". Where an image is labelled positive, "P@5 text-image": the built-in prompts of each finding
    against all images in which it was looked for, averaged over the findings with a positive image; and before it, for an
    encoder with continuous prompts, "P@5 label-image": the same with those, one of each finding.

    Args:
        images: (N, S, S) uint8 squares, S as the encoder's preprocessing has it.
        texts: N reports, blank where there is none.
        labels: (N, K) int8 label states, or None.
        findings: The K names.
        batch_size: Images or texts encoded at once.

    Returns:
        A function that leaves the encoder in the mode it found it in; it returns nothing where neither can be had.

    Raises:
        ValueError: If there is no image, or the lengths differ.
    """
    if not len(images) or len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts, expected as many of each, at least one")
    if labels is not None and labels.shape != (len(images), len(findings)):
        raise ValueError(f"labels are {labels.shape}, expected ({len(images)}, {len(findings)})")
    numbers = number_texts(texts)
    paired = np.flatnonzero(numbers >= 0)
    unique = [texts[paired[row]] for row in np.unique(numbers[paired], return_index=True)[1]]
    measures: list[Callable[[DualEncoder, NDArray[np.float32]], dict[str, float]]] = []
    if len(unique) > 1:
        measures.append(lambda encoder, vectors: _report_figures(encoder, vectors[paired], numbers[paired], unique, batch_size))
    if labels is not None and (labels == LabelState.POSITIVE).any():
        positive = labels
        measures.append(lambda encoder, vectors: _label_precision(encoder, vectors, positive, findings, batch_size))

    def validate(encoder: "DualEncoder") -> dict[str, float]:
        training = encoder.training
        encoder.eval()
        try:
            vectors = encode_films(encoder, images, batch_size=batch_size) if measures else np.empty((0, 0), dtype=np.float32)
            return {name: value for measure in measures for name, value in measure(encoder, vectors).items()}
        finally:
            encoder.train(training)

    return validate


def record_labels(records: Sequence[Record]) -> NDArray[np.int8] | None:
    """Return the (N, K) int8 label states of N records for FINDINGS, -128 where nobody looked; None if no record is labelled."""
    if not any(record.labels for record in records):
        return None
    return np.array([[record.labels.get(finding, NULL_LABEL) for finding in FINDINGS] for record in records], dtype=np.int8)


def _report_figures(
    encoder: "DualEncoder", image_vectors: NDArray[np.float32], numbers: NDArray[np.int64], texts: Sequence[str], batch_size: int
) -> dict[str, float]:
    text_vectors = encode_texts(encoder, texts, batch_size=batch_size)
    to_report = _match_ranks(image_vectors, numbers, text_vectors, np.arange(len(texts)))
    to_image = _match_ranks(text_vectors, np.arange(len(texts)), image_vectors, numbers)
    return {
        "mrr": (mean_reciprocal_rank(to_report) + mean_reciprocal_rank(to_image)) / 2,
        "R@10 image-report": recall_at_k(to_report, 10),
        "R@10 report-image": recall_at_k(to_image, 10),
    }


def _match_ranks(
    queries: NDArray[np.float32], numbers: NDArray[np.int64], candidates: NDArray[np.float32], candidate_numbers: NDArray[np.int64]
) -> NDArray[np.float64]:
    """As `first_match_ranks`, of vectors (Q, D) and (M, D): block by block, since a tenth of a large archive may be held out."""
    blocks = range(0, len(queries), _BLOCK)
    return np.concatenate(
        [
            first_match_ranks(queries[at : at + _BLOCK] @ candidates.T, numbers[at : at + _BLOCK], candidate_numbers)
            for at in blocks  # scores (_BLOCK, M)
        ]
    )


def _label_precision(
    encoder: "DualEncoder", image_vectors: NDArray[np.float32], labels: NDArray[np.int8], findings: Sequence[str], batch_size: int
) -> dict[str, float]:
    relevance = read_relevance(labels, findings)
    askable = [place for place, bit in enumerate(relevance.bits) if (relevance.positive & bit).any()]

    def figure(classes: list[int], queries: NDArray[np.float32]) -> float:
        """The mean over the findings of the precision of their queries (Q, D), whose findings are `classes`."""
        of = np.array(classes)  # (Q,)
        bits = relevance.bits[of]
        scores = queries @ image_vectors.T  # (Q, N)
        scores[(relevance.judged & bits[:, None]) == 0] = -np.inf  # corpora of a mix may label different findings
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        precision = precision_at_k(ranked_relevance(ranked, bits, relevance.positive), 5)
        return float(np.mean([precision[of == place].mean() for place in np.unique(of)]))

    figures = {}
    prompted = [place for place in askable if encoder.prompts is not None and findings[place] in encoder.prompts.config.names]
    if prompted:
        figures["P@5 label-image"] = figure(prompted, encode_labels(encoder, [findings[place] for place in prompted]))
    asked = [(place, text) for place in askable for text in prompts_for(findings[place])]
    texts = encode_texts(encoder, [text for _, text in asked], batch_size=batch_size)
    return {**figures, "P@5 text-image": figure([place for place, _ in asked], texts)}
