"""The texts that MedCLIP draws from."""

import numpy as np
import pytest

from train.pool import TextPool

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
CORPORA = [np.array([0, 1]), np.array([2, 3, 4])]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_independent_draws_take_a_corpus_by_weight_and_then_any_of_its_texts():
    drawn = TextPool(LABELS, CORPORA, [1, 3]).draw(20_000, rng())

    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4], atol=0.015)  # 5 standard deviations


def test_every_text_drawn_alike_shares_a_finding_with_its_image():
    images = np.eye(3, dtype=np.float32)[rng().integers(0, 2, 500)]

    drawn = TextPool(LABELS, CORPORA, [1, 3]).draw_alike(images, rng())

    assert ((LABELS[drawn] * images).sum(axis=1) > 0).all()


def test_draws_alike_take_a_finding_then_a_corpus_by_weight_among_those_that_have_it_then_a_text():
    both = np.tile(np.array([[1, 1, 0]], dtype=np.float32), (20_000, 1))

    drawn = TextPool(LABELS, CORPORA, [1, 3]).draw_alike(both, rng())

    # the first finding is in corpus 0 alone; the second in both, at one part to three
    expected = [1 / 2 / 2, 1 / 2 / 2 + 1 / 2 / 4, 1 / 2 * 3 / 4 / 2, 1 / 2 * 3 / 4 / 2, 0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / len(drawn), expected, atol=0.02)


@pytest.mark.parametrize("image", [[0, 0, 0], [0, 0, 1]])
def test_an_image_whose_findings_no_text_has_is_told_apart(image):
    assert TextPool(LABELS, CORPORA, [1, 1]).draw_alike(np.array([image], dtype=np.float32), rng()).tolist() == [-1]


def test_without_any_finding_no_text_is_alike():
    assert TextPool(LABELS[:, :0], CORPORA, [1, 1]).draw_alike(np.zeros((2, 0), dtype=np.float32), rng()).tolist() == [-1, -1]
