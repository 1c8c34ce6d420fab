"""A corpus as pairs to learn from: which images have a report that says something, and who is held out."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.errors import MedretError
from encoders.preprocess import Preprocessing
from index.cache import build_image_cache
from index.corpora.readers import Corpus
from index.corpora.record import Record
from index.corpora.report import report_text, split_sentences

HELD_OUT = 0.1  # share of the patients, where the corpus has no validation split
_TOKEN = re.compile(r"\w+|[^\w\s]")
_FRONTAL = frozenset({"PA", "AP", "FRONTAL"})


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and the sentences of its study's report."""

    record: Record
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The usable pairs of a corpus.

    Attributes:
        corpus_format: As the reader names it.
        train, validate: In the order of the corpus; no patient is in both if it has no validation split.
        left_out: Reason to number of records.
        notes: What a user should know of how the pairs came about.
    """

    corpus_format: str
    train: list[Pair]
    validate: list[Pair]
    left_out: dict[str, int]
    notes: tuple[str, ...]

    def training_texts(self) -> list[str]:
        """The reports to learn a vocabulary from, one per study of the training split."""
        return list({_study(pair.record): " ".join(pair.sentences) for pair in self.train}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """Pairs with their decoded films; row i of everything is the same pair.

    Attributes:
        records: N records.
        sentences: N reports, as sentences.
        films: (N, S, S) uint8, grey, memory-mapped.
        studies: (N,) int64, equal where the study is.
    """

    records: Sequence[Record]
    sentences: Sequence[tuple[str, ...]]
    films: NDArray[np.uint8]
    studies: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What a run learns from and is validated on.

    Attributes:
        corpus_format: As the reader names it.
        train: Films larger than the encoder's, to be cropped from.
        validate: Films of the encoder's size, made by the path that encoding takes.
        left_out: Reason to number of records.
        notes: What a user should know of how the pairs came about.
    """

    corpus_format: str
    train: PairSet
    validate: PairSet
    left_out: dict[str, int]
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the pairs in their order, to resume with the same data only."""
        digest = hashlib.sha256()
        for pairs in (self.train, self.validate):
            digest.update(f"{pairs.films.shape}".encode())
            for record, sentences in zip(pairs.records, pairs.sentences, strict=True):
                digest.update("\0".join([record.id, *sentences, "\n"]).encode())
        return digest.hexdigest()[:16]


def collect_pairs(corpus: Corpus, *, views: str = "all", min_tokens: int = 3, seed: int = 0) -> Pairs:
    """Read the corpus once and keep what can be learned from: an image whose report has a sentence.

    All images of a study are paired with its report, as ConVIRT does. Records of the test split are
    never used. Without a validation split a tenth of the patients, chosen by a seeded hash, is held out.

    Args:
        corpus: Where the records come from.
        views: "all", or "frontal" for AP and PA films alone.
        min_tokens: Reports and sentences with fewer words and punctuation marks are left out.
        seed: Chooses the patients held out.

    Raises:
        MedretError: If fewer than two studies are left to learn from, or to validate on.
    """
    left_out: Counter[str] = Counter()
    splits: dict[str | None, list[Pair]] = {}
    for record in corpus.records():
        pair, reason = _usable(record, views, min_tokens)
        if pair is None:
            left_out[reason] += 1
        else:
            splits.setdefault(record.split, []).append(pair)
    left_out["in the test split"] = len(splits.pop("test", []))
    named = "train" in splits or "validate" in splits
    left_out["in no split, where others are"] = len(splits.pop(None, [])) if named else 0
    train, validate = splits.get("train" if named else None, []), splits.get("validate", [])
    left_out = Counter({reason: count for reason, count in left_out.items() if count})
    _check(corpus, "learn from", train, left_out)
    notes: tuple[str, ...] = ()
    if _studies(validate) < 2:
        train, validate, note = _hold_out([*train, *validate], seed)
        notes = (note,)
        _check(corpus, "learn from, after holding some out", train, left_out)
        _check(corpus, "validate on", validate, left_out)
    return Pairs(corpus_format=corpus.format, train=train, validate=validate, left_out=dict(left_out), notes=notes)


def load_training_data(
    pairs: Pairs,
    preprocessing: Preprocessing,
    cache_folder: Path,
    *,
    cache_size: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """Decode the films of all pairs once, into memory-mapped caches; pairs without a readable film are left out.

    Args:
        pairs: Of `collect_pairs`.
        preprocessing: The encoder's.
        cache_folder: Where the caches lie, or shall lie; they are reused.
        cache_size: Side of the training films, pixels; 0 for 8/7 of the encoder's (256 for 224), since they are cropped from.
        workers: Threads that decode; 0: one a core.
        progress: Told how many films are done, of how many.

    Raises:
        MedretError: If fewer than two studies of a split have a readable film, or the disk is full.
    """
    left_out = Counter(pairs.left_out)

    def decoded(split: str, chosen: list[Pair], size: int) -> PairSet:
        records = [pair.record for pair in chosen]
        cache = build_image_cache(records, preprocessing, cache_folder, size=size, workers=workers or None, progress=progress)
        left_out["film cannot be read"] += len(cache.failures)
        kept = [pair for pair in chosen if pair.record.id not in cache.failures]
        if _studies(kept) < 2:
            raise MedretError(
                f"{split} split: {_studies(kept)} studies with a readable film, expected at least 2. {_first(cache.failures)}"
            )
        assert [pair.record.id for pair in kept] == cache.ids, "films and reports are out of step"
        return PairSet(
            records=[pair.record for pair in kept],
            sentences=[pair.sentences for pair in kept],
            films=cache.images,
            studies=_study_codes(kept),
        )

    train = decoded("train", pairs.train, cache_size or round(preprocessing.size * 8 / 7))
    validate = decoded("validate", pairs.validate, preprocessing.size)
    counts = {reason: count for reason, count in left_out.items() if count}
    return TrainingData(corpus_format=pairs.corpus_format, train=train, validate=validate, left_out=counts, notes=pairs.notes)


def _usable(record: Record, views: str, min_tokens: int) -> tuple[Pair | None, str]:
    if record.image is None:
        return None, "no image"
    if views == "frontal" and (record.view or "").upper().split(" ")[0] not in _FRONTAL:
        return None, "not a frontal view"
    text = report_text(record.sections)
    if len(_TOKEN.findall(text)) < min_tokens:
        return None, f"report empty or under {min_tokens} tokens"
    sentences = tuple(sentence for sentence in split_sentences(text) if len(_TOKEN.findall(sentence)) >= min_tokens)
    return Pair(record, sentences or (text,)), ""


def _hold_out(pairs: list[Pair], seed: int) -> tuple[list[Pair], list[Pair], str]:
    """Part the pairs by patient: those with the lowest hashes are held out, and at least two studies."""
    patients: dict[str, list[Pair]] = {}
    for pair in pairs:
        patients.setdefault(_patient(pair.record), []).append(pair)
    by_hash = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    count = math.ceil(HELD_OUT * len(by_hash))
    while count < len(by_hash) and _studies([pair for patient in by_hash[:count] for pair in patients[patient]]) < 2:
        count += 1
    held_out = set(by_hash[:count])
    train = [pair for pair in pairs if _patient(pair.record) not in held_out]
    validate = [pair for pair in pairs if _patient(pair.record) in held_out]
    note = f"The corpus has no validation split of two studies: {count} of {len(by_hash)} patients ({len(validate)} images) are held out."
    return train, validate, note


def _check(corpus: Corpus, purpose: str, pairs: list[Pair], left_out: Counter[str]) -> None:
    if _studies(pairs) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "none left out"
        raise MedretError(
            f"{corpus.root}: {_studies(pairs)} studies with an image and a report to {purpose}, expected at least 2 "
            f"(records left out: {reasons}). See what is there: medret corpus {corpus.root}"
        )


def _study(record: Record) -> str:
    # some sources number the studies of each patient from 1
    return f"{record.patient_id}/{record.study_id}" if record.study_id else f"//{record.id}"


def _patient(record: Record) -> str:
    return record.patient_id or _study(record)


def _studies(pairs: Sequence[Pair]) -> int:
    return len({_study(pair.record) for pair in pairs})


def _study_codes(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(_study(pair.record), len(codes)) for pair in pairs], dtype=np.int64)


def _first(failures: dict[str, str]) -> str:
    return next((f"First fault: {reason}" for reason in failures.values()), "")


def read_ahead(
    films: NDArray[np.uint8], batches: Sequence[NDArray[np.int64]], *, pinned: bool = False
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Each batch with its films (B, S, S), the next one being read while this one is used."""

    def read(rows: NDArray[np.int64]) -> Tensor:
        taken = torch.from_numpy(films[rows])
        return taken.pin_memory() if pinned else taken

    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, batches[0]) if len(batches) else None
        for place, rows in enumerate(batches):
            assert upcoming is not None
            present = upcoming.result()
            upcoming = reader.submit(read, batches[place + 1]) if place + 1 < len(batches) else None
            yield rows, present
