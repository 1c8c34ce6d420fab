import math

import pytest
import torch
import torch.nn.functional as F
from drawn_batches import drawn_labels, drawn_partners, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from train.objectives.convirt import convirt_loss
from train.objectives.umcl import relation_targets, umcl_loss

RELATIONS = ["equal", "shared", "cosine"]


def targets_by_sets(image_labels, text_labels, partners, relation):
    a, b = ([set(row.nonzero().flatten().tolist()) for row in labels] for labels in (image_labels, text_labels))

    def related(i: int, j: int) -> float:
        if partners[i, j]:
            return 1.0
        if relation == "cosine":
            return len(a[i] & b[j]) / math.sqrt(len(a[i]) * len(b[j])) if a[i] and b[j] else 0.0
        return float(a[i] == b[j] and bool(a[i])) if relation == "equal" else float(bool(a[i] & b[j]))

    return [[related(i, j) for j in range(len(b))] for i in range(len(a))]


def unicl_by_loops(images, texts, image_classes, text_classes, temperature):
    """UniCL's L_BiC for one class a row: 1 / |P(i)| over the positives P(i), averaged over rows and directions."""

    def one_way(queries, candidates, query_classes, candidate_classes):
        costs = []
        for query, own in zip(queries, query_classes, strict=True):
            weights = [math.exp(sum(x * y for x, y in zip(query, row, strict=True)) / temperature) for row in candidates]
            positives = [k for k, other in enumerate(candidate_classes) if other == own]
            if positives:
                costs.append(-sum(math.log(weights[k] / sum(weights)) for k in positives) / len(positives))
        return sum(costs) / len(costs)

    u, v = images.tolist(), texts.tolist()
    return (one_way(u, v, image_classes, text_classes) + one_way(v, u, text_classes, image_classes)) / 2


def weighted_by_loops(images, texts, targets, temperature):
    """The same with weights for positives."""

    def one_way(queries, candidates, wanted):
        costs = []
        for query, row in zip(queries, wanted, strict=True):
            if sum(row) > 0:
                weights = [math.exp(sum(x * y for x, y in zip(query, other, strict=True)) / temperature) for other in candidates]
                costs.append(-sum(t / sum(row) * math.log(w / sum(weights)) for t, w in zip(row, weights, strict=True)))
        return sum(costs) / len(costs)

    u, v = images.tolist(), texts.tolist()
    return (one_way(u, v, targets.tolist()) + one_way(v, u, targets.T.tolist())) / 2


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 7), texts=st.integers(1, 7), relation=st.sampled_from(RELATIONS))
def test_the_targets_equal_the_relation_of_the_label_sets(seed, images, texts, relation):
    labels = drawn_labels(seed, images), drawn_labels(seed + 1, texts)
    partners = drawn_partners(seed + 2, images, texts)

    expected = torch.tensor(targets_by_sets(*labels, partners, relation), dtype=torch.float64)
    torch.testing.assert_close(relation_targets(*labels, partners, relation), expected)


@pytest.mark.parametrize("relation", RELATIONS)
def test_unlabelled_pairs_are_positive_on_their_diagonal_only(relation):
    nothing = torch.zeros(3, 14)

    assert torch.equal(relation_targets(nothing, nothing, torch.eye(3, dtype=torch.bool), relation), torch.eye(3))


@pytest.mark.parametrize(("relation", "expected"), [("equal", [1, 0, 0]), ("shared", [1, 1, 0]), ("cosine", [1, math.sqrt(0.5), 0])])
def test_a_prompt_is_related_to_an_image_by_its_one_finding(relation, expected):
    """Images with the finding alone, with another beside it, and without it."""
    images, prompt = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]), torch.tensor([[1.0, 0, 0]])

    targets = relation_targets(images, prompt, torch.zeros(3, 1, dtype=torch.bool), relation)

    assert targets.flatten().tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 6), texts=st.integers(1, 6), temperature=st.floats(0.05, 2))
def test_with_one_class_a_row_and_equal_sets_it_is_unicl(seed, images, texts, temperature):
    draw = torch.Generator().manual_seed(seed)
    classes = [torch.randint(3, (rows,), generator=draw) for rows in (images, texts)]
    classes[1][0] = classes[0][0]  # at least one positive
    u, v = unit_rows(seed, images), unit_rows(seed + 1, texts)
    one_hot = [F.one_hot(each, 3).double() for each in classes]
    targets = relation_targets(*one_hot, torch.zeros(images, texts, dtype=torch.bool), "equal")

    expected = unicl_by_loops(u, v, classes[0].tolist(), classes[1].tolist(), temperature)
    assert umcl_loss(u, v, targets, temperature).item() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 6), texts=st.integers(1, 6), temperature=st.floats(0.05, 2))
