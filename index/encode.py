"""A corpus through an encoder into shards: may be killed at any moment and run again, without loss or repetition.

A plan (encoder, records, options) is written first; a run with another plan is refused. Records are cut into chunks of a fixed
number of rows, one shard each. A shard counts once its commit file is there, which is written after the shard itself; the
manifest, written last, makes the folder whole. Batches never cross a chunk, so a resumed run writes the bytes of an
uninterrupted one.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoders.atomic import private_folder
from encoders.checkpoint import fingerprint
from encoders.dual import DualEncoder, Encoded
from encoders.errors import MedretError
from index.cache import Square, decode_squares
from index.corpora.readers import Corpus
from index.corpora.record import Record, Tally
from index.corpora.report import REPORT_SECTIONS
from index.manifest import PRIVATE_PATHS, SHARDS_MANIFEST, VECTORS, ModalityShards, ShardsManifest, load_shards_manifest
from index.pseudonyms import Pseudonymiser
from index.resume import Commit, begin, locked, read_commit, write_commit, write_csv
from index.rows import Rows, base_folder, digest_rows, read_rows
from index.shards import ShardRow, ShardWriter

TEXT_UNITS = ("report", "sentence")
FAILURES = "failures.csv"

Progress = Callable[[str, int, int], None]
Vectors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What to encode, and how to store it."""

    vectors: tuple[str, ...] = ("joint",)  # of "joint" (projected) and "features" (the encoder's output before that)
    text_units: tuple[str, ...] = ("report",)  # of "report" and "sentence"
    dtype: str = "float32"  # or "float16", of the stored vectors
    shard_rows: int = 2048  # records a shard; a kill costs at most one: minutes on a slow CPU
    batch_size: int = 32  # may differ between a run and its resumption
    splits: tuple[str, ...] | None = None  # None for all
    workers: int | None = None  # threads that decode images; None for one a core
    pseudonym_key: bytes | None = field(default=None, repr=False)  # replaces patient, study and file ids, see index/pseudonyms.py
    text_sections: tuple[str, ...] = REPORT_SECTIONS  # joined, in this order

    def __post_init__(self) -> None:
        for name, values, known in (("vectors", self.vectors, tuple(VECTORS)), ("text_units", self.text_units, TEXT_UNITS)):
            if not values or not set(values) <= set(known) or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}, expected some of {known}, each once")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}, expected float32 or float16")
        if min(self.shard_rows, self.batch_size) < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError(f"shard_rows {self.shard_rows}, batch_size {self.batch_size}, workers {self.workers}: expected above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSummary:
    """What a shards folder holds after a run.

    Attributes:
        failures: Images without a vector; `failures.csv` says why.
        texts_cut: Texts longer than the encoder reads; what lies beyond is not in their vectors.
        without_text: Studies (or records without a study) without text in the chosen sections.
        left_out: Rows of the corpus that became no record, in whatever split: why, and how many.
        resumed_shards: Shards that an earlier run had finished.
    """

    folder: Path
    encoder: str
    images: int
    reports: int
    sentences: int
    failures: int
    texts_cut: int
    without_text: int
    left_out: Mapping[str, int]
    shards: int
    resumed_shards: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def encode_corpus(
    corpus: Corpus, encoder: DualEncoder, out: Path, *, options: EncodeOptions | None = None, progress: Progress | None = None
) -> EncodeSummary:
    """Encode a corpus into `out`, or go on where an earlier run with the same plan was stopped.

    A modality that the corpus does not have (a corpus without reports, or without images) is left out. The records are held
    in memory, about 1.5 KB each.

    Args:
        corpus: Read once.
        encoder: On the device that shall compute.
        out: The shards folder; made for its owner alone.
        options: Defaults where None.
        progress: Called with modality, rows done and rows in all.

    Raises:
        MedretError: If there is nothing to encode, no image can be decoded, ids are not unique, `out` holds another run or
            other things, another process is writing there, or the disk is full.
    """
    options = options or EncodeOptions()
    tally = Tally()
    rows, without_text = read_rows(
        corpus, tally, text_units=options.text_units, text_sections=options.text_sections, splits=options.splits, key=options.pseudonym_key
    )
    mark = fingerprint(encoder)
    private_folder(out)
    with locked(out):
        begin(out, _plan(corpus, mark, rows, options))
        if options.pseudonym_key is not None:
            private_folder((out / PRIVATE_PATHS).parent)
            write_csv(out / PRIVATE_PATHS, ("id", "path"), [(row.record.id, str(row.record.image)) for row in rows["images"]])
        run = _Run(encoder, out, options, corpus.findings, progress or (lambda modality, done, total: None))
        commits = {modality: run.encode(modality, part) for modality, part in rows.items() if part}
        failures = [failure for made in commits.values() for commit in made for failure in commit.failures]
        write_csv(out / FAILURES, ("id", "reason"), failures)
        manifest = _manifest(corpus, encoder, mark, options, commits, run, without_text, tally.left_out.total())
        if run.encoded == 0 and (out / SHARDS_MANIFEST).is_file():  # then nothing was computed here: say what was
            before = load_shards_manifest(out)
            manifest = replace(manifest, compute=before.compute, created_by=before.created_by)
        manifest.save(out)
    held = {modality: sum(commit.shard.rows for commit in made) for modality, made in commits.items()}
    return EncodeSummary(
        folder=out,
        encoder=mark,
        images=held.get("images", 0),
        reports=held.get("reports", 0),
        sentences=held.get("sentences", 0),
        failures=manifest.counts["failures"],
        texts_cut=manifest.counts["texts_cut"],
        without_text=without_text,
        left_out=dict(tally.left_out),
        shards=sum(len(made) for made in commits.values()),
        resumed_shards=run.resumed,
    )


class _Run:
    """One run over a corpus: its encoder, where it writes, what it was asked."""

    def __init__(self, encoder: DualEncoder, out: Path, options: EncodeOptions, findings: tuple[str, ...], progress: Progress):
        self.encoder, self.out, self.options, self.findings, self.progress = encoder, out, options, findings, progress
        self.resumed = self.encoded = 0  # shards

    def dimensions(self, modality: str) -> dict[str, int]:
        width = self.encoder.image_width if modality == "images" else self.encoder.text_width
        return {name: {"joint": self.encoder.dimension, "features": width}[name] for name in self.options.vectors}

    def encode(self, modality: str, rows: Sequence[ShardRow]) -> list[Commit]:
        """Encode the rows of a modality that are not committed yet; return all its commits, in order."""
        writer = ShardWriter(self.out, modality, self.dimensions(modality), self.findings, self.options.dtype)
        size = self.options.shard_rows
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        commits = [read_commit(self.out, writer.name(number)) for number in range(len(chunks))]
        pending = [number for number, commit in enumerate(commits) if commit is None]
        self.resumed += len(chunks) - len(pending)
        self.encoded += len(pending)
        done = sum(len(chunk) for chunk, commit in zip(chunks, commits, strict=True) if commit is not None)
        self.progress(modality, done, len(rows))
        films = [row.record for number in pending for row in chunks[number]] if modality == "images" else []
        with _evaluating(self.encoder), closing(self._decode(films)) as squares:
            for number in pending:
                report = partial(self._report, modality, done, len(rows))
                if modality == "images":
                    commits[number] = self._images(writer, number, chunks[number], squares, report)
                else:
                    commits[number] = self._texts(writer, number, chunks[number], report)
                done += len(chunks[number])
        whole = [commit for commit in commits if commit is not None]
        if not any(commit.shard.rows for commit in whole):
            raise MedretError(f"{self.out}: none of {len(rows)} images can be decoded; the first: {whole[0].failures[0][1]}")
        return whole

    def _report(self, modality: str, before: int, total: int, count: int) -> None:
        self.progress(modality, before + count, total)

    def _decode(self, records: Sequence[Record]) -> Generator[tuple[Record, Square | str]]:
        preprocessing = self.encoder.config.preprocessing
        return decode_squares(records, preprocessing, preprocessing.size, self.options.workers)

    def _images(
        self,
        writer: ShardWriter,
        number: int,
        rows: Sequence[ShardRow],
        squares: Iterator[tuple[Record, Square | str]],
        report: Callable[[int], None],
    ) -> Commit:
        kept: list[ShardRow] = []
        failures: list[tuple[str, str]] = []
        parts: list[Vectors] = []
        for start in range(0, len(rows), self.options.batch_size):
            batch = rows[start : start + self.options.batch_size]
            good: list[Square] = []
            for row, (_, square) in zip(batch, islice(squares, len(batch)), strict=True):
                if isinstance(square, str):
                    failures.append((row.record.id, square))
                else:
                    good.append(square)
                    kept.append(row)
            if good:
                encoded = self._compute(lambda films: self.encoder.encode_images(torch.from_numpy(films)), np.stack(good))
                parts.append(self._checked(encoded, kept[-len(good) :]))
            report(start + len(batch))
        none = {name: np.empty((0, dimension), np.float32) for name, dimension in writer.dimensions.items()}
        vectors = {name: np.concatenate([part[name] for part in [none, *parts]]) for name in none}
        return write_commit(self.out, Commit(writer.write(number, kept, vectors), failures, 0))

    def _texts(self, writer: ShardWriter, number: int, rows: Sequence[ShardRow], report: Callable[[int], None]) -> Commit:
        texts = [row.text or "" for row in rows]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # texts of one length need no padding
        vectors = {name: np.empty((len(rows), dimension), np.float32) for name, dimension in writer.dimensions.items()}
        cut = 0
        for start in range(0, len(rows), self.options.batch_size):
            places = order[start : start + self.options.batch_size]
            batch = [texts[place] for place in places]
            cut += self.encoder.count_cut(batch)
            encoded = self._compute(self.encoder.encode_texts, batch)
            for name, part in self._checked(encoded, [rows[place] for place in places]).items():
                vectors[name][places] = part
            report(start + len(places))
        return write_commit(self.out, Commit(writer.write(number, rows, vectors), [], cut))

    def _compute(self, encode: Callable[[Any], Encoded], batch: Any) -> Encoded:
        try:
            with torch.inference_mode():
                return encode(batch)
        except torch.OutOfMemoryError as error:
            raise MedretError(
                f"{self.out}: the device has no memory for {len(batch)} records at once. Run again with a smaller --batch-size; "
                "what is done is kept"
            ) from error

    def _checked(self, encoded: Encoded, rows: Sequence[ShardRow]) -> Vectors:
        vectors = {name: getattr(encoded, name).float().cpu().numpy() for name in self.options.vectors}
        for name, values in vectors.items():
            bad = np.flatnonzero(~(np.abs(np.linalg.norm(values, axis=1) - 1) < 1e-3))
            if len(bad):
                raise MedretError(f"record {rows[bad[0]].record.id}: the encoder gives no unit {name} vector (NaN or zero). Train it again")
        return vectors


def _plan(corpus: Corpus, mark: str, rows: Rows, options: EncodeOptions) -> dict[str, Any]:
    """Return all that the bytes of the shards depend on; the batch size changes only rounding and may change after a kill."""
    return {
        "format": "medret-plan",
        "encoder": mark,
        "corpus": corpus.format,
        "findings": list(corpus.findings),
        "vectors": list(options.vectors),
        "text_units": list(options.text_units),
        "text_sections": list(options.text_sections),
        "splits": None if options.splits is None else sorted(options.splits),
        "dtype": options.dtype,
        "shard_rows": options.shard_rows,
        "pseudonym_key": None if options.pseudonym_key is None else Pseudonymiser(options.pseudonym_key).check,
        "records": digest_rows(rows)[:32],  # last: where an option differs, it is what to name
    }


def _manifest(
    corpus: Corpus,
    encoder: DualEncoder,
    mark: str,
    options: EncodeOptions,
    commits: Mapping[str, Sequence[Commit]],
    run: _Run,
    without_text: int,
    left_out: int,
) -> ShardsManifest:
    made = [commit for part in commits.values() for commit in part]
    hidden = options.pseudonym_key is not None
    return ShardsManifest(
        encoder=mark,
        preprocessing=encoder.config.preprocessing.to_dict(),
        dtype=options.dtype,
        compute={"device": encoder.device.type, "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch.")},
        corpus={"format": corpus.format, "root": None if hidden else str(base_folder(corpus))},
        findings=tuple(corpus.findings),
        text_sections=options.text_sections,
        splits=options.splits,
        pseudonymised=hidden,
        counts={
            "failures": sum(len(commit.failures) for commit in made),
            "texts_cut": sum(commit.cut for commit in made),
            "without_text": without_text,
            "left_out": left_out,
        },
        modalities={
            modality: ModalityShards(dimensions=run.dimensions(modality), shards=tuple(commit.shard for commit in part))
            for modality, part in commits.items()
        },
    )


@contextmanager
def _evaluating(encoder: DualEncoder) -> Iterator[None]:
    """Put the encoder into evaluation mode, and back."""
    before = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(before)
