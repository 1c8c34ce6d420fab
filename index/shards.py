"""Arrow shards: vectors and metadata of a corpus in memory-mapped files (the one home of pyarrow).

Each shard is one uncompressed Arrow IPC file with one record batch, so that a column of vectors is a plain
array in the file: opening copies nothing, and any Arrow reader can read it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from encoders.atomic import whole_file
from encoders.errors import MedretError
from index.corpora.record import NULL_LABEL, LabelState, Record
from index.manifest import MODALITIES, VECTORS, ModalityShards, ShardFile, ShardsManifest, check_files, load_shards_manifest, sha256_file

_STRINGS = ("patient_id", "study_id", "view", "split", "sex")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One row to write: a record with its text (reports, sentences) or its path as it shall be stored (images)."""

    record: Record
    text: str | None = None
    path: str | None = None


class ShardWriter:
    """Writes the shards of one modality.

    Args:
        folder: Where the shards go; it must exist.
        modality: "images", "reports" or "sentences".
        dimensions: Vector name ("joint", "features") to its length.
        findings: Fields of the label struct, in order.
        dtype: "float32" or "float16", of the stored vectors.
    """

    def __init__(self, folder: Path, modality: str, dimensions: Mapping[str, int], findings: Sequence[str], dtype: str = "float32"):
        if modality not in MODALITIES or not dimensions or not set(dimensions) <= set(VECTORS) or dtype not in ("float32", "float16"):
            raise ValueError(f"shards of {modality} with {dict(dimensions)} in {dtype}: expected {MODALITIES}, {list(VECTORS)}, float32/16")
        self.folder, self.modality, self.dimensions, self.findings = folder, modality, dict(dimensions), tuple(findings)
        self.dtype = np.dtype(dtype)

    def name(self, number: int) -> str:
        """Return the file name of shard `number`."""
        return f"{self.modality}-{number:05d}.arrow"

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
        batch = self._batch(rows, columns)
        path = self.folder / self.name(number)
        with whole_file(path) as part:
            with part.open("wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            return ShardFile(file=path.name, rows=len(rows), bytes=part.stat().st_size, sha256=sha256_file(part))

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
        return pa.record_batch(columns)


class ShardTable:
    """The rows of one modality, memory-mapped. Row numbers run through all shards in order.

    Attributes:
        modality: "images", "reports" or "sentences".
        rows: How many there are.
        findings: The findings that the labels are about, in order.
    """

    def __init__(self, folder: Path, modality: str, entry: ModalityShards, root: Path | None):
        self.modality, self.rows, self.dimensions = modality, entry.rows, dict(entry.dimensions)
        self._root = root
        self._batches = [_map_batch(folder / shard.file, shard.rows, entry.dimensions) for shard in entry.shards]
        self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches])  # (shards + 1,)
        self.findings = tuple(field.name for field in self._batches[0].schema.field("labels").type)
        self._codes: dict[str, npt.NDArray[np.int32]] = {}
        self._blocks: dict[str, list[npt.NDArray[Any]]] = {}

    def dimension(self, vector: str) -> int:
        """Return the length of the "joint" or "features" vectors.

        Raises:
            MedretError: If these shards do not hold them.
        """
        if vector not in self.dimensions:
            raise MedretError(
                f"the {self.modality} hold no {vector} vectors, only {', '.join(self.dimensions)}. "
                f"Encode again into a new folder with --vectors {','.join(VECTORS)}"
            )
        return self.dimensions[vector]

    def blocks(self, vector: str) -> list[npt.NDArray[Any]]:
        """Return one (n, D) float32 or float16 array per shard: read-only views of the mapped files, nothing copied."""
        dimension = self.dimension(vector)
        if vector not in self._blocks:
            columns = [batch.column(VECTORS[vector]) for batch in self._batches]
            self._blocks[vector] = [column.flatten().to_numpy(zero_copy_only=True).reshape(-1, dimension) for column in columns]
        return self._blocks[vector]

    def vectors(self, vector: str, rows: Rows) -> npt.NDArray[np.float32]:
        """Return the (R, D) float32 vectors of R rows: a copy."""
        blocks = self.blocks(vector)
        taken = np.empty((len(rows), self.dimension(vector)), np.float32)
        for shard, places, local in self._locate(rows):
            taken[places] = blocks[shard][local]
        return taken

    def ids(self, rows: Rows | None = None) -> list[str]:
        """Return the ids of these rows, or of all."""
        return self._values("id", rows)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole column, (rows,): float32 with NaN for "age", else objects with None."""
        values = self._values(name, None)
        if name == "age":
            return np.array(values, dtype=np.float32)
        column = np.empty(self.rows, dtype=object)
        column[:] = values
        return column

    def codes(self, name: str) -> npt.NDArray[np.int32]:
        """Return a (rows,) int32 number per distinct value of a string column, in order of appearance; −1 for none."""
        if name not in self._codes:
            encoded = self._chunks(name).dictionary_encode().unify_dictionaries()
            indices = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
            self._codes[name] = np.concatenate(indices).astype(np.int32)
        return self._codes[name]

    def labels(self, findings: Sequence[str] | None = None) -> npt.NDArray[np.int8]:
        """Return the (rows, K) int8 labels: values of LabelState, or NULL_LABEL (−128) where nobody looked.

        Args:
            findings: K of them, in this order; all by default.

        Raises:
            MedretError: If the corpus has no such finding.
        """
        wanted = self.findings if findings is None else tuple(findings)
        unknown = [finding for finding in wanted if finding not in self.findings]
        if unknown:
            raise MedretError(f"the corpus has no finding {unknown[0]!r}. It has: {', '.join(self.findings) or 'none'}")
        labels = np.empty((self.rows, len(wanted)), np.int8)
        for place, finding in enumerate(wanted):
            parts = [batch.column("labels").field(finding).fill_null(NULL_LABEL) for batch in self._batches]
            labels[:, place] = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
        return labels

    def find(self, id: str) -> int | None:
        """Return the row of an id, or None."""
        for start, batch in zip(self._starts, self._batches, strict=False):
            place = pc.index(batch.column("id"), pa.scalar(id, pa.string())).as_py()
            if place >= 0:
                return int(start) + int(place)
        return None

    def rows_of(self, column: str, values: Iterable[str]) -> Rows:
        """Return the rows, ascending, whose value in a string column is one of these."""
        wanted = pa.array(list(values), pa.string())
        found = pc.is_in(self._chunks(column), value_set=wanted, skip_nulls=True)
        return np.flatnonzero(found.to_numpy()).astype(np.int64)

    def records(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the metadata of these rows as dictionaries that JSON can hold; no vectors.

        Keys: id, modality, patient_id, study_id, view, split, sex, age, study_date (ISO), tags, labels ({finding: state
        name in lower case}, without findings nobody looked for), text, path (absolute where the corpus's root is known).
        """
        rows = np.asarray(rows, np.int64)
        names = [name for name in self._batches[0].schema.names if name not in VECTORS.values()]
        columns = {name: self._values(name, rows) for name in names}
        return [self._record({name: values[place] for name, values in columns.items()}) for place in range(len(rows))]

    def _record(self, values: dict[str, Any]) -> dict[str, Any]:
        path, day = values.get("path"), values["study_date"]
        return {
            **values,
            "modality": self.modality,
            "study_date": None if day is None else day.isoformat(),
            "labels": {name: LabelState(state).name.lower() for name, state in values["labels"].items() if state is not None},
            "text": values.get("text"),
            "path": str(self._root / path) if path is not None and self._root is not None else path,
        }

    def _chunks(self, name: str) -> Any:
        if name not in self._batches[0].schema.names:
            raise ValueError(f"no column {name!r}; there are {', '.join(self._batches[0].schema.names)}")
        return pa.chunked_array([batch.column(name) for batch in self._batches])

    def _values(self, name: str, rows: Rows | None) -> list[Any]:
        if rows is None:
            return list(self._chunks(name).to_pylist())
        values: list[Any] = [None] * len(rows)
        for shard, places, local in self._locate(rows):
            taken = self._batches[shard].column(name).take(pa.array(local)).to_pylist()
            for place, value in zip(places.tolist(), taken, strict=True):
                values[place] = value
        return values

    def _locate(self, rows: Rows) -> list[tuple[int, Rows, Rows]]:
        """For each shard that rows fall into: its number, their places in `rows`, their row numbers inside the shard."""
        rows = np.asarray(rows, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.rows):
            raise ValueError(f"rows {rows.min()} to {rows.max()}, expected 0 to {self.rows - 1}")
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(shards, kind="stable")
        present, firsts = np.unique(shards[order], return_index=True)
        groups = np.split(order, firsts[1:]) if len(present) else []
        return [(int(shard), places, rows[places] - self._starts[shard]) for shard, places in zip(present, groups, strict=True)]


