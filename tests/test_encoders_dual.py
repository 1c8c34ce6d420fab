"""DualEncoder: both sides, both vectors, cutting, seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from encoders.dual import EncoderConfig, build_encoder, set_batchnorm
from encoders.errors import MedretError

REPORTS = ["The heart is enlarged.", "No pleural effusion is seen.", "Small left pneumothorax."] * 3
TEXTS = ["The heart is enlarged", "No effusion"]


def tiny(**settings):
    return build_encoder("tiny", "tiny", REPORTS, **{"size": 32, "dimension": 16, **settings})


def films(count=4, size=32):
    return torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_both_sides_give_unit_vectors_in_one_space_and_their_own_features():
    encoder = tiny().eval()

    with torch.inference_mode():
        images, texts = encoder.encode_images(films()), encoder.encode_texts(TEXTS)

    assert images.joint.shape == (4, encoder.dimension) == (4, 16)
    assert texts.joint.shape == (2, 16)
    assert images.features.shape == (4, encoder.image_width) == (4, 256)
    assert texts.features.shape == (2, encoder.text_width) == (2, 128)
    for vectors in (*images, *texts):
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


@pytest.mark.parametrize("head", ["nonlinear", "linear"])
def test_the_joint_vector_is_the_published_head_of_the_encoder_output(head):
    """g(h) = W2 relu(W1 h) without bias, or W h; then the unit norm."""
    encoder = tiny(head=head).eval()
    hidden = encoder.image(encoder.config.preprocessing.normalise(films()))
    matrices = list(encoder.image_head.parameters())

    expected = hidden @ matrices[0].T if head == "linear" else (hidden @ matrices[0].T).clamp(min=0) @ matrices[1].T

    encoded = encoder.encode_images(films())
    torch.testing.assert_close(encoded.joint, F.normalize(expected, dim=1))
    torch.testing.assert_close(encoded.features, F.normalize(hidden, dim=1))
    assert [tuple(matrix.shape) for matrix in matrices] == ([(16, 256)] if head == "linear" else [(256, 256), (16, 256)])


def test_grey_levels_as_floats_are_encoded_as_the_same_bytes():
    encoder = tiny().eval()

    torch.testing.assert_close(encoder.encode_images(films().float()).joint, encoder.encode_images(films()).joint)


def test_a_batch_gives_what_its_members_give_alone():
    encoder = tiny().eval()
    texts = [*TEXTS, "Small left pneumothorax, no effusion, the heart is enlarged"]

    alone = torch.cat([encoder.encode_texts([text]).joint for text in texts])

    torch.testing.assert_close(encoder.encode_texts(texts).joint, alone, atol=1e-5, rtol=1e-5)


def test_under_autocast_the_vectors_are_still_float32_and_unit():
    encoder = tiny().eval()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = [*encoder.encode_images(films()), *encoder.encode_texts(TEXTS)]

    for found, exact in zip(vectors, [*encoder.encode_images(films()), *encoder.encode_texts(TEXTS)], strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
        torch.testing.assert_close((found * exact).sum(dim=1), torch.ones(len(found)), atol=1e-2, rtol=0)


def test_gradients_reach_every_parameter():
    encoder = tiny()

    similarity = encoder.encode_images(films(2)).joint @ encoder.encode_texts(TEXTS).joint.T
    F.cross_entropy(similarity, torch.arange(2)).backward()

    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_long_texts_are_counted_and_encoded_as_their_beginning():
    encoder = tiny(max_tokens=6).eval()
    texts = ["the heart is enlarged no effusion", "the heart is enlarged"]

    assert encoder.is_cut(texts) == [True, False]
    assert encoder.count_cut(texts) == 1
    first, second = encoder.encode_texts(texts).joint
    torch.testing.assert_close(first, second)


def test_max_tokens_never_exceeds_the_positions_of_the_text_encoder():
    assert tiny(max_tokens=5000).config.max_tokens == 512


@pytest.mark.parametrize("texts", [[], [""], ["fine", "  "], "the heart"])
def test_a_text_without_words_is_a_wrong_call(texts):
    with pytest.raises(ValueError, match="texts"):
        tiny().encode_texts(texts)


@pytest.mark.parametrize("shape", [(32, 32), (2, 64, 64), (2, 3, 32, 32)])
def test_films_of_another_shape_are_a_wrong_call(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 32, 32\)"):
        tiny().encode_images(torch.zeros(shape))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = tiny(seed=1).state_dict()
    drawn = torch.rand(3)
    second, other = tiny(seed=1).state_dict(), tiny(seed=2).state_dict()

    assert torch.equal(drawn, expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["image_head.0.weight"], other["image_head.0.weight"])


def test_the_configuration_survives_json():
    config = tiny().config

    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()


@pytest.mark.parametrize("settings", [{"dimension": 0}, {"head": "deep"}, {"max_tokens": 2}, {"fit": "stretch"}])
def test_settings_out_of_range_are_a_wrong_call(settings):
    with pytest.raises(ValueError, match="expected"):
        tiny(**settings)


def test_a_preset_needs_texts():
    with pytest.raises(ValueError, match="needs texts"):
        build_encoder("tiny", "tiny")


def write_sentence_encoder(folder):
    """A BERT folder as sentence-transformers publish it: tokenizer.json, no pooler wanted, mean pooling."""
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    tokenizer = tiny().tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=tokenizer.largest_id + 1, **sizes)).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
    return model, tokenizer


def test_a_sentence_encoder_with_mean_pooling_gives_the_mean_that_transformers_gives(tmp_path):
    model, tokenizer = write_sentence_encoder(tmp_path)
    encoder = build_encoder("tiny", tmp_path, size=32, text_pooling="mean").eval()

    features = encoder.encode_texts(TEXTS).features

    alone = [model(tokenizer([text], 64).ids).last_hidden_state[0].mean(dim=0) for text in TEXTS]
    torch.testing.assert_close(features, F.normalize(torch.stack(alone), dim=1), atol=1e-5, rtol=1e-5)


def test_a_tokenizer_larger_than_the_embedding_table_is_refused(tmp_path):
    _, tokenizer = write_sentence_encoder(tmp_path)
    larger = json.loads(tokenizer.definition)
    larger["model"]["vocab"]["supernumerary"] = tokenizer.largest_id + 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(larger))

    with pytest.raises(MedretError, match=f"token id {tokenizer.largest_id + 1} of the tokenizer"):
        build_encoder("tiny", tmp_path, size=32)


def test_batchnorm_on_running_statistics_trains_each_film_by_itself():
    encoder = tiny()
    set_batchnorm(encoder, running=True)
    encoder.train()

    together = encoder.encode_images(films()).joint

    assert encoder.training
    torch.testing.assert_close(together[:1], encoder.encode_images(films()[:1]).joint, atol=1e-5, rtol=1e-5)
    set_batchnorm(encoder, running=False)
    assert not torch.allclose(encoder.encode_images(films()).joint, together, atol=1e-3)


def test_importing_the_encoder_does_not_load_transformers():
    script = "import sys, encoders.dual; print('transformers' in sys.modules, 'tokenizers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])

    assert done.stdout.split() == ["False", "False"]
