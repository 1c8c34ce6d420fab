"""One process at work on a corpus: films decoded ahead, encoded, and written while the next are encoded."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoders.dual import DualEncoder, Encoded
from encoders.errors import MedretError
from encoders.precision import computing
from index.cache import cached_squares
from index.corpora.record import Record
from index.corpus_cache import RowFilms
from index.encode_options import EncodeOptions
from index.manifest import SHARDS_MANIFEST
from index.resume import Commit, planning, read_commit, write_commit
from index.rows import RowPart
from index.shards import ShardRow, ShardWriter
from index.squares import AHEAD, Square, decode_squares

Progress = Callable[[str, int, int, int], None]  # modality, rows done, rows in all, images that failed
Vectors = dict[str, npt.NDArray[np.float32]]
Squares = Iterator[tuple[Record, Square | str]]

_EVEN = 16  # rows


@dataclass(slots=True)
class _Chunk:
    """The rows of one shard and what became of them."""

    number: int
    rows: list[ShardRow]
    kept: list[ShardRow] = field(default_factory=list)
    vectors: Vectors = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0


class EncodeRun:
    """One process's part of an encoding.

    Attributes:
        resumed: Shards of its own that were there already.
        encoded: Modality to rows that it went through.
        seconds: Modality to how long that took.
        failed: Id and reason of its images that could not be decoded.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        out: Path,
        options: EncodeOptions,
        findings: tuple[str, ...],
        made_by: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self.encoder, self.out, self.options, self.findings, self.progress = encoder, out, options, findings, progress
        self.made_by = made_by  # each shard says so; "images" and "texts" is the precision of each, of PRECISIONS
        self.resumed = 0
        self.encoded: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.failed: list[tuple[str, str]] = []
        self._allowed: int | None = None

    def dimensions(self, modality: str) -> dict[str, int]:
        """Return the vectors' names and lengths."""
        return dimensions(self.encoder, modality, self.options)

    def commits(self, modality: str, part: RowPart) -> list[Commit | None]:
        """Return the commit of each shard of a modality, whoever made it, in order."""
        writer = self._writer(modality)
        return [read_commit(self.out, writer.name(number)) for number in range(len(self._chunks(modality, part)))]

    def encode(self, modality: str, part: RowPart) -> None:
        """Encode what of this process's shards is not committed yet.

        Raises:
            MedretError: If the encoder gives no unit vectors, more images fail than may, or the disk is full.
        """
        chunks, commits = self._chunks(modality, part), self.commits(modality, part)
        mine = range(self.options.rank, len(chunks), self.options.size)
        pending = [number for number in mine if self._is_open(commits[number], part, chunks[number])]
        self.resumed += len(mine) - len(pending)
        if modality == "images":
            self._allowed = self.options.failures_allowed(part.rows)
            self.failed = [failure for number in mine if number not in set(pending) for failure in _failures(commits[number])]
            self._check_failures()
        if pending:
            with planning(self.out):  # what is named there is no longer whole
                (self.out / SHARDS_MANIFEST).unlink(missing_ok=True)
        total = sum(len(chunks[number]) for number in mine)
        done = total - sum(len(chunks[number]) for number in pending)
        self.progress(modality, done, total, len(self.failed))
        started = time.monotonic()
        with evaluating(self.encoder), closing(self._squares(modality, part, [chunks[number] for number in pending])) as squares:
            read = (_Chunk(number, part.read(chunks[number])) for number in pending)
            self._go_through(modality, read, squares, done, total)
        self.seconds[modality] = time.monotonic() - started
        self.encoded[modality] += total - done

    def _go_through(self, modality: str, chunks: Iterator[_Chunk], squares: Squares, done: int, total: int) -> None:
        """Encode chunk after chunk; a thread writes each while the next is encoded, and one at most waits for it."""
        writer = self._writer(modality)
        written: Future[Commit] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
            for chunk in chunks:
                steps = self._images(chunk, squares) if modality == "images" else self._texts(chunk, writer.dimensions)
                for step in steps:
                    done += step
                    self.progress(modality, done, total, len(self.failed))
                if written is not None:
                    written.result()
                written = pool.submit(self._write, writer, chunk)
            if written is not None:
                written.result()

    def _write(self, writer: ShardWriter, chunk: _Chunk) -> Commit:
        vectors = chunk.vectors or {name: np.empty((0, dimension), np.float32) for name, dimension in writer.dimensions.items()}
        return write_commit(self.out, Commit(writer.write(chunk.number, chunk.kept, vectors), chunk.failures, chunk.cut))

    def _images(self, chunk: _Chunk, squares: Squares) -> Iterator[int]:
        parts: list[Vectors] = []
        for start in range(0, len(chunk.rows), self.options.batch_size):
            batch = chunk.rows[start : start + self.options.batch_size]
            good: list[Square] = []
            for row, (_, square) in zip(batch, islice(squares, len(batch)), strict=True):
                if isinstance(square, str):
                    chunk.failures.append((row.record.id, square))
                    self.failed.append((row.record.id, square))
                    self._check_failures()
                else:
                    good.append(square)
                    chunk.kept.append(row)
            if good:
                encoded = self._compute("images", lambda films: self.encoder.encode_images(torch.from_numpy(films)), np.stack(good))
                parts.append(self._checked(encoded, chunk.kept[-len(good) :]))
            yield len(batch)
        if parts:
            chunk.vectors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _texts(self, chunk: _Chunk, dimensions: Mapping[str, int]) -> Iterator[int]:
        texts = [row.text or "" for row in chunk.rows]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # texts of one length need no padding
        chunk.kept = chunk.rows
        chunk.vectors = {name: np.empty((len(texts), dimension), np.float32) for name, dimension in dimensions.items()}
        for start in range(0, len(texts), self.options.batch_size):
            places = order[start : start + self.options.batch_size]
            batch = [texts[place] for place in places]
            chunk.cut += self.encoder.count_cut(batch)
            encoded = self._compute("texts", self.encoder.encode_texts, batch)
            for name, part in self._checked(encoded, [chunk.rows[place] for place in places]).items():
                chunk.vectors[name][places] = part
            yield len(places)

    def _compute(self, side: str, encode: Callable[[Any], Encoded], batch: Any) -> Encoded:
        try:
            with computing(self.encoder.device, self.made_by[side]):
                return encode(filled(batch, self.options))
        except torch.OutOfMemoryError as error:
            raise MedretError(
                f"{self.out}: the device has no memory for {len(batch)} records at once. Run again with a smaller --batch-size; "
                "what is done is kept"
            ) from error

    def _checked(self, encoded: Encoded, rows: Sequence[ShardRow]) -> Vectors:
        vectors = {name: getattr(encoded, name)[: len(rows)].float().cpu().numpy() for name in self.options.vectors}
        for name, values in vectors.items():
            bad = np.flatnonzero(~(np.abs(np.linalg.norm(values, axis=1) - 1) < 1e-3))
            if len(bad):
                raise MedretError(f"record {rows[bad[0]].record.id}: the encoder gives no unit {name} vector (NaN or zero). Train it again")
        return vectors

    def _check_failures(self) -> None:
        if self._allowed is not None and len(self.failed) > self._allowed:
            raise MedretError(
                f"{self.out}: {len(self.failed)} images could not be decoded, more than --max-failures allows ({self._allowed}); "
                f"the last: {self.failed[-1][1].rstrip('.')}. Mend them and run again with --retry-failed, or allow more; "
                "what is done is kept"
            )

    def _is_open(self, commit: Commit | None, part: RowPart, chunk: range) -> bool:
        """Whether a shard is to be encoded: there is none, or of one that is empty or to be tried again some image can be decoded now."""
        if commit is None:
            return True
        if not commit.failures or not (self.options.retry_failed or commit.shard.rows == 0):
            return False
        ids = {id for id, _ in commit.failures}
        failed = [row.record for row in part.read(chunk) if row.record.id in ids]
        preprocessing = self.encoder.config.preprocessing
        with closing(decode_squares(failed, preprocessing, preprocessing.size, self.options.workers)) as squares:
            return any(not isinstance(square, str) for _, square in squares)

    def _squares(self, modality: str, part: RowPart, pending: Sequence[range]) -> Generator[tuple[Record, Square | str]]:
        if modality != "images" or not pending:
            return _nothing()
        preprocessing = self.encoder.config.preprocessing
        rows = (row for chunk in pending for row in part.read(chunk))
        ahead = max(AHEAD, self.options.batch_size)  # a whole batch, while the one before is encoded
        if self.options.cache is None:
            return decode_squares((row.record for row in rows), preprocessing, preprocessing.size, self.options.workers, ahead)
        return cached_squares(
            ((row.real_id or row.record.id, row.record) for row in rows),
            RowFilms(part),
            preprocessing,
            self.options.cache,
            self.options.cache_size,
            progress=lambda done, total: self.progress("cache", done, total, 0),
            workers=self.options.workers,
            ahead=ahead,
        )

    def _chunks(self, modality: str, part: RowPart) -> list[range]:
        """The rows of each shard."""
        return part.cut(shard_rows(self.encoder, modality, self.options))

    def _writer(self, modality: str) -> ShardWriter:
        return ShardWriter(self.out, modality, self.dimensions(modality), self.findings, self.options.dtype, self.made_by)


