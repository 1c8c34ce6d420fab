"""What counts as beginning from weights, and where live BatchNorm stands in the way."""

import pytest
import torch
from torch import nn

from encoders.dual import DualEncoder, build_encoder
from train.config import TrainConfig
from train.distributed import Group
from train.objective import Objective
from train.parameters import build_optimizer, image_is_pretrained, place_encoder, prepare_encoder, text_is_pretrained

TEXTS = ["The heart is enlarged.", "No effusion."]


@pytest.fixture
def encoder() -> DualEncoder:
    return build_encoder(texts=TEXTS, size=32, dimension=8)


def test_a_folder_with_the_name_of_a_preset_is_not_taken_for_weights(tmp_path, monkeypatch, encoder):
    """`medret train CORPUS --out tiny` makes such a folder beside itself."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(image="tiny", text="tiny", learning_rate=1e-3, pretrained_learning_rate=1e-5)

    prepare_encoder(encoder, config)

    assert not image_is_pretrained(config)
    assert not text_is_pretrained(config)
    assert not encoder.running_batchnorm
    assert {group["lr"] for group in build_optimizer(encoder, Objective(config), config).param_groups} == {1e-3}


def test_any_other_folder_is_even_where_a_run_is_resumed_without_it(encoder):
    """From another folder, to which its path was relative, or when it is gone: the last checkpoint has the weights."""
    config = TrainConfig(image="models/resnet", text="models/bert", pretrained_learning_rate=1e-5)

    prepare_encoder(encoder, config)

    assert encoder.running_batchnorm
    groups = build_optimizer(encoder, Objective(config), config).param_groups
    rates = {id(part): group["lr"] for group in groups for part in group["params"]}
    assert {rates[id(part)] for part in (*encoder.image.parameters(), *encoder.text.parameters())} == {1e-5}


def in_a_group_on_cuda(encoder: DualEncoder, config: TrainConfig) -> None:
    encoder.to = lambda device: encoder  # type: ignore[method-assign]  # there may be no GPU here
    prepare_encoder(encoder, config)
    place_encoder(encoder, config, Group(rank=0, size=2, device=torch.device("cuda")))


def synchronised(encoder: DualEncoder) -> bool:
    return any(isinstance(module, nn.SyncBatchNorm) for module in encoder.modules())


def test_live_batchnorm_of_a_group_is_taken_over_all_its_gpus(encoder):
    parameters = list(encoder.parameters())

    in_a_group_on_cuda(encoder, TrainConfig())

    assert synchronised(encoder)
    assert all(after is before for after, before in zip(encoder.parameters(), parameters, strict=True))


@pytest.mark.parametrize("part", ["frozen", "without"])
def test_chunks_go_with_an_encoder_of_which_no_batchnorm_is_live(tmp_path, encoder, part):
    """All image stages frozen, or none of its layers a BatchNorm, though the settings say live."""
    config = TrainConfig(batchnorm="live", chunk_size=8, image=str(tmp_path), freeze_image_stages=4 if part == "frozen" else 0)
    if part == "without":
        encoder.image.model = nn.Linear(4, 4)

    in_a_group_on_cuda(encoder, config)

    assert not synchronised(encoder)
