"""A tiny encoder in float64, a batch for it, and a loss: what gradients are compared on."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.dual import DualEncoder, build_encoder, set_batchnorm

WORDS = ("effusion", "left", "right", "no", "small", "large", "pneumothorax", "heart", "enlarged", "edema")
TEXTS = [" ".join(WORDS[(number * step) % 10] for step in range(1, 3 + number % 5)) for number in range(1, 10)]  # 9, of 2 to 6 words
FILMS = torch.randint(0, 256, (7, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def double_encoder(*, running: bool = True, dropout: bool = False) -> DualEncoder:
    """A tiny encoder in float64, in training mode unless it shall not drop anything."""
    encoder = build_encoder("tiny", "tiny", TEXTS, size=32, dimension=8).double()
    encoder.image.register_forward_pre_hook(lambda module, pixels: (pixels[0].double(),))  # preprocessing gives float32
    set_batchnorm(encoder, running)
    encoder.text.train(dropout)
    return encoder


class SoftTargets(nn.Module):
    """Cross-entropy of 7 images and 9 texts against soft targets, with a parameter of its own: the temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        targets = torch.sin(torch.arange(len(images) * len(texts), device=images.device)).view(len(images), len(texts))
        logits = images @ texts.T * self.log_scale.exp()
        forth = F.cross_entropy(logits, targets.softmax(1).to(logits.dtype))
        return forth + F.cross_entropy(logits.T, targets.T.softmax(1).to(logits.dtype))


def chunks_of(encoder: DualEncoder, image_rows: int, text_rows: int) -> tuple[list[Callable[[], Tensor]], list[Callable[[], Tensor]]]:
    images = [functools.partial(lambda part: encoder.encode_images(part).joint, part) for part in FILMS.split(image_rows)]
    parts = [TEXTS[first : first + text_rows] for first in range(0, len(TEXTS), text_rows)]
    return images, [functools.partial(lambda part: encoder.encode_texts(part).joint, part) for part in parts]


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{place} {name}": parameter.grad
        for place, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def seed_chunk(side: str, row: int) -> None:
    torch.manual_seed(1000 * row + len(side))
