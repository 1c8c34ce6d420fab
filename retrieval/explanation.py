"""Why an answer is what it is: its terms, what each counts for, and how near each hit is to each of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.answers import Answer
from retrieval.question import term_name
from retrieval.terms import count_terms

if TYPE_CHECKING:
    from retrieval.engine import SearchEngine


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """An answer taken apart: the score of a hit is the sum of its cosines to the terms, each times what the term counts for.

    Attributes:
        answer: What is explained.
        counts: (T,) float64, what each term counts for: weight / scale, over the norm of the sum of all terms.
        cosines: (hits, T) float32, of each hit to each term.
    """

    answer: Answer
    counts: NDArray[np.float64]
    cosines: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON output holds: the terms, the plan, the notes, and the hits with their cosines to the terms."""
        hits = zip(self.answer.hits, self.cosines.tolist(), strict=True)
        return {
            "terms": [
                {
                    one.term.kind: str(one.term.value),
                    "weight": one.term.weight,
                    "asker": one.asker,
                    "scale": one.scale,
                    "counts": float(counts),
                }
                for one, counts in zip(self.answer.asked, self.counts, strict=True)
            ],
            "plan": self.answer.plan.reason,
            "notes": list(self.answer.notes),
            "hits": [{**hit.to_dict(), "cosines": cosines} for hit, cosines in hits],
        }

    def lines(self) -> list[str]:
        """Return it in words, but for the hits."""
        told = []
        for place, (one, counts) in enumerate(zip(self.answer.asked, self.counts, strict=True), start=1):
            scaled = "" if one.scale == 1 else f" / {one.scale:.4g} (how much the scores of {one.asker} queries deviate)"
            told.append(
                f"{term_name(place)}: {one.term.kind} {str(one.term.value)!r}, weight {one.term.weight:g}{scaled}, counts {counts:.3f}"
            )
        if len(told) > 1:
            parts = (f"{'+' if counts > 0 else '-'} {abs(counts):.3f} × {term_name(place)}" for place, counts in enumerate(self.counts, 1))
            told.append(f"score = {' '.join(parts).removeprefix('+ ')}")
        return [*told, f"plan: {self.answer.plan.reason}", *self.answer.notes]


def explain(engine: "SearchEngine", answer: Answer) -> Explanation:
    """Take an answer of this engine apart.

    Raises:
        ValueError: If nothing was searched for it.
    """
    if answer.rows is None:
        raise ValueError("an answer without a search has nothing to explain")
    terms = np.stack([one.vector for one in answer.asked])  # (T, D)
    cosines = engine.stored_vectors(answer.query.find, answer.rows, answer.query.vector) @ terms.T  # (hits, T)
    return Explanation(answer, count_terms(answer.asked), cosines)
