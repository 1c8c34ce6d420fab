"""The sentence of a report that answers a query best."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.report import split_sentences
from retrieval.answers import Hit
from retrieval.question import Encodes

Vectors = NDArray[np.float32]


class Span(NamedTuple):
    """A sentence, whitespace folded, and where it starts and stops in the text that it is of, in characters."""

    sentence: str
    start: int
    stop: int


class BestSentence(NamedTuple):
    """The sentence with the highest cosine to a query; of equal ones the first."""

    sentence: str
    start: int
    stop: int
    score: float


def sentence_spans(text: str) -> list[Span]:
    """Find the sentences of a text, as `split_sentences` cuts it, where they stand."""
    places = [place for place, letter in enumerate(text) if not letter.isspace()]
    letters = "".join(text[place] for place in places)
    spans, reached = [], 0
    for sentence in split_sentences(text):
        bare = "".join(sentence.split())
        first = letters.find(bare, reached)  # whitespace aside, a sentence is a piece of its text
        reached = first + len(bare)
        spans.append(Span(sentence, places[first], places[reached - 1] + 1))
    return spans


def best_sentences(
    engine: Encodes, query: Vectors, hits: Sequence[Hit], vector: str = "joint", *, encode: bool = True
) -> list[BestSentence | None]:
    """Find the best sentence of the report of each hit.

    Sentence vectors that the index holds are taken from there; sentences of other reports are encoded now, each text once.

    Args:
        engine: The index.
        query: (D,) float32, unit L2 norm; or (hits, D), the query of each hit, so that one look-up serves many queries.
        hits: Reports, or images with the reports of their studies.
        vector: "joint" or "features": of which kind `query` is.
        encode: Whether sentences that the index does not hold are encoded; else their hits get None.

    Returns:
        One for each hit; None where it has no sentence.

    Raises:
        MedretError: If features of an image are to be compared with sentences.
    """
    if vector == "features" and any(hit.modality == "images" for hit in hits):
        raise MedretError("'features' vectors of images and of sentences cannot be compared; ask with the joint ones")
    spans = [sentence_spans(hit.text or "") for hit in hits]
    held = _held(engine, hits, spans, vector)
    missing = list(dict.fromkeys(span.sentence for own, mine in zip(spans, held, strict=True) if mine is None for span in own))
    encoded = dict(zip(missing, engine.encode_texts(missing, vector), strict=True)) if encode and missing else {}
    queries = np.broadcast_to(query, (len(hits), query.shape[-1]))
    best: list[BestSentence | None] = []
    for asked, own, mine in zip(queries, spans, held, strict=True):
        vectors = mine if mine is not None or not encoded or not own else np.stack([encoded[span.sentence] for span in own])
        best.append(None if vectors is None else _best(own, vectors @ asked))
    return best


def mark_sentences(engine: Encodes, query: Vectors, hits: Sequence[Hit], vector: str = "joint", *, encode: bool = True) -> tuple[Hit, ...]:
    """Return the hits with their best sentences, as `best_sentences` finds them."""
    best = best_sentences(engine, query, hits, vector, encode=encode)
    return tuple(
        hit if one is None else replace(hit, sentence=one.sentence, sentence_span=(one.start, one.stop))
        for hit, one in zip(hits, best, strict=True)
    )


def _best(spans: Sequence[Span], scores: NDArray[np.float32]) -> BestSentence:
    place = int(np.argmax(scores))
    return BestSentence(*spans[place], float(scores[place]))


def _held(engine: Encodes, hits: Sequence[Hit], spans: Sequence[Sequence[Span]], vector: str) -> list[Vectors | None]:
    """The (S, D) vectors of the S sentences of each hit, where the index holds them all as they are cut today; else None."""
    if "sentences" not in engine.modalities or vector not in engine.table("sentences").dimensions:
        return [None] * len(hits)
    table = engine.table("sentences")
    units = [hit.id if hit.modality == "reports" else hit.study_id or hit.id for hit in hits]
    names = [[f"{unit}#{number}" for number in range(1, len(own) + 1)] for unit, own in zip(units, spans, strict=True)]
    rows = table.rows_of("id", [name for own in names for name in own])
    found = dict(zip(zip(table.ids(rows), table.values("text", rows), strict=True), rows.tolist(), strict=True))
    held: list[Vectors | None] = []
    for own, mine in zip(spans, names, strict=True):
        places = [found.get((name, span.sentence), -1) for name, span in zip(mine, own, strict=True)]
        whole = bool(places) and min(places) >= 0
        held.append(table.vectors(vector, np.array(places, dtype=np.int64)) if whole else None)
    return held
