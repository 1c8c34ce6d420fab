"""The text encoder in NumPy: the vectors that torch gives, for every kind, pooling and head, without importing torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoders_text import SMALL, write_folder

from encoders.checkpoint import load_checkpoint, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.mapped_weights import map_safetensors
from encoders.plain_text import PlainText, UncoveredError
from encoders.text import TEXT_POOLINGS

ROOT = Path(__file__).parents[1]
TEXTS = ["No effusion is seen.", "heart", "The heart is enlarged. " * 12, "effusion \udcff é [PAD] <pad> heart"]


def checkpoint(folder, kind="bert", *, pooling="mean", head="linear", dtype="float32", **changes):
    """A checkpoint of a tiny text network whose weights are large enough to tell right from wrong."""
    write_folder(folder / "network", kind, **changes)
    encoder = build_encoder(text=folder / "network", text_pooling=pooling, head=head, size=32, dimension=12, max_tokens=24, seed=1)
    with torch.no_grad():
        for weight in encoder.text.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    save_checkpoint(encoder, folder / "encoder", dtype=dtype)
    return folder / "encoder"


def assert_equals_torch(folder, texts=TEXTS):
    encoder = load_checkpoint(folder)
    with torch.inference_mode():
        expected = [encoder.encode_texts([text]) for text in texts]

    joint, features = PlainText(folder).encode(texts)

    assert joint.dtype == features.dtype == np.float32
    np.testing.assert_allclose(joint, torch.cat([one.joint for one in expected]).numpy(), atol=1e-5)
    np.testing.assert_allclose(features, torch.cat([one.features for one in expected]).numpy(), atol=1e-5)
    assert PlainText(folder).is_cut(texts) == encoder.is_cut(texts)


@pytest.mark.parametrize("pooling", TEXT_POOLINGS)
@pytest.mark.parametrize("kind", SMALL)
def test_every_kind_and_pooling_gives_the_vectors_of_torch(tmp_path, kind, pooling):
    assert_equals_torch(checkpoint(tmp_path, kind, pooling=pooling))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"])
def test_every_activation_gives_the_vectors_of_torch(tmp_path, activation):
    assert_equals_torch(checkpoint(tmp_path, head="nonlinear", hidden_act=activation))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_few_words_before_weights_of_many_48_outputs_give_the_vectors_of_torch(tmp_path, dtype):
    folder = checkpoint(tmp_path, dtype=dtype, hidden_size=48, intermediate_size=96)
    for texts in (["heart"], ["No effusion is seen.", "heart"]):
        assert_equals_torch(folder, texts)


@pytest.mark.parametrize("head", ["linear", "nonlinear"])
def test_weights_in_half_precision_are_widened(tmp_path, head):
    assert_equals_torch(checkpoint(tmp_path, head=head, dtype="float16"))


def test_the_default_encoder_gives_the_vectors_of_torch():
    assert_equals_torch(ROOT / "encoders" / "pretrained", ["Small left pleural effusion.", "cardiomegaly " * 200])


def test_a_text_is_encoded_without_torch_and_transformers(tmp_path):
    program = (
        "import sys; from pathlib import Path; from encoders.plain_text import PlainText; "
        f"print(PlainText(Path({str(checkpoint(tmp_path))!r})).encode(['heart'])[0].shape, {{'torch', 'transformers'}} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "(1, 12) set()\n"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("hidden_act", "mish", "activation mish"),
        ("position_embedding_type", "relative_key", "relative_key positions"),
        ("is_decoder", True, "a decoder"),
    ],
)
def test_what_is_not_computed_here_is_named(tmp_path, setting, value, said):
    path = checkpoint(tmp_path) / "encoder.json"
    content = json.loads(path.read_text())
    content["config"]["text"]["config"][setting] = value
    path.write_text(json.dumps(content))

    with pytest.raises(UncoveredError, match=said):
        PlainText(path.parent)


@pytest.mark.parametrize("length", [4, 100, -10])
def test_cut_weights_are_one_line(tmp_path, length):
    path = checkpoint(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(MedretError, match=r"^[^\n]*model\.safetensors: cannot be read as weights[^\n]*$"):
        map_safetensors(path, ("text.",))


def test_no_text_is_a_wrong_call(tmp_path):
    plain = PlainText(checkpoint(tmp_path))

    with pytest.raises(ValueError, match="expected words"):
        plain.encode(["heart", " "])
