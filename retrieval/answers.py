"""What is asked of an index, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.manifest import MODALITIES, VECTORS
from index.planner import SearchPlan
from retrieval.filters import Condition, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question: a text, an image file, a record of the corpus or a label.

    Attributes:
        text: A finding or a report, in plain words.
        label: A label for which the encoder has learned a continuous prompt; letter case does not matter.
        image: A film: JPEG, PNG or DICOM.
        id: A record of the index; its stored vector is the query, and itself is never an answer.
        find: What to rank: "images" (the default), "reports" or "sentences".
        k: How many answers, from 1.
        splits: Only records of these splits; None for all.
        views: Only images of these views, as the source spells them; None for all.
        only: Conditions that every answer meets, on any metadata column or finding.
        exclude_same_patient: Leave out the records of the query's patient; None does so where the query is
            a record of the corpus.
        vector: "joint" (projected, comparable between images and texts) or "features" (the encoder's output
            before projection, comparable only within images or within texts).
    """

    text: str | None = None
    label: str | None = None
    image: Path | None = None
    id: str | None = None
    find: str = "images"
    k: int = 10
    splits: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    only: tuple[Condition, ...] = ()
    exclude_same_patient: bool | None = None
    vector: str = "joint"

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.text, self.label, self.image, self.id)) != 1:
            raise ValueError("a query is one of text, label, image and id")
        if self.find not in MODALITIES:
            raise ValueError(f"find is {self.find!r}, expected one of {MODALITIES}")
        if self.vector not in VECTORS:
            raise ValueError(f"vector is {self.vector!r}, expected one of {tuple(VECTORS)}")
        if self.k < 1:
            raise ValueError(f"k is {self.k}, expected 1 or more")
        if unread := [one for one in self.only if not isinstance(one, Condition)]:
            raise ValueError(f"only has a {type(unread[0]).__name__}, expected conditions: only=(parse_condition('sex=F'),)")

    @property
    def selection(self) -> Selection:
        """The records that may answer."""
        return Selection(splits=self.splits, views=self.views, only=self.only)


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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The ranked hits of a query, how they were searched, and what its asker should know about them (one line each)."""

    query: Query
    hits: tuple[Hit, ...]
    plan: SearchPlan
    notes: tuple[str, ...] = ()


class Ranking(NamedTuple):
    """The best k rows of each query, by (score descending, id ascending).

    `rows` is (Q, k) int64 and `scores` (Q, k) float32; where a query has fewer answers, they end in -1 and NaN.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
