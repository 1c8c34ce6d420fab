"""An opened index with other reports than its own: texts that a benchmark brings along are ranked as stored ones are."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index.folder import OpenedIndex
from index.manifest import MODALITIES, ModalityShards
from index.shard_table import Piece
from index.shards import ShardRow, Shards, ShardTable, ShardWriter
from index.vector_index import VectorIndex

GUESTS = "reports"


def seat_reports(
    opened: OpenedIndex, rows: Sequence[ShardRow], vectors: npt.NDArray[np.float32], findings: Sequence[str] = ()
) -> OpenedIndex:
    """Return an index that has these reports in place of its own, by joint vectors alone; everything else is the same.

    They are written as a shard, mapped and unlinked at once, so that every reader of shards can read them and nothing stays.

    Args:
        opened: The index, which stays as it is.
        rows: N records with their texts.
        vectors: (N, D) float32, unit L2 norm per row.
        findings: What their labels can name.
    """
    with tempfile.TemporaryDirectory(prefix="medret-") as folder:  # readable by its owner alone
        writer = ShardWriter(Path(folder), GUESTS, {"joint": vectors.shape[1]}, findings)
        shard = writer.write(0, rows, {"joint": vectors})
        table = ShardTable(GUESTS, [Piece(Path(folder), ModalityShards(dimensions=writer.dimensions, shards=(shard,)))])
    return _Host(opened, table)


class _Host(OpenedIndex):
    def __init__(self, own: OpenedIndex, guests: ShardTable) -> None:
        super().__init__(own.folder, own.manifest, _HostShards(own.shards, guests))
        self._own, self._guests = own, VectorIndex(guests, "joint")

    def index(self, modality: str, vector: str = "joint") -> VectorIndex:
        if modality != GUESTS:
            return self._own.index(modality, vector)
        self._guests.table.dimension(vector)  # says what there is, where it is not joint
        return self._guests


class _HostShards(Shards):
    def __init__(self, own: Shards, guests: ShardTable) -> None:
        super().__init__(own.parts)
        self._own, self._guests = own, guests
        self.modalities = tuple(name for name in MODALITIES if name == GUESTS or name in own.modalities)

    def table(self, modality: str) -> ShardTable:
        return self._guests if modality == GUESTS else self._own.table(modality)
