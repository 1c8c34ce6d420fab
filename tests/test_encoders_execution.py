"""Activations computed again and networks compiled: the same vectors, gradients, statistics and names, bit for bit."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from encoders.checkpoint import fingerprint
from encoders.dual import DualEncoder, build_encoder, set_batchnorm
from encoders.errors import MedretError
from encoders.execution import checkpoint_activations, compile_encoder, constant_weights, keep_statistics
from encoders.image import ImageBackbone

REPORTS = ["The heart is enlarged.", "No pleural effusion is seen.", "Small left pneumothorax."] * 3


SMALL = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
        "hidden_dropout_prob": 0.1,
    },
    "swin": {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2},
    "efficientnet-lite0": {},
}
POOLING = {"vit": "cls", "convnext": "pooler"}


def encoder_of(kind="resnet", running=False):
    """A small encoder with an image network of a kind, in training mode."""
    plain = build_encoder(texts=REPORTS, size=32, dimension=8)
    image = {"kind": kind, "pooling": POOLING.get(kind, "mean"), "config": SMALL[kind]}
    config = dataclasses.replace(plain.config, image=image)
    torch.manual_seed(0)
    encoder = DualEncoder(config, plain.tokenizer, ImageBackbone(image), plain.text).train()
    set_batchnorm(encoder, running=running)
    return encoder


def learn(encoder):
    """Gradients and statistics after one batch; dropout is drawn from the same seed each time."""
    films = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    similarity = encoder.encode_images(films).joint @ encoder.encode_texts(REPORTS[:3]).joint.T
    F.cross_entropy(similarity / 0.1, torch.arange(3)).backward()
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    return gradients, {name: buffer.clone() for name, buffer in encoder.named_buffers()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("kind", "running"), [*((kind, False) for kind in SMALL), ("resnet", True), ("efficientnet-lite0", True)])
def test_activations_computed_again_give_the_same_gradients_and_statistics(kind, running):
    """Live BatchNorm among them: a batch enters the running statistics once, though it is computed twice."""
    plain = encoder_of(kind, running)
    saving = copy.deepcopy(plain)
    checkpoint_activations(saving)

    (gradients, statistics), (expected, counted) = learn(saving), learn(plain)

    assert equal(gradients, expected)
    assert equal(statistics, counted)
    assert fingerprint(saving) == fingerprint(plain)
    assert list(saving.state_dict()) == list(plain.state_dict())


def test_activations_computed_again_need_not_be_kept():
    def kept(encoder):
        """Bytes that the graph of a batch holds on to, weights left out."""
        sizes = {}
        weights = {tensor.untyped_storage().data_ptr() for tensor in encoder.parameters()}

        def pack(tensor):
            if tensor.untyped_storage().data_ptr() not in weights:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            graph = encoder.image(torch.rand(2, 3, 64, 64)), encoder.text(torch.full((2, 100), 5), torch.ones(2, 100))
        assert all(part.requires_grad for part in graph)
        return sum(sizes.values())

    encoder = encoder_of("efficientnet-lite0")
    whole = kept(encoder)

    checkpoint_activations(encoder)

    assert kept(encoder) < whole / 2


def test_activations_are_computed_once_where_nothing_is_learned():
    encoder = encoder_of().eval()
    expected = encoder.encode_texts(REPORTS).joint
    checkpoint_activations(encoder)
    checkpoint_activations(encoder)  # once more changes nothing
    calls = []
    encoder.text.layers()[0].attention.register_forward_hook(lambda *_: calls.append(1))

    with torch.inference_mode():
        found = encoder.encode_texts(REPORTS).joint

    assert torch.equal(found, expected)
    assert len(calls) == 1


def test_statistics_are_kept_while_batchnorm_computes_as_ever():
    encoder = encoder_of()
    films = torch.rand(4, 3, 32, 32)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}

    with keep_statistics(encoder):
        kept = encoder.image(films)

    assert equal(dict(encoder.named_buffers()), before)
    assert torch.equal(kept, encoder.image(films))
    assert not equal(dict(encoder.named_buffers()), before)


def without_dropout(encoder):
    """A compiled network draws its own random numbers."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder


def test_a_compiled_encoder_with_activations_computed_again_learns_the_same():
    """aot_eager: traced and partitioned as for inductor, without its minute of C++ compilation."""
    plain = without_dropout(encoder_of())
    compiled = copy.deepcopy(plain)
    checkpoint_activations(compiled)
    compile_encoder(compiled, backend="aot_eager")

    (gradients, statistics), (expected, counted) = learn(compiled), learn(plain)

    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    for name, buffer in counted.items():
        torch.testing.assert_close(statistics[name], buffer, msg=name)
    assert fingerprint(compiled) == fingerprint(plain)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_what_is_compiled_with_constant_weights_computes_the_same_and_nothing_after_it_is():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)).eval()
    given = torch.rand(2, 3, 5, 5)
    with constant_weights(), torch.inference_mode():
        expected = network(given)
        network.compile()
        torch.testing.assert_close(network(given), expected)

    assert not torch._inductor.config.freezing, "a network that learns would never see its weights change"


def test_a_machine_without_a_compiler_is_one_line(monkeypatch, tmp_path):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(tmp_path / "no-compiler")))

    with pytest.raises(
        MedretError, match=r"^torch\.compile does not work on cpu here \([^\n]*No working C\+\+ compiler[^\n]*do not compile\.$"
    ):
        compile_encoder(encoder_of())
