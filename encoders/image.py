"""Image backbones: pixels in, one pooled feature vector out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.efficientnet import WIDTH, EfficientNetLite0, find_imagenet_weights, load_efficientnet_weights
from encoders.errors import MedretError
from encoders.huggingface import IMAGE_FAMILIES, complete_config, fill_model, first_list, make_model, published_weights, read_folder
from encoders.json_object import read_json

Colours = tuple[float, float, float]
IMAGENET_MEAN: Colours = (0.485, 0.456, 0.406)
IMAGENET_STD: Colours = (0.229, 0.224, 0.225)
EFFICIENTNET = "efficientnet-lite0"
# The first pooling of a kind is its default: what its publishers classify from.
_POOLINGS = {
    "resnet": ("mean",),
    "vit": ("cls", "mean", "pooler"),
    "swin": ("mean",),
    "convnext": ("pooler", "mean"),
    EFFICIENTNET: ("mean",),
}
# Their weights lie by channel, which convolutions on a CPU prefer (2 times faster in training, `tiny` at 128 pixels).
_CONVOLUTIONAL = ("resnet", "convnext", EFFICIENTNET)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePreset:
    """A ready image backbone: its configuration and the input it expects."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    size: int = 224
    mean: Colours = IMAGENET_MEAN
    std: Colours = IMAGENET_STD


