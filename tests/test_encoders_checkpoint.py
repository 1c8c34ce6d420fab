"""Checkpoints: whole, verified, the same on every device; never half a one taken for whole."""

import dataclasses
import hashlib
import json
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders.checkpoint import (
    copy_checkpoint,
    default_checkpoint,
    find_checkpoint,
    fingerprint,
    load_checkpoint,
    read_fingerprint,
    read_notes,
    save_checkpoint,
)
from encoders.dual import DualEncoder, build_encoder
from encoders.errors import MedretError
from encoders.preprocess import Preprocessing
from encoders.tokens import learn_tokenizer

REPORTS = ["The heart is enlarged.", "No pleural effusion is seen.", "Small left pneumothorax."] * 3
SMALL = {"size": 32, "dimension": 8}


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("tiny", "tiny", REPORTS, **SMALL).eval()


@pytest.fixture
def folder(encoder, tmp_path):
    save_checkpoint(encoder, tmp_path / "encoder", {"epoch": 3, "metrics": {"loss": 0.5}})
    return tmp_path / "encoder"


def films():
    return torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def same(first, second):
    with torch.inference_mode():
        return torch.equal(first.encode_images(films()).joint, second.encode_images(films()).joint) and torch.equal(
            first.encode_texts(REPORTS).joint, second.encode_texts(REPORTS).joint
        )


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(encoder, folder):
    """The kernel refuses to let the weights grow, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(MedretError, match=r"^[^\n]*encoder: cannot be written \([^\n]*File too large[^\n]*\)\. Free space[^\n]*$"):
            save_checkpoint(encoder, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert read_notes(folder)["epoch"] == 3
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]


def test_what_was_saved_is_loaded_to_the_last_bit(encoder, folder):
    loaded = load_checkpoint(folder)

    assert not loaded.training
    assert same(encoder, loaded)
    assert fingerprint(loaded) == fingerprint(encoder) == read_fingerprint(folder)
    assert read_notes(folder) == {"epoch": 3, "metrics": {"loss": 0.5}}


@pytest.mark.parametrize(
    ("image", "published"),
    [
        ("vit-b16", "encoder.layer.0.attention.attention.query.weight"),
        ("swin-tiny", "encoder.layers.0.blocks.0.attention.self.query.weight"),
        ("convnext-tiny", "encoder.stages.0.layers.0.dwconv.weight"),
        ("efficientnet-lite0", "_blocks.0._depthwise_conv.weight"),
    ],
)
def test_every_kind_of_backbone_survives_under_its_published_names(tmp_path, image, published):
    """Names as in the files that users download: they outlive transformers' renamings of the insides of its models."""
    size = 193 if image == "swin-tiny" else 32
    encoder = build_encoder(image, "tiny", REPORTS, size=size, dimension=8).eval()
    mark = save_checkpoint(encoder, tmp_path / "encoder")

    loaded = load_checkpoint(tmp_path / "encoder")

    state = loaded.state_dict()
    assert f"image.{published}" in load_file(tmp_path / "encoder" / "model.safetensors")
    assert mark == fingerprint(loaded)
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())


