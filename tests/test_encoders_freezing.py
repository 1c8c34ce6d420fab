"""Freezing: what learns afterwards, and what BatchNorm of a frozen stage does."""

import pytest
import torch

from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.freezing import freeze

REPORTS = ["The heart is enlarged.", "No pleural effusion is seen.", "Small left pneumothorax."] * 3


def trainable(encoder, part):
    return [name for name, parameter in encoder.named_parameters() if name.startswith(part) and parameter.requires_grad]


def test_freezing_text_layers_leaves_the_later_ones_and_the_heads():
    encoder = build_encoder(texts=REPORTS, size=32)

    freeze(encoder, text_layers=1)

    assert {name.split(".")[4] for name in trainable(encoder, "text.")} == {"1"}
    assert len(trainable(encoder, "text.")) == 16
    assert len(trainable(encoder, "text_head.")) == 2
    assert len(trainable(encoder, "image.")) == len([name for name, _ in encoder.named_parameters() if name.startswith("image.")])


def test_freezing_image_stages_keeps_their_batch_statistics_too():
    encoder = build_encoder(texts=REPORTS, size=32)
    freeze(encoder, image_stages=2)
    frozen = {name: buffer.clone() for name, buffer in encoder.image.named_buffers()}

    encoder.encode_images(torch.randint(0, 256, (4, 32, 32), dtype=torch.uint8))

    moved = {name for name, buffer in encoder.image.named_buffers() if not torch.equal(buffer, frozen[name])}
    assert not any("embedder.embedder" in name or "stages.0" in name or "stages.1" in name for name in moved)
    assert any("stages.2" in name for name in moved)
    assert all("stages.2" in name or "stages.3" in name for name in trainable(encoder, "image."))


@pytest.mark.parametrize("kind", ["vit-b16", "convnext-tiny", "efficientnet-lite0"])
def test_freezing_every_stage_freezes_the_whole_backbone_and_no_stage_none(kind):
    with torch.device("meta"):
        encoder = build_encoder(kind, "tiny", REPORTS, size=32)
    names = trainable(encoder, "image.")

    freeze(encoder, image_stages=0)
    stemless = trainable(encoder, "image.")
    freeze(encoder, image_stages=len(encoder.image.stages()))

    assert trainable(encoder, "image.") == []
    assert 0 < len(stemless) < len(names)
    freeze(encoder)
    assert trainable(encoder, "image.") == names


def test_the_last_norm_of_a_vit_stays_trainable_until_all_layers_are_frozen():
    with torch.device("meta"):
        encoder = build_encoder("vit-b16", "tiny", REPORTS, size=32)

    freeze(encoder, image_stages=11)

    assert {"image.model.layernorm.weight", "image.model.layernorm.bias"} < set(trainable(encoder, "image."))
    assert len(trainable(encoder, "image.")) == 16 + 2


def test_more_layers_than_there_are_cannot_be_frozen():
    with pytest.raises(MedretError, match="freezing 6 text layers: the encoder has 2"):
        freeze(build_encoder(texts=REPORTS, size=32), text_layers=6)
