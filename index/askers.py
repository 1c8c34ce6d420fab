"""Who asks an index, and the vectors they ask with: what recall is tuned on, and what it is then measured on.

Text queries are not spread like the images that they look for: an index tuned on image queries alone loses recall with text. So
there is one sample for each kind of query, "image" and "text", and what it is tuned on is disjoint from what is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from index.corpora.phrases import finding_phrases

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from index.shards import Shards, ShardTable

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Load: TypeAlias = "Callable[[], DualEncoder]"

TUNE, HELD = 500, 1000
_MOST_PHRASES = 930  # encoded within seconds on a CPU, and enough to show a recall of 0.99
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Askers:
    """Who asks an index by one kind of query.

    Attributes:
        vectors: (A, D) float32, unit norm, in random order.
        own: A arrays of int64 rows that the asker must not find: its own and its patient's.
        drawn: Where they come from, for the reader: "images", "reports", "sentences" or "prompts".
    """

    vectors: Vectors
    own: Sequence[Rows]
    drawn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Queries of one kind.

    Attributes:
        tune: (T, D) float32, unit norm: what settings are chosen with.
        held: (H, D) float32: what they are measured with. No patient is in both.
        tune_own: T arrays of int64 rows that the query must not find: its own and its patient's.
        held_own: H of them.
        drawn: Where the queries come from, for the reader: "images", "reports", "sentences" or "prompts".
    """

    tune: Vectors
    held: Vectors
    tune_own: Sequence[Rows]
    held_own: Sequence[Rows]
    drawn: str


def draw_samples(
    shards: "Shards", modality: str, vector: str, load: Load, *, tune: int = TUNE, held: int = HELD, seed: int = 0
) -> dict[str, Sample]:
    """Draw the queries that the index of a modality is tuned and measured with, see `draw_askers`.

    Of fewer askers than wanted, `tune` / (`tune` + `held`) of them tune, a third by default, and the rest measures.

    Args:
        shards: All records.
        modality: What is searched: "images", "reports" or "sentences".
        vector: "joint", or "features", which only what comes from the same encoder can be compared with.
        load: Returns the encoder; called only where phrases ask.
        tune: Queries to tune with, at most.
        held: Queries to measure with, at most.
        seed: Draws the same queries again.

    Returns:
        "image" and "text" to a sample; a direction that does not exist, or has fewer than three queries, is left out.

    Raises:
        MedretError: If the encoder is needed and cannot be read.
    """
    return split_askers(draw_askers(shards, modality, vector, load, count=tune + held, seed=seed), tune, held)


def draw_askers(
    shards: "Shards",
    modality: str,
    vector: str,
    load: Load,
    *,
    count: int = TUNE + HELD,
    phrases: int = _MOST_PHRASES,
    seed: int = 0,
) -> dict[str, Askers]:
    """Draw who asks the index of a modality.

    Stored vectors ask, one a patient (or study, where no patient is named; or record), so that queries are independent; they
    must not find what is of their own patient, as a record of the archive does not when a user asks with it. Images without any
    texts beside them are asked with built-in phrases instead.

    Args:
        shards: All records.
        modality: What is searched: "images", "reports" or "sentences".
        vector: "joint", or "features", which only what comes from the same encoder can be compared with.
        load: Returns the encoder; called only where phrases ask.
        count: How many ask, at most.
        phrases: How many do where phrases ask, at most: each is encoded.
        seed: Draws the same again.

    Returns:
        "image" and "text" to who asks; a direction that does not exist is left out.

    Raises:
        MedretError: If the encoder is needed and cannot be read.
    """
    drawn = {}
    for asker, home in _homes(shards, modality, vector).items():
        random = np.random.default_rng([seed, len(asker)])
        if home is None:
            drawn[asker] = draw_phrases(shards.table(modality).findings, vector, load, min(count, phrases), seed)
        else:
            drawn[asker] = _from_records(shards.table(home), shards.table(modality), vector, count, random)
    return drawn