class Shards:
    """A shards folder, opened.

    Attributes:
        folder: Where it is.
        manifest: What made it.
        modalities: Those that have rows, of MODALITIES.
    """

    def __init__(self, folder: Path, manifest: ShardsManifest):
        self.folder, self.manifest = folder, manifest
        self.modalities = tuple(name for name in MODALITIES if name in manifest.modalities)
        self._tables: dict[str, ShardTable] = {}

    def table(self, modality: str) -> ShardTable:
        """Return the rows of a modality.

        Raises:
            MedretError: If there are none, or a shard is damaged.
        """
        if modality not in self.modalities:
            raise MedretError(f"{self.folder}: holds no {modality}, only {', '.join(self.modalities)}.{_how_to_get(modality)}")
        if modality not in self._tables:
            root = self.manifest.corpus.get("root")
            entry = self.manifest.modalities[modality]
            self._tables[modality] = ShardTable(self.folder, modality, entry, None if root is None else Path(root))
        return self._tables[modality]


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
    return Shards(folder, manifest)


def _how_to_get(modality: str) -> str:
    return " Encode again into a new folder with --text-unit report,sentence" if modality == "sentences" else ""


def _label_struct(records: Sequence[Record], findings: Sequence[str]) -> Any:
    if not findings:
        return pa.array([{} for _ in records], type=pa.struct([]))
    arrays = [pa.array([record.labels.get(finding) for record in records], pa.int8()) for finding in findings]
    return pa.StructArray.from_arrays(arrays, names=list(findings))


def _map_batch(path: Path, rows: int, dimensions: Mapping[str, int]) -> Any:
    damaged = f"{path}: the shard is damaged. Copy it again from its source, or encode again into a new folder."
    try:
        with pa.memory_map(str(path)) as source:  # closing frees the file handle; the mapping lives as long as its arrays
            batch = pa.ipc.open_file(source).get_batch(0)
    except (ValueError, OSError) as error:  # all that pyarrow raises here, ArrowInvalid too, is one of them
        raise MedretError(damaged) from error
    widths = {name: batch.schema.field(VECTORS[name]).type.list_size for name in dimensions if VECTORS[name] in batch.schema.names}
    if batch.num_rows != rows or widths != dict(dimensions):
        raise MedretError(f"{damaged} ({batch.num_rows} rows of {widths}, expected {rows} of {dict(dimensions)})")
    return batch
