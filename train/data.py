"""What a run learns from, ready to draw from: decoded films, sentences and label states of all its corpora."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from encoders.preprocess import Preprocessing
from index.cache import build_image_cache
from index.corpora.record import NULL_LABEL, Record
from index.films import Films
from train.samples import Sample, Samples, SourceSamples, count_studies, study_key


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images with what is known of them; row i of everything is the same image.

    Attributes:
        records: N records; ids are unique only within a source.
        sentences: N reports, as sentences; () where there is none.
        states: (N, K) int8 label states, NULL_LABEL where nobody looked.
        studies: (N,) int64, equal where the study is, here and in a TextSet.
        sources: (N,) int64, the number of the corpus.
        films: N films, grey.
    """

    records: Sequence[Record]
    sentences: Sequence[tuple[str, ...]]
    states: NDArray[np.int8]
    studies: NDArray[np.int64]
    sources: NDArray[np.int64]
    films: Films

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSet:
    """Reports, each study's once, whether it has images or not; row j of everything is the same report.

    Attributes:
        sentences: M reports, as sentences, none empty.
        states: (M, K) int8 label states of the study.
        studies: (M,) int64, as in an ImageSet.
        sources: (M,) int64, the number of the corpus.
    """

    sentences: Sequence[tuple[str, ...]]
    states: NDArray[np.int8]
    studies: NDArray[np.int64]
    sources: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusNote:
    """What one corpus of the mix came to.

    Attributes:
        format: As the reader names it.
        weight: Its part of the mix, above 0.
        images, studies, validation_images: Of the training and of the validation split, with a readable film.
        texts: Reports of the training split, with or without an image.
        left_out: Reason to number of records.
    """

    format: str
    weight: float
    images: int
    studies: int
    texts: int
    validation_images: int
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What a run learns from and is validated on.

    Attributes:
        findings: K labels, the columns of all states.
        train: Films larger than the encoder's, to be cropped from.
        texts: The reports of the training split.
        validate: Films of the encoder's size, made by the path that encoding takes.
        corpora: One of each corpus; `sources` counts along them.
        notes: What a user should know of how the data came about.
    """

    findings: tuple[str, ...]
    train: ImageSet
    texts: TextSet
    validate: ImageSet
    corpora: tuple[CorpusNote, ...]
    notes: tuple[str, ...]

    @property
    def weights(self) -> tuple[float, ...]:
        """The parts of the mix, above 0, one of each corpus."""
        return tuple(corpus.weight for corpus in self.corpora)

    @property
    def left_out(self) -> dict[str, int]:
        """Reason to number of records, over all corpora."""
        return dict(sum((Counter(corpus.left_out) for corpus in self.corpora), Counter[str]()))

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the data in their order and the mix, to resume with the same data only."""
        digest = hashlib.sha256(repr((self.findings, self.weights)).encode())
        for part in (self.train, self.validate, self.texts):
            for column in (part.states, part.studies, part.sources):
                digest.update(f"{column.shape}".encode() + column.tobytes())
            for sentences in part.sentences:
                digest.update("\0".join([*sentences, "\n"]).encode())
        for images in (self.train, self.validate):
            digest.update(f"{images.films.shape}".encode())
            digest.update("\0".join(record.id for record in images.records).encode())
        return digest.hexdigest()[:16]


class _Decoded(NamedTuple):
    """The images of one split of one corpus whose film could be read."""

    samples: list[Sample]
    films: Films
    unreadable: int


