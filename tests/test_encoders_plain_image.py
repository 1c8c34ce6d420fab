"""The image half in NumPy, as it was recorded, gives torch's vectors; operation by operation, and for every image family."""

import dataclasses

import numpy as np
import pytest
import torch

from encoders.array_operations import OPERATIONS
from encoders.checkpoint import load_checkpoint, save_checkpoint
from encoders.dual import DualEncoder, build_encoder
from encoders.errors import MedretError, UncoveredError
from encoders.export import check_exports, try_images
from encoders.image import ImageBackbone
from encoders.plain_image import PlainImage, RecordedNetwork, Step

_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
_CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}
FAMILIES = {
    "resnet": ("resnet", "mean", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}),
    "bottleneck": ("resnet", "mean", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]}),
    "vit": ("vit", "cls", _VIT),
    "vit, patches": ("vit", "mean", _VIT),
    "vit, pooler": ("vit", "pooler", _VIT),
    "swin": ("swin", "mean", {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 3, "image_size": 32, "patch_size": 4}),
    "convnext": ("convnext", "pooler", _CONVNEXT),
    "convnext, map": ("convnext", "mean", _CONVNEXT),
    "efficientnet": ("efficientnet-lite0", "mean", {}),
}


def save(folder, kind, pooling, config, size=32, **options):
    """Write a random encoder with statistics, gains and biases that are no identity, as a checkpoint."""
    plain = build_encoder(texts=["The heart is enlarged."], size=size, dimension=8, **options)
    image = {"kind": kind, "pooling": pooling, "config": config}
    torch.manual_seed(0)
    encoder = DualEncoder(dataclasses.replace(plain.config, image=image), plain.tokenizer, ImageBackbone(image), plain.text)
    for tensor in encoder.image.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    save_checkpoint(encoder, folder, dtype="float16" if options else "float32")
    return load_checkpoint(folder)


