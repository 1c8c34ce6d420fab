"""Films of one size in one or several arrays."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Films:
    """Films of one size from several arrays, numbered through: what is asked for is read, and nothing else.

    Attributes:
        arrays: Each (n, S, S) uint8, memory-mapped or not; an empty one only where there is no film at all.
    """

    def __init__(self, arrays: Sequence[NDArray[np.uint8]]) -> None:
        """Join arrays (n, S, S) uint8; at least one."""
        self.arrays = [array for array in arrays if len(array)] or list(arrays[:1])
        self._ends = list(accumulate(len(array) for array in self.arrays))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, S, S)."""
        return (len(self), *self.arrays[0].shape[1:])

    @overload
    def __getitem__(self, rows: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, rows: "NDArray[np.int64] | slice") -> NDArray[np.uint8]: ...
    def __getitem__(self, rows: "int | NDArray[np.int64] | slice") -> NDArray[np.uint8]:
        """The film of one row where it lies, (S, S) uint8; the films of several rows copied, (B, S, S) uint8.

        Raises:
            IndexError: If a row is not from 0 to below N.
        """
        if isinstance(rows, int):
            return self._film(rows)
        wanted = range(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows).tolist()
        films = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        for film, row in zip(films, wanted, strict=True):
            film[:] = self._film(row)
        return films

    def _film(self, row: int) -> NDArray[np.uint8]:
        if not 0 <= row < len(self):
            raise IndexError(f"film {row} of {len(self)}")
        number = bisect_right(self._ends, row)
        film: NDArray[np.uint8] = self.arrays[number][row - self._ends[number]]  # counted from the end of its array
        return film
