"""UMCL: images, texts and labels in one space; every text that stands in relation to an image is its positive."""

from typing import Literal

from torch import Tensor

from train.objectives.targets import expect_shape, label_cosine, shared_positives, soft_cross_entropy


def relation_targets(
    image_labels: Tensor, text_labels: Tensor, partners: Tensor, relation: Literal["equal", "shared", "cosine"] = "cosine"
) -> Tensor:
    """Which texts are an image's positives, and how much.

    A partner always counts 1. An image or a text without a positive label has its partners only.

    Args:
        image_labels: (N, K) float32, 0 or 1; "No Finding" is a label like the others.
        text_labels: (M, K) float32, 0 or 1; of a prompt, its one finding.
        partners: (N, M) bool: image i and text j come from one study.
        relation: "equal": 1 where the sets of positive labels are the same; "shared": 1 where they have a label in
            common; "cosine": the cosine of the label vectors.

    Returns:
        (N, M) float32, 0 to 1.

    Raises:
        ValueError: If the shapes do not fit, or relation is none of the three.

    Source: "equal" is UniCL, Yang et al., CVPR 2022, arXiv:2204.03610, where an image has one class; a set of several
    is our reading. "cosine" is MedCLIP's, Wang et al., EMNLP 2022, arXiv:2210.10163; "shared" lies between. UMCL (Wang
    et al., BIBM 2023, arXiv:2307.05920) says in its abstract what it does, but its equations were not available: that
    its targets are these is inferred from UniCL, on which it builds.
    """
    if relation not in ("equal", "shared", "cosine"):
        raise ValueError(f"relation is {relation!r}, expected 'equal', 'shared' or 'cosine'")
    expect_shape("partners", partners, (len(image_labels), len(text_labels)))
    if relation == "cosine":
        targets = label_cosine(image_labels, text_labels)
    else:
        targets = shared_positives(image_labels, text_labels)
        related = targets > 0
        if relation == "equal":
            related &= (targets == image_labels.sum(dim=1)[:, None]) & (targets == text_labels.sum(dim=1))
        targets = related.to(targets.dtype)
    return targets.masked_fill(partners, 1)


def umcl_loss(images: Tensor, texts: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Image-text-label contrast: every positive of a row gets its share of that row's probability, both ways.

    With one positive a row, its partner, this is ConVIRT's loss at equal weights. Texts that are prompts of a finding
    enter as further columns. An image or a text without any positive in the batch is left out of its direction.

    Args:
        images: (N, D) float32, unit L2 norm per row.
        texts: (M, D) float32, unit L2 norm per row.
        targets: (N, M) float32, 0 or more, as `relation_targets` gives them; divided by their sum in each row, and
            in each column for text-to-image.
        temperature: Divides the similarities; above 0, dimensionless; () if it is learned.

    Returns:
        () float32, nats, the mean of image-to-text and text-to-image.

    Raises:
        ValueError: If targets are not (N, M), or all are 0.

    Source: the bidirectional loss of UniCL, Yang et al., CVPR 2022, arXiv:2204.03610, averaged over rows and directions
    as its re-implementations do. That UMCL (arXiv:2307.05920) uses it, and that prompts with learned context vectors
    enter as texts (CoOp, Zhou et al., IJCV 2022, arXiv:2109.01134), is inferred: UMCL's equations were not available.
    """
    expect_shape("targets", targets, (len(images), len(texts)))
    logits = images @ texts.T / temperature  # (N, M)
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets.T)) / 2
