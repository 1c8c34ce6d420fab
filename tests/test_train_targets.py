import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from train.objectives.targets import label_cosine, shared_positives, soft_cross_entropy


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn_labels(seed: int, rows: int, findings: int = 4) -> torch.Tensor:
    return (torch.rand(rows, findings, generator=torch.Generator().manual_seed(seed)) < 0.3).float()


def cross_entropy_by_loops(logits: torch.Tensor, targets: torch.Tensor) -> float:
    costs = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if sum(target) > 0:
            total = sum(math.exp(logit) for logit in row)
            costs.append(-sum(t / sum(target) * math.log(math.exp(logit) / total) for logit, t in zip(row, target, strict=True)))
    return sum(costs) / len(costs)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_it_equals_the_sum_by_loops_over_the_rows_that_have_a_target(seed, rows, columns):
    logits, targets = 3 * drawn(seed, rows, columns), drawn(seed + 1, rows, columns).clamp_min(0)
    targets[0, 0] = 1

    assert soft_cross_entropy(logits, targets).item() == pytest.approx(cross_entropy_by_loops(logits, targets), abs=1e-9)


def test_uniform_logits_cost_the_log_of_the_columns_whatever_the_targets_are():
    targets = drawn(0, 3, 7).abs()

    assert soft_cross_entropy(torch.full((3, 7), 2.5), targets).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("factor", [0.01, 1.0, 250.0])
def test_targets_need_not_sum_to_one(factor):
    logits, targets = drawn(1, 4, 5), drawn(2, 4, 5).abs()

    assert soft_cross_entropy(logits, factor * targets).item() == pytest.approx(soft_cross_entropy(logits, targets).item())


def test_the_least_cost_is_the_entropy_of_the_targets_and_their_logarithm_reaches_it():
    targets = drawn(3, 4, 5).softmax(dim=1)
    entropy = -(targets * targets.log()).sum(dim=1).mean()

    assert soft_cross_entropy(targets.log(), targets).item() == pytest.approx(entropy.item())
    assert all(soft_cross_entropy(drawn(seed, 4, 5), targets) > entropy for seed in range(4, 20))


def test_one_hot_targets_are_pytorchs_cross_entropy():
    logits, classes = drawn(5, 6, 4), torch.tensor([0, 3, 1, 1, 2, 0])

    assert soft_cross_entropy(logits, F.one_hot(classes).double()).item() == pytest.approx(F.cross_entropy(logits, classes).item())


def test_a_row_without_a_target_gets_no_gradient():
    logits, targets = drawn(6, 3, 4).requires_grad_(), torch.eye(3, 4, dtype=torch.float64)
    targets[1] = 0

    soft_cross_entropy(logits, targets).backward()

    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad.abs().sum(dim=1) > 0).tolist() == [True, False, True]


def test_the_gradient_equals_finite_differences():
    targets = drawn(8, 3, 4).clamp_min(0)

    assert torch.autograd.gradcheck(lambda logits: soft_cross_entropy(logits, targets), drawn(7, 3, 4).requires_grad_())


def test_targets_of_zeros_only_are_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        soft_cross_entropy(drawn(0, 2, 3), torch.zeros(2, 3))


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2, 3\)"):
        soft_cross_entropy(drawn(0, 2, 3), torch.ones(3))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 6), texts=st.integers(1, 6))
def test_label_cosine_is_that_of_sets(seed, images, texts):
    """Shared members by the root of the product of the sizes."""
    a, b = drawn_labels(seed, images), drawn_labels(seed + 1, texts)
    sets = [[set(row.nonzero().flatten().tolist()) for row in labels] for labels in (a, b)]
    shared = [[len(x & y) for y in sets[1]] for x in sets[0]]
    cosine = [[len(x & y) / math.sqrt(len(x) * len(y)) if x and y else 0.0 for y in sets[1]] for x in sets[0]]

    assert shared_positives(a, b).tolist() == shared
    torch.testing.assert_close(label_cosine(a, b), torch.tensor(cosine))


def test_equal_sets_have_a_cosine_of_exactly_one():
    labels = torch.tril(torch.ones(14, 14))  # sets of 1 to 14 members

    assert (label_cosine(labels, labels).diagonal() == 1).all()


def test_labels_of_different_findings_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 14\) for images and \(2, 13\) for texts"):
        label_cosine(torch.ones(2, 14), torch.ones(2, 13))