def split_askers(askers: Mapping[str, Askers], tune: int = TUNE, held: int = HELD) -> dict[str, Sample]:
    """Split who asks into those to tune with and those to measure with; a direction without either is left out."""
    samples = {}
    for asker, asking in askers.items():
        there = len(asking.own)
        first = min(tune, there * tune // (tune + held))
        last = first + min(held, there - first)
        if 0 < first < last:
            vectors, own = asking.vectors, asking.own
            samples[asker] = Sample(
                tune=vectors[:first], held=vectors[first:last], tune_own=own[:first], held_own=own[first:last], drawn=asking.drawn
            )
    return samples


def _homes(shards: "Shards", modality: str, vector: str) -> dict[str, str | None]:
    """Who can ask for this modality by this vector, and the modality of their records; None where phrases must do."""
    own = "image" if modality == "images" else "text"
    if vector != "joint":
        return {own: modality}
    held = [name for name in shards.modalities if vector in shards.table(name).dimensions]
    homes: dict[str, str | None] = {"image": "images"} if "images" in held else {}
    if own == "text":
        homes["text"] = modality
    else:
        homes["text"] = next((name for name in ("reports", "sentences") if name in held), None)
    return homes


def _from_records(asking: "ShardTable", found: "ShardTable", vector: str, count: int, random: np.random.Generator) -> Askers:
    rows = one_per_owner(asking, random)[:count]
    return Askers(vectors=asking.vectors(vector, rows), own=_own_rows(asking, rows, found), drawn=asking.modality)


def draw_phrases(findings: Sequence[str], vector: str, load: Load, count: int, seed: int = 0) -> Askers:
    """Draw who asks by a few words, as people type them: built-in phrases such as "small left pleural effusion".

    Args:
        findings: As the corpus names them.
        vector: "joint" or "features".
        load: Returns the encoder.
        count: How many ask, at most: each is encoded.
        seed: Draws the same again.

    Raises:
        MedretError: If the encoder cannot be read.
    """
    phrases = finding_phrases(findings)
    chosen = np.random.default_rng([seed, len("text")]).permutation(len(phrases))[:count]
    vectors = _encode([phrases[place] for place in chosen], vector, load)
    return Askers(vectors=vectors, own=[np.empty(0, np.int64)] * len(vectors), drawn="prompts")


def one_per_owner(table: "ShardTable", random: np.random.Generator) -> Rows:
    """Return one row of each patient, in random order; those with many records tend to come early.

    A record without a patient stands for its study, one without a study for itself. Removed records are not drawn.
    """
    owners = owner_numbers(table)
    order = random.permutation(table.rows if table.live is None else np.flatnonzero(table.live))
    _, firsts = np.unique(owners[order], return_index=True)
    return order[np.sort(firsts)].astype(np.int64)


def owner_numbers(table: "ShardTable") -> Rows:
    """Number the owners of all records, (rows,) int64: equal for the records of a patient, else of a study."""
    patients = table.codes("patient_id").astype(np.int64)
    studies = table.codes("study_id").astype(np.int64)
    alone = np.arange(table.rows, dtype=np.int64)
    room = table.rows + 1  # codes are below the number of rows
    return np.where(patients >= 0, patients, np.where(studies >= 0, studies + room, alone + 2 * room))


def _own_rows(asking: "ShardTable", rows: Rows, found: "ShardTable") -> list[Rows]:
    """For each asking row the rows that it must not find, ascending: of its patient, else its study, and itself."""
    asked = asking.records(rows)
    mates: dict[tuple[str, str], list[int]] = {}
    for column in ("patient_id", "study_id"):
        names = {record[column] for record in asked if record[column] is not None}
        held = found.rows_of(column, names) if names else np.empty(0, np.int64)
        for row, record in zip(held.tolist(), found.records(held), strict=True):
            mates.setdefault((column, record[column]), []).append(row)
    own = []
    for row, record in zip(rows.tolist(), asked, strict=True):
        column = "patient_id" if record["patient_id"] is not None else "study_id"
        itself = [row] if asking is found else []
        own.append(np.unique(np.array(mates.get((column, record[column]), []) + itself, dtype=np.int64)))
    return own


def _encode(texts: Sequence[str], vector: str, load: Load) -> Vectors:
    import torch

    encoder = load()
    with torch.inference_mode():
        parts = [encoder.encode_texts(texts[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        vectors: Vectors = torch.cat([getattr(part, vector) for part in parts]).float().cpu().numpy()
    return vectors
