"""Arrow shards as one table: vectors and metadata of a modality, memory-mapped (with shards.py and predicates.py the home of pyarrow)."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from encoders.errors import MedretError
from index.conditions import Comparison, Tree
from index.corpora.record import NULL_LABEL, LabelState
from index.manifest import VECTORS, ModalityShards
from index.mapped_file import MappedFile, read_ahead
from index.scattered_rows import ScatteredRows

Rows = npt.NDArray[np.int64]

_MOST_READ_AHEAD = 4 << 30  # bytes
_FEW = 32  # values: more are taken quicker by Arrow's function, whose import takes longer than any of these
_SHORT = 30_000  # rows: the values of more are compared quicker by Arrow's functions, import included


@dataclass(frozen=True, slots=True)
class Piece:
    """The shards of one modality in one folder, and what their image paths are relative to (None where that is not known)."""

    folder: Path
    entry: ModalityShards
    root: Path | None = None


class ShardTable:
    """The rows of one modality, memory-mapped. Row numbers run through all shards of all pieces in order.

    A removed row keeps its number: whoever goes through whole columns leaves out what `live` says. Looking up (`find`,
    `rows_of`) never gives a removed row.

    Attributes:
        modality: "images", "reports" or "sentences".
        rows: How many there are, removed ones included.
        live: (rows,) bool, those that are not removed; None where none is.
        dimensions: Vector name to its length, of the vectors that every piece holds.
        findings: The findings that the labels of any piece are about, in order.
    """

    def __init__(self, modality: str, pieces: Sequence[Piece], removed: Rows | None = None) -> None:
        self.modality, self.rows = modality, sum(piece.entry.rows for piece in pieces)
        held = [piece.entry.dimensions for piece in pieces]
        self.dimensions = {name: length for name, length in held[0].items() if all(other.get(name) == length for other in held)}
        self._files, self._batches, self._roots = [], [], []
        for piece in pieces:
            for shard in piece.entry.shards:
                file, batch = _map_batch(piece.folder / shard.file, shard.rows, piece.entry.dimensions)
                self._files.append(file)
                self._batches.append(batch)
                self._roots.append(piece.root)
        self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches])  # (shards + 1,)
        self.findings = tuple(dict.fromkeys(field.name for batch in self._batches for field in batch.schema.field("labels").type))
        self.live = _live(self.rows, removed)
        self._codes: dict[str, npt.NDArray[np.int32]] = {}
        self._blocks: dict[str, list[npt.NDArray[Any]]] = {}
        self._scattered: dict[str, ScatteredRows] = {}
        self._read_ahead: set[str] = set()

    @property
    def live_rows(self) -> Rows:
        """The rows that are not removed, ascending int64."""
        return np.arange(self.rows, dtype=np.int64) if self.live is None else np.flatnonzero(self.live).astype(np.int64)

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
            self._blocks[vector] = [column.values.to_numpy(zero_copy_only=True).reshape(-1, dimension) for column in columns]
        return self._blocks[vector]

    def read_ahead(self, vector: str) -> None:
        """Have the system read all vectors into its file cache, once and in the background.

        Not where they may not fit into memory: they would be gone again when their turn comes.
        """
        blocks = self.blocks(vector)
        if vector not in self._read_ahead and sum(block.nbytes for block in blocks) <= _MOST_READ_AHEAD:
            self._read_ahead.add(vector)
            threading.Thread(target=read_ahead, args=(blocks,), daemon=True).start()

    def passing(self, vector: str, shard: int) -> Iterator[npt.NDArray[Any]]:
        """Yield the rows of `blocks(vector)[shard]` piece by piece, each until the next: for who goes through them once.

        Raises:
            OSError: If they cannot be read.
        """
        return self._files[shard].passing(self.blocks(vector)[shard])

    def vectors(self, vector: str, rows: Rows) -> npt.NDArray[np.float32]:
        """Return the (R, D) float32 vectors of R rows: a copy."""
        if vector not in self._scattered:
            self._scattered[vector] = ScatteredRows(self.blocks(vector), self.dimension(vector))
        return self._scattered[vector].take(np.asarray(rows, np.int64))

    def ids(self, rows: Rows | None = None) -> list[str]:
        """Return the ids of these rows, or of all."""
        return self._values("id", rows)

    def values(self, name: str, rows: Rows) -> list[Any]:
        """Return the values of these rows in a column."""
        return self._values(name, np.asarray(rows, np.int64))

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole column, (rows,): "age" as float32 with NaN, "study_date" as days with NaT, else objects with None."""
        if name in ("age", "study_date"):
            parts = [chunk.to_numpy(zero_copy_only=False) for chunk in self._chunks(name).chunks]
            return np.concatenate(parts).astype(np.float32 if name == "age" else "datetime64[D]")
        values = self._values(name, None)
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
        for start, batch in zip(self._starts, self._batches, strict=False):
            held = {field.name for field in batch.schema.field("labels").type}
            for place, finding in enumerate(wanted):
                part = batch.column("labels").field(finding).fill_null(NULL_LABEL) if finding in held else None
                states = NULL_LABEL if part is None else part.to_numpy(zero_copy_only=False)
                labels[start : start + batch.num_rows, place] = states
        return labels

    def find(self, id: str) -> int | None:
        """Return the row of an id that is not removed, or None."""
        import pyarrow.compute as pc  # it makes a wrapper of every function it has: not for a process that does without

        from index.predicates import is_storable

        if not is_storable(id):
            return None
        for start, batch in zip(self._starts, self._batches, strict=False):
            place = pc.index(batch.column("id"), pa.scalar(id, pa.string())).as_py()
            if place >= 0 and (self.live is None or self.live[start + place]):
                return int(start) + int(place)
        return None

    def rows_of(self, column: str, values: Iterable[str]) -> Rows:
        """Return the rows, ascending and not removed, whose value in a string column (or any of whose "tags") is one of these."""
        if column != "tags" and self.rows <= _SHORT:
            wanted = set(values)
            marked = np.fromiter((value in wanted for value in self._values(column, None)), np.bool_, self.rows)
            return np.flatnonzero(marked if self.live is None else marked & self.live).astype(np.int64)
        return np.flatnonzero(self.matching(Comparison(column, "in", tuple(values)))).astype(np.int64)

    def matching(self, tree: Tree) -> npt.NDArray[np.bool_]:
        """Mark the rows that meet a condition: (rows,) bool, no removed row among them.

        Raises:
            ValueError: If a comparison is with no column and no finding.
        """
        from index.predicates import met

        marked = np.empty(self.rows, np.bool_)
        for start, batch in zip(self._starts, self._batches, strict=False):
            marked[start : start + batch.num_rows] = met(tree, batch, self.findings).to_numpy(zero_copy_only=False)
        return marked if self.live is None else marked & self.live

    def distinct(self, column: str, among: npt.NDArray[np.bool_] | None = None) -> list[str]:
        """Return the distinct values of a string column, or the distinct tags, in order of appearance, without None.

        Args:
            column: Its name.
            among: (rows,) bool, the rows to look at; None for those that are not removed.
        """
        import pyarrow.compute as pc

        chunks, wanted = self._chunks(column), self.live if among is None else among
        if wanted is not None:
            chunks = chunks.filter(pa.array(wanted))
        found = pc.unique(pc.list_flatten(chunks) if column == "tags" else chunks).to_pylist()
        return [value for value in found if value is not None]

    def records(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the metadata of these rows as dictionaries that JSON can hold; no vectors.

        Keys: id, modality, patient_id, study_id, view, split, sex, age, study_date (ISO), tags, labels ({finding: state
        name in lower case}, without findings nobody looked for), text, path (absolute where the corpus's root is known).
        """
        rows = np.asarray(rows, np.int64)
        names = [name for name in self._batches[0].schema.names if name not in VECTORS.values()]
        columns = {name: self._values(name, rows) for name in names}
        roots = [self._roots[shard] for shard in np.searchsorted(self._starts, rows, side="right") - 1]
        return [self._record({name: values[place] for name, values in columns.items()}, root) for place, root in enumerate(roots)]

    def _record(self, values: dict[str, Any], root: Path | None) -> dict[str, Any]:
        path, day = values.get("path"), values["study_date"]
        return {
            **values,
            "modality": self.modality,
            "study_date": None if day is None else day.isoformat(),
            "labels": {name: LabelState(state).name.lower() for name, state in values["labels"].items() if state is not None},
            "text": values.get("text"),
            "path": str(root / path) if path is not None and root is not None else path,
        }

    def _chunks(self, name: str) -> Any:
        return pa.chunked_array(self._columns(name))

    def _columns(self, name: str) -> list[Any]:
        if name not in self._batches[0].schema.names:
            raise ValueError(f"no column {name!r}; there are {', '.join(self._batches[0].schema.names)}")
        return [batch.column(name) for batch in self._batches]

    def _values(self, name: str, rows: Rows | None) -> list[Any]:
        if rows is None:
            return [value for column in self._columns(name) for value in column.to_pylist()]
        values: list[Any] = [None] * len(rows)
        for shard, places, local in self._locate(rows):
            column = self._batches[shard].column(name)
            few = len(local) <= _FEW
            taken = [column[row].as_py() for row in local.tolist()] if few else column.take(pa.array(local)).to_pylist()
            for place, value in zip(np.arange(len(rows))[places].tolist(), taken, strict=True):
                values[place] = value
        return values

    def _locate(self, rows: Rows) -> list[tuple[int, "Rows | slice", Rows]]:
        """For each shard that rows fall into: its number, their places in `rows` (a slice where they ascend), their numbers in it."""
        rows = np.asarray(rows, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.rows):
            raise ValueError(f"rows {rows.min()} to {rows.max()}, expected 0 to {self.rows - 1}")
        order = None if (rows[1:] >= rows[:-1]).all() else np.argsort(rows, kind="stable")
        ascending = rows if order is None else rows[order]
        edges, starts = np.searchsorted(ascending, self._starts).tolist(), self._starts.tolist()
        found = ((shard, slice(*pair)) for shard, pair in enumerate(pairwise(edges)) if pair[0] < pair[1])
        return [(shard, part if order is None else order[part], ascending[part] - starts[shard]) for shard, part in found]


def _live(rows: int, removed: Rows | None) -> npt.NDArray[np.bool_] | None:
    if removed is None or not len(removed):
        return None
    live = np.ones(rows, np.bool_)
    live[removed] = False
    live.flags.writeable = False
    return live


def _map_batch(path: Path, rows: int, dimensions: Mapping[str, int]) -> tuple[MappedFile, Any]:
    damaged = f"{path}: the shard is damaged. Copy it again from its source, or encode again into a new folder."
    try:
        file = MappedFile(path)
        batch = pa.ipc.open_file(pa.py_buffer(file.memory)).get_batch(0)
    except FileNotFoundError as error:  # it was there when the folder was opened
        raise MedretError(f"{path}: is gone: the index was compacted or built again since it was opened. Open it again.") from error
    except (ValueError, OSError) as error:  # all that pyarrow raises here, ArrowInvalid too, is one of them
        raise MedretError(damaged) from error
    widths = {name: batch.schema.field(VECTORS[name]).type.list_size for name in dimensions if VECTORS[name] in batch.schema.names}
    if batch.num_rows != rows or widths != dict(dimensions):
        raise MedretError(f"{damaged} ({batch.num_rows} rows of {widths}, expected {rows} of {dict(dimensions)})")
    return file, batch
