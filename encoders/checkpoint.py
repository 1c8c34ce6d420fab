"""Encoders on disk: safetensors, JSON and a tokenizer, under a fingerprint of all that defines an embedding.

Continuous prompts lie beside the encoder under a digest of their own: no vector of an image or a text depends on
them, so that an index stays valid when prompts are learned later for the same encoder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoders.atomic import whole_folder
from encoders.errors import MedretError
from encoders.json_object import read_json

if TYPE_CHECKING:  # torch loads only where weights are touched: find_checkpoint and read_fingerprint stay quick
    import torch
    from torch import Tensor

    from encoders.dual import DualEncoder, EncoderConfig
    from encoders.preprocess import Preprocessing
    from encoders.prompt import ContextPrompts
    from encoders.tokens import Tokenizer

FORMAT = "medret-encoder"
VERSION = 1
DTYPES = ("float32", "float16")
WEIGHTS, CONFIG, TOKENIZER = FILES = ("model.safetensors", "encoder.json", "tokenizer.json")  # a checkpoint's own
_CONTEXT = "prompts.context"


def save_checkpoint(
    encoder: "DualEncoder",
    folder: Path,
    notes: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    files: Mapping[str, str] | None = None,
) -> str:
    """Write an encoder to a folder that appears whole or not at all; an existing one is replaced.

    Args:
        encoder: On any device, in any mode.
        folder: Gets model.safetensors, encoder.json and tokenizer.json.
        notes: JSON values to keep with it: training configuration, metrics. Not part of the fingerprint.
        dtype: "float32", or "float16" for half the space: the encoder that is loaded has the rounded weights, and
            its fingerprint is theirs.
        files: Further files by name, with their text, e.g. a model card.

    Returns:
        The fingerprint of the encoder that will be loaded.

    Raises:
        MedretError: If the disk is full or the place cannot be written, or a weight is too large for float16.
        ValueError: If dtype is another one, or a further file has the name of a checkpoint's own.
    """
    from encoders.huggingface import write_safetensors

    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    texts = dict(files or {})
    if taken := [name for name in texts if name in FILES or Path(name).name != name]:
        raise ValueError(f"files names {taken[0]!r}, expected plain names that no file of a checkpoint has")
    weights = {name: _rounded(name, _stored(tensor), dtype).contiguous() for name, tensor in named_weights(encoder)}
    mark = _fingerprint(weights, encoder.config, encoder.tokenizer)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": mark,
        "config": encoder.config.to_dict(),
        "notes": dict(notes or {}),
    }
    if encoder.prompts is not None:
        weights[_CONTEXT] = _stored(encoder.prompts.context).contiguous()  # small: never rounded
        content["prompts"] = {"config": encoder.prompts.config.to_dict(), "digest": _prompt_digest(encoder.prompts, mark)}
    with whole_folder(folder) as beside:
        for name, text in texts.items():
            (beside / name).write_text(text, encoding="utf-8")
        write_safetensors(weights, beside / WEIGHTS)
        (beside / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (beside / TOKENIZER).write_text(encoder.tokenizer.definition, encoding="utf-8")
    return mark


def load_checkpoint(folder: Path, device: "str | torch.device" = "cpu") -> "DualEncoder":
    """Read an encoder, verify it against its fingerprint, and put it on a device, in evaluation mode.

    Raises:
        MedretError: If files are missing, damaged, of another version, or not those that were written together.
    """
    from encoders.dual import EncoderConfig
    from encoders.huggingface import read_safetensors
    from encoders.tokens import Tokenizer

    content = read_config(folder)
    weights = read_safetensors(folder / WEIGHTS)
    context = weights.pop(_CONTEXT, None)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    try:
        config = EncoderConfig.from_dict(content["config"])
    except (KeyError, TypeError, ValueError, AttributeError, MedretError) as error:
        reason = str(error).rstrip(".")
        raise MedretError(f"{folder / CONFIG}: no valid encoder configuration ({reason}). Copy the checkpoint again.") from error
    found = _fingerprint(weights, config, tokenizer)
    if found != content["fingerprint"]:
        raise MedretError(
            f"{folder}: weights, tokenizer and settings are those of encoder {found}, but {CONFIG} names {content['fingerprint']}. "
            "A file was changed or damaged; copy the checkpoint again."
        )
    encoder = _assemble(config, tokenizer, weights, str(folder))
    _add_prompts(encoder, content.get("prompts"), context, found, folder)
    return encoder.to(device).eval()


def default_checkpoint(named: Path | None = None) -> Path:
    """The encoder that is taken where none is given: the one that this installation brings along, or another in its place.

    Args:
        named: A checkpoint or training run to be taken instead.

    Raises:
        MedretError: If the installation brings none, or nothing lies where one is named.
    """
    if named is not None:
        return find_checkpoint(named)
    folder = Path(__file__).parent / "pretrained"
    if not (folder / CONFIG).is_file():
        raise MedretError(
            f"{folder}: this installation brings no encoder along. Train one (medret train CORPUS --out RUN) and name it: --encoder RUN"
        )
    return folder


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at a path: the folder itself, or best/ of a training run.

    Raises:
        MedretError: If there is neither.
    """
    for folder in (path, path / "best"):
        if (folder / CONFIG).is_file():
            return folder
    found = "nothing" if not path.exists() else "a folder without one" if path.is_dir() else "a file"
    raise MedretError(f"{path}: {found}, expected an encoder (a folder with {CONFIG}) or a training run. Make one: medret train")


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Put the checkpoint at `source` into `folder`, by hard link where the file system allows.

    Raises:
        MedretError: If the disk is full or the place cannot be written.
    """
    if folder.exists() and folder.resolve() == source.resolve():
        return
    with whole_folder(folder) as beside:
        for file in sorted(entry for entry in source.iterdir() if entry.is_file()):
            try:
                os.link(file.resolve(), beside / file.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, beside / file.name)


def read_config(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: "config" (as EncoderConfig has it), "fingerprint", "notes"; its weights are not read.

    Raises:
        MedretError: If the folder holds no checkpoint of this version.
    """
    path = folder / CONFIG
    content = read_json(path)
    if content.get("format") != FORMAT or "fingerprint" not in content:
        raise MedretError(f"{path}: no medret encoder (format {content.get('format')!r}), expected {FORMAT!r}. Give another folder.")
    if content.get("version") != VERSION:
        raise MedretError(f"{path}: encoder format {content.get('version')}, this medret reads {VERSION}. Update medret, or train again.")
    return content


