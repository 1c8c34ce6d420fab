"""Making the default encoder: smaller, the same answers, its own figures in its card, nothing of a report in its tokenizer."""

import json

import openi
import pretrained
import pytest
import torch
from handmade_openi import write_openi
from pretrained_card import render_card

from encoders.checkpoint import load_checkpoint, read_fingerprint, save_checkpoint
from encoders.dual import build_encoder

WORDS = ["enlarged heart fluid around the lung finding number is seen impression"] * 2
TRAINING = {
    "config": {"flip_probability": 0.0, "views": "frontal", "objective": "convirt", "batch_size": 8, "seed": 0},
    "step": 5,
    "corpora": [{"format": "openi", "images": 6, "studies": 3}],
}


def make(run, home, out, *more, published=None):
    pretrained.main([str(run), str(home / "openi"), str(out), "--published", str(published or home / "published"), *map(str, more)])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """OpenI, an encoder with a published tokenizer (its own, and thirty words that nobody uses), and a run that began from it."""
    home = tmp_path_factory.mktemp("pretrained")
    (home / "openi").mkdir()
    write_openi(home / "openi")
    texts = [*WORDS, *[f"unusedword{letter * 9}" for letter in "abcdefghijklmnopqrstuvwxyz"] * 2]
    encoder = build_encoder(texts=texts, size=32, dimension=16)
    save_checkpoint(encoder, home / "run" / "last", {"training": TRAINING})
    (home / "published").mkdir()
    (home / "published" / "tokenizer.json").write_text(encoder.tokenizer.definition)
    return home


@pytest.fixture(scope="module")
def made(home):
    make(home / "run" / "last", home, home / "out")
    return home / "out"


def test_the_encoder_is_smaller_and_gives_nearly_the_same_vectors(home, made):
    before, after = load_checkpoint(home / "run" / "last"), load_checkpoint(made)
    texts = ["Finding number 27 is seen. Impression 6.", "enlarged heart", "Cardiomegaly."]

    cosines = (before.encode_texts(texts).joint * after.encode_texts(texts).joint).sum(dim=1)

    assert after.text.vocabulary_size < before.text.vocabulary_size
    assert (made / "model.safetensors").stat().st_size < (home / "run" / "last" / "model.safetensors").stat().st_size / 2
    torch.testing.assert_close(cosines, torch.ones(3), atol=1e-4, rtol=0)


def test_it_comes_with_a_licence_and_a_card_for_everybody_to_read(made):
    card, licence = ((made / name).read_text() for name in ("MODEL_CARD.md", "LICENSE"))

    assert "Not measured." in card and read_fingerprint(made) in card
    for name in ("CC BY-NC-ND 4.0", "all-MiniLM-L6-v2", "EfficientNet-Lite0", "6 films of 3 studies"):
        assert name in card and name in licence
    assert "research only" in card and "research only" in licence
    assert "It learned from 6 films of one health system" in card
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in made.iterdir())


def test_the_card_of_a_mix_counts_the_films_of_all_its_collections(home):
    mix = {**TRAINING, "corpora": [*TRAINING["corpora"], {"format": "table", "images": 4, "studies": 4}]}
    made = {"fingerprint": "0" * 16, "megabytes": 1.0, "pieces": 2, "pieces before": 3, "cosine": 1.0}

    assert "It learned from 10 films of 2 collections" in render_card(made, load_checkpoint(home / "run" / "last"), mix, None)


def test_the_card_holds_the_figures_of_this_encoder_and_of_no_other(home, made):
    mark = read_fingerprint(made)
    figures, others = home / "figures.json", home / "others.json"
    openi.main([str(home / "openi"), "--run", f"default={made}", "--json", str(figures)])
    measured = json.loads(figures.read_text())
    measured["runs"]["default"]["seeds"][0]["encoder"] = "0" * 16
    others.write_text(json.dumps(measured))

    with pytest.raises(SystemExit, match=f"no figures of encoder {mark} alone"):
        make(home / "run" / "last", home, made, "--metrics", others)
    make(home / "run" / "last", home, made, "--metrics", figures)

    assert read_fingerprint(made) == mark
    card = (made / "MODEL_CARD.md").read_text()
    seed = json.loads(figures.read_text())["runs"]["default"]["seeds"][0]
    ten = seed["recall"]["report-image"]["R@10"]
    assert f"{ten['value']:.3f} ({ten['low']:.3f} to {ten['high']:.3f})" in card
    assert "27 studies, 2 of them without a frontal film" in card


def test_a_tokenizer_with_pieces_of_its_own_is_not_given_away(home, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(build_encoder(texts=["other words"], size=32).tokenizer.definition)

    with pytest.raises(SystemExit, match="must not be given away"):
        make(home / "run" / "last", home, tmp_path / "out", published=tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_a_run_that_saw_mirrored_films_is_refused(home, tmp_path):
    mirrored = {**TRAINING, "config": {**TRAINING["config"], "flip_probability": 0.5}}
    save_checkpoint(load_checkpoint(home / "run" / "last"), tmp_path / "run", {"training": mirrored})

    with pytest.raises(SystemExit, match="mirrored"):
        make(tmp_path / "run", home, tmp_path / "out")
