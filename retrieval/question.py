"""Queries as the index sees them: their terms as vectors, and which records of the corpus ask."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.report import split_sentences
from retrieval.answers import Query
from retrieval.terms import AskedTerm, Term, compose

if TYPE_CHECKING:
    from index.score_scale import ScoreScale
    from index.shards import ShardTable
    from retrieval.shelf import Shelf

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


class Encodes(Protocol):
    """What a search engine does for its questions."""

    shelf: "Shelf"

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def max_tokens(self) -> int: ...
    def table(self, modality: str, /) -> "ShardTable": ...
    def scale(self, find: str, vector: str, asker: str, /) -> "ScoreScale | None": ...
    def encode_texts(self, texts: Sequence[str], vector: str = ..., /) -> Vectors: ...
    def encode_labels(self, names: Sequence[str], vector: str = ..., /) -> Vectors: ...
    def encode_images(self, paths: Sequence[Path], vector: str = ..., /) -> Vectors: ...
    def cut_texts(self, texts: Sequence[str], /) -> list[bool]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A record of the corpus that asks: its metadata, its modality and its row there."""

    record: Mapping[str, Any]
    modality: str
    row: int


@dataclass(slots=True, kw_only=True)
class Question:
    """A query, encoded.

    Attributes:
        terms: Its terms with their vectors.
        vector: (1, D) float32, unit L2 norm: what the rows are compared with.
        sources: Those of its terms that are records of the corpus.
        notes: What its asker should know.
    """

    query: Query
    terms: tuple[AskedTerm, ...]
    vector: Vectors
    sources: tuple[Source, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def asker(self) -> str:
        """Whether an "image" asks or a "text"; of a composed question its first term."""
        return self.terms[0].asker

    @property
    def measured_as(self) -> str:
        """Whose random pairs its scores are read against: an "image"'s, a "text"'s, or a "phrase"'s: a label or one sentence at most."""
        term = self.terms[0].term
        short = term.label is not None or (term.text is not None and len(split_sentences(term.text)) <= 1)
        return "phrase" if short else self.asker

    @property
    def composed(self) -> bool:
        """Whether its vector is no longer that of an image or of a text."""
        return len(self.terms) > 1 or self.terms[0].term.weight < 0

    def left_out(self, table: "ShardTable") -> Rows:
        """Return the rows of what is searched that must not answer: the records that ask, and those of their patients or studies.

        Says so in the notes.

        Raises:
            MedretError: If a patient or study is to be left out that is not known.
        """
        own = np.array([source.row for source in self.sources if source.modality == table.modality], dtype=np.int64)
        unit = self._unit()
        films = sum(one.term.image is not None for one in self.terms)
        known = sum(one.term.id is not None for one in self.terms) + films == len(self.sources) > 0
        if (self.query.exclude_same_patient or self.query.exclude_same_study) and not known:
            asks = self.asker if len(self.terms) == 1 else "query"
            raise MedretError(f"this {asks} is no record of the index, so its {unit} is not known; ask without --exclude-same-{unit}")
        if unit is None:
            return own
        mates: dict[str, list[str]] = {}
        for source in self.sources:
            column = next((name for name in _UNITS[unit] if source.record[name] is not None), None)
            if column is None:
                self.notes.append(f"the record names no {' and no '.join(_words(_UNITS[unit]))}, so only itself is left out")
            else:
                mates.setdefault(column, []).append(source.record[column])
        for column, values in mates.items():
            rows = table.rows_of(column, values)
            owner = column.removesuffix("_id") if len(set(values)) == 1 else {"patient_id": "patients", "study_id": "studies"}[column]
            self.notes.append(f"left out as of the query's own {owner}: {len(rows)} {table.modality}")
            own = np.union1d(own, rows)
        return own

    def _unit(self) -> str | None:
        """Whose records are left out beside those that ask: the "patient"'s, the "study"'s, or nobody's."""
        if self.query.exclude_same_patient or (self.query.exclude_same_patient is None and not self.query.exclude_same_study):
            return "patient"
        return "study" if self.query.exclude_same_study else None


_UNITS = {"patient": ("patient_id", "study_id"), "study": ("study_id",)}  # what names it, or stands for it where nothing does


def read_questions(engine: Encodes, queries: Sequence[Query]) -> list[Question]:
    """Encode the terms of many queries together.

    Raises:
        MedretError: If a text is blank, a label has no learned prompt, an image cannot be read, a record is not in the index, or
            images and texts are to be compared by their features.
    """
    encoded: dict[tuple[str, str, str | Path], Vectors] = {}
    terms = [(query.vector, term) for query in queries for term in query.terms]
    for vector in dict.fromkeys(vector for vector, _ in terms):
        for kind, encode in (("text", engine.encode_texts), ("label", engine.encode_labels), ("image", engine.encode_images)):
            values: list[Any] = list(dict.fromkeys(term.value for used, term in terms if used == vector and term.kind == kind))
            if values:
                encoded |= {(vector, kind, value): row for value, row in zip(values, encode(values, vector), strict=True)}
    texts = list(dict.fromkeys(term.text for _, term in terms if term.text is not None))
    cut = {text for text, is_cut in zip(texts, engine.cut_texts(texts), strict=True) if is_cut} if texts else set()
    return [_read(engine, query, encoded, cut) for query in queries]


def _read(engine: Encodes, query: Query, encoded: Mapping[tuple[str, str, str | Path], Vectors], cut: set[str]) -> Question:
    notes, sources, found = [], [], []
    for place, term in enumerate(query.terms, start=1):
        source = _source(engine, term)
        if source is not None:
            sources.append(source)
        if term.id is not None:
            assert source is not None
            vector = engine.table(source.modality).vectors(query.vector, np.array([source.row], dtype=np.int64))[0]
        else:
            vector = encoded[query.vector, term.kind, term.value]
        asker = "image" if term.image is not None or (source is not None and source.modality == "images") else "text"
        if query.vector == "features" and (asker == "image") != (query.find == "images"):
            raise MedretError(
                f"{asker} query for {query.find}: 'features' vectors of images and texts cannot be compared; use the joint ones"
            )
        found.append(AskedTerm(term=term, asker=asker, vector=vector))
        if term.text in cut:
            named = "the text" if len(query.terms) == 1 else f"text {term_name(place)}"
            notes.append(f"{named} is longer than the encoder reads ({engine.max_tokens} tokens): its end was cut")
        if term.image is not None and source is None and "images" in engine.modalities and not engine.shelf.knows_files:
            notes.append("pseudonymised index without private/paths.csv: if this film is in it, its patient is not left out")
    scaled = _scaled(engine, query, found)
    return Question(query=query, terms=scaled, vector=compose(scaled), sources=tuple(sources), notes=notes)


def term_name(place: int) -> str:
    """What a term is called where there are several: t1, t2 ... in their order."""
    return f"t{place}"


def _source(engine: Encodes, term: Term) -> Source | None:
    """The record of the corpus that a term is; None for texts, labels and films from elsewhere."""
    if term.image is not None and "images" in engine.modalities:
        row = engine.shelf.row_of_file(term.image)
        return None if row is None else _source_at(engine, "images", row)
    if term.id is None:
        return None
    for modality in engine.modalities:
        row = engine.table(modality).find(term.id)
        if row is not None:
            return _source_at(engine, modality, row)
    raise MedretError(f"{term.id}: no such record in this index ({', '.join(engine.modalities)}); give an id as the hits print it")


def _source_at(engine: Encodes, modality: str, row: int) -> Source:
    return Source(engine.table(modality).records(np.array([row], dtype=np.int64))[0], modality, row)


def _scaled(engine: Encodes, query: Query, terms: Sequence[AskedTerm]) -> tuple[AskedTerm, ...]:
    """The terms with the scale of their askers, where images and texts ask together and the index has measured both."""
    askers = {one.asker for one in terms}
    if len(askers) == 1:
        return tuple(terms)
    scales = {asker: engine.scale(query.find, query.vector, asker) for asker in askers}
    measured = {asker: scale.deviation for asker, scale in scales.items() if scale is not None}
    if len(measured) < len(askers):
        return tuple(terms)
    return tuple(AskedTerm(term=one.term, asker=one.asker, vector=one.vector, scale=measured[one.asker]) for one in terms)


def _words(columns: Iterable[str]) -> list[str]:
    return [column.removesuffix("_id") for column in columns]
