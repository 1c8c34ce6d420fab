"""A cut vocabulary: the same vectors for the texts it was cut to, words by characters for all others."""

import copy
import json

import pytest
import torch

from encoders.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.huggingface import TEXT_FAMILIES
from encoders.prompt import PromptConfig
from encoders.tokens import Tokenizer
from encoders.vocabulary import cut_vocabulary

CORPUS = ["The heart is mildly enlarged.", "A small left pleural effusion is seen.", "No pneumothorax; the lungs are clear."] * 3
TEXTS = ["The heart is enlarged", "No effusion."]
WORDS = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"!.;aehrtnoifslug", *(f"##{letter}" for letter in "aehrtnoifslugd")]
WORDS += ["the", "zebra", "heart", "is", "en", "##large", "##larged", "no", "##z", "eff", "##usion", "lung", "##s", "heartburn"]


def pretrained(folder, kind="bert", tokenizer=None):
    """An encoder from a folder with a vocab.txt, whose special tokens do not come first as in a learned one."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    if kind == "electra":
        sizes["embedding_size"] = 8
    words = list(dict.fromkeys(WORDS))
    family = TEXT_FAMILIES[kind]
    torch.manual_seed(0)
    model = family.model_class(family.make_config({**sizes, "vocab_size": len(words) + 3, "pad_token_id": 0, "cls_token_id": 3}))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return build_encoder("tiny", folder, size=32, dimension=8).eval()


def learned(_folder):
    return build_encoder(texts=CORPUS, size=32, dimension=8).eval()


def distilbert(folder):
    return pretrained(folder, "distilbert")


def electra(folder):
    return pretrained(folder, "electra")


def templated(folder):
    """As transformers writes a tokenizer.json: with a template, and with padding to a length."""
    definition = json.loads(pretrained(folder).tokenizer.definition)
    ids = {token["content"]: token["id"] for token in definition["added_tokens"]}
    pieces = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pieces.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    definition["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": special}
    padding = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None}
    definition["padding"] = {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    return pretrained(folder, tokenizer=json.dumps(definition))


SOURCES = [learned, pretrained, templated, distilbert, electra]


@pytest.mark.parametrize("source", SOURCES)
def test_the_given_texts_keep_their_vectors_to_the_last_bit(tmp_path, source):
    whole = source(tmp_path)

    cut = cut_vocabulary(whole, TEXTS)

    found, expected = cut.encode_texts([*TEXTS, TEXTS[1].upper()]), whole.encode_texts([*TEXTS, TEXTS[1].upper()])
    assert torch.equal(found.joint, expected.joint)
    assert torch.equal(found.features, expected.features)
    assert cut.text.vocabulary_size == cut.tokenizer.largest_id + 1 < whole.tokenizer.largest_id + 1
    films = torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8)
    assert torch.equal(cut.encode_images(films).joint, whole.encode_images(films).joint)


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_kept_is_what_the_texts_use_and_characters_and_special_pieces(tmp_path, source):
    whole = source(tmp_path)
    before = json.loads(whole.tokenizer.definition)["model"]["vocab"]
    names = {number: piece for piece, number in before.items()}
    used = {names[number] for number in whole.tokenizer(TEXTS, 64).ids.flatten().tolist()}
    characters = {piece for piece in before if len(piece) == 1 or (len(piece) == 3 and piece.startswith("##"))}

    cut = cut_vocabulary(whole, TEXTS)

    definition = json.loads(cut.tokenizer.definition)
    after = definition["model"]["vocab"]
    assert after.keys() == used | characters | {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert sorted(after.values()) == list(range(len(after)))
    assert all(after[token["content"]] == token["id"] for token in definition["added_tokens"])
    assert cut.tokenizer.frame == ([after["[CLS]"]], [after["[SEP]"]])
    assert cut.tokenizer.padding_id == after["[PAD]"] == cut.text.model.config.pad_token_id


@pytest.mark.parametrize("source", SOURCES)
def test_an_unknown_word_is_encoded_by_its_characters(tmp_path, source):
    cut = cut_vocabulary(source(tmp_path), TEXTS)
    vocabulary = json.loads(cut.tokenizer.definition)["model"]["vocab"]

    ids = cut.tokenizer(["hens"], 64).ids[0].tolist()[1:-1]

    names = {number: piece for piece, number in vocabulary.items()}
    assert [names[number] for number in ids] in (["h", "##e", "##n", "##s"], ["he", "##n", "##s"])
    assert cut.encode_texts(["Huns and hens"]).joint.isfinite().all()


def test_prompts_keep_their_vectors_too(tmp_path):
    whole = pretrained(tmp_path)
    whole.add_prompts(PromptConfig(names=("Zebra", "No Lung"), length=3), seed=1)

    cut = cut_vocabulary(whole, TEXTS)

    assert torch.equal(cut.encode_labels(["zebra", "no lung"]).joint, whole.encode_labels(["zebra", "no lung"]).joint)


@pytest.mark.parametrize("source", [learned, templated])
def test_a_cut_encoder_is_a_checkpoint_like_any_other(tmp_path, source):
    whole = source(tmp_path)
    mark = fingerprint(whole)
    cut = cut_vocabulary(whole, TEXTS)
    saved = save_checkpoint(cut, tmp_path / "cut")

    loaded = load_checkpoint(tmp_path / "cut")

    assert fingerprint(whole) == mark != saved
    assert torch.equal(loaded.encode_texts(TEXTS).joint, whole.encode_texts(TEXTS).joint)


def test_a_cut_encoder_can_still_learn(tmp_path):
    cut = cut_vocabulary(pretrained(tmp_path), TEXTS).train()

    cut.encode_texts(TEXTS).joint[:, 0].sum().backward()

    assert cut.text.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    encoder = copy.copy(pretrained(tmp_path))
    definition = json.loads(encoder.tokenizer.definition)
    definition["model"] = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    definition["added_tokens"] = [{**definition["added_tokens"][0], "id": 2}]
    encoder.tokenizer = Tokenizer(json.dumps({**definition, "post_processor": None}))

    with pytest.raises(MedretError, match="a bert text encoder with a BPE tokenizer: only the vocabulary of a WordPiece"):
        cut_vocabulary(encoder, TEXTS)
