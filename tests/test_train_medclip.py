import math

import pytest
import torch
import torch.nn.functional as F
from drawn_batches import drawn_labels, drawn_partners, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from train.objectives.medclip import label_similarity, medclip_loss


def similarity_by_loops(image_labels, text_labels, partners, kind):
    """The rules of the docstring, pair by pair."""
    a, b = image_labels.tolist(), text_labels.tolist()

    def alike(i: int, j: int) -> float:
        if not any(a[i]) or not any(b[j]):
            return float(partners[i, j])
        dot = sum(x * y for x, y in zip(a[i], b[j], strict=True))
        return dot if kind == "dot" else dot / math.sqrt(sum(x * x for x in a[i]) * sum(y * y for y in b[j]))

    return [[alike(i, j) for j in range(len(b))] for i in range(len(a))]


def softmax_by_loops(values: list[float]) -> list[float]:
    return [math.exp(value) / sum(math.exp(other) for other in values) for value in values]


def loss_by_loops(images, texts, similarity, temperature, soft_target_temperature=1.0):
    """-(1/N) sum of y log p for each direction, as the paper and the released code have it; rows alike to none left out."""

    def one_way(queries: list[list[float]], candidates: list[list[float]], alike: list[list[float]]) -> float:
        costs = []
        for query, row in zip(queries, alike, strict=True):
            if not any(row):
                continue
            wanted = softmax_by_loops([value / soft_target_temperature for value in row])
            logits = [sum(x * y for x, y in zip(query, candidate, strict=True)) / temperature for candidate in candidates]
            costs.append(-sum(y * math.log(p) for y, p in zip(wanted, softmax_by_loops(logits), strict=True)))
        return sum(costs) / len(costs)

    v, t = images.tolist(), texts.tolist()
    return (one_way(v, t, similarity.tolist()) + one_way(t, v, similarity.T.tolist())) / 2


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 7), texts=st.integers(1, 7), kind=st.sampled_from(["cosine", "dot"]))
def test_label_similarity_equals_its_rules_pair_by_pair(seed, images, texts, kind):
    labels = drawn_labels(seed, images), drawn_labels(seed + 1, texts)
    partners = drawn_partners(seed + 2, images, texts)

    similarity = label_similarity(*labels, partners, kind)

    expected = torch.tensor(similarity_by_loops(*labels, partners, kind), dtype=torch.float64)
    torch.testing.assert_close(similarity, expected)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_without_a_positive_label_there_is_only_the_partner(kind):
    """Image 1 and text 2 have no label; image 0 and text 0, of two studies, have the same."""
    image_labels, text_labels = torch.tensor([[1.0, 0], [0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    partners = torch.tensor([[False, False, False], [False, True, False], [False, False, True]])

    assert label_similarity(image_labels, text_labels, partners, kind).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 6),
    texts=st.integers(1, 6),
    temperature=st.floats(0.05, 2),
    soft_target_temperature=st.floats(0.05, 2),
)
def test_the_loss_equals_the_formula_summed_by_loops(seed, images, texts, temperature, soft_target_temperature):
    v, t = unit_rows(seed, images), unit_rows(seed + 1, texts)
    similarity = shared = drawn_labels(seed + 2, images) @ drawn_labels(seed + 3, texts).T
    similarity = shared.where(shared.any(), 1)

    assert medclip_loss(v, t, similarity, temperature, soft_target_temperature).item() == pytest.approx(
        loss_by_loops(v, t, similarity, temperature, soft_target_temperature), abs=1e-9
    )


def test_dot_products_give_the_loss_of_the_released_code():
    """medclip/losses.py, spelled out: logit_scale begins at log(1 / 0.07), label_sim is the plain dot product."""
    v, t = unit_rows(0, 6), unit_rows(1, 6)
    img_labels, text_labels = drawn_labels(2, 6), drawn_labels(3, 6)
    img_labels[:, 0] = text_labels[:, 0] = 1  # a label in every row: where there is none, ours differs
    logits = torch.exp(torch.tensor(math.log(1 / 0.07))) * v @ t.T
    label_sim = img_labels @ text_labels.T
    one_way = -(label_sim.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    other_way = -(label_sim.T.softmax(dim=1) * logits.T.log_softmax(dim=1)).sum(dim=1).mean()

    similarity = label_similarity(img_labels, text_labels, torch.eye(6, dtype=torch.bool), "dot")

    assert medclip_loss(v, t, similarity, 0.07).item() == pytest.approx(((one_way + other_way) / 2).item(), rel=1e-6)


def test_indistinct_embeddings_cost_the_log_of_the_number_of_candidates():
    """M texts for each image, N images for each text."""
    same = F.normalize(torch.ones(7, 8), dim=-1)

    assert medclip_loss(same[:4], same, torch.rand(4, 7), 0.07).item() == pytest.approx((math.log(7) + math.log(4)) / 2, rel=1e-6)


def test_vectors_alike_as_their_labels_cost_the_entropy_of_the_targets_and_no_others_cost_less():
    """Unit label vectors as embeddings at the targets' own temperature: the two softmaxes are one."""
    labels = drawn_labels(4, 6)
    labels[:, 0] = 1
    vectors, similarity = F.normalize(labels, dim=1), label_similarity(labels, labels, torch.eye(6, dtype=torch.bool))
    targets = (similarity / 0.2).softmax(dim=1)
    entropy = -(targets * targets.log()).sum(dim=1).mean().item()

    assert medclip_loss(vectors, vectors, similarity, 0.2, 0.2).item() == pytest.approx(entropy)
    assert all(medclip_loss(unit_rows(seed, 6), unit_rows(seed + 1, 6), similarity, 0.2, 0.2) > entropy for seed in range(20))


def test_as_both_temperatures_fall_aligned_groups_cost_the_log_of_their_size():
    """Two groups of three equal label sets; each target tends to a third for each member: entropy log 3."""
    labels = torch.eye(2, dtype=torch.float64).repeat_interleave(3, dim=0)
    similarity = label_similarity(labels, labels, torch.eye(6, dtype=torch.bool))
    costs = [medclip_loss(labels, labels, similarity, temperature, temperature).item() for temperature in (1, 0.3, 0.1, 0.02)]

    assert costs[-1] == pytest.approx(math.log(3))
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_the_order_of_images_and_of_texts_does_not_matter(kind):
    v, t, image_labels, text_labels = unit_rows(0, 6), unit_rows(1, 8), drawn_labels(2, 6), drawn_labels(3, 8)
    partners = drawn_partners(4, 6, 8)
    a, b = (torch.randperm(rows, generator=torch.Generator().manual_seed(rows)) for rows in (6, 8))

    expected = medclip_loss(v, t, label_similarity(image_labels, text_labels, partners, kind), 0.1)
    similarity = label_similarity(image_labels[a], text_labels[b], partners[a][:, b], kind)

    assert medclip_loss(v[a], t[b], similarity, 0.1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_two_directions_weigh_the_same():
    v, t, similarity = unit_rows(0, 5), unit_rows(1, 7), drawn_labels(2, 5, 7)

    assert medclip_loss(v, t, similarity, 0.1).item() == pytest.approx(medclip_loss(t, v, similarity.T, 0.1).item(), rel=1e-12)


def test_an_image_alike_to_no_text_is_left_out_of_image_to_text_and_stays_a_candidate_of_the_texts():
    v, t, similarity = unit_rows(0, 4), unit_rows(1, 5), torch.eye(4, 5, dtype=torch.float64)
    similarity[3] = 0
    similarity[0, 3:] = 1
    logits = v @ t.T / 0.1
    image_to_text = F.cross_entropy(logits[:3], similarity[:3].softmax(dim=1))
    text_to_image = F.cross_entropy(logits.T, similarity.T.softmax(dim=1))

    assert medclip_loss(v, t, similarity, 0.1).item() == pytest.approx((image_to_text + text_to_image).item() / 2)


def test_the_gradient_equals_finite_differences_in_vectors_and_temperature():
    v, t, similarity = unit_rows(5, 3, 3).requires_grad_(), unit_rows(6, 4, 3).requires_grad_(), drawn_labels(7, 3, 4)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda *given: medclip_loss(*given[:2], similarity, given[2], 0.5), (v, t, temperature))


def test_similar_embeddings_at_low_temperatures_stay_finite():
    v = F.normalize(torch.ones(4, 2) + 1e-4 * torch.arange(8).view(4, 2), dim=-1)

    assert math.isfinite(medclip_loss(v, v, torch.eye(4), 1e-3, 1e-3).item())


def test_similarities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 4\)"):
        medclip_loss(unit_rows(0, 3), unit_rows(1, 4), torch.ones(4, 3), 0.1)


def test_a_batch_in_which_nothing_is_alike_is_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        medclip_loss(unit_rows(0, 3), unit_rows(1, 4), torch.zeros(3, 4), 0.1)


def test_wrong_settings_are_refused():
    labels, partners = torch.ones(2, 3), torch.eye(2, dtype=torch.bool)

    with pytest.raises(ValueError, match=r"kind is 'euclid', expected 'cosine' or 'dot'"):
        label_similarity(labels, labels, partners, "euclid")
    with pytest.raises(ValueError, match=r"partners.*\(2, 2\).*\(2, 5\)"):
        label_similarity(labels, torch.ones(5, 3), partners)
    with pytest.raises(ValueError, match="soft_target_temperature is 0"):
        medclip_loss(unit_rows(0, 2), unit_rows(1, 2), torch.ones(2, 2), 0.1, 0)
