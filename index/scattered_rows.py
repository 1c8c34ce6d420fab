"""Rows of several arrays in memory, gathered as if the arrays were one."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class ScatteredRows:
    """Gathers rows of several (n, D) arrays, float32 or float16, that lie anywhere in memory.

    A call for each array costs more than the few rows that are wanted of it. So one view for each dtype is laid over all addresses
    from the first array to the end of the last, with a window of D values at each value. What lies between the arrays is never read.

    Args:
        blocks: The arrays, C-contiguous; they are kept alive as long as this is.
        dimension: D.
    """

    def __init__(self, blocks: Sequence[npt.NDArray[Any]], dimension: int) -> None:
        self._blocks, self._dimension = tuple(blocks), dimension
        self._edges = np.cumsum([0] + [len(block) for block in blocks])
        self._dtypes = sorted({block.dtype for block in blocks}, key=str)
        self._kinds = np.array([self._dtypes.index(block.dtype) for block in blocks], dtype=np.int64)
        self._views: list[npt.NDArray[Any]] = []
        self._first = np.zeros(len(blocks), np.int64)  # window of what would be row 0
        for kind, dtype in enumerate(self._dtypes):
            mine = np.flatnonzero((self._kinds == kind) & (np.diff(self._edges) > 0))
            places = np.array([self._blocks[block].ctypes.data for block in mine.tolist()], dtype=np.int64)
            ends = [place + self._blocks[block].nbytes for place, block in zip(places.tolist(), mine.tolist(), strict=True)]
            low, high = min(places.tolist(), default=0), max(ends, default=0)
            memory = memoryview((ctypes.c_char * (high - low)).from_address(low))
            windows = max((high - low) // dtype.itemsize - dimension + 1, 0)
            view: npt.NDArray[Any] = np.ndarray((windows, dimension), dtype, memory, strides=(dtype.itemsize,) * 2)
            view.flags.writeable = False
            self._views.append(view)
            assert not ((places - low) % dtype.itemsize).any()  # a shard's buffers lie at multiples of 8 bytes, or Arrow refuses it
            self._first[mine] = (places - low) // dtype.itemsize - self._edges[mine] * dimension

    def take(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Return the (R, D) float32 vectors of R rows, numbered through all arrays: a copy.

        Raises:
            ValueError: If there is no such row.
        """
        if len(rows) and not (rows.min() >= 0 and rows.max() < self._edges[-1]):
            raise ValueError(f"rows {rows.min()} to {rows.max()}, expected 0 to {self._edges[-1] - 1}")
        blocks = np.searchsorted(self._edges, rows, side="right") - 1
        windows = self._first[blocks] + rows * self._dimension
        if len(self._views) == 1:
            taken: npt.NDArray[np.float32] = self._views[0][windows].astype(np.float32, copy=False)
            return taken
        taken = np.empty((len(rows), self._dimension), np.float32)
        for kind, view in enumerate(self._views):
            mine = self._kinds[blocks] == kind
            taken[mine] = view[windows[mine]]
        return taken
