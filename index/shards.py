"""Arrow shards: vectors and metadata of a corpus in files that are read by memory map (pyarrow: here, shard_table.py, predicates.py).

Each shard is one uncompressed Arrow IPC file with one record batch, so that a column of vectors is a plain
array in the file: opening copies nothing, and any Arrow reader can read it.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoders.atomic import whole_file
from encoders.errors import MedretError
from index.corpora.csvfile import read_csv
from index.corpora.record import Record
from index.manifest import MODALITIES, PRIVATE_PATHS, VECTORS, ShardFile, ShardsManifest, check_files, load_shards_manifest, sha256_file
from index.shard_table import Piece, Rows, ShardTable

__all__ = ["Part", "ShardRow", "ShardTable", "ShardWriter", "Shards", "check_ids", "check_vectors", "copy_live", "open_shards"]


_NORM = 1e-2  # what float16 may take from a norm of 1, and more
_STRINGS = ("patient_id", "study_id", "view", "split", "sex")


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One row to write: a record with its text (reports, sentences) or its path as it shall be stored (images).

    `real_id` is what the corpus calls a pseudonymised image, and is not written.
    """

    record: Record
    text: str | None = None
    path: str | None = None
    real_id: str = ""


class ShardWriter:
    """Writes the shards of one modality.

    Args:
        folder: Where the shards go; it must exist.
        modality: "images", "reports" or "sentences".
        dimensions: Vector name ("joint", "features") to its length.
        findings: Fields of the label struct, in order.
        dtype: "float32" or "float16", of the stored vectors.
        made_by: What made the vectors, kept as the metadata of each shard's Arrow schema.
    """

    def __init__(
        self,
        folder: Path,
        modality: str,
        dimensions: Mapping[str, int],
        findings: Sequence[str],
        dtype: str = "float32",
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        if modality not in MODALITIES or not dimensions or not set(dimensions) <= set(VECTORS) or dtype not in ("float32", "float16"):
            raise ValueError(f"shards of {modality} with {dict(dimensions)} in {dtype}: expected {MODALITIES}, {list(VECTORS)}, float32/16")
        self.folder, self.modality, self.dimensions, self.findings = folder, modality, dict(dimensions), tuple(findings)
        self.dtype = np.dtype(dtype)
        self.made_by = None if made_by is None else dict(made_by)

    def name(self, number: int) -> str:
        """Return the file name of shard `number`."""
        return shard_name(self.modality, number)

    def write(self, number: int, rows: Sequence[ShardRow], vectors: Mapping[str, npt.NDArray[np.float32]]) -> ShardFile:
        """Write one shard, whole or not at all.

        Args:
            number: Its place among the shards of the modality, from 0.
            rows: N rows.
            vectors: Vector name to (N, D) float32, unit L2 norm per row.

        Returns:
            Name, size and checksum of the file.

        Raises:
            ValueError: If the vectors do not fit the rows, are not finite or have not norm 1.
            MedretError: If the file cannot be written.
        """
        columns = {name: self._vectors(vectors[name], len(rows), name) for name in self.dimensions}
        return _write_batch(self.folder / self.name(number), self._batch(rows, columns))

    def _vectors(self, vectors: npt.NDArray[np.float32], rows: int, name: str) -> Any:
        expected = (rows, self.dimensions[name])
        if vectors.shape != expected:
            raise ValueError(f"{name} vectors are {vectors.shape}, expected {expected}")
        norms = np.linalg.norm(vectors, axis=1)
        if not np.all(np.abs(norms - 1) < 1e-3):  # NaN fails too
            raise ValueError(f"{name} vectors of {self.modality}: {int(np.sum(~(np.abs(norms - 1) < 1e-3)))} of {rows} have not norm 1")
        flat = np.ascontiguousarray(vectors, dtype=self.dtype).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), self.dimensions[name])

    def _batch(self, rows: Sequence[ShardRow], vectors: Mapping[str, Any]) -> Any:
        records = [row.record for row in rows]
        unknown = {finding for record in records for finding in record.labels} - set(self.findings)
        if unknown:
            raise ValueError(f"labels {sorted(unknown)} are not among the findings of the corpus")
        columns = {"id": pa.array([record.id for record in records], pa.string())}
        columns |= {VECTORS[name]: array for name, array in vectors.items()}
        columns |= {name: pa.array([getattr(record, name) for record in records], pa.string()) for name in _STRINGS}
        columns["labels"] = _label_struct(records, self.findings)
        columns["study_date"] = pa.array([record.study_date for record in records], pa.date32())
        columns["age"] = pa.array([record.age for record in records], pa.float32())
        columns["tags"] = pa.array([list(record.tags) for record in records], pa.list_(pa.string()))
        if self.modality == "images":
            columns["path"] = pa.array([row.path for row in rows], pa.string())
        else:
            columns["text"] = pa.array([row.text for row in rows], pa.string())
        return pa.record_batch(columns, metadata=self.made_by)


@dataclass(frozen=True, slots=True)
class Part:
    """A shards folder and its manifest."""

    folder: Path
    manifest: ShardsManifest

    @property
    def root(self) -> Path | None:
        """What its image paths are relative to, or None where that is hidden."""
        root = self.manifest.corpus.get("root")
        return None if root is None else Path(root)


