"""ConVIRT: paired images and texts attract, all other pairs of the batch repel."""

import torch
import torch.nn.functional as F
from torch import Tensor


def convirt_loss(images: Tensor, texts: Tensor, temperature: float = 0.1, image_to_text_weight: float = 0.75) -> Tensor:
    """Bidirectional InfoNCE over a batch of pairs: row i of both inputs comes from the same study.

    Args:
        images: (N, D) float32, unit L2 norm per row.
        texts: (N, D) float32, unit L2 norm per row.
        temperature: Divides the similarities; above 0, dimensionless.
        image_to_text_weight: Share of the image-to-text direction, 0 to 1; text-to-image gets the rest.

    Returns:
        () float32, nats, the mean over the batch.

    Raises:
        ValueError: If the inputs are not two (N, D) of the same N and D.

    Source: ConVIRT, Zhang et al., MLHC 2022, arXiv:2010.00747, equations 2 to 4.
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise ValueError(f"images are {tuple(images.shape)} and texts {tuple(texts.shape)}, expected (N, D) twice")
    logits = images @ texts.T / temperature  # (N, N), rows images
    own = torch.arange(len(logits), device=logits.device)
    image_to_text = F.cross_entropy(logits, own)
    text_to_image = F.cross_entropy(logits.T, own)
    return image_to_text_weight * image_to_text + (1 - image_to_text_weight) * text_to_image
