"""Which parameters of an encoder learn, how fast, what its BatchNorm layers do meanwhile, and where."""

from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from encoders.dual import DualEncoder, set_batchnorm
from encoders.errors import MedretError
from encoders.execution import checkpoint_activations, compile_encoder
from encoders.freezing import freeze
from encoders.image import IMAGE_PRESETS
from encoders.text import TEXT_PRESETS
from train.config import TrainConfig
from train.distributed import Group
from train.objective import Objective


def image_is_pretrained(config: TrainConfig) -> bool:
    """Whether the image encoder started from weights: what is no preset is a folder with some, which may be gone since."""
    return bool(config.start or config.image_weights) or config.image not in IMAGE_PRESETS


def text_is_pretrained(config: TrainConfig) -> bool:
    """The same of the text encoder."""
    return bool(config.start) or config.text not in TEXT_PRESETS


def prepare_encoder(encoder: DualEncoder, config: TrainConfig) -> None:
    """Freeze what shall not learn and choose what BatchNorm does.

    Raises:
        MedretError: If an encoder has fewer layers, or starts at random: frozen noise learns nothing.
    """
    for key, kind, pretrained in (
        ("freeze_image_stages", "image", image_is_pretrained(config)),
        ("freeze_text_layers", "text", text_is_pretrained(config)),
    ):
        if getattr(config, key) and not pretrained:
            raise MedretError(
                f"{key} is {getattr(config, key)}, but the {kind} encoder {getattr(config, kind)!r} starts at random, expected weights: "
                f"set {kind} to a Hugging Face folder, start to a checkpoint, or {key} to 0"
            )
    freeze(encoder, text_layers=config.freeze_text_layers or None, image_stages=config.freeze_image_stages or None, learn=config.learn)
    # Batches of a fine-tuning are small, and statistics of thousands of films are there already
    running = config.batchnorm == "running" or (config.batchnorm == "auto" and image_is_pretrained(config))
    set_batchnorm(encoder, running)


def place_encoder(encoder: DualEncoder, config: TrainConfig, group: Group) -> None:
    """Bring an encoder to the group's device, and let it run there as the settings have it.

    Live BatchNorm takes its statistics over the whole group where that can be had, on CUDA.

    Raises:
        MedretError: If that would need as many chunks on each process, and nothing ensures it.
    """
    encoder.to(group.device)
    if group.size > 1 and group.device.type == "cuda" and has_live_batchnorm(encoder):
        if config.chunk_size:
            raise MedretError(
                f"batchnorm is live in a group of {group.size} processes and chunk_size {config.chunk_size}: its statistics would be "
                "those of chunks, expected batchnorm = 'running' with chunks, or chunk_size = 0"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(encoder)  # type: ignore[no-untyped-call]
    if config.activation_checkpointing:
        checkpoint_activations(encoder)
    if config.compile:
        compile_encoder(encoder)


def has_live_batchnorm(encoder: DualEncoder) -> bool:
    """Whether a layer takes its statistics from the batch in training: frozen ones never do, and a swin or vit has none."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return not encoder.running_batchnorm and any(norm.weight.requires_grad for norm in norms)


def build_optimizer(encoder: DualEncoder, objective: Objective, config: TrainConfig) -> Optimizer:
    """Adam as published, or AdamW that spares gains and biases from decay; what starts from weights has its own rate.

    A temperature and continuous prompts are never decayed: 0 is no better a value of theirs than another.
    Each group's full rate is kept as "full_lr"; the schedule multiplies it.
    """
    known = {
        encoder.image: image_is_pretrained(config),
        encoder.text: text_is_pretrained(config),
        encoder.image_head: bool(config.start),
        encoder.text_head: bool(config.start),
    }
    pretrained = {id(parameter) for part, starts in known.items() if starts for parameter in part.parameters()}
    spared = {id(parameter) for part in (objective, encoder.prompts) if part is not None for parameter in part.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in [*encoder.parameters(), *objective.parameters()]:
        if parameter.requires_grad:
            rate = config.pretrained_learning_rate if id(parameter) in pretrained else config.learning_rate
            decayed = id(parameter) not in spared and (config.optimizer == "adam" or parameter.ndim > 1)
            groups.setdefault((rate, config.weight_decay if decayed else 0.0), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "full_lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
    ]
    return Adam(listed, fused=True) if config.optimizer == "adam" else AdamW(listed, fused=True)


def set_rate(optimizer: Optimizer, factor: float) -> float:
    """Set every group to its full rate times the factor; returns the highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What products are computed in: bfloat16 on CUDA unless told otherwise, None for float32 throughout."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.bfloat16
    return None
