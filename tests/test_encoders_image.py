"""Image backbones: presets, local Hugging Face folders, pooling."""

import json

import pytest
import torch

from encoders.efficientnet import EfficientNetLite0
from encoders.errors import MedretError
from encoders.huggingface import IMAGE_FAMILIES
from encoders.image import IMAGE_PRESETS, IMAGENET_MEAN, ImageBackbone, choose_image

SMALL = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}


def write_folder(folder, kind, **extra):
    """A folder as transformers writes it, and the model in it, with statistics and biases that are no identity."""
    torch.manual_seed(0)
    family = IMAGE_FAMILIES[kind]
    model = family.model_class(family.make_config({**SMALL[kind], **extra})).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def load(folder, pooling=None):
    settings, weights, expected = choose_image(folder, None, pooling, None)
    return ImageBackbone(settings, weights, str(folder)).eval(), expected


@pytest.mark.parametrize("kind", SMALL)
def test_a_local_folder_gives_the_features_that_transformers_gives(tmp_path, kind):
    theirs = write_folder(tmp_path, kind)
    pixels = torch.randn(2, 3, 32, 32)

    ours, _ = load(tmp_path)

    output = theirs(pixels)
    expected = output.last_hidden_state[:, 0] if kind == "vit" else output.pooler_output.flatten(1)
    torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=1e-5)
    assert ours(pixels).shape == (2, ours.width)


@pytest.mark.parametrize("kind", ["swin", "vit"])
def test_a_transformer_takes_another_size_than_it_was_trained_at(tmp_path, kind):
    theirs = write_folder(tmp_path, kind)
    pixels = torch.randn(2, 3, 64, 64)

    ours, _ = load(tmp_path, "mean")

    hidden = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
    expected = hidden[:, 1:].mean(dim=1) if kind == "vit" else hidden.mean(dim=1)
    torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=1e-5)


def test_a_vit_can_be_pooled_by_its_trained_pooler(tmp_path):
    theirs = write_folder(tmp_path, "vit")
    pixels = torch.randn(2, 3, 32, 32)

    ours, _ = load(tmp_path, "pooler")

    torch.testing.assert_close(ours(pixels), theirs(pixels).pooler_output, atol=1e-5, rtol=1e-5)


def test_a_pooler_that_the_folder_lacks_is_not_made_up(tmp_path):
    from transformers.models.vit.modeling_vit import ViTModel

    family = IMAGE_FAMILIES["vit"]
    ViTModel(family.make_config(SMALL["vit"]), add_pooling_layer=False).save_pretrained(tmp_path)

    with pytest.raises(MedretError, match=r"2 weights are missing \(pooler\.dense\.bias"):
        load(tmp_path, "pooler")


def test_a_classifier_file_is_read_without_its_head(tmp_path):
    from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

    torch.manual_seed(0)
    theirs = ResNetForImageClassification(IMAGE_FAMILIES["resnet"].make_config(SMALL["resnet"])).eval()
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)

    ours, _ = load(tmp_path)

    torch.testing.assert_close(ours(pixels), theirs.resnet(pixels).pooler_output.flatten(1), atol=1e-5, rtol=1e-5)


def test_published_names_survive_reading_and_writing(tmp_path):
    """transformers calls the layers of a ViT otherwise inside than in files."""
    from safetensors.torch import load_file

    write_folder(tmp_path, "vit")
    stored = load_file(tmp_path / "model.safetensors")

    ours = load(tmp_path, "pooler")[0].weights()

    assert ours.keys() == stored.keys()
    assert "encoder.layer.0.attention.attention.query.weight" in ours
    assert all(torch.equal(ours[name], stored[name]) for name in stored)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": {"height": 48, "width": 48}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}, (48, (0.1, 0.2, 0.3), (0.5,) * 3)),
        ({"size": 40, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, (40, (0.5,) * 3, (0.5,) * 3)),
        (
            {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "do_normalize": False},
            (32, (0.0,) * 3, (1.0,) * 3),
        ),
        # (level / 127.5 - 1) / 0.5 = (level / 255 - 0.5) / 0.25
        ({"size": 32, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [0.5] * 3}, (32, (0.5,) * 3, (0.25,) * 3)),
        ({"size": 32, "do_rescale": False, "image_mean": [51.0] * 3, "image_std": [255.0] * 3}, (32, (0.2,) * 3, (1.0,) * 3)),
    ],
)
def test_the_expected_input_is_read_from_the_folder(tmp_path, values, expected):
    write_folder(tmp_path, "resnet")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))

    _, found = load(tmp_path)

    assert found["size"] == expected[0]
    assert found["mean"] == pytest.approx(expected[1])
    assert found["std"] == pytest.approx(expected[2])


def test_a_folder_without_a_statement_of_its_input_gets_that_of_imagenet(tmp_path):
    write_folder(tmp_path, "vit")

    _, found = load(tmp_path)

    assert (found["size"], found["mean"]) == (32, IMAGENET_MEAN)


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_every_preset_turns_pixels_into_one_vector_per_film(name):
    size = 193 if name == "swin-tiny" else 64
    settings, weights, _ = choose_image(name, None, None, size)

    backbone = ImageBackbone(settings, weights).eval()

    with torch.inference_mode():
        features = backbone(torch.randn(2, 3, size, size))
    assert features.shape == (2, backbone.width)
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", 25_557_032 - 2_049_000),  # torchvision's counts, less the classifiers
        ("vit-b16", 86_567_656 - 769_000),
        ("swin-tiny", 28_288_354 - 769_000),
        ("convnext-tiny", 28_589_128 - 769_000),
        ("efficientnet-lite0", 4_652_008 - 1_281_000),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, parameters):
    settings, _, _ = choose_image(name, None, None, None)
    with torch.device("meta"):
        backbone = ImageBackbone(settings)

    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


def test_efficientnet_takes_separate_weights(tmp_path):
    torch.manual_seed(0)
    published = EfficientNetLite0(1000).eval()
    torch.save(published.state_dict(), tmp_path / "efficientnet-lite0-0.pth")
    settings, weights, expected = choose_image("efficientnet-lite0", tmp_path / "efficientnet-lite0-0.pth", None, None)
    pixels = torch.randn(1, 3, 64, 64)

    ours = ImageBackbone(settings, weights).eval()

    torch.testing.assert_close(ours(pixels), published.features(pixels).mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)
    assert (255 * expected["mean"][0], 255 * expected["std"][0]) == pytest.approx((127, 128))


def test_weights_of_another_network_are_refused_in_one_line(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    settings, weights, _ = choose_image("efficientnet-lite0", tmp_path / "resnet.pth", None, None)

    with pytest.raises(MedretError, match="not those of efficientnet-lite0") as caught:
        ImageBackbone(settings, weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "weights", "message"),
    [
        ("no-such-thing", None, "no preset"),
        ("tiny", "imagenet", "separate weights fit only efficientnet-lite0"),
        ("efficientnet-lite0", "no-such.pth", "cannot be read as weights"),
    ],
)
def test_what_does_not_exist_is_refused(source, weights, message):
    with pytest.raises(MedretError, match=message):
        choose_image(source, weights, None, None)


def test_a_pooling_that_the_network_lacks_is_refused():
    settings, weights, _ = choose_image("tiny", None, "cls", None)

    with pytest.raises(MedretError, match="image pooling is 'cls', expected one of mean"):
        ImageBackbone(settings, weights)


def test_a_swin_is_not_given_films_smaller_than_its_windows():
    with pytest.raises(MedretError, match="image size is 192 pixels, expected at least 193"):
        choose_image("swin-tiny", None, None, 192)
