"""What a query is made of: texts, labels, films and records, each with a weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from sys import float_info
from typing import TYPE_CHECKING, Any

from encoders.errors import MedretError

if TYPE_CHECKING:  # the command line reads terms: its help does without NumPy
    import numpy as np
    from numpy.typing import NDArray

KINDS = ("text", "label", "image", "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a query: exactly one of text, label, image and id.

    Attributes:
        text: A finding or a report, in plain words.
        label: A label for which the encoder has learned a continuous prompt; letter case does not matter.
        image: A film: JPEG, PNG or DICOM.
        id: A record of the index; its stored vector is taken.
        weight: How much it counts beside the other terms; below 0, answers shall be unlike it. Finite and not 0.
    """

    text: str | None = None
    label: str | None = None
    image: Path | None = None
    id: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise ValueError(f"a term is one of {', '.join(KINDS)}")
        if self.image is not None:
            object.__setattr__(self, "image", Path(self.image))
        if not 0 < abs(self.weight) <= float_info.max:
            raise ValueError(f"the weight of a term is {self.weight}, expected a finite number other than 0")

    @property
    def kind(self) -> str:
        """One of "text", "label", "image" and "id"."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def value(self) -> str | Path:
        """The text, label, file or id itself."""
        value: str | Path = getattr(self, self.kind)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTerm:
    """A term as the index was asked with it.

    Attributes:
        term: What was given.
        asker: "image" or "text": what its vector is of.
        vector: (D,) float32, unit L2 norm.
        scale: Divides the weight: the deviation of the scores of random pairs of this asker with what is searched; 1 where the
            terms are all of one kind, or the index has measured none.
    """

    term: Term
    asker: str
    vector: "NDArray[np.float32]"
    scale: float = 1.0


def parse_weight(text: str, option: str) -> float:
    """Read the weight in an option's name, as 0.5 in --text:0.5.

    Raises:
        MedretError: If it is no finite number, or 0.
    """
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not isfinite(weight) or weight == 0:
        raise MedretError(
            f'{option}:{text}: the weight is no finite number other than 0; write e.g. {option}:0.5 "..." or {option}:-1 "..."'
        )
    return weight


def read_term(given: Mapping[str, Any]) -> Term:
    """Make a term of what JSON says: {"text": "edema", "weight": 0.5}.

    Raises:
        ValueError: If a key is unknown, a value of the wrong type, or it is not one of text, label, image and id.
    """
    known = [field.name for field in fields(Term)]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown key {unknown[0]!r} of a term, expected {', '.join(known)}")
    values: dict[str, Any] = dict(given)
    for key in KINDS:
        if values.get(key) is not None and not isinstance(values[key], str):
            raise ValueError(f"{key} is a {type(values[key]).__name__}, expected a string")
    weight = values.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"the weight of a term is {weight!r}, expected a number")
    return Term(**values)


def compose(terms: Sequence[AskedTerm]) -> "NDArray[np.float32]":
    """Return the query vector of the terms: unit(sum of weight / scale x vector), (1, D) float32.

    One term with a positive weight is its own vector, bit for bit.

    Raises:
        MedretError: If the terms cancel each other.
    """
    import numpy as np

    if len(terms) == 1 and terms[0].term.weight > 0:
        return terms[0].vector[None]
    composed: NDArray[np.float32] = (count_terms(terms)[None] @ [one.vector for one in terms]).astype(np.float32)
    return composed


def count_terms(terms: Sequence[AskedTerm]) -> "NDArray[np.float64]":
    """Return what each term counts for in the query vector: weight / scale, over the norm of the sum of all terms, (T,) float64.

    Raises:
        MedretError: If the terms cancel each other.
    """
    import numpy as np

    weights = np.array([one.term.weight for one in terms], dtype=np.float64)
    factors = weights / np.abs(weights).max() / [one.scale for one in terms]  # of the largest: weights may be as large as floats are
    norm = np.linalg.norm(factors @ np.stack([one.vector for one in terms]).astype(np.float64))
    if norm < 1e-6 * np.abs(factors).sum():
        raise MedretError("the terms of the query cancel each other: nothing is left to ask for. Change a weight, or leave out a term")
    counts: NDArray[np.float64] = factors / norm
    return counts
