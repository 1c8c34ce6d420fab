import math

import pytest
import torch
import torch.nn.functional as F
from drawn_batches import unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from train.objectives.convirt import convirt_loss


def loss_by_loops(images: torch.Tensor, texts: torch.Tensor, temperature: float, weight: float) -> float:
    """Equations 2 to 4 of the paper, one exponential at a time."""
    v, u = images.tolist(), texts.tolist()
    n = len(v)

    def similarity(a: list[float], b: list[float]) -> float:
        norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norm

    total = 0.0
    for i in range(n):
        own = math.exp(similarity(v[i], u[i]) / temperature)
        image_to_text = -math.log(own / sum(math.exp(similarity(v[i], u[k]) / temperature) for k in range(n)))
        text_to_image = -math.log(own / sum(math.exp(similarity(u[i], v[k]) / temperature) for k in range(n)))
        total += weight * image_to_text + (1 - weight) * text_to_image
    return total / n


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 7), temperature=st.floats(0.05, 2), weight=st.floats(0, 1))
def test_the_loss_equals_the_papers_equations_summed_by_loops(seed, rows, temperature, weight):
    images, texts = unit_rows(seed, rows, 5), unit_rows(seed + 1, rows, 5)

    assert convirt_loss(images, texts, temperature, weight).item() == pytest.approx(
        loss_by_loops(images, texts, temperature, weight), abs=1e-9
    )


@pytest.mark.parametrize("weight", [0.0, 0.75, 1.0])
def test_indistinct_embeddings_cost_the_log_of_the_batch_size(weight):
    same = F.normalize(torch.ones(6, 8), dim=-1)

    assert convirt_loss(same, same, 0.1, weight).item() == pytest.approx(math.log(6), rel=1e-6)


def test_perfectly_aligned_orthogonal_pairs_cost_what_the_closed_form_says():
    """One logit 1/tau against N - 1 logits of 0: log(1 + (N - 1) exp(-1/tau))."""
    pairs = torch.eye(5, dtype=torch.float64)

    assert convirt_loss(pairs, pairs, 0.1, 0.75).item() == pytest.approx(math.log1p(4 * math.exp(-10)), rel=1e-9)


def test_the_order_of_the_pairs_does_not_matter():
    images, texts = unit_rows(0, 9, 4), unit_rows(1, 9, 4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))

    assert convirt_loss(images[order], texts[order]).item() == pytest.approx(convirt_loss(images, texts).item(), rel=1e-12)


def test_lambda_weighs_image_to_text_so_swapping_the_modalities_swaps_the_weight():
    images, texts = unit_rows(3, 6, 4), unit_rows(4, 6, 4)

    assert convirt_loss(images, texts, 0.1, 0.75).item() == pytest.approx(convirt_loss(texts, images, 0.1, 0.25).item(), rel=1e-12)
    assert convirt_loss(images, texts, 0.1, 0.75).item() != pytest.approx(convirt_loss(images, texts, 0.1, 0.25).item(), rel=1e-3)


def test_the_gradient_equals_finite_differences():
    images, texts = unit_rows(5, 4, 3).requires_grad_(), unit_rows(6, 4, 3).requires_grad_()

    assert torch.autograd.gradcheck(lambda v, u: convirt_loss(v, u, 0.3, 0.75), (images, texts))


def test_similar_embeddings_at_a_low_temperature_stay_finite():
    images = F.normalize(torch.ones(4, 2) + 1e-4 * torch.arange(8).view(4, 2), dim=-1)

    assert math.isfinite(convirt_loss(images, images, 1e-3).item())


def test_inputs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(2, 4\)"):
        convirt_loss(unit_rows(0, 3, 4), unit_rows(0, 2, 4))
