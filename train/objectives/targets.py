"""Soft targets: how much each text is an image's, by its labels, and the cross-entropy against that."""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row against a distribution, averaged over the rows that have one.

    Args:
        logits: (N, M) float32, row i over the M columns.
        targets: (N, M) float32, 0 or more; each row is divided by its sum. A row of zeros says nothing about
            its logits: it is left out, where a uniform target would teach that all columns fit equally.

    Returns:
        () float32, nats.

    Raises:
        ValueError: If targets are not (N, M), or no row has any.

    Source: SoftCE of UniCL, Yang et al., CVPR 2022, arXiv:2204.03610.
    """
    expect_shape("targets", targets, tuple(logits.shape))
    mass = targets.sum(dim=1)  # (N,)
    spoken = mass > 0
    if not spoken.any():
        raise ValueError(f"no row of the {tuple(targets.shape)} targets has any above 0, expected at least one")
    rows = -(targets * F.log_softmax(logits, dim=1)).sum(dim=1) / mass.where(spoken, 1)
    return rows.sum() / spoken.sum()


def shared_positives(image_labels: Tensor, text_labels: Tensor) -> Tensor:
    """How many positive labels an image and a text have in common.

    Args:
        image_labels: (N, K) float32, 0 or 1.
        text_labels: (M, K) float32, 0 or 1.

    Returns:
        (N, M) float32: the dot products of the label vectors.

    Raises:
        ValueError: If the labels are not (N, K) and (M, K).
    """
    if image_labels.ndim != 2 or text_labels.ndim != 2 or image_labels.shape[1] != text_labels.shape[1]:
        found = f"{tuple(image_labels.shape)} for images and {tuple(text_labels.shape)} for texts"
        raise ValueError(f"labels are {found}, expected (N, K) and (M, K)")
    return image_labels @ text_labels.T


def label_cosine(image_labels: Tensor, text_labels: Tensor) -> Tensor:
    """Cosine of the label vectors of an image and a text; 0, not NaN, where either has no positive label.

    Args:
        image_labels: (N, K) float32, 0 or 1.
        text_labels: (M, K) float32, 0 or 1.

    Returns:
        (N, M) float32, 0 to 1; exactly 1 for equal sets.

    Raises:
        ValueError: If the labels are not (N, K) and (M, K).
    """
    shared = shared_positives(image_labels, text_labels)
    counts = image_labels.sum(dim=1)[:, None] * text_labels.sum(dim=1)  # (N, M), whole numbers: the root of a square is exact
    return shared / counts.clamp_min(1).sqrt()


def expect_shape(what: str, found: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape, which broadcasting might accept.

    Raises:
        ValueError: If found is not of the expected shape.
    """
    if found.shape != expected:
        raise ValueError(f"{what} are {tuple(found.shape)}, expected {expected}")
