"""Which candidates answer a query: relevance from labels in four states, and from identical report texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from index.corpora.record import LabelState
from retrieval.metrics import pack_findings

UncertainPolicy = Literal["negative", "positive", "ignore"]
UNCERTAIN_POLICIES: tuple[UncertainPolicy, ...] = ("negative", "positive", "ignore")
Rule = Literal["finding", "any", "exact"]
RULES: dict[Rule, str] = {
    "finding": "positive for the query's finding",
    "any": "shares a positive finding with the image that asks",
    "exact": "positive for the same findings as the image that asks, and no other",
}
STATES = tuple(int(state) for state in LabelState)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRelevance:
    """What the labels of N candidates say about K findings.

    Attributes:
        findings: The K findings, in the order of the bits.
        positive: (N,) unsigned integers; bit f: the candidate answers a query for finding f.
        judged: (N,) unsigned integers; bit f: the candidate counts at all for finding f.
    """

    findings: tuple[str, ...]
    positive: NDArray[Any]
    judged: NDArray[Any]

    @property
    def bits(self) -> NDArray[Any]:
        """The (K,) masks that hold one finding each, of the masks' own type."""
        kind = self.positive.dtype
        bits: NDArray[Any] = np.left_shift(kind.type(1), np.arange(len(self.findings), dtype=kind))
        return bits


def read_relevance(labels: NDArray[np.int8], findings: Sequence[str], uncertain: UncertainPolicy = "negative") -> LabelRelevance:
    """Turn label states into relevance, by a named policy for uncertain labels.

    NOT_MENTIONED and NEGATIVE are not relevant. A finding that nobody looked for (any value that is no
    LabelState) is not judged: the candidate is left out for queries of that finding.

    Args:
        labels: (N, K) int8 label states.
        findings: K names.
        uncertain: UNCERTAIN counts as "negative" (not relevant) or "positive" (relevant), or such a
            candidate is left out for that finding ("ignore").

    Raises:
        ValueError: If the shapes do not fit, the policy is unknown, or there are more than 64 findings.
    """
    if labels.shape[1] != len(findings):
        raise ValueError(f"labels are {labels.shape}, expected one column for each of {len(findings)} findings")
    if uncertain not in UNCERTAIN_POLICIES:
        raise ValueError(f"the uncertain-label policy is {uncertain!r}, expected one of {UNCERTAIN_POLICIES}")
    positive = labels == LabelState.POSITIVE
    judged = np.isin(labels, STATES)
    doubtful = labels == LabelState.UNCERTAIN
    if uncertain == "positive":
        positive |= doubtful
    elif uncertain == "ignore":
        judged &= ~doubtful
    return LabelRelevance(findings=tuple(findings), positive=pack_findings(positive), judged=pack_findings(judged))


def number_texts(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Number the distinct texts in order of appearance, so that identical reports share a number.

    Args:
        texts: N texts, compared after folding white space; None or blank is no text.

    Returns:
        (N,) int64 from 0; -1 for no text.
    """
    seen: dict[str, int] = {}
    numbers = np.full(len(texts), -1, dtype=np.int64)
    for row, text in enumerate(texts):
        folded = " ".join(text.split()) if text else ""
        if folded:
            numbers[row] = seen.setdefault(folded, len(seen))
    return numbers
