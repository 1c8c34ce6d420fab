"""The objective a run learns by: a pure function of vectors and labels, its settings, and the temperature it may learn."""

from typing import Any

import torch
from torch import Tensor, nn

from train.batches import Batch
from train.config import TrainConfig
from train.objectives.convirt import convirt_loss
from train.objectives.medclip import label_similarity, medclip_loss
from train.objectives.temperature import LearnedTemperature
from train.objectives.umcl import relation_targets, umcl_loss


class Objective(nn.Module):
    """What the vectors of a batch cost.

    Args:
        config: Of the run. ConVIRT's temperature is fixed, as published; the others' is learned unless it says otherwise.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        learns = config.learn_temperature and config.objective != "convirt"
        self.learned = LearnedTemperature(config.temperature) if learns else None

    @property
    def temperature(self) -> float:
        """What divides the similarities now."""
        return self.config.temperature if self.learned is None else self.learned().item()

    def forward(self, images: Tensor, texts: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch.

        Args:
            images: (N, D) float32, unit L2 norm per row.
            texts: (M + P, D) float32, unit L2 norm per row, the prompts after the texts; convirt: one draw of N after the other.
            batch: What these are, and how they belong together.

        Returns:
            () float32, nats; convirt: the mean over the draws.
        """
        config: Any = self.config  # its choices have been checked
        if config.objective == "convirt":
            draws = torch.split(texts, len(images))
            return torch.stack([convirt_loss(images, drawn, config.temperature, config.image_to_text_weight) for drawn in draws]).mean()
        image_labels, text_labels, partners = (
            torch.from_numpy(part).to(images.device) for part in (batch.image_labels, batch.text_labels, batch.partners)
        )
        temperature = config.temperature if self.learned is None else self.learned()
        if config.objective == "medclip":
            similarity = label_similarity(image_labels, text_labels, partners, config.label_similarity)
            return medclip_loss(images, texts, similarity, temperature, config.soft_target_temperature)
        targets = relation_targets(image_labels, text_labels, partners, config.relation)
        return umcl_loss(images, texts, targets, temperature)

    def clamp_(self) -> None:
        """Bring the temperature back within its bounds; to be called after each step of the optimizer."""
        if self.learned is not None:
            self.learned.clamp_()
