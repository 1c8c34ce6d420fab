"""What is asked of an index, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.manifest import MODALITIES, VECTORS
from index.planner import SearchPlan
from retrieval.filters import Condition, Selection, parse_where
from retrieval.terms import KINDS, AskedTerm, Term

COLLAPSES = ("study", "patient", "duplicates")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question: a text, an image file, a record of the corpus or a label, or several of them with weights.

    Attributes:
        text: A finding or a report, in plain words: short for terms=(Term(text=...),), as are the next three.
        label: A label for which the encoder has learned a continuous prompt; letter case does not matter.
        image: A film: JPEG, PNG or DICOM.
        id: A record of the index; its stored vector is the query, and itself is never an answer.
        terms: What the query is made of; of a shorthand its one term.
        without: Findings or texts that no answer shall show: see `retrieval.candidates`.
        find: What to rank: "images" (the default), "reports" or "sentences".
        k: How many answers, from 1.
        offset: How many of the best answers to skip.
        min_score: The least cosine of an answer; None for any.
        collapse: Keep the best answer alone of each "study" or "patient", or of those that are nearly the same film or the same
            text ("duplicates"); None keeps all.
        splits: Only records of these splits; None for all.
        views: Only images of these views, as the source spells them; None for all.
        only: Conditions that every answer meets, on any metadata column or finding.
        where: An expression over the same columns that every answer meets, as `parse_where` reads it; None for all.
        exclude_same_patient: Leave out the records of the query's patient; None does so where the query is
            a record of the corpus.
        exclude_same_study: Leave out the records of the query's study, where its patient's may answer.
        vector: "joint" (projected, comparable between images and texts) or "features" (the encoder's output
            before projection, comparable only within images or within texts).
        best_sentence: Whether hits name the sentence of their report that answers best, sentences that the index does not hold
            being encoded for it; None: reports do, where the index holds their sentences.
    """

    text: str | None = None
    label: str | None = None
    image: Path | None = None
    id: str | None = None
    terms: tuple[Term, ...] = ()
    without: tuple[str, ...] = ()
    find: str = "images"
    k: int = 10
    offset: int = 0
    min_score: float | None = None
    collapse: str | None = None
    splits: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    only: tuple[Condition, ...] = ()
    where: str | None = None
    exclude_same_patient: bool | None = None
    exclude_same_study: bool = False
    vector: str = "joint"
    best_sentence: bool | None = None

    def __post_init__(self) -> None:
        for name in ("terms", "without", "splits", "views", "only"):
            if isinstance(given := getattr(self, name), list):
                object.__setattr__(self, name, tuple(given))
        short = {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind) is not None}
        if len(short) > 1 or not (short or self.terms):
            raise ValueError("a query is one of text, label, image and id, or has terms")
        if short and self.terms not in ((), (Term(**short),)):
            raise ValueError(f"a query has terms or {', '.join(short)}, not both")
        if short:
            term = Term(**short)
            object.__setattr__(self, "terms", (term,))
            object.__setattr__(self, "image", term.image)
        for name in ("without", "splits", "views"):
            if isinstance(given := getattr(self, name), str):
                raise ValueError(f"{name} is one text, expected several: {name}=({given!r},)")
        if self.offset < 0:
            raise ValueError(f"offset is {self.offset}, expected 0 or more")
        if self.min_score is not None and isnan(self.min_score):
            raise ValueError("min_score is not a number")
        if self.collapse not in (None, *COLLAPSES):
            raise ValueError(f"collapse is {self.collapse!r}, expected one of {COLLAPSES}")
        if self.find not in MODALITIES:
            raise ValueError(f"find is {self.find!r}, expected one of {MODALITIES}")
        if self.vector not in VECTORS:
            raise ValueError(f"vector is {self.vector!r}, expected one of {tuple(VECTORS)}")
        if self.best_sentence and self.find == "sentences":
            raise ValueError("best_sentence goes with images and reports: a sentence that is found is its own")
        if self.k < 1:
            raise ValueError(f"k is {self.k}, expected 1 or more")
        if unread := [one for one in self.only if not isinstance(one, Condition)]:
            raise ValueError(f"only has a {type(unread[0]).__name__}, expected conditions: only=(parse_condition('sex=F'),)")
        if self.where is not None:
            parse_where(self.where)  # a mistake is said before anything is opened

    @property
    def selection(self) -> Selection:
        """The records that may answer."""
        where = None if self.where is None else parse_where(self.where)
        return Selection(splits=self.splits, views=self.views, only=self.only, where=where)

    @property
    def within(self) -> str:
        """What is searched, in words: the index, or a part of it."""
        limits = [] if self.views is None or self.find != "images" else [f"in view {', '.join(self.views)}"]
        limits += [f"with {' and '.join(map(str, self.only))}"] if self.only else []
        limits += [f"where {self.where}"] if self.where is not None else []
        limits += [f"without {' and '.join(map(repr, self.without))}"] if self.without else []
        return " ".join(["the index" if self.splits is None else f"split {', '.join(self.splits)}", *limits])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One ranked record.

    Attributes:
        rank: From 1.
        score: Cosine similarity to the query, -1 to 1.
        labels: Finding to state name, for the findings that somebody looked for.
        text: The report (or sentence); for an image the report of its study, None where there is none.
        path: Absolute path of the image; None for texts and in a pseudonymised index.
        image_path: The image file for display, also where `path` is withheld; None where it is not known.
        percentile: How many of 100 random pairs of this index have a lower score; None where that was not measured, or several
            terms ask.
        sentence: Of its report, the sentence that answers the query best, whitespace folded; None where it was not looked for.
        sentence_span: Where that sentence starts and stops in `text`, in characters.
    """

    rank: int
    score: float
    id: str
    modality: str
    patient_id: str | None
    study_id: str | None
    view: str | None
    labels: Mapping[str, str]
    text: str | None
    path: Path | None
    image_path: Path | None = None
    percentile: float | None = None
    sentence: str | None = None
    sentence_span: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON output holds: every field but `image_path`."""
        return {
            "rank": self.rank,
            "score": self.score,
            "id": self.id,
            "modality": self.modality,
            "patient_id": self.patient_id,
            "study_id": self.study_id,
            "view": self.view,
            "labels": dict(self.labels),
            "text": self.text,
            "path": None if self.path is None else str(self.path),
            "percentile": self.percentile,
            "sentence": self.sentence,
            "sentence_span": None if self.sentence_span is None else list(self.sentence_span),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The ranked hits of a query, how they were searched, and what its asker should know about them.

    Attributes:
        notes: One line each.
        asked: The terms of the query, with their vectors and scales.
        vector: (D,) float32, unit L2 norm: what the hits were compared with; None where nothing was searched.
        rows: (hits,) int64, the row of each hit in its table; None where nothing was searched.
    """

    query: Query
    hits: tuple[Hit, ...]
    plan: SearchPlan
    notes: tuple[str, ...] = ()
    asked: tuple[AskedTerm, ...] = field(default=(), compare=False, repr=False)
    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    rows: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)


class Ranking(NamedTuple):
    """The best k rows of each query, by (score descending, id ascending).

    `rows` is (Q, k) int64 and `scores` (Q, k) float32; where a query has fewer answers, they end in -1 and NaN.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
