"""Continuous prompts: a context of words is that text, only the context is learned, and a checkpoint keeps both apart."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders.checkpoint import fingerprint, load_checkpoint, read_fingerprint, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.freezing import freeze
from encoders.prompt import PromptConfig
from encoders.tokens import Tokenizer

REPORTS = ["Findings compatible with pneumonia.", "A small pleural effusion is seen.", "No pneumothorax."] * 3
NAMES = ("Pneumonia", "Pleural Effusion", "No Finding")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}


def bytes_tokenizer():
    """A byte-level BPE as RoBERTa has it: a word has other ids at the beginning of a text than after a space."""
    from tokenizers import Tokenizer as Tokens
    from tokenizers import models, pre_tokenizers, processors, trainers

    tokens = Tokens(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokens.train_from_iterator(REPORTS, trainer)
    tokens.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return Tokenizer(tokens.to_str())


def write_text_encoder(folder, kind):
    from encoders.huggingface import TEXT_FAMILIES

    tokenizer = bytes_tokenizer() if kind == "roberta" else build_encoder(texts=REPORTS, size=32).tokenizer
    own = {"embedding_size": 8} if kind == "electra" else {"pad_token_id": 1} if kind == "roberta" else {}
    if kind == "distilbert":
        own = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    family = TEXT_FAMILIES[kind]
    torch.manual_seed(0)
    family.model_class(family.make_config({**SIZES, **own, "vocab_size": tokenizer.largest_id + 1})).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")


@pytest.fixture(scope="module", params=["bert", "roberta", "electra", "distilbert"])
def pretrained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_text_encoder(folder, request.param)
    return build_encoder("tiny", folder, size=32, dimension=8).eval()


@pytest.fixture
def encoder():
    return build_encoder(texts=REPORTS, size=32, dimension=8).eval()


@pytest.mark.parametrize("context", ["shared", "class"])
@pytest.mark.parametrize(
    ("position", "written"), [("end", "compatible with {}"), ("middle", "compatible {} with"), ("front", "{} compatible with")]
)
def test_a_context_of_words_gives_exactly_what_that_text_gives(encoder, position, written, context):
    """Padding on the right included: the names have different numbers of pieces."""
    encoder.add_prompts(PromptConfig(names=NAMES, words="compatible with", position=position, context=context))

    labels, texts = encoder.encode_labels(NAMES), encoder.encode_texts([written.format(name) for name in NAMES])

    assert torch.equal(labels.joint, texts.joint)
    assert torch.equal(labels.features, texts.features)


@pytest.mark.parametrize("position", ["end", "front"])
def test_every_text_family_reads_prompts_as_it_reads_texts(pretrained, position):
    """RoBERTa counts positions from its padding id on, and its tokenizer marks a word that follows another."""
    pretrained.add_prompts(PromptConfig(names=NAMES, words="compatible with", position=position))
    written = "compatible with {}" if position == "end" else "{} compatible with"

    labels, texts = pretrained.encode_labels(NAMES), pretrained.encode_texts([written.format(name) for name in NAMES])

    torch.testing.assert_close(labels.joint, texts.joint, atol=1e-6, rtol=1e-6)


def test_a_prompt_alone_is_what_it_is_beside_longer_ones(encoder):
    encoder.add_prompts(PromptConfig(names=("Pneumonia", "Very extensive pleural effusion of the left side"), length=4))
    alone = build_encoder(texts=REPORTS, size=32, dimension=8).eval()
    alone.add_prompts(PromptConfig(names=("Pneumonia",), length=4))

    torch.testing.assert_close(encoder.encode_labels(["Pneumonia"]).joint, alone.encode_labels(["Pneumonia"]).joint, atol=1e-6, rtol=1e-6)


def test_labels_are_asked_in_any_order_and_spelling(encoder):
    encoder.add_prompts(PromptConfig(names=NAMES))

    joint = encoder.encode_labels(NAMES).joint

    assert torch.equal(encoder.encode_labels(["pleural  EFFUSION", "Pneumonia", "Pneumonia"]).joint, joint[[1, 0, 0]])


def test_a_random_context_has_the_spread_of_coop_and_the_same_seed_gives_the_same(encoder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    encoder.add_prompts(PromptConfig(names=NAMES, length=100, context="class"), seed=1)
    drawn, first = torch.rand(2), encoder.prompts.context.detach().clone()
    encoder.add_prompts(PromptConfig(names=NAMES, length=100, context="class"), seed=1)

    assert torch.equal(drawn, expected)
    assert first.shape == (3, 100, 128)
    assert first.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(encoder.prompts.context, first)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize(("context", "touched"), [("shared", [True]), ("class", [True, False, True])])
def test_gradients_reach_the_context_of_the_labels_asked_for_and_nothing_else(encoder, context, touched, position):
    encoder.add_prompts(PromptConfig(names=NAMES, length=5, context=context, position=position))
    freeze(encoder, learn="prompts")

    encoder.encode_labels(["Pneumonia", "No Finding"]).joint[:, 0].sum().backward()

    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is not None] == ["prompts.context"]
    assert (encoder.prompts.context.grad != 0).any(dim=(1, 2)).tolist() == touched
    assert (encoder.prompts.context.grad != 0).any(dim=2).all(dim=1).tolist() == touched  # every vector of it


def test_the_word_table_learns_from_prompts_too_where_all_is_learned(encoder):
    encoder.add_prompts(PromptConfig(names=NAMES))
    freeze(encoder)

    encoder.encode_labels(NAMES).joint[:, 0].sum().backward()

    assert encoder.text.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_learning_prompts_keeps_every_statistic_of_the_images(encoder):
    encoder.add_prompts(PromptConfig(names=NAMES))
    freeze(encoder, learn="prompts")
    encoder.train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}

    encoder.encode_images(torch.randint(0, 256, (4, 32, 32), dtype=torch.uint8))

    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


def test_an_unknown_label_lists_the_known_ones(encoder):
    encoder.add_prompts(PromptConfig(names=NAMES))

    with pytest.raises(MedretError, match=r"'Hernia' .*expected one of: Pneumonia, Pleural Effusion, No Finding"):
        encoder.encode_labels(["Pneumonia", "Hernia"])


def test_an_encoder_without_prompts_says_so(encoder):
    with pytest.raises(MedretError, match="no learned prompts"):
        encoder.encode_labels(["Pneumonia"])
    with pytest.raises(MedretError, match="has none"):
        freeze(encoder, learn="prompts")


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused():
    encoder = build_encoder(texts=REPORTS, size=32, dimension=8, max_tokens=12)

    with pytest.raises(MedretError, match=r"the prompt of 'Pneumonia' has 1[3-9] tokens, the encoder reads 12"):
        encoder.add_prompts(PromptConfig(names=("Pneumonia",), length=10))


@pytest.mark.parametrize(
    "wrong",
    [{"names": ()}, {"names": ("Edema", "edema ")}, {"names": ("",)}, {"length": 0}, {"context": "own"}, {"position": "left"}],
)
def test_settings_that_make_no_prompt_are_a_wrong_call(wrong):
    with pytest.raises(ValueError, match="expected"):
        PromptConfig(**{"names": NAMES, **wrong})


@pytest.mark.parametrize("names", [[], "Pneumonia"])
def test_labels_are_a_sequence(encoder, names):
    encoder.add_prompts(PromptConfig(names=NAMES))

    with pytest.raises(ValueError, match="names"):
        encoder.encode_labels(names)


@pytest.fixture
def folder(encoder, tmp_path):
    encoder.add_prompts(PromptConfig(names=NAMES, words="compatible with", context="class"))
    with torch.no_grad():
        encoder.prompts.context.add_(torch.randn(encoder.prompts.context.shape, generator=torch.Generator().manual_seed(1)))
    save_checkpoint(encoder, tmp_path / "encoder")
    return tmp_path / "encoder"


def test_prompts_survive_in_a_checkpoint_to_the_last_bit(encoder, folder):
    loaded = load_checkpoint(folder)

    assert loaded.prompts.config == encoder.prompts.config
    assert torch.equal(loaded.prompts.context, encoder.prompts.context)
    assert torch.equal(loaded.encode_labels(NAMES).joint, encoder.encode_labels(NAMES).joint)


def test_prompts_are_no_part_of_the_fingerprint(encoder, folder, tmp_path):
    """No vector of an image or a text depends on them, so an index of the encoder stays valid."""
    plain = build_encoder(texts=REPORTS, size=32, dimension=8)

    assert save_checkpoint(plain, tmp_path / "plain") == read_fingerprint(folder) == fingerprint(encoder)
    assert "prompts" not in json.loads((tmp_path / "plain" / "encoder.json").read_text())
    assert load_checkpoint(tmp_path / "plain").prompts is None


def change_context(folder):
    weights = load_file(folder / "model.safetensors")
    weights["prompts.context"][0, 0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors")


def reshape_context(folder):
    weights = load_file(folder / "model.safetensors")
    weights["prompts.context"] = weights["prompts.context"][:1].clone()
    save_file(weights, folder / "model.safetensors")


def drop_context(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["prompts.context"]
    save_file(weights, folder / "model.safetensors")


def described(folder, change):
    path = folder / "encoder.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def drop_description(folder):
    described(folder, lambda content: content.pop("prompts"))


def rename_label(folder):
    described(folder, lambda content: content["prompts"]["config"].update(names=["Hernia", *NAMES[1:]]))


def break_description(folder):
    described(folder, lambda content: content.update(prompts=["Pneumonia"]))


@pytest.mark.parametrize("change", [change_context, reshape_context, drop_context, drop_description, rename_label, break_description])
def test_prompts_that_were_changed_are_refused(folder, change):
    change(folder)

    with pytest.raises(MedretError, match="its prompts were changed or damaged"):
        load_checkpoint(folder)


def test_prompts_of_another_encoder_are_refused(folder, tmp_path):
    other = build_encoder(texts=REPORTS, size=32, dimension=8, seed=1)
    save_checkpoint(other, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["prompts.context"] = load_file(folder / "model.safetensors")["prompts.context"]
    save_file(weights, tmp_path / "other" / "model.safetensors")
    stated = json.loads((folder / "encoder.json").read_text())["prompts"]
    described(tmp_path / "other", lambda content: content.update(prompts=stated))

    with pytest.raises(MedretError, match="its prompts were changed or damaged"):
        load_checkpoint(tmp_path / "other")
