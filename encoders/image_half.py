"""The image half of an encoder, loaded alone: a process that asks with a film needs no text network, nor the library that makes it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from encoders.checkpoint import WEIGHTS, read_config
from encoders.dual import DualEncoder, Encoded, EncoderConfig, make_head
from encoders.image import ImageBackbone
from encoders.mapped_weights import map_safetensors


class ImageHalf(nn.Module):
    """Encodes films as the DualEncoder does whose half it is.

    Args:
        config: Of the whole encoder.
        image: Its image backbone.
        head: Its projection of image features.
    """

    def __init__(self, config: EncoderConfig, image: ImageBackbone, head: nn.Module) -> None:
        super().__init__()
        self.config, self.image, self.image_head = config, image, head

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode_images(self, images: Tensor) -> Encoded:
        """Encode films, see DualEncoder.encode_images."""
        return DualEncoder.encode_images(self, images)  # type: ignore[arg-type]


def load_image_half(folder: Path) -> ImageHalf:
    """Read the image half of a checkpoint onto the CPU, in evaluation mode.

    Its weights are not compared with the fingerprint, as that needs all of them: whoever calls has compared what says that these
    are the files of that encoder.

    Raises:
        MedretError: If files are missing or damaged.
    """
    config = EncoderConfig.from_dict(read_config(folder)["config"])
    held = {name: torch.from_numpy(view.copy()) for name, view in map_safetensors(folder / WEIGHTS, ("image.", "image_head.")).items()}
    held = {name: weight.float() if weight.is_floating_point() else weight for name, weight in held.items()}
    parts = {
        part: {name.removeprefix(part): weight for name, weight in held.items() if name.startswith(part)}
        for part in ("image.", "image_head.")
    }
    image = ImageBackbone(config.image, parts["image."], str(folder))
    head = make_head(config.head, image.width, config.dimension)
    head.load_state_dict(parts["image_head."])
    return ImageHalf(config, image, head).eval()
