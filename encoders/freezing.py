"""What of an encoder a training leaves as it is."""

from torch import nn

from encoders.dual import DualEncoder
from encoders.errors import MedretError

LEARN = ("all", "prompts")


def freeze(encoder: DualEncoder, text_layers: int | None = None, image_stages: int | None = None, *, learn: str = "all") -> None:
    """Choose what a training may change: the given parts are frozen, all else is trainable.

    Args:
        encoder: Changed in place.
        text_layers: Freeze the text embeddings and this many layers (ConVIRT: 6 of 12); None freezes nothing.
        image_stages: Freeze the stem and this many stages (a vit: layers); None freezes nothing.
            A number that names all layers freezes the whole backbone with its last norm.
        learn: "prompts" freezes everything but the continuous prompts, as CoOp has it; "all" nothing more.

    Raises:
        MedretError: If there are fewer layers or stages than that, or no prompts to learn.
        ValueError: If learn is something else.
    """
    if learn not in LEARN:
        raise ValueError(f"learn is {learn!r}, expected one of {', '.join(LEARN)}")
    encoder.requires_grad_(True)
    if text_layers is not None:
        _freeze("text layers", encoder.text.model, [[layer] for layer in encoder.text.layers()], text_layers)
    if image_stages is not None:
        _freeze("image stages", encoder.image.model, encoder.image.stages(), image_stages)
    if learn == "prompts":
        if encoder.prompts is None:
            raise MedretError("learning prompts: the encoder has none. Add continuous prompts, or learn all.")
        encoder.requires_grad_(False)
        encoder.prompts.requires_grad_(True)
    encoder.train(encoder.training)


def _freeze(what: str, model: nn.Module, stages: list[list[nn.Module]], count: int) -> None:
    if not 0 <= count <= len(stages):
        raise MedretError(f"freezing {count} {what}: the encoder has {len(stages)}, expected 0 to {len(stages)}. Freeze fewer.")
    model.requires_grad_(False)
    if count == len(stages):
        return
    of_stages = {id(parameter) for stage in stages for module in stage for parameter in module.parameters()}
    thawed = {id(parameter) for stage in stages[count:] for module in stage for parameter in module.parameters()}
    begun = False
    for parameter in model.parameters():  # in the order of registration: stem, stages, last norm and pooler
        begun = begun or id(parameter) in of_stages
        if id(parameter) in thawed or (begun and id(parameter) not in of_stages):
            parameter.requires_grad_(True)
