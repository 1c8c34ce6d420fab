"""backward_in_chunks: the gradients of the whole batch, from chunks. In float64, where only rounding may differ."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from double_encoder import FILMS, TEXTS, SoftTargets, chunks_of, double_encoder, gradients, seed_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from encoders.dual import DualEncoder, build_encoder, set_batchnorm
from train.gradients import backward_in_chunks

SPLITS = [(7, 9), (3, 9), (7, 4), (2, 4), (1, 1), (5, 8)]  # rows of a chunk; 7 films and 9 texts leave uneven rests


@pytest.mark.parametrize(("image_rows", "text_rows"), SPLITS)
def test_chunks_give_the_gradients_of_the_whole_batch(image_rows, text_rows):
    """Of the encoder and of the loss's own parameter; against one plain backward pass."""
    plain, objective = double_encoder(), SoftTargets()
    expected_loss = objective(plain.encode_images(FILMS).joint, plain.encode_texts(TEXTS).joint)
    expected_loss.backward()
    expected = gradients(plain, objective)
    encoder, objective = double_encoder(), SoftTargets()

    loss = backward_in_chunks(*chunks_of(encoder, image_rows, text_rows), objective)

    found = gradients(encoder, objective)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-12, atol=0)
    assert max(gradient.abs().max().item() for gradient in expected.values()) > 1e-3
    assert len(found) > 40 and "1 log_scale" in found
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("image_rows", "text_rows"), [(7, 9), (3, 4)])
def test_dropout_is_the_same_when_a_chunk_is_encoded_again(image_rows, text_rows):
    """Against one graph that holds all chunks, each dropped from by the same seed."""
    plain, objective = double_encoder(dropout=True), SoftTargets()
    vectors: list[Tensor] = []
    for side, chunks in zip(("image", "text"), chunks_of(plain, image_rows, text_rows), strict=True):
        encoded: list[Tensor] = []
        for chunk in chunks:
            seed_chunk(side, sum(map(len, encoded)))
            encoded.append(chunk())
        vectors.append(torch.cat(encoded))
    objective(*vectors).backward()
    encoder = double_encoder(dropout=True)

    loss = backward_in_chunks(*chunks_of(encoder, image_rows, text_rows), SoftTargets(), seed=seed_chunk)

    torch.testing.assert_close(gradients(encoder), gradients(plain), rtol=1e-9, atol=1e-13)
    undropped = backward_in_chunks(*chunks_of(double_encoder(), image_rows, text_rows), SoftTargets(), seed=seed_chunk)
    assert abs(loss - undropped) > 1e-6  # else the test would hold without dropout


@settings(deadline=None, max_examples=40)
@given(images=st.lists(st.integers(1, 4), min_size=1, max_size=5), texts=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_chunks_may_be_of_any_lengths(images, texts):
    """Linear encoders: the gradient is the transposed input times the gradient by the vectors."""
    generator = torch.Generator().manual_seed(0)
    films, words = (torch.randn(sum(lengths), 3, dtype=torch.float64, generator=generator) for lengths in (images, texts))
    weights = [nn.Parameter(torch.randn(3, 2, dtype=torch.float64, generator=generator)) for _ in range(2)]
    sides = [
        [functools.partial(torch.matmul, part, weight) for part in rows.split(lengths)]
        for rows, lengths, weight in zip((films, words), (images, texts), weights, strict=True)
    ]

    loss = backward_in_chunks(*sides, lambda vectors, others: (vectors @ others.T).pow(2).sum())

    scores = films @ weights[0] @ (words @ weights[1]).T
    torch.testing.assert_close(loss, scores.pow(2).sum().detach())
    torch.testing.assert_close(weights[0].grad, (films.T @ (2 * scores) @ (words @ weights[1])).detach())
    torch.testing.assert_close(weights[1].grad, (words.T @ (2 * scores).T @ (films @ weights[0])).detach())


def test_one_chunk_is_encoded_once_and_several_twice_each_after_its_seed():
    calls: list[tuple[str, int] | str] = []
    weight = nn.Parameter(torch.ones(2, 2))

    def chunk(name: str, rows: int) -> Tensor:
        calls.append(name)
        return torch.ones(rows, 2) @ weight

    images = [functools.partial(chunk, "whole", 5)]
    texts = [functools.partial(chunk, name, rows) for name, rows in (("a", 2), ("b", 2), ("c", 1))]

    backward_in_chunks(images, texts, lambda i, t: (i @ t.T).sum(), seed=lambda side, row: calls.append((side, row)))

    each = [("text", 0), "a", ("text", 2), "b", ("text", 4), "c"]
    assert calls == [("image", 0), "whole", *each, *each]


def test_gradients_add_to_those_that_are_there():
    encoder, twice = double_encoder(), double_encoder()
    backward_in_chunks(*chunks_of(encoder, 3, 4), SoftTargets())

    for _ in range(2):
        backward_in_chunks(*chunks_of(twice, 3, 4), SoftTargets())

    torch.testing.assert_close(gradients(twice), {name: 2 * gradient for name, gradient in gradients(encoder).items()})


def test_a_frozen_side_gets_no_gradient_and_need_be_encoded_only_once():
    encoder, plain = double_encoder(), double_encoder()
    encoded: list[int] = []
    encoder.image.register_forward_hook(lambda module, pixels, features: encoded.append(len(features)))
    for part in (encoder.image, encoder.image_head, plain.image, plain.image_head):
        part.requires_grad_(False)
    SoftTargets()(plain.encode_images(FILMS).joint, plain.encode_texts(TEXTS).joint).backward()
    images, texts = chunks_of(encoder, 3, 4)

    backward_in_chunks([functools.cache(chunk) for chunk in images], texts, SoftTargets())

    assert encoded == [3, 3, 1]
    assert all(name.startswith("0 text") for name in gradients(encoder))
    torch.testing.assert_close(gradients(encoder), gradients(plain), rtol=1e-9, atol=1e-13)


def test_batchnorm_on_the_statistics_of_the_batch_sees_the_chunk_alone():
    """What the documentation warns of: then, and only then, chunks change the gradients."""
    whole, chunked = double_encoder(running=False), double_encoder(running=False)

    backward_in_chunks(*chunks_of(whole, 7, 9), SoftTargets())
    backward_in_chunks(*chunks_of(chunked, 4, 9), SoftTargets())

    name = "0 image_head.0.weight"
    assert not torch.allclose(gradients(whole)[name], gradients(chunked)[name], rtol=1e-2)


class Held:
    """Counts the bytes that graphs hold for their backward pass, parameters and their views aside."""

    def __init__(self, encoder: DualEncoder):
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> "Kept":
        storage = tensor.untyped_storage()
        return Kept(self, tensor.detach(), 0 if storage.data_ptr() in self.parameters else storage.nbytes())

    def count(self) -> "torch.autograd.graph.saved_tensors_hooks":
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept.tensor)


