"""One search under way: how deep it has looked, and which of the rows that it found are answers."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index.planner import SearchPlan
from index.shards import ShardTable
from retrieval.answers import Query
from retrieval.question import Question

_DEEPER = 4  # times as many rows are ranked where answers fall together, and again where too few are left
_SAME_FILM = 0.9995  # cosine


@dataclass(slots=True, kw_only=True)
class Search:
    """A question to a table.

    Attributes:
        allowed: (rows,) bool, the rows that may answer; None for all.
        left_out: Rows that must not, of the question's own.
        plan: How it is searched.
        depth: How many rows are to be ranked.
        rows: (n,) int64, the answers so far, skipped ones included, best first; `scores` (n,) float32.
        done: Whether there are enough answers, or no more.
        low: Whether rows were dropped for their score.
    """

    question: Question
    table: ShardTable
    allowed: NDArray[np.bool_] | None
    left_out: NDArray[np.int64]
    depth: int
    plan: SearchPlan
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    done: bool = False
    low: bool = False

    def take(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Take what was ranked, (depth,) rows that end in -1 where there are fewer; choose the answers, or look deeper."""
        query = self.question.query
        found = int(np.count_nonzero(rows >= 0))
        rows, scores = rows[:found], scores[:found]
        if query.min_score is not None:
            kept = scores >= query.min_score
            self.low = not kept.all()
            rows, scores = rows[kept], scores[kept]
        exhausted = self.low or found < self.depth or self.depth >= self.table.rows
        if query.collapse is not None:
            places = kept_places(query.collapse, self.table, rows, query.vector)
            rows, scores = rows[places], scores[places]
        wanted = query.offset + query.k
        self.rows, self.scores = rows[:wanted], scores[:wanted]
        self.done = exhausted or len(rows) >= wanted
        if not self.done:
            self.depth = min(self.depth * _DEEPER, self.table.rows)

    def shortage(self) -> str | None:
        """Say why there are fewer answers than were asked for; None where there are not."""
        query = self.question.query
        count = max(len(self.rows) - query.offset, 0)
        if count >= query.k:
            return None
        after = f" after the first {query.offset}" if query.offset else ""
        told = f"{count} {'answer' if count == 1 else 'answers'} instead of {query.k}{after}"
        if self.low:
            return f"{told}: {'no other' if count else 'none'} scores {query.min_score:g} or more"
        one = {"study": ", of which each study answers once", "patient": ", of which each patient answers once"}
        collapsed = one.get(query.collapse or "", "" if query.collapse is None else ", of which duplicates answer once")
        return f"{told}: {query.within} holds {self.plan.allowed_rows} {query.find}{collapsed}"


def wanted_depth(query: Query) -> int:
    """Return how many rows of an endless table to rank at first."""
    return (query.offset + query.k) * (1 if query.collapse is None else _DEEPER)


def first_depth(query: Query, rows: int) -> int:
    """Return how many of the rows of a table to rank at first: whoever asks for a billion answers gets all there are."""
    return min(wanted_depth(query), rows)


def kept_places(by: str, table: ShardTable, rows: NDArray[np.int64], vector: str = "joint") -> NDArray[np.int64]:
    """Return the places of the first row of each study, patient, or group of duplicates.

    A record without a study stands for itself; one without a patient stands for its study. Duplicates have a cosine of 0.9995 or
    more to a row that was kept before, or the same text as one, white space and letter case aside (images have no text of
    their own).

    Args:
        by: "study", "patient" or "duplicates".
        table: What was searched.
        rows: (R,) int64, best first.
        vector: "joint" or "features": by which duplicates are recognised.

    Returns:
        Places in `rows`, ascending int64.
    """
    if by == "duplicates":
        return _distinct_places(table, rows, vector)
    columns = ("study_id",) if by == "study" else ("patient_id", "study_id")
    names = [table.values(column, rows) for column in columns]
    owners = [next(((column, name) for column, name in zip(columns, named, strict=True) if name is not None), row)
              for row, *named in zip(rows.tolist(), *names, strict=True)]  # fmt: skip
    first = {owner: place for place, owner in reversed(list(enumerate(owners)))}
    return np.array(sorted(first.values()), dtype=np.int64)


def _distinct_places(table: ShardTable, rows: NDArray[np.int64], vector: str) -> NDArray[np.int64]:
    vectors = table.vectors(vector, rows)
    texts = [None] * len(rows) if table.modality == "images" else table.values("text", rows)
    kept: list[int] = []
    seen: set[str | None] = set()
    held = np.empty_like(vectors)
    for place, text in enumerate(texts):
        folded = None if text is None else " ".join(text.split()).casefold()
        if (folded is None or folded not in seen) and not (held[: len(kept)] @ vectors[place] >= _SAME_FILM).any():
            held[len(kept)] = vectors[place]
            kept.append(place)
            seen.add(folded)
    return np.array(kept, dtype=np.int64)
