"""What a benchmark asks of an index: queries, candidates and what answers them, before anything is ranked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.engine import SearchEngine
from retrieval.metrics import mask_matches
from retrieval.qrels import RULES, LabelRelevance, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTask:
    """One direction of a benchmark whose relevance comes from labels.

    U items are asked about; an item that stands for several findings is several of the Q queries, or asks for them together.

    Attributes:
        direction: "text-image", "image-image" or "image-report".
        find: The modality that is ranked.
        vector: "joint" or "features".
        relevance: Labels of the rows of `find`.
        allowed: (rows,) bool, the candidates.
        texts: The U items where they are texts.
        rows: (U,) int64 rows of the "images" where the items are images.
        items: (Q,) int64, the item of each query.
        classes: (Q,) int64, the finding of each query, as a place in `relevance.findings`; -1 where it asks for several together.
        several: (Q,) masks as `relevance` has them, the findings that each query asks for; None where each asks for that of `classes`.
        rule: Which candidates answer, see `retrieval.qrels.RULES`.
        struck: For each item the rows of `find` that it must not find, beside those that an option leaves out; None for none.
        left_out: Reason to the number of records or queries that it removed.
    """

    direction: str
    find: str
    vector: str
    relevance: LabelRelevance
    allowed: NDArray[np.bool_]
    texts: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None
    items: NDArray[np.int64]
    classes: NDArray[np.int64]
    several: NDArray[Any] | None = None
    rule: Rule = "finding"
    struck: tuple[NDArray[np.int64], ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a rule that there is not, by a ValueError."""
        if self.rule not in RULES:
            raise ValueError(f"the rule of relevance is {self.rule!r}, expected one of {', '.join(RULES)}")

    @property
    def asked(self) -> NDArray[Any]:
        """The (Q,) masks of the findings that each query asks for; none is empty."""
        return self.relevance.bits[self.classes] if self.several is None else self.several

    @property
    def exact(self) -> bool:
        """Whether the findings of an answer have to be the same as those asked for."""
        return self.rule == "exact"

    def gallery(self, mask: Any) -> NDArray[np.bool_]:
        """Return the candidates of a query for the findings in `mask`, (rows,) bool: those that its labels are known of.

        A candidate that shares a finding counts whatever is known of the others; by the rule "exact" all findings must be known.
        """
        positive, judged = self.relevance.positive, self.relevance.judged
        known = judged == np.bitwise_or.reduce(self.relevance.bits) if self.exact else (judged & mask) == mask
        if not self.exact:
            known |= (positive & judged & mask) != 0
        gallery: NDArray[np.bool_] = self.allowed & known
        return gallery

    def answers(self, masks: NDArray[Any], asked: Any) -> NDArray[np.bool_]:
        """Say which of some candidates' masks answer a query for `asked`; both of any shapes that fit together."""
        return mask_matches(masks, asked, self.exact)

    def vectors(self, engine: SearchEngine) -> NDArray[np.float32]:
        """Return the (U, D) float32 vectors of the items."""
        if self.rows is None:
            return engine.encode_texts(self.texts, self.vector)
        return engine.stored_vectors("images", self.rows, self.vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """Images and the report of each image's study, identical texts counted once.

    Attributes:
        images: (I,) int64 rows of the images that have a report.
        image_text: (I,) int64, the text of each image's study, from 0 to T - 1.
        image_study: (I,) int64, equal for the images of a study.
        texts: (T,) int64, for each distinct text the first row of the reports that bears it.
        left_out: Reason to the number of records that it removed.
    """

    images: NDArray[np.int64]
    image_text: NDArray[np.int64]
    image_study: NDArray[np.int64]
    texts: NDArray[np.int64]
    left_out: Mapping[str, int]
