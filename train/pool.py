"""The texts that MedCLIP draws from, apart from the images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class TextPool:
    """Texts with labels, of one or several corpora, to draw from at random.

    Args:
        labels: (T, K) float32, 0 or 1.
        corpora: For each corpus the numbers of its texts; at least one.
        weights: For each corpus its part of what is drawn; above 0.
    """

    def __init__(self, labels: NDArray[np.float32], corpora: Sequence[NDArray[np.int64]], weights: Sequence[float]) -> None:
        self._corpora = corpora
        self._weights = np.array(weights)  # (C,)
        self._with = [[rows[labels[rows, finding] > 0] for finding in range(labels.shape[1])] for rows in corpora]

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Texts (count,): for each a corpus by weight, then one of its texts, each as likely."""
        sizes = np.array([len(rows) for rows in self._corpora])
        corpora = rng.choice(len(sizes), count, p=self._weights / self._weights.sum())  # (count,)
        places = (np.cumsum(sizes) - sizes)[corpora] + rng.integers(0, sizes[corpora])
        drawn: NDArray[np.int64] = np.concatenate(self._corpora)[places]
        return drawn

    def draw_alike(self, labels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
        """A text for each image that has a finding in common with it, but for that as `draw` does.

        Args:
            labels: (N, K) float32, 0 or 1, of the images.
            rng: Chooses one of an image's findings, then a corpus by weight among those with texts of it, then one of these.

        Returns:
            (N,) texts; -1 where no text has any of the image's findings.
        """
        if not labels.shape[1]:
            return np.full(len(labels), -1)
        held = np.array([[len(rows) for rows in findings] for findings in self._with])  # (C, K)
        parts = self._weights[:, None] * (held > 0)  # (C, K)
        keys = rng.random(labels.shape) * (labels > 0) * parts.any(axis=0)  # (N, K)
        findings = keys.argmax(axis=1)  # (N,) each of those that an image has is as likely
        shares = np.cumsum(parts[:, findings], axis=0)  # (C, N)
        corpora = (rng.random(len(labels)) * shares[-1] >= shares).sum(axis=0).clip(max=len(shares) - 1)  # (N,)
        places = rng.integers(0, held[corpora, findings].clip(min=1))
        chosen = zip(corpora.tolist(), findings.tolist(), places.tolist(), (keys.max(axis=1, initial=0) > 0).tolist(), strict=True)
        return np.array([self._with[corpus][finding][place] if found else -1 for corpus, finding, place, found in chosen], dtype=np.int64)
