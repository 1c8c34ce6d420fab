"""MedCLIP: images and texts drawn independently, matched by what their labels have in common."""

from typing import Literal

from torch import Tensor

from train.objectives.targets import expect_shape, label_cosine, shared_positives, soft_cross_entropy


def label_similarity(image_labels: Tensor, text_labels: Tensor, partners: Tensor, kind: Literal["cosine", "dot"] = "cosine") -> Tensor:
    """How alike an image and a text are by their labels.

    An image or a text without a positive label is compared with nothing: it has 1 to its partners, 0 to all others.

    Args:
        image_labels: (N, K) float32, 0 or 1; "No Finding" is a label like the others.
        text_labels: (M, K) float32, 0 or 1.
        partners: (N, M) bool: image i and text j come from one study.
        kind: "cosine" of the label vectors, or their "dot" product.

    Returns:
        (N, M) float32, 0 or more, never NaN.

    Raises:
        ValueError: If the shapes do not fit, or kind is neither.

    Source: MedCLIP, Wang et al., EMNLP 2022, arXiv:2210.10163. "dot" is what the authors' code does (medclip/losses.py);
    "cosine" is the paper's, from memory of it and from that code's own comments: the paper's equations were not at hand.
    What becomes of those without a label is ours: in the code they are 0 to all, which teaches that all fit equally.
    """
    if kind not in ("cosine", "dot"):
        raise ValueError(f"kind is {kind!r}, expected 'cosine' or 'dot'")
    expect_shape("partners", partners, (len(image_labels), len(text_labels)))
    compare = label_cosine if kind == "cosine" else shared_positives
    unlabelled = (image_labels.sum(dim=1) == 0)[:, None] | (text_labels.sum(dim=1) == 0)  # (N, M)
    return compare(image_labels, text_labels).masked_fill(partners & unlabelled, 1)


def medclip_loss(
    images: Tensor, texts: Tensor, similarity: Tensor, temperature: float | Tensor, soft_target_temperature: float = 1.0
) -> Tensor:
    """Semantic matching: cross-entropy of image-text similarity against the softmax of label similarity, both ways.

    Two studies with the same findings are not pushed apart as false negatives, and the rows of the two inputs need
    not come from the same study. An image that is similar to no text of the batch is left out of image-to-text, and
    a text that is similar to no image out of text-to-image: their softmax would teach that all fit equally.

    Label similarities lie close together (a cosine in 0 to 1), so at a soft_target_temperature of 1 the targets are
    nearly uniform in a large batch: one text that fits among 63 that do not gets e / (e + 63) = 4 %. The lower it is,
    the more of the target goes to those that fit best.

    Args:
        images: (N, D) float32, unit L2 norm per row.
        texts: (M, D) float32, unit L2 norm per row.
        similarity: (N, M) float32, 0 or more, as `label_similarity` gives it.
        temperature: Divides the similarities of vectors; above 0, dimensionless; () if it is learned.
        soft_target_temperature: Divides the similarities of labels before their softmax; above 0; published 1.

    Returns:
        () float32, nats, the mean of image-to-text and text-to-image.

    Raises:
        ValueError: If similarity is not (N, M), soft_target_temperature is not above 0, or all similarities are 0.

    Source: MedCLIP, Wang et al., EMNLP 2022, arXiv:2210.10163; the form is that of the authors' code (medclip/losses.py)
    and of the paper from memory: its equations were not at hand. Leaving rows out is ours.
    """
    expect_shape("label similarities", similarity, (len(images), len(texts)))
    if not soft_target_temperature > 0:
        raise ValueError(f"soft_target_temperature is {soft_target_temperature}, expected above 0")
    logits = images @ texts.T / temperature  # (N, M)
    image_to_text = soft_cross_entropy(logits, _soft_targets(similarity, soft_target_temperature))
    text_to_image = soft_cross_entropy(logits.T, _soft_targets(similarity.T, soft_target_temperature))
    return (image_to_text + text_to_image) / 2


def _soft_targets(similarity: Tensor, temperature: float) -> Tensor:
    alike_to_none = (similarity == 0).all(dim=1, keepdim=True)  # (N, 1)
    return (similarity / temperature).softmax(dim=1).masked_fill(alike_to_none, 0)
