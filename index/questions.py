"""Held-out questions to an index with their right answers, as exact search over the stored vectors finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from index.askers import Rows, Vectors
from index.planner import exact_plan

if TYPE_CHECKING:
    from index.vector_index import VectorIndex


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries with what an index must find.

    Attributes:
        vectors: (Q, D) float32.
        own: Q arrays of rows that the query must not find.
        right: Q arrays of rows, the k best, or fewer where there are fewer; at least one.
        bounds: (Q,) float32, the score of the last of them.
        tied: (Q,) bool, whether a row beyond scores as well: it is as right.
    """

    vectors: Vectors
    own: Sequence[Rows]
    right: Sequence[Rows]
    bounds: Vectors
    tied: npt.NDArray[np.bool_]

    @property
    def wanted(self) -> Rows:
        """How many right answers there are, (Q,)."""
        return np.array([len(rows) for rows in self.right], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.right)

    def take(self, places: Sequence[int] | slice) -> "Questions":
        """Return some of them."""
        chosen = range(len(self))[places] if isinstance(places, slice) else places
        own, right = [self.own[place] for place in chosen], [self.right[place] for place in chosen]
        return Questions(self.vectors[places], own, right, self.bounds[places], self.tied[places])


def ask_exactly(index: "VectorIndex", vectors: Vectors, own: Sequence[Rows], asker: str, ks: Sequence[int]) -> dict[int, Questions]:
    """Return, for each k, the queries with their right answers; those that have none (all rows are their own) are left out.

    Args:
        index: What is asked, exactly whatever its kind.
        vectors: (Q, D) float32.
        own: Q arrays of rows that the query must not find.
        asker: "image" or "text".
        ks: Numbers of answers.
    """
    found = index.search(vectors, max(ks) + 1, asker=asker, excluded=own, plan=exact_plan("flat", index.rows))
    answered = [place for place, (rows, _) in enumerate(found) if len(rows)]
    questions = {}
    for k in ks:
        right = [found[place][0][:k] for place in answered]
        scores = [found[place][1] for place in answered]
        bounds = np.array([best[:k][-1] for best in scores], dtype=np.float32)
        tied = np.array([bool((best[k:] == best[:k][-1]).any()) for best in scores], dtype=np.bool_)
        questions[k] = Questions(vectors[answered], [own[place] for place in answered], right, bounds, tied)
    return questions