def read_fingerprint(folder: Path) -> str:
    """The fingerprint a checkpoint folder states; its weights are not read.

    Raises:
        MedretError: If the folder holds no checkpoint of this version.
    """
    return str(read_config(folder)["fingerprint"])


def read_preprocessing(folder: Path) -> "Preprocessing":
    """How a checkpoint's films become squares; its weights are not read.

    Raises:
        MedretError: If the folder holds no checkpoint of this version.
    """
    from encoders.preprocess import Preprocessing

    return Preprocessing.from_dict(read_config(folder)["config"]["preprocessing"])


def read_notes(folder: Path) -> dict[str, Any]:
    """What was noted when the checkpoint was written."""
    return dict(read_config(folder).get("notes") or {})


def fingerprint(encoder: "DualEncoder") -> str:
    """16 hexadecimal digits over weights, preprocessing, pooling, heads and tokenizer; the same on every device."""
    return _fingerprint(dict(named_weights(encoder)), encoder.config, encoder.tokenizer)


def named_weights(encoder: "DualEncoder") -> Iterator[tuple[str, "Tensor"]]:
    """Every weight under the name it has in a checkpoint: backbones as published, heads as ours."""
    parts = {
        "image": encoder.image.weights(),
        "text": encoder.text.weights(),
        "image_head": encoder.image_head.state_dict(),
        "text_head": encoder.text_head.state_dict(),
    }
    for part, state in parts.items():
        for name, tensor in state.items():
            yield f"{part}.{name}", tensor


def _fingerprint(weights: Mapping[str, "Tensor"], config: "EncoderConfig", tokenizer: "Tokenizer") -> str:
    return _digest(weights, json.dumps(config.to_dict(), sort_keys=True), tokenizer.definition)


def _prompt_digest(prompts: "ContextPrompts", mark: str) -> str:
    """16 hexadecimal digits over the prompts of the encoder with fingerprint `mark`."""
    return _digest({_CONTEXT: prompts.context}, json.dumps(prompts.config.to_dict(), sort_keys=True), mark)


def _digest(weights: Mapping[str, "Tensor"], *texts: str) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = _stored(weights[name])
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def _stored(tensor: "Tensor") -> "Tensor":
    """As a checkpoint holds it, whatever it was trained or run in: float32 (or an integer), on the CPU."""
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _rounded(name: str, tensor: "Tensor", dtype: str) -> "Tensor":
    if dtype == "float32" or not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise MedretError(f"{name}: a weight of {tensor.abs().max():.3g}, expected at most 65504 for float16. Save in float32.")
    return half


def _assemble(config: "EncoderConfig", tokenizer: "Tokenizer", weights: Mapping[str, "Tensor"], where: str) -> "DualEncoder":
    from encoders.dual import DualEncoder
    from encoders.image import ImageBackbone
    from encoders.text import TextBackbone

    parts: dict[str, dict[str, Tensor]] = {"image": {}, "text": {}, "image_head": {}, "text_head": {}}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    image = ImageBackbone(config.image, parts["image"], where)
    text = TextBackbone(config.text, parts["text"], where)
    encoder = DualEncoder(config, tokenizer, image, text)
    encoder.image_head.load_state_dict(parts["image_head"])
    encoder.text_head.load_state_dict(parts["text_head"])
    return encoder


def _add_prompts(encoder: "DualEncoder", stated: Any, context: "Tensor | None", mark: str, folder: Path) -> None:
    """Give an encoder the prompts that were stored with it, if any, verified against their digest."""
    if stated is None and context is None:
        return
    from encoders.prompt import PromptConfig

    damaged = f"{folder}: its prompts were changed or damaged. Copy the checkpoint again, or learn them again."
    try:
        encoder.add_prompts(PromptConfig.from_dict(stated["config"]))
        assert encoder.prompts is not None
        encoder.prompts.load_state_dict({"context": context})
        if _prompt_digest(encoder.prompts, mark) != stated["digest"]:
            raise MedretError(damaged)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise MedretError(damaged) from error
