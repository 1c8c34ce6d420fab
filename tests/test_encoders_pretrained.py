"""The encoder that comes along."""

import json

import pytest
import torch

from encoders.checkpoint import default_checkpoint, load_checkpoint, read_fingerprint, read_notes


@pytest.fixture(scope="module")
def folder():
    return default_checkpoint()


def test_it_is_whole_and_small_and_brings_its_card_and_its_licence(folder):
    files = {file.name: file.stat().st_size for file in folder.iterdir()}

    assert set(files) == {"LICENSE", "MODEL_CARD.md", "encoder.json", "model.safetensors", "tokenizer.json"}
    assert sum(files.values()) <= 40_000_000
    assert read_fingerprint(folder) in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "non-commercial research only" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_it_loads_by_its_fingerprint_and_encodes_films_and_words_into_one_space(folder):
    encoder = load_checkpoint(folder)
    size = encoder.config.preprocessing.size
    films = torch.randint(0, 256, (2, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        images, texts = encoder.encode_images(films).joint, encoder.encode_texts(["enlarged heart", "Zürich ☢"]).joint

    assert images.shape == texts.shape == (2, encoder.dimension)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(4))


def test_words_for_one_thing_are_closer_than_words_for_others(folder):
    encoder = load_checkpoint(folder)
    with torch.inference_mode():
        heart, same, other = encoder.encode_texts(["enlarged heart", "cardiomegaly", "pneumothorax"]).joint

    assert heart @ same > heart @ other + 0.2


def test_it_learned_from_films_that_were_never_mirrored_and_names_no_folder(folder):
    assert read_notes(folder)["training"]["config"]["flip_probability"] == 0
    assert not [text for text in _texts(json.loads((folder / "encoder.json").read_text(encoding="utf-8"))) if text.startswith("/")]


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for entry in value.values() for text in _texts(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in _texts(entry)]
    return [value] if isinstance(value, str) else []
