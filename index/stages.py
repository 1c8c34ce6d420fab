"""First stages: what proposes the rows that the full vectors of the shards then rank."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from index.exact import Rows
from index.faiss_stage import FaissStage, build_faiss, load_faiss_stage
from index.kinds import IndexKind
from index.publish import mend
from index.quantiser import fit_quantiser

if TYPE_CHECKING:
    from index.shards import ShardTable

__all__ = ["FaissStage", "FirstStage", "build_stage", "load_stage"]


class FirstStage(Protocol):
    """Proposes candidates. Several threads may ask at once.

    Attributes:
        kind: The row of index.kinds.
        rows: How many it holds, in the order of the shards.
    """

    kind: IndexKind
    rows: int

    @property
    def lists(self) -> int | None:
        """How many inverted lists it has, or None."""
        ...

    def candidates(
        self, queries: npt.NDArray[np.float32], count: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None
    ) -> list[Rows]:
        """Return rows that are likely among the best of each query.

        Args:
            queries: (Q, D) float32. One is searched by one thread, but for a scan, which shares its rows among all; more by all.
            count: How many rows to propose; ties may add some.
            effort: nprobe or efSearch, by the kind; None for the stage's own, or where it has none.
            allowed: (rows,) bool, the rows that may be proposed; None for all.

        Returns:
            Q arrays of int64 rows, best first by the stage's own scores, each row at most once; fewer than `count` where it finds fewer.
        """
        ...

    def add(self, vectors: Iterable[npt.NDArray[np.float32]]) -> None:
        """Append rows: (n, D) blocks, float32 or float16, as stored in the shards."""
        ...

    def save(self, folder: Path, name: str) -> list[str]:
        """Write files whose names begin with `name` into an existing folder; return their names."""
        ...

    def efforts(self) -> tuple[int | None, ...]:
        """Return the settings to tune over, from cheap to dear; (None,) where there is none."""
        ...

    def read_ahead(self) -> None:
        """Ask the system to read mapped files into its file cache."""
        ...


def build_stage(kind: IndexKind, table: "ShardTable", vector: str, seed: int = 0) -> FirstStage | None:
    """Build the first stage of a kind over all rows of a table; None for the exact kind, which has none.

    Beside the stage itself it takes the memory of a sample of the rows and of one block.

    Args:
        kind: The row of index.kinds.
        table: The rows.
        vector: "joint" or "features".
        seed: Of whatever is drawn.

    Raises:
        MedretError: If FAISS cannot make it.
    """
    if kind.exact:
        return None
    blocks = [block for block in table.blocks(vector) if len(block)]
    rows, dimension = sum(map(len, blocks)), table.dimension(vector)
    if rows == 0:
        raise MedretError(f"the {table.modality} hold no rows to index as {kind.name}. Choose --kind flat")
    quantiser = fit_quantiser(blocks, rows, mixed=kind.mixed) if kind.compact else None
    if kind.factory is not None:
        return build_faiss(kind, quantiser, blocks, rows, dimension, seed)
    assert quantiser is not None
    from index.scan import build_scan  # it brings torch, which takes a second to import: not for the other kinds

    return build_scan(kind, quantiser, blocks)


def load_stage(kind: IndexKind, folder: Path, files: Sequence[str], table: "ShardTable", vector: str) -> FirstStage:
    """Open the first stage of a kind that is not exact.

    Args:
        kind: The row of index.kinds.
        folder: Where the files are.
        files: As `save` returned them, relative to `folder`; their checksums have been compared.
        table: The rows it was built over.
        vector: "joint" or "features".

    Raises:
        MedretError: If a file is missing, damaged, or does not fit the table.
    """

    def find(suffix: str) -> Path | None:
        return next((folder / file for file in files if file.endswith(suffix)), None)

    rows, dimension = table.rows, table.dimension(vector)
    quantiser, codes, searcher, cells = find(".quantiser.npz"), find(".codes.npy"), find(".faiss"), find(".cells.npz")
    missing = (
        f"{folder}: the index of {table.modality} by {vector} lacks a file that {kind.name} needs, or was built by an earlier medret. "
        f"{mend(folder.parent)}"
    )
    if (kind.compact and quantiser is None) or (kind.cells and cells is None):
        raise MedretError(missing)
    if kind.factory is not None:
        if searcher is None:
            raise MedretError(missing)
        return load_faiss_stage(kind, searcher, quantiser, rows, dimension, cells)
    if codes is None or quantiser is None:
        raise MedretError(missing)
    from index.scan import load_scan

    return load_scan(kind, codes, quantiser, rows, dimension)
