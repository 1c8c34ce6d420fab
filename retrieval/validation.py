"""What training is validated by: retrieval on held-out pairs, in memory."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from index.corpora.prompts import prompts_for
from index.corpora.record import FINDINGS, NULL_LABEL, Record
from retrieval.encoding import encode_films, encode_texts
from retrieval.metrics import first_match_ranks, mean_reciprocal_rank, precision_at_k, ranked_relevance, recall_at_k
from retrieval.qrels import number_texts, read_relevance

if TYPE_CHECKING:
    from encoders.dual import DualEncoder


def paired_validator(
    images: NDArray[np.uint8],
    texts: Sequence[str],
    labels: NDArray[np.int8] | None = None,
    *,
    findings: Sequence[str] = FINDINGS,
    batch_size: int = 32,
) -> "Callable[[DualEncoder], dict[str, float]]":
    """Make the function that scores an encoder on pairs; its first figure chooses the best checkpoint.

    Identical texts are one candidate and one query. The figures are "mrr", the mean of the mean reciprocal ranks of
    image → report and report → image; "R@10 image-report"; "R@10 report-image"; and, with labels, "P@5 text-image":
    the built-in prompts of each finding against all images, averaged over the findings with a positive image.

    Args:
        images: (N, S, S) uint8 squares, S as the encoder's preprocessing has it.
        texts: N reports, none blank.
        labels: (N, K) int8 label states, or None.
        findings: The K names.
        batch_size: Images or texts encoded at once.

    Returns:
        A function that leaves the encoder in the mode it found it in.

    Raises:
        ValueError: If there is no pair, a text is blank, or the lengths differ.
    """
    numbers = number_texts(texts)
    if not len(images) or len(images) != len(texts) or (numbers < 0).any():
        raise ValueError(f"{len(images)} images and {len(texts)} texts, expected as many of each, at least one, and no blank text")
    if labels is not None and labels.shape != (len(images), len(findings)):
        raise ValueError(f"labels are {labels.shape}, expected ({len(images)}, {len(findings)})")
    unique = [texts[row] for row in np.unique(numbers, return_index=True)[1]]

    def validate(encoder: "DualEncoder") -> dict[str, float]:
        training = encoder.training
        encoder.eval()
        try:
            image_vectors = encode_films(encoder, images, batch_size=batch_size)
            scores = image_vectors @ encode_texts(encoder, unique, batch_size=batch_size).T  # (N, T)
            to_report = first_match_ranks(scores, numbers, np.arange(len(unique)))
            to_image = first_match_ranks(scores.T, np.arange(len(unique)), numbers)
            figures = {
                "mrr": (mean_reciprocal_rank(to_report) + mean_reciprocal_rank(to_image)) / 2,
                "R@10 image-report": recall_at_k(to_report, 10),
                "R@10 report-image": recall_at_k(to_image, 10),
            }
            if labels is not None:
                figures |= _label_precision(encoder, image_vectors, labels, findings, batch_size)
        finally:
            encoder.train(training)
        return figures

    return validate


def record_labels(records: Sequence[Record], findings: Sequence[str] = FINDINGS) -> NDArray[np.int8] | None:
    """Return the (N, K) int8 label states of N records, -128 where nobody looked; None if no record is labelled."""
    if not any(record.labels for record in records):
        return None
    return np.array([[record.labels.get(finding, NULL_LABEL) for finding in findings] for record in records], dtype=np.int8)


def _label_precision(
    encoder: "DualEncoder", image_vectors: NDArray[np.float32], labels: NDArray[np.int8], findings: Sequence[str], batch_size: int
) -> dict[str, float]:
    relevance = read_relevance(labels, findings)
    askable = [place for place, bit in enumerate(relevance.bits) if (relevance.positive & bit).any()]
    if not askable:
        return {}
    asked = [(place, text) for place in askable for text in prompts_for(findings[place])]
    scores = encode_texts(encoder, [text for _, text in asked], batch_size=batch_size) @ image_vectors.T
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    classes = np.array([place for place, _ in asked])
    precision = precision_at_k(ranked_relevance(ranked, relevance.bits[classes], relevance.positive), 5)
    return {"P@5 text-image": float(np.mean([precision[classes == place].mean() for place in askable]))}