def test_the_files_are_three_and_their_owners_alone(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "model.safetensors", "tokenizer.json"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_fingerprint_is_the_digest_that_its_definition_says(encoder, folder):
    """Sorted weights as stored, then settings, then the tokenizer: from the files alone."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode() + tensor.numpy().tobytes())
    settings = json.loads((folder / "encoder.json").read_text())["config"]
    digest.update(json.dumps(settings, sort_keys=True).encode() + (folder / "tokenizer.json").read_bytes())

    assert fingerprint(encoder) == digest.hexdigest()[:16]


def rebuilt(encoder, tokenizer=None, **changes):
    config = dataclasses.replace(encoder.config, **changes)
    return DualEncoder(config, tokenizer or encoder.tokenizer, encoder.image, encoder.text)


def test_whatever_defines_an_embedding_changes_the_fingerprint(encoder):
    def with_heads(other):
        other.image_head.load_state_dict(encoder.image_head.state_dict())
        other.text_head.load_state_dict(encoder.text_head.state_dict())
        return fingerprint(other)

    settings = encoder.config.preprocessing.to_dict()
    other_norm = Preprocessing.from_dict({**settings, "std": 0.3})
    other_fit = Preprocessing.from_dict({**settings, "fit": "squash"})
    other_words = learn_tokenizer(REPORTS, vocabulary_size=60)
    pooled = {**encoder.config.text, "pooling": "mean"}

    marks = [
        with_heads(rebuilt(encoder)),
        with_heads(rebuilt(encoder, preprocessing=other_norm)),
        with_heads(rebuilt(encoder, preprocessing=other_fit)),
        with_heads(rebuilt(encoder, text=pooled)),
        with_heads(rebuilt(encoder, max_tokens=64)),
        with_heads(rebuilt(encoder, tokenizer=other_words)),
        fingerprint(build_encoder("tiny", "tiny", REPORTS, seed=1, **SMALL)),
    ]

    assert marks[0] == fingerprint(encoder)
    assert len(set(marks)) == len(marks)


def test_what_merely_computes_an_embedding_does_not_change_the_fingerprint(encoder):
    mark = fingerprint(encoder)
    laid_out = build_encoder("tiny", "tiny", REPORTS, **SMALL).train()
    laid_out.image.model.to(memory_format=torch.contiguous_format)

    assert fingerprint(laid_out) == mark
    assert fingerprint(build_encoder("tiny", "tiny", REPORTS, **SMALL).double()) == mark


def test_an_encoder_in_half_precision_is_stored_in_float32(tmp_path):
    half = build_encoder("tiny", "tiny", REPORTS, **SMALL).half()
    mark = save_checkpoint(half, tmp_path / "encoder")

    stored = load_file(tmp_path / "encoder" / "model.safetensors")

    assert {tensor.dtype for tensor in stored.values()} == {torch.float32, torch.int64}  # int64: BatchNorm's step counter
    assert fingerprint(load_checkpoint(tmp_path / "encoder")) == mark == fingerprint(half)


def test_an_encoder_stored_in_float16_is_the_rounded_one(tmp_path):
    """Half the space; its vectors and fingerprint are those of the encoder with rounded weights."""
    encoder = build_encoder("tiny", "tiny", REPORTS, **SMALL).eval()
    mark = save_checkpoint(encoder, tmp_path / "half", dtype="float16")
    whole = save_checkpoint(encoder, tmp_path / "whole")

    for tensor in encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())

    loaded = load_checkpoint(tmp_path / "half")
    assert same(loaded, encoder)
    assert fingerprint(loaded) == fingerprint(encoder) == mark == read_fingerprint(tmp_path / "half") != whole
    half, full = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole"))
    assert half < 0.51 * full


def test_a_weight_that_float16_cannot_hold_is_refused_by_name(tmp_path):
    encoder = build_encoder("tiny", "tiny", REPORTS, **SMALL)
    encoder.image_head[0].weight.data[0, 0] = 1e5

    with pytest.raises(MedretError, match=r"image_head\.0\.weight: a weight of 1e\+05"):
        save_checkpoint(encoder, tmp_path / "encoder", dtype="float16")
    assert not (tmp_path / "encoder").exists()


def test_further_files_come_with_the_checkpoint_and_are_copied_with_it(encoder, tmp_path):
    save_checkpoint(encoder, tmp_path / "encoder", files={"MODEL_CARD.md": "# Häufigkeit\n"})
    copy_checkpoint(tmp_path / "encoder", tmp_path / "copy")

    assert (tmp_path / "copy" / "MODEL_CARD.md").read_text(encoding="utf-8") == "# Häufigkeit\n"
    assert same(load_checkpoint(tmp_path / "copy"), encoder)


@pytest.mark.parametrize("wrong", [{"dtype": "bfloat16"}, {"files": {"encoder.json": ""}}, {"files": {"../card.md": ""}}])
def test_a_checkpoint_of_another_form_is_a_wrong_call(encoder, tmp_path, wrong):
    with pytest.raises(ValueError, match="expected"):
        save_checkpoint(encoder, tmp_path / "encoder", **wrong)


def change_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["image_head.0.weight"][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors")


def flip_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def change_settings(folder):
    content = json.loads((folder / "encoder.json").read_text())
    content["config"]["preprocessing"]["std"] = 0.3
    (folder / "encoder.json").write_text(json.dumps(content))


def change_tokenizer(folder):
    (folder / "tokenizer.json").write_text(learn_tokenizer([*REPORTS, "another word"], 60).definition, encoding="utf-8")


@pytest.mark.parametrize("change", [change_weight, flip_bit, change_settings, change_tokenizer])
def test_a_changed_file_is_refused_by_the_fingerprint(folder, change):
    mark = read_fingerprint(folder)
    change(folder)

    with pytest.raises(MedretError, match=rf"but encoder\.json names {mark}"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["encoder.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kept", [None, 0, 100, -100])
def test_a_missing_or_cut_file_is_refused_in_one_line(folder, name, kept):
    path = folder / name
    content = path.read_bytes()
    path.unlink() if kept is None else path.write_bytes(content[:kept])

    with pytest.raises(MedretError, match=name.replace(".", r"\.")) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "encoder format 2, this medret reads 1"),
        ({"format": "other"}, "no medret encoder"),
        ({"config": {}}, "no valid encoder configuration"),
        ({"config": None}, "no valid encoder configuration"),
    ],
)
def test_a_description_of_something_else_is_refused(folder, change, message):
    path = folder / "encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(MedretError, match=message) as caught:
        load_checkpoint(folder)
    assert str(path) in str(caught.value)


def test_a_setting_of_another_version_is_refused_with_the_file(folder):
    path = folder / "encoder.json"
    content = json.loads(path.read_text())
    content["config"]["preprocessing"]["decoding"] = "grey16-v9"
    path.write_text(json.dumps(content))

    with pytest.raises(MedretError, match=r"encoder\.json: .*grey16-v9"):
        load_checkpoint(folder)


def test_saving_over_a_checkpoint_replaces_it(folder):
    other = build_encoder("tiny", "tiny", REPORTS, seed=9, **SMALL).eval()

    mark = save_checkpoint(other, folder)

    assert read_fingerprint(folder) == mark
    assert same(load_checkpoint(folder), other)
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]


def test_a_run_is_found_by_its_best_checkpoint(encoder, folder, tmp_path):
    save_checkpoint(encoder, tmp_path / "run" / "best")

    assert find_checkpoint(tmp_path / "run") == tmp_path / "run" / "best"
    assert find_checkpoint(folder) == folder


@pytest.mark.parametrize(("name", "found"), [("nowhere", "nothing"), ("empty", "a folder without one"), ("file", "a file")])
def test_a_path_without_an_encoder_says_what_is_there(tmp_path, name, found):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(MedretError, match=f"{name}: {found}, expected an encoder"):
        find_checkpoint(tmp_path / name)


def test_the_encoder_that_an_installation_brings_along_lies_in_its_package(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("encoders.checkpoint.__file__", str(tmp_path / "checkpoint.py"))
    with pytest.raises(MedretError, match=r"brings no encoder along.*medret train"):
        default_checkpoint()

    save_checkpoint(encoder, tmp_path / "pretrained")

    assert default_checkpoint() == tmp_path / "pretrained"


def test_reading_a_fingerprint_loads_no_torch(folder):
    script = (
        "import sys; from pathlib import Path; from encoders.checkpoint import read_fingerprint; "
        f"print(read_fingerprint(Path({str(folder)!r})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])

    assert done.stdout.split() == [read_fingerprint(folder), "False"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_encoder_on_a_gpu_gives_the_same_vectors_and_fingerprint(encoder, folder):
    loaded = load_checkpoint(folder, "cuda")

    with torch.inference_mode():
        found, expected = loaded.encode_images(films()).joint.cpu(), encoder.encode_images(films()).joint
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # TF32 convolutions
    assert fingerprint(loaded) == fingerprint(encoder)
    assert loaded.device.type == "cuda"