class Kept:
    def __init__(self, held: Held, tensor: Tensor, size: int):
        self.held, self.tensor, self.size = held, tensor, size
        held.now += size
        held.most = max(held.most, held.now)

    def __del__(self) -> None:
        self.held.now -= self.size


def test_no_more_than_one_chunk_is_held_at_a_time():
    encoder = double_encoder(dropout=True)
    whole, chunked = Held(encoder), Held(encoder)

    with whole.count():
        backward_in_chunks(*chunks_of(encoder, 7, 9), SoftTargets())
    with chunked.count():
        backward_in_chunks(*chunks_of(encoder, 1, 1), SoftTargets())

    assert whole.now == chunked.now == 0
    assert chunked.most < whole.most / 6


@pytest.mark.parametrize("outside", [False, True])
def test_autocast_reaches_both_evaluations(outside):
    """Under an autocast around all of it too, whose cache of cast weights has no graph after the first evaluation."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    rows = [torch.randn(5, 6), torch.randn(4, 6)]

    def encode(part: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(part).float()

    similarity = lambda images, texts: (images.double() @ texts.double().T).exp().mean()  # noqa: E731
    similarity(encode(rows[0]), encode(rows[1])).backward()
    expected, layer.weight.grad = layer.weight.grad, None

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
        backward_in_chunks(*([functools.partial(encode, part) for part in side.split(2)] for side in rows), similarity)

    torch.testing.assert_close(layer.weight.grad, expected, rtol=2e-2, atol=2e-3)


def test_a_loss_that_is_not_finite_is_returned_for_the_caller_to_judge():
    weight = nn.Parameter(torch.ones(2, 2))
    rows = [lambda: torch.ones(1, 2) @ weight] * 2

    assert backward_in_chunks(rows, rows, lambda images, texts: images.sum() / 0).isinf()


def test_a_side_without_rows_is_refused():
    rows = [lambda: torch.ones(2, 3, requires_grad=True)]

    with pytest.raises(ValueError, match="0 text rows were encoded, expected some"):
        backward_in_chunks(rows, [], lambda images, texts: images.sum())


def test_other_rows_than_the_totals_say_are_refused():
    rows = [lambda: torch.ones(2, 3, requires_grad=True)]

    with pytest.raises(ValueError, match="2 text rows were encoded, expected 3"):
        backward_in_chunks(rows, rows, lambda images, texts: images.sum(), totals=(2, 3))
    with pytest.raises(ValueError, match="image rows begin at 1, expected at 0"):
        backward_in_chunks(rows, rows, lambda images, texts: images.sum(), first_rows=(1, 0))


@pytest.mark.gpu
def test_chunks_on_cuda_in_bfloat16_give_nearly_the_gradients_of_the_whole_batch():
    """Dropout is replayed there too; what remains is the rounding of products of other shapes."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = []
    for image_rows, text_rows in ((7, 9), (3, 9)):
        encoder = build_encoder("tiny", "tiny", TEXTS, size=32, dimension=8).cuda()
        set_batchnorm(encoder, True)
        images, texts = chunks_of(encoder, image_rows, text_rows)

        def in_bfloat16(chunk: Callable[[], Tensor]) -> Tensor:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                return chunk()

        sides = [[functools.partial(in_bfloat16, chunk) for chunk in side] for side in (images, texts)]
        backward_in_chunks(*sides, SoftTargets().cuda(), seed=seed_chunk)
        found.append(torch.cat([gradient.flatten() for gradient in gradients(encoder).values()]))

    assert F.cosine_similarity(*found, dim=0) > 0.999
