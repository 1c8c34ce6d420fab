"""Where right answers stand among the rows that a first stage proposes: of one search, what any number of candidates finds.

A right answer scores higher than every other row, so that it is among the k best of whatever candidates it is among: nothing has to
be ranked to count it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.exact import MOST_EXCLUDED, Rows
from index.intervals import Shares
from index.questions import Questions
from index.stages import FirstStage

_ABSENT = 1 << 62


@dataclass(frozen=True, slots=True)
class Standing:
    """Of Q queries.

    Attributes:
        places: Q arrays of int64: place from 0 of each right answer, best first, among all that is proposed; a huge one where it
            is not.
        own: (Q,) int64, how many rows each must not find: as many more are proposed for it.
        others: (Q,) int64, how many of those proposed it may find.
    """

    places: Sequence[Rows]
    own: Rows
    others: Rows

    def shares(self, k: int, candidates: int) -> Shares:
        """Return the share of each query's k best rows that so many candidates find, (Q,) float64.

        A query is searched exactly, and finds all, where less than it wants is proposed, or it must not find too many.
        """
        counts = (candidates + self.own).tolist()
        shares = [float((places[:k] < count).mean()) for places, count in zip(self.places, counts, strict=True)]
        wanted = np.array([min(k, len(places)) for places in self.places], dtype=np.int64)
        return np.where((self.others < wanted) | (self.own > MOST_EXCLUDED), 1.0, np.array(shares, dtype=np.float64))


def find_standing(
    stage: FirstStage, questions: Questions, candidates: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None = None
) -> Standing:
    """Ask a stage, whose best rows do not depend on how many are wanted, for the most candidates that are of interest.

    Args:
        stage: One with inverted lists: a graph looks farther, and a scan elsewhere, for more rows.
        questions: Of which none is tied at the k that are asked for.
        candidates: At most so many are of interest, at least k.
        effort: Of the stage.
        allowed: (rows,) bool, the rows that may be proposed; None for all.
    """
    own = np.array([len(rows) for rows in questions.own], dtype=np.int64)
    spare = int(min(own.max(initial=0), MOST_EXCLUDED))
    proposed = stage.candidates(questions.vectors, candidates + spare, effort, allowed)
    others = [len(rows) - int(np.isin(rows, out).sum()) for rows, out in zip(proposed, questions.own, strict=True)]
    places = [_places(rows, best) for rows, best in zip(proposed, questions.right, strict=True)]
    return Standing(places, own, np.array(others, dtype=np.int64))


def _places(proposed: Rows, right: Rows) -> Rows:
    """Return the place of each right row among those proposed."""
    if len(proposed) == 0:
        return np.full(len(right), _ABSENT)
    order = np.argsort(proposed)
    found = order[np.minimum(np.searchsorted(proposed, right, sorter=order), len(proposed) - 1)]
    return np.where(proposed[found] == right, found, _ABSENT)


class Standings:
    """Standings of the same questions at any effort, each found once.

    Args:
        stage: See `find_standing`.
        questions: With the right answers of the largest k.
        candidates: At most so many are of interest.
        allowed: (rows,) bool, or None.
    """

    def __init__(self, stage: FirstStage, questions: Questions, candidates: int, allowed: npt.NDArray[np.bool_] | None) -> None:
        self._stage, self._questions, self._candidates, self._allowed = stage, questions, candidates, allowed
        self._held: dict[tuple[int, int | None], Standing] = {}

    def find(self, part: slice, effort: int | None) -> Standing:
        """Return the standing of some of the questions; parts that begin alike are the same."""
        key = (part.start, effort)
        if key not in self._held:
            self._held[key] = find_standing(self._stage, self._questions.take(part), self._candidates, effort, self._allowed)
        return self._held[key]