def dimensions(encoder: DualEncoder, modality: str, options: EncodeOptions) -> dict[str, int]:
    """Return the names and lengths of the vectors that a modality gets."""
    width = encoder.image_width if modality == "images" else encoder.text_width
    return {name: {"joint": encoder.dimension, "features": width}[name] for name in options.vectors}


def shard_rows(encoder: DualEncoder, modality: str, options: EncodeOptions) -> int:
    """Return how many records a shard of a modality holds at most."""
    return options.rows_per_shard(sum(dimensions(encoder, modality, options).values()))


def filled(batch: Any, options: EncodeOptions) -> Any:
    """Fill the last batch of a shard, a list or an array, with copies of its last row: how a network computes depends on the size.

    In float32, oneDNN and MKL split the sums of small batches among their threads, so that another number of threads rounds
    another way; of multiples of 16 they did not, with 1 to 16 threads. A compiled network would be compiled anew for another size,
    and the bytes would then follow from what this process happened to compile before.
    """
    missing = -len(batch) % (options.batch_size if options.compile else gcd(options.batch_size, _EVEN))
    if not missing:
        return batch
    return batch + batch[-1:] * missing if isinstance(batch, list) else np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])


def _failures(commit: Commit | None) -> list[tuple[str, str]]:
    return [] if commit is None else commit.failures


def _nothing() -> Generator[tuple[Record, Square | str]]:
    yield from ()


@contextmanager
def evaluating(encoder: DualEncoder) -> Iterator[None]:
    """Put the encoder into evaluation mode, and back."""
    before = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(before)