def test_every_image_family_is_recorded_and_gives_the_vectors_of_torch(tmp_path):
    films = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    needed = set()
    for name, (kind, pooling, config) in FAMILIES.items():
        encoder = save(tmp_path / name, kind, pooling, config, **({"head": "linear"} if name == "resnet" else {}))

        tried = try_images(encoder, tmp_path / name)

        assert (name, tried.way, tried.reason) == (name, "numpy", "")
        network = RecordedNetwork.from_text(tried.network)
        needed |= {step.operation for step in network.steps}
        with torch.inference_mode():
            expected = encoder.encode_images(torch.from_numpy(films))
        for made, want in zip(PlainImage(tmp_path / name, network).encode(films), expected, strict=True):
            np.testing.assert_allclose(made, want.numpy(), atol=1e-6, err_msg=name)
    assert needed == set(OPERATIONS)  # and nothing is there that none of them needs


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conv2d", (random(2, 4, 9, 8), random(5, 4, 3, 2), random(5), [2, 1], [1, 0])),
        ("conv2d", (random(1, 4, 9, 8), random(4, 1, 5, 3), None, [2, 2], [2, 1], [1, 1], 4)),
        ("conv2d", (random(1, 4, 6, 6), random(3, 4, 1, 1), None, [3], [0])),
        ("max_pool2d", (-(random(1, 3, 7, 9) ** 2), [3, 3], [2, 2], [1, 1])),
        ("max_pool2d", (random(1, 3, 7, 9), [2, 3])),
        ("batch_norm", (random(2, 3, 4, 4), random(3), random(3), random(3), random(3) ** 2, False, 0.1, 1e-3, True)),
        ("layer_norm", (random(2, 3, 7) * 9, [7], random(7), random(7), 1e-6)),
        ("layer_norm", (random(2, 7), [7])),
        ("scaled_dot_product_attention", (random(2, 2, 5, 4), random(2, 2, 5, 4), random(2, 2, 5, 4), random(2, 1, 5, 5))),
        ("pad", (random(2, 3, 4, 5), [1, 2, 0, 3])),
        ("pad", (random(2, 3, 4, 5), [0, 0, 1, 2, 3, 0], "constant", 2.0)),
        ("roll", (random(1, 4, 5, 2), [-1, 2], [1, 2])),
        ("flatten", (random(2, 3, 4, 5), 1, 2)),
        ("slice", (random(2, 9, 4), 1, 1, 9223372036854775807, 2)),
        ("index", (random(5, 6), [torch.tensor([4, 0]), None])),
        ("expand", (random(1, 3), [2, 4, -1])),
        ("select", (random(2, 3, 4), 1, -1)),
        ("gelu", (random(100) * 4,)),
        ("linalg_vector_norm", (random(3, 4), 2, [1], True)),
    ],
)
def test_an_operation_does_what_torch_does(name, arguments):
    def as_array(item):
        if isinstance(item, list):
            return [as_array(part) for part in item]
        return item.numpy() if isinstance(item, torch.Tensor) else item

    expected = getattr(torch.ops.aten, name)(*arguments)

    np.testing.assert_allclose(OPERATIONS[name](*map(as_array, arguments)), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_network_with_an_operation_that_is_not_covered_is_left_to_torch(tmp_path):
    encoder = save(tmp_path / "encoder", "vit", "cls", _VIT, size=48)  # its table of positions is interpolated

    tried = try_images(encoder, tmp_path / "encoder")

    assert tried.way == "torch"
    assert "upsample_bicubic2d, which is not computed in NumPy" in tried.reason
    check_exports(encoder, tmp_path / "encoder", None, tried)  # and there is nothing to verify


def test_a_recording_that_does_not_agree_is_found(tmp_path, monkeypatch):
    encoder = save(tmp_path / "encoder", *FAMILIES["convnext"])
    tried = try_images(encoder, tmp_path / "encoder")
    monkeypatch.setitem(OPERATIONS, "gelu", lambda x: np.maximum(x, 0))

    with pytest.raises(MedretError, match=r"its image encoder without torch does not agree .* differ from torch's by 0\.0"):
        check_exports(encoder, tmp_path / "encoder", None, tried)

    monkeypatch.delitem(OPERATIONS, "gelu")
    with pytest.raises(UncoveredError, match="recorded with the operation gelu, which this medret does not know"):
        RecordedNetwork.from_text(tried.network)
    assert "the operation gelu, which" in try_images(encoder, tmp_path / "encoder").reason


def test_a_damaged_recording_is_a_fault_that_can_be_mended(tmp_path):
    encoder = save(tmp_path / "encoder", *FAMILIES["resnet"])
    text = try_images(encoder, tmp_path / "encoder").network
    whole = RecordedNetwork.from_text(text)
    films = np.zeros((1, 32, 32), np.uint8)

    for damaged in ("", "\u00e9", text[:100], dataclasses.replace(whole, outputs=("x", 1)).to_text()):
        with pytest.raises(UncoveredError, match=r"recorded of its image network is damaged \(\w+\)$"):
            RecordedNetwork.from_text(damaged)

    for operation, arguments in [
        ("relu", []),
        ("relu", [{"value": len(whole.steps) + 9}]),
        ("relu", [{"weight": "image.missing"}]),
        ("expand", [{"weight": "image_head.missing"}, [-5]]),
        ("reshape", [{"value": 0}, [3, -7]]),
        ("pad", [{"value": 0}, [1 << 40, 1 << 40]]),
        ("conv2d", [{"value": 0}, {"value": 0}]),
        ("mul", [{"value": 0}, float("nan")]),
    ]:
        changed = dataclasses.replace(whole, steps=(Step(operation, arguments, {}), *whole.steps[1:]))
        with pytest.raises(UncoveredError, match=r"recorded of its image network (cannot be computed|gives no unit vectors)"):
            PlainImage(tmp_path / "encoder", RecordedNetwork.from_text(changed.to_text())).encode(films)