class Shards:
    """One shards folder or several of the same encoder, opened as one.

    Attributes:
        parts: The folders, in row order: row numbers run on from one to the next.
        modalities: Those that have rows, of MODALITIES.
    """

    def __init__(self, parts: Sequence[Part], removed: Mapping[str, Rows] | None = None) -> None:
        self.parts, self._removed = tuple(parts), dict(removed or {})
        self.modalities = tuple(name for name in MODALITIES if any(name in part.manifest.modalities for part in parts))
        self._tables: dict[str, ShardTable] = {}
        self._opening = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the first part is."""
        return self.parts[0].folder

    @property
    def manifest(self) -> ShardsManifest:
        """What made the first part: encoder, preprocessing and whether it is pseudonymised are those of all."""
        return self.parts[0].manifest

    def table(self, modality: str) -> ShardTable:
        """Return the rows of a modality.

        Raises:
            MedretError: If there are none, or a shard is damaged.
        """
        if modality not in self.modalities:
            raise MedretError(f"{self.folder}: holds no {modality}, only {', '.join(self.modalities)}.{_how_to_get(modality)}")
        with self._opening:
            if modality not in self._tables:
                self._tables[modality] = ShardTable(modality, self.pieces(modality), self._removed.get(modality))
            return self._tables[modality]

    def pieces(self, modality: str) -> list[Piece]:
        """Return where the shards of a modality are, part by part; parts without it are passed over."""
        held = [part for part in self.parts if modality in part.manifest.modalities]
        return [Piece(part.folder, part.manifest.modalities[modality], part.root) for part in held]

    def private_paths(self) -> dict[str, Path]:
        """Return where the images of pseudonymised parts are, by id; nothing from a table that the reader may not read."""
        tables = [part.folder / PRIVATE_PATHS for part in self.parts]
        return {row["id"]: Path(row["path"]) for table in tables if os.access(table, os.R_OK) for row in read_csv(table, ("id", "path"))}


def open_shards(folder: Path, verify: bool = False) -> Shards:
    """Open a shards folder by memory map.

    Args:
        folder: Made by `encode_corpus`.
        verify: Compare every shard with its checksum (reads all bytes) instead of its size alone.

    Raises:
        MedretError: If the folder is no shards folder or unfinished, or a shard is missing, cut or changed.
    """
    manifest = load_shards_manifest(folder)
    for entry in manifest.modalities.values():
        check_files(folder, entry, verify)
    return Shards([Part(folder, manifest)])


def copy_live(piece: Piece, live: npt.NDArray[np.bool_], target: Path, modality: str) -> tuple[ShardFile, ...]:
    """Write the rows of a folder's shards that are live into new shards, bytes of no other row among them.

    Args:
        piece: The shards; their vectors are copied as stored.
        live: (rows of the piece,) bool.
        target: Folder to write to; it must exist.
        modality: Names the files.

    Returns:
        The new shards in row order, numbered from 0; none where no row is live.
    """
    written: list[ShardFile] = []
    start = 0
    for shard in piece.entry.shards:
        keep = live[start : start + shard.rows]
        start += shard.rows
        if not keep.any():
            continue
        with pa.memory_map(str(piece.folder / shard.file)) as source:
            batch = pa.ipc.open_file(source).get_batch(0).filter(pa.array(keep))  # a copy
        written.append(_write_batch(target / shard_name(modality, len(written)), batch))
    return tuple(written)


def check_vectors(table: ShardTable) -> None:
    """Check that every vector has norm 1: no zero, no NaN.

    Raises:
        MedretError: Naming the first record whose vector has not.
    """
    for vector in table.dimensions:
        start = 0
        for block in table.blocks(vector):
            norms = np.linalg.norm(np.asarray(block, np.float32), axis=1)
            bad = np.flatnonzero(~(np.abs(norms - 1) < _NORM))  # NaN fails too
            if len(bad):
                (id,) = table.ids(np.array([start + bad[0]]))
                raise MedretError(
                    f"record {id}: its stored {vector} vector has norm {norms[bad[0]]:.3g}, expected 1. Encode the corpus again"
                )
            start += len(block)


def check_ids(folder: Path, table: ShardTable, indexed: bool = False) -> None:
    """Check that no two records of a modality that can be found have the same id.

    Args:
        folder: Where they are.
        table: The records.
        indexed: The folder is an index, not one of shards.

    Raises:
        MedretError: Naming the first id that occurs again.
    """
    seen: set[str] = set()
    for id in table.ids(table.live_rows):
        if id in seen:
            mend = "Give each record an id of its own and encode again into a new folder"
            if indexed:
                mend = f"Remove both, then add the right one again: medret remove --index {folder} --id {quote(id)}"
            raise MedretError(f"{folder}: two {table.modality} have the id {id}. {mend}")
        seen.add(id)


def shard_name(modality: str, number: int) -> str:
    """Return the file name of shard `number` of a modality."""
    return f"{modality}-{number:05d}.arrow"


def _write_batch(path: Path, batch: Any) -> ShardFile:
    with whole_file(path) as part:
        with part.open("wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return ShardFile(file=path.name, rows=batch.num_rows, bytes=part.stat().st_size, sha256=sha256_file(part))


def _how_to_get(modality: str) -> str:
    return " Encode again into a new folder with --text-unit report,sentence" if modality == "sentences" else ""


def _label_struct(records: Sequence[Record], findings: Sequence[str]) -> Any:
    if not findings:
        return pa.array([{} for _ in records], type=pa.struct([]))
    arrays = [pa.array([record.labels.get(finding) for record in records], pa.int8()) for finding in findings]
    return pa.StructArray.from_arrays(arrays, names=list(findings))
