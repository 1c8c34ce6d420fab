"""Backbones of the transformers library: made from a configuration, or read from a local folder, never from the network."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.errors import MedretError
from encoders.json_object import read_json


@dataclass(frozen=True, slots=True)
class Family:
    """Where transformers keeps a model type: imported by name, as its Auto classes load everything and cost seconds."""

    folder: str
    model: str
    config: str
    settings: Mapping[str, Any]  # of the model's constructor

    def make_config(self, values: Mapping[str, Any]) -> Any:
        """The transformers configuration with these values."""
        return self._get("configuration", self.config)(**values)

    @property
    def model_class(self) -> Any:
        """The transformers model class."""
        return self._get("modeling", self.model)

    def _get(self, file: str, name: str) -> Any:
        return getattr(import_module(f"transformers.models.{self.folder}.{file}_{self.folder}"), name)


IMAGE_FAMILIES = {
    "resnet": Family("resnet", "ResNetModel", "ResNetConfig", {}),
    "vit": Family("vit", "ViTModel", "ViTConfig", {}),
    "swin": Family("swin", "SwinModel", "SwinConfig", {}),
    "convnext": Family("convnext", "ConvNextModel", "ConvNextConfig", {}),
}
TEXT_FAMILIES = {
    "bert": Family("bert", "BertModel", "BertConfig", {"add_pooling_layer": False}),
    "roberta": Family("roberta", "RobertaModel", "RobertaConfig", {"add_pooling_layer": False}),
    "distilbert": Family("distilbert", "DistilBertModel", "DistilBertConfig", {}),
    "electra": Family("electra", "ElectraModel", "ElectraConfig", {}),
}
_FAMILIES = IMAGE_FAMILIES | TEXT_FAMILIES

# What a published file may hold beyond the backbone: the pooler that our pooling goes without, and the heads of the
# tasks it was trained on. Nothing else may be unexpected.
_SPARE = (
    "pooler.",
    "cls.",
    "classifier.",
    "pre_classifier.",
    "lm_head.",
    "qa_outputs.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
)
# Configuration entries that say nothing about the network.
_NOISE = frozenset(
    (
        "transformers_version",
        "architectures",
        "output_hidden_states",
        "output_attentions",
        "return_dict",
        "dtype",
        "torch_dtype",
        "id2label",
        "label2id",
        "problem_type",
        "_name_or_path",
        "model_type",
        "is_encoder_decoder",
        "chunk_size_feed_forward",
        "use_cache",
        "gradient_checkpointing",
    )
)


def complete_config(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of a network's configuration, defaults written out, so that a later default changes nothing."""
    full = _FAMILIES[kind].make_config({key: value for key, value in values.items() if key not in _NOISE}).to_dict()
    return {key: value for key, value in json.loads(json.dumps(full)).items() if key not in _NOISE}


def make_model(kind: str, config: Mapping[str, Any], **settings: Any) -> nn.Module:
    """A network with random weights, in training mode."""
    family = _FAMILIES[kind]
    model: nn.Module = family.model_class(family.make_config(config), **family.settings, **settings)
    return model.train()


def fill_model(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], where: str, **settings: Any) -> nn.Module:
    """A network with the given weights, under the names in which such weights are published.

    Transformers maps old names (gamma and beta, a leading "bert.", its own renamings) to its present ones.

    Raises:
        MedretError: If weights are missing, unexpected (but for task heads, pooler and position_ids) or of another shape.
    """
    family = _FAMILIES[kind]
    with _quiet():
        model, found = family.model_class.from_pretrained(
            None,
            config=family.make_config(config),
            # Older versions stored this table of 0, 1, 2, ...
            state_dict={name: tensor for name, tensor in weights.items() if not name.endswith("embeddings.position_ids")},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in one line
            local_files_only=True,
            dtype=torch.float32,
            **family.settings,
            **settings,
        )
    _refuse(where, "missing", list(found["missing_keys"]))
    _refuse(where, "unexpected", [name for name in found["unexpected_keys"] if not _is_spare(name)])
    _refuse(where, "of another shape", [str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]])
    filled: nn.Module = model
    return filled.train()


def published_weights(model: Any) -> dict[str, Tensor]:
    """The state of a network under the names in which such weights are published.

    Transformers renames the insides of its models now and then and maps published names at loading;
    a checkpoint under published names outlives that.
    """
    state: dict[str, Tensor] = dict(model.state_dict())
    if not type(model).__module__.startswith("transformers."):
        return state
    from transformers.core_model_loading import revert_weight_conversion

    if hasattr(model, "_weight_conversions"):
        del model._weight_conversions  # else a prefix that the source file happened to have would come back
    return dict(revert_weight_conversion(model, state))


def read_folder(folder: Path, families: Sequence[str]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Read a local Hugging Face folder: its kind, complete configuration and weights as published.

    Raises:
        MedretError: If config.json or the weights are missing or unreadable, or the model type is not one of `families`.
    """
    values = read_json(folder / "config.json")
    kind = str(values.get("model_type"))
    if kind not in families:
        raise MedretError(f"{folder}: model type is {kind}, expected one of {', '.join(families)}. Choose another encoder.")
    try:
        config = complete_config(kind, values)
    except Exception as error:  # transformers validates with its own exception classes
        raise MedretError(f"{folder / 'config.json'}: no valid {kind} configuration ({_one_line(error)}). Copy the file again.") from error
    return kind, config, _read_weights(folder)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        MedretError: If it is missing, truncated or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise MedretError(f"{path}: cannot be read as weights ({_one_line(error)}). The file is cut or damaged; copy it again.") from error
    return weights


def write_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors as a safetensors file.

    Raises:
        OSError: If the disk is full or the place cannot be written; the library has an exception of its own for that.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(weights), path)
    except SafetensorError as error:
        raise OSError(_one_line(error)) from error


def first_list(model: nn.Module) -> nn.ModuleList:
    """The outermost list of layers in a transformers model, whatever that version calls it."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        return read_safetensors(safe)
    if not pickled.is_file():
        raise MedretError(f"{folder}: no model.safetensors and no pytorch_model.bin, expected one of them. Copy the weights there.")
    try:
        weights = torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and I/O faults alike
        raise MedretError(
            f"{pickled}: cannot be read as plain weights ({type(error).__name__}). Convert it to model.safetensors."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise MedretError(f"{pickled}: holds more than named tensors, expected a state dict. Convert it to model.safetensors.")
    return weights


def _is_spare(name: str) -> bool:
    prefix, _, rest = name.partition(".")
    return name.startswith(_SPARE) or (prefix in _FAMILIES and rest.startswith(_SPARE))


def _refuse(where: str, what: str, names: Sequence[str]) -> None:
    if names:
        first = ", ".join(sorted(names)[:5])
        raise MedretError(
            f"{where}: {len(names)} weights are {what} ({first}). The weights do not fit config.json; get the matching files."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' load report and progress bar: what they would tell is raised instead."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # CRITICAL of the standard library
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