_TINY = {"layer_type": "basic", "embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
IMAGE_PRESETS = {
    "tiny": ImagePreset(kind="resnet", config=_TINY, size=128),
    "resnet50": ImagePreset(kind="resnet"),
    "vit-b16": ImagePreset(kind="vit", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "swin-tiny": ImagePreset(kind="swin"),
    "convnext-tiny": ImagePreset(kind="convnext"),
    EFFICIENTNET: ImagePreset(kind=EFFICIENTNET, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
}


class ImageBackbone(nn.Module):
    """An image network and its pooling.

    Args:
        settings: {"kind", "pooling", "config"}, as a checkpoint stores them.
        weights: The network's weights under their published names; None for random ones.
        where: What to call the weights' source in messages.

    Raises:
        MedretError: If the pooling is not one of this kind, or the weights do not fit.
    """

    def __init__(self, settings: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None, where: str = "image encoder") -> None:
        super().__init__()
        self.kind, self.pooling = str(settings["kind"]), str(settings["pooling"])
        if self.kind not in _POOLINGS:
            raise MedretError(f"{where}: image encoder of kind {self.kind!r}, expected one of {', '.join(_POOLINGS)}. Update medret.")
        if self.pooling not in _POOLINGS[self.kind]:
            raise MedretError(f"image pooling is {self.pooling!r}, expected one of {', '.join(_POOLINGS[self.kind])} for {self.kind}.")
        self.model = _network(self.kind, self.pooling, settings["config"], weights, where)
        if self.kind in _CONVOLUTIONAL:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.width = _width(self.kind, self.model)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pooled features.

        Args:
            pixels: (B, 3, S, S) float32, normalised by the encoder's Preprocessing.

        Returns:
            (B, F), of the dtype that autocast chooses.
        """
        if self.kind in _CONVOLUTIONAL:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.kind == EFFICIENTNET:
            features: Tensor = self.model(pixels)
            return features
        # A vit or swin of another size than its tables interpolates them; at their own size nothing changes.
        resized = {"interpolate_pos_encoding": True} if self.kind in ("vit", "swin") else {}
        return self._pool(self.model(pixels, **resized))

    def _pool(self, output: Any) -> Tensor:
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output.last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        if hidden.ndim == 4:  # (B, F, H, W)
            return hidden.mean(dim=(2, 3))
        return hidden[:, 1:].mean(dim=1) if self.kind == "vit" else hidden.mean(dim=1)  # the first token of a vit is no patch

    def weights(self) -> dict[str, Tensor]:
        """The network's state under published names; tensors are shared, not copied."""
        return published_weights(self.model)

    def stages(self) -> list[list[nn.Module]]:
        """The network's stages from pixels to features (a vit's layers), the stem left out."""
        if isinstance(self.model, EfficientNetLite0):
            return self.model.stages()
        return [[stage] for stage in first_list(self.model)]


def choose_image(
    source: str | Path, weights: str | Path | None, pooling: str | None, size: int | None
) -> tuple[dict[str, Any], dict[str, Tensor] | None, dict[str, Any]]:
    """Turn a preset's name or a local folder into settings, weights and the input the network expects.

    Args:
        source: A preset, or a local Hugging Face folder.
        weights: None, "imagenet" or a .pth file; only for efficientnet-lite0.
        pooling: None for the kind's default.
        size: Pixels, where it shall differ from the preset's or the folder's.

    Returns:
        The settings of ImageBackbone; weights under published names, or None; {"size", "mean", "std"} for Preprocessing.

    Raises:
        MedretError: If there is no such preset or folder, or its files are not usable.
    """
    preset = IMAGE_PRESETS.get(str(source))
    if weights is not None and (preset is None or preset.kind != EFFICIENTNET):
        raise MedretError(
            f"image weights {weights} with {source}: separate weights fit only {EFFICIENTNET}. Give the folder as the encoder."
        )
    if preset is None:
        return _choose_folder(Path(source), pooling, size)
    found = None if weights is None else load_efficientnet_weights(find_imagenet_weights() if str(weights) == "imagenet" else Path(weights))
    size = preset.size if size is None else size
    config: dict[str, Any] = {}
    if preset.kind != EFFICIENTNET:
        config = complete_config(preset.kind, {**preset.config, **({"image_size": size} if preset.kind in ("vit", "swin") else {})})
    _refuse_small(preset.kind, config, size)
    settings = {"kind": preset.kind, "pooling": pooling or _POOLINGS[preset.kind][0], "config": config}
    return settings, found, {"size": size, "mean": preset.mean, "std": preset.std}


def _choose_folder(folder: Path, pooling: str | None, size: int | None) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    if not folder.is_dir():
        raise MedretError(f"image encoder {folder}: no preset ({', '.join(IMAGE_PRESETS)}) and no folder. Give one of them.")
    kind, config, weights = read_folder(folder, list(IMAGE_FAMILIES))
    expected = _expected_input(folder, config)
    if size is not None:
        expected["size"] = size
    _refuse_small(kind, config, expected["size"])
    return {"kind": kind, "pooling": pooling or _POOLINGS[kind][0], "config": config}, weights, expected


def _refuse_small(kind: str, config: Mapping[str, Any], size: int) -> None:
    """A swin's last map must hold one window; transformers fails in the midst of its attention otherwise."""
    if kind != "swin":
        return
    step = config["patch_size"] * 2 ** (len(config["depths"]) - 1)
    smallest = step * (config["window_size"] - 1) + 1
    if size < smallest:
        raise MedretError(
            f"image size is {size} pixels, expected at least {smallest} for this swin. Choose a larger size or another encoder."
        )


def _expected_input(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Size, mean and standard deviation (on grey levels 0 to 1) as a folder's preprocessor_config.json states them."""
    path = folder / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    try:
        # Some models rescale by another factor than 1/255, or not at all; mean and deviation take that up.
        scale = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
        mean, std = values.get("image_mean", IMAGENET_MEAN), values.get("image_std", IMAGENET_STD)
        if not values.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        size = _square_size(values) or int(config.get("image_size") or 224)
        return {"size": size, "mean": _colours(mean, scale), "std": _colours(std, scale)}
    except (TypeError, ValueError, KeyError) as error:
        raise MedretError(f"{path}: no usable size, mean or std ({type(error).__name__}). Copy the file again, or remove it.") from error


def _square_size(values: Mapping[str, Any]) -> int | None:
    size = values.get("crop_size") if values.get("do_center_crop") else None
    size = values.get("size") if size is None else size
    if isinstance(size, Mapping):
        size = size["height"] if "height" in size else size["shortest_edge"]
    if isinstance(size, list):
        size = size[0]
    return None if size is None else int(size)


def _colours(values: Any, scale: float) -> Colours:
    first, second, third = (float(value) / scale for value in (values * 3 if len(values) == 1 else values))
    return first, second, third


def _network(kind: str, pooling: str, config: Mapping[str, Any], weights: Mapping[str, Tensor] | None, where: str) -> nn.Module:
    if kind == EFFICIENTNET:
        return _efficientnet(weights, where)
    settings = {"add_pooling_layer": pooling == "pooler"} if kind == "vit" else {}
    return make_model(kind, config, **settings) if weights is None else fill_model(kind, config, weights, where, **settings)


def _efficientnet(weights: Mapping[str, Tensor] | None, where: str) -> EfficientNetLite0:
    model = EfficientNetLite0()
    if weights is not None:
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise MedretError(f"{where}: the weights are not those of {EFFICIENTNET} ({first}). Get the matching file.") from error
    return model


def _width(kind: str, model: Any) -> int:
    if kind == EFFICIENTNET:
        return WIDTH
    config = model.config
    return int(config.hidden_sizes[-1] if kind in ("resnet", "convnext") else config.hidden_size)