def load_training_data(
    samples: Samples,
    preprocessing: Preprocessing,
    cache_folder: Path,
    *,
    cache_size: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """Decode the films of all samples once, into memory-mapped caches; images without a readable film are left out.

    Args:
        samples: Of `collect_samples`.
        preprocessing: The encoder's.
        cache_folder: Where the caches lie, or shall lie; they are reused.
        cache_size: Side of the training films, pixels; 0 for 8/7 of the encoder's (256 for 224), since they are cropped from.
        workers: Threads that decode; 0: one a core.
        progress: Told how many films of a split of a corpus are done, of how many.

    Raises:
        MedretError: If fewer than two studies of a split of a corpus have a readable film, or the disk is full.
    """

    def decoded(split: str, chosen: list[Sample], size: int) -> _Decoded:
        if not chosen:  # a corpus of reports alone
            return _Decoded([], Films([np.empty((0, size, size), dtype=np.uint8)]), 0)
        records = [sample.record for sample in chosen]
        cache = build_image_cache(records, preprocessing, cache_folder, size=size, workers=workers or None, progress=progress)
        kept = [sample for sample in chosen if sample.record.id not in cache.failures]
        if count_studies(kept) < 2:
            raise MedretError(
                f"{split} split: {count_studies(kept)} studies with a readable film, expected at least 2. {_first(cache.failures)}"
            )
        assert [sample.record.id for sample in kept] == cache.ids, "films and reports are out of step"
        return _Decoded(kept, cache.images, len(cache.failures))

    larger = cache_size or round(preprocessing.size * 8 / 7)
    train = [decoded("train", source.train, larger) for source in samples.sources]
    validate = [decoded("validate", source.validate, preprocessing.size) for source in samples.sources]
    texts = [[*_reports(images.samples), *source.texts] for images, source in zip(train, samples.sources, strict=True)]
    codes: dict[tuple[int, str], int] = {}
    return TrainingData(
        findings=samples.findings,
        train=_image_set(train, samples.findings, codes),
        texts=TextSet(sentences=_sentences(texts), **_columns(texts, samples.findings, codes)),
        validate=_image_set(validate, samples.findings, codes),
        corpora=tuple(_note(*parts) for parts in zip(samples.sources, train, validate, texts, strict=True)),
        notes=_notes(samples),
    )


def _reports(images: list[Sample]) -> list[Sample]:
    """An image of each study that has a report."""
    first: dict[str, Sample] = {}
    for sample in images:
        if sample.sentences:
            first.setdefault(study_key(sample.record), sample)
    return list(first.values())


def _image_set(parts: Sequence[_Decoded], findings: Sequence[str], codes: dict[tuple[int, str], int]) -> ImageSet:
    samples = [part.samples for part in parts]
    return ImageSet(
        records=[sample.record for part in samples for sample in part],
        sentences=_sentences(samples),
        films=Films([array for part in parts for array in part.films.arrays]),
        **_columns(samples, findings, codes),
    )


def _sentences(parts: Sequence[Sequence[Sample]]) -> list[tuple[str, ...]]:
    return [sample.sentences for part in parts for sample in part]


def _columns(parts: Sequence[Sequence[Sample]], findings: Sequence[str], codes: dict[tuple[int, str], int]) -> dict[str, NDArray[Any]]:
    """The states, studies and sources of the samples of all corpora; `codes` numbers the studies, and grows."""
    records = [(number, sample.record) for number, part in enumerate(parts) for sample in part]
    states = [[record.labels.get(finding, NULL_LABEL) for finding in findings] for _, record in records]
    studies = [codes.setdefault((number, study_key(record)), len(codes)) for number, record in records]
    return {
        "states": np.array(states, dtype=np.int8).reshape(len(records), len(findings)),
        "studies": np.array(studies, dtype=np.int64),
        "sources": np.array([number for number, _ in records], dtype=np.int64),
    }


def _note(source: SourceSamples, train: _Decoded, validate: _Decoded, texts: list[Sample]) -> CorpusNote:
    left_out = Counter(source.left_out)
    left_out["film cannot be read"] += train.unreadable + validate.unreadable
    return CorpusNote(
        format=source.corpus_format,
        weight=source.weight or len(train.samples) + len(source.texts),
        images=len(train.samples),
        studies=count_studies(train.samples),
        texts=len(texts),
        validation_images=len(validate.samples),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _notes(samples: Samples) -> tuple[str, ...]:
    several = len(samples.sources) > 1
    return tuple(
        f"Corpus {number} ({source.corpus_format}): {note}" if several else note
        for number, source in enumerate(samples.sources, 1)
        for note in source.notes
    )


def _first(failures: dict[str, str]) -> str:
    return next((f"First fault: {reason}" for reason in failures.values()), "")