def test_the_loss_equals_its_formula_summed_by_loops(seed, images, texts, temperature):
    u, v = unit_rows(seed, images), unit_rows(seed + 1, texts)
    targets = drawn_labels(seed + 2, images, texts) * torch.rand(images, texts, generator=torch.Generator().manual_seed(seed)).double()
    targets[0, 0] = 1

    assert umcl_loss(u, v, targets, temperature).item() == pytest.approx(weighted_by_loops(u, v, targets, temperature), abs=1e-9)


def test_with_the_partner_as_only_positive_it_is_convirt_at_equal_weights():
    u, v = unit_rows(0, 6), unit_rows(1, 6)

    assert umcl_loss(u, v, torch.eye(6), 0.1).item() == pytest.approx(convirt_loss(u, v, 0.1, 0.5).item(), rel=1e-12)


def test_indistinct_embeddings_cost_the_log_of_the_number_of_candidates():
    """M texts for each image, N images for each text."""
    same = F.normalize(torch.ones(7, 8), dim=-1)

    assert umcl_loss(same[:4], same, torch.rand(4, 7), 0.1).item() == pytest.approx((math.log(7) + math.log(4)) / 2, rel=1e-6)


@pytest.mark.parametrize("relation", RELATIONS)
def test_as_the_temperature_falls_aligned_groups_cost_the_entropy_of_their_targets(relation):
    """Two groups of three with the same finding: a third for each member is log 3 at least, and reached."""
    labels = torch.eye(2, dtype=torch.float64).repeat_interleave(3, dim=0)
    targets = relation_targets(labels, labels, torch.eye(6, dtype=torch.bool), relation)
    costs = [umcl_loss(labels, labels, targets, temperature).item() for temperature in (1, 0.3, 0.1, 0.02)]

    assert costs[-1] == pytest.approx(math.log(3))
    assert costs == sorted(costs, reverse=True)
    assert all(umcl_loss(unit_rows(seed, 6), unit_rows(seed + 1, 6), targets, 0.1) > math.log(3) for seed in range(20))


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_order_of_images_and_of_texts_does_not_matter(relation):
    u, v, image_labels, text_labels = unit_rows(0, 6), unit_rows(1, 8), drawn_labels(2, 6), drawn_labels(3, 8)
    partners = drawn_partners(4, 6, 8)
    a, b = (torch.randperm(rows, generator=torch.Generator().manual_seed(rows)) for rows in (6, 8))

    expected = umcl_loss(u, v, relation_targets(image_labels, text_labels, partners, relation), 0.1)
    targets = relation_targets(image_labels[a], text_labels[b], partners[a][:, b], relation)

    assert umcl_loss(u[a], v[b], targets, 0.1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_gradient_equals_finite_differences_in_vectors_and_temperature():
    u, v = unit_rows(5, 3, 3).requires_grad_(), unit_rows(6, 4, 3).requires_grad_()
    targets = torch.tensor([[1, 0.5, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.float64)  # an image and a text without any
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda *given: umcl_loss(*given[:2], targets, given[2]), (u, v, temperature))


def test_similar_embeddings_at_a_low_temperature_stay_finite():
    u = F.normalize(torch.ones(4, 2) + 1e-4 * torch.arange(8).view(4, 2), dim=-1)

    assert math.isfinite(umcl_loss(u, u, torch.ones(4, 4), 1e-3).item())


def test_a_batch_without_any_positive_is_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        umcl_loss(unit_rows(0, 3), unit_rows(1, 4), torch.zeros(3, 4), 0.1)


def test_wrong_calls_are_refused():
    labels = torch.ones(2, 3)

    with pytest.raises(ValueError, match=r"relation is 'near', expected 'equal', 'shared' or 'cosine'"):
        relation_targets(labels, labels, torch.eye(2, dtype=torch.bool), "near")
    with pytest.raises(ValueError, match=r"partners.*\(2, 2\).*\(2, 5\)"):
        relation_targets(labels, torch.ones(5, 3), torch.eye(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"targets.*\(4, 3\).*\(3, 4\)"):
        umcl_loss(unit_rows(0, 3), unit_rows(1, 4), torch.ones(4, 3), 0.1)
