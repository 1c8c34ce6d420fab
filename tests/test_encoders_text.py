"""Text backbones: presets, local Hugging Face folders old and new, pooling over real tokens."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders.errors import MedretError
from encoders.huggingface import TEXT_FAMILIES
from encoders.text import TextBackbone, choose_text
from encoders.tokens import learn_tokenizer

TOKENIZER = learn_tokenizer(["The heart is enlarged.", "No effusion is seen."] * 3)
ROWS = TOKENIZER.largest_id + 1
BERT = {
    "vocab_size": ROWS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
SMALL = {
    "bert": BERT,
    "roberta": {**BERT, "pad_token_id": 1},
    "electra": {**BERT, "embedding_size": 8},
    "distilbert": {"vocab_size": ROWS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40},
}
IDS = torch.tensor([[2, 8, 9, 3, 0, 0], [2, 10, 11, 12, 13, 3]])
MASK = (IDS != 0).long()


def write_folder(folder, kind="bert", **changes):
    torch.manual_seed(0)
    family = TEXT_FAMILIES[kind]
    model = family.model_class(family.make_config({**SMALL[kind], **changes})).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(TOKENIZER.definition, encoding="utf-8")
    return model


def load(folder, pooling="cls"):
    settings, weights, _ = choose_text(folder, pooling, None)
    return TextBackbone(settings, weights, str(folder)).eval()


def rewrite(folder, change):
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", SMALL)
def test_a_local_folder_gives_what_transformers_gives(tmp_path, kind):
    theirs = write_folder(tmp_path, kind)

    ours = load(tmp_path)

    expected = theirs(input_ids=IDS, attention_mask=MASK).last_hidden_state[:, 0]
    torch.testing.assert_close(ours(IDS, MASK), expected, atol=1e-5, rtol=1e-5)
    assert ours.width == 16


@pytest.mark.parametrize(("pooling", "reduce"), [("max", lambda rows: rows.amax(dim=0)), ("mean", lambda rows: rows.mean(dim=0))])
def test_pooling_sees_real_tokens_only(tmp_path, pooling, reduce):
    """A text alone, without padding, is what its row of a padded batch must equal."""
    theirs = write_folder(tmp_path)

    features = load(tmp_path, pooling)(IDS, MASK)

    alone = theirs(input_ids=IDS[:1, :4]).last_hidden_state[0]
    whole = theirs(input_ids=IDS[1:]).last_hidden_state[0]
    torch.testing.assert_close(features, torch.stack([reduce(alone), reduce(whole)]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_pooling_layers_is_the_mean_of_the_first_second_and_last_over_real_tokens(tmp_path, kind):
    """MedCLIP: mean over tokens of the mean of hidden states 1, 2 and last; here without the padding."""
    layers = {"n_layers": 3} if kind == "distilbert" else {"num_hidden_layers": 3}
    theirs = write_folder(tmp_path, kind, **layers)

    features = load(tmp_path, "layers")(IDS, MASK)

    for row, ids in enumerate([IDS[:1, :4], IDS[1:]]):
        states = theirs(input_ids=ids, output_hidden_states=True).hidden_states
        assert len(states) == 4
        expected = (states[1] + states[2] + states[3])[0].mean(dim=0) / 3
        torch.testing.assert_close(features[row], expected, atol=1e-5, rtol=1e-5)


def test_pooling_layers_needs_two_layers(tmp_path):
    write_folder(tmp_path, num_hidden_layers=1)

    with pytest.raises(MedretError, match="there is 1 layer, expected 2 or more"):
        load(tmp_path, "layers")


def prefixed(weights):
    return {f"bert.{name}": tensor for name, tensor in weights.items()}


def old_names(weights):
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): w for name, w in weights.items()
    }
    assert renamed.keys() != weights.keys()
    return renamed


def with_positions(weights):
    return {**weights, "embeddings.position_ids": torch.arange(40)[None]}


def with_heads(weights):
    return {**prefixed(with_positions(weights)), "cls.predictions.bias": torch.zeros(ROWS), "cls.seq_relationship.bias": torch.zeros(2)}


def without_pooler(weights):
    return {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}


@pytest.mark.parametrize("change", [prefixed, old_names, with_positions, with_heads, without_pooler])
def test_weights_as_older_versions_published_them_are_read(tmp_path, change):
    theirs = write_folder(tmp_path)
    rewrite(tmp_path, change)

    ours = load(tmp_path)

    expected = theirs(input_ids=IDS, attention_mask=MASK).last_hidden_state[:, 0]
    torch.testing.assert_close(ours(IDS, MASK), expected, atol=1e-5, rtol=1e-5)


def test_pickled_weights_are_read_as_plain_tensors(tmp_path):
    theirs = write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")

    ours = load(tmp_path)

    expected = theirs(input_ids=IDS, attention_mask=MASK).last_hidden_state[:, 0]
    torch.testing.assert_close(ours(IDS, MASK), expected, atol=1e-5, rtol=1e-5)


def test_pickled_weights_that_would_run_code_are_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Harmful()}, tmp_path / "pytorch_model.bin")

    with pytest.raises(MedretError, match="cannot be read as plain weights"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def drop_a_layer(weights):
    return {name: tensor for name, tensor in weights.items() if ".layer.1." not in name}


def add_a_layer(weights):
    return weights | {name.replace(".layer.1.", ".layer.2."): tensor.clone() for name, tensor in weights.items() if ".layer.1." in name}


def widen(weights):
    return {**weights, "embeddings.word_embeddings.weight": torch.zeros(ROWS + 1, 16)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_layer, r"16 weights are missing \(encoder\.layer\.1\."),
        (add_a_layer, r"16 weights are unexpected \(encoder\.layer\.2\."),
        (widen, r"1 weights are of another shape \(embeddings\.word_embeddings\.weight\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, message, capfd):
    write_folder(tmp_path)
    rewrite(tmp_path, change)
    capfd.readouterr()

    with pytest.raises(MedretError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the line is all: no report, no progress bar of transformers


def test_a_truncated_weight_file_is_refused(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(MedretError, match=r"model\.safetensors: cannot be read as weights"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "gpt2"}, "model type is gpt2, expected one of bert"),
        ({}, "model type is None"),
        ({"model_type": "bert", "hidden_size": "wide"}, "no valid bert configuration"),
    ],
)
def test_a_configuration_of_something_else_is_refused(tmp_path, content, message):
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))

    with pytest.raises(MedretError, match=message):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MedretError, match=r"no preset \(tiny, bert-base\) and no folder"):
        choose_text(tmp_path / "nowhere", None, None)


def test_a_preset_needs_a_tokenizer():
    with pytest.raises(ValueError, match="needs a tokenizer"):
        choose_text("tiny", None, None)


def test_roberta_has_fewer_positions_than_its_table():
    """Its positions count from the padding id on: 512 tokens for a table of 514."""
    config = {**SMALL["roberta"], "max_position_embeddings": 42}
    backbone = TextBackbone({"kind": "roberta", "pooling": "max", "config": config}).eval()
    ids = torch.full((1, backbone.positions), 5)

    assert backbone.positions == 40
    assert backbone(ids, torch.ones_like(ids)).isfinite().all()


def test_bert_base_has_the_published_number_of_parameters():
    settings = {"kind": "bert", "pooling": "max", "config": {}}
    with torch.device("meta"):
        backbone = TextBackbone(settings)

    # 110 M of "BERT base uncased", less its pooler of 768 * 768 + 768
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 109_482_240 - 590_592
