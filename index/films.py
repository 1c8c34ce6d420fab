"""Films of one size in one or several arrays, compared with their checksums where these are known."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError


class CheckedFilms:
    """An array of films, each of which is compared with its checksum when it is read.

    Args:
        films: (n, S, S) uint8, memory-mapped or not.
        checksums: (n,) uint32, CRC-32 of each film's bytes.
        ids: Of the n, for whoever meets a damaged one.
        place: Where they lie, and what to do then.
    """

    def __init__(self, films: NDArray[np.uint8], checksums: NDArray[np.uint32], ids: Sequence[str], place: tuple[str, str]) -> None:
        self._films, self._checksums, self._ids, self._place = films, checksums, ids, place
        self.shape = films.shape

    def __len__(self) -> int:
        return len(self._films)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return the (S, S) uint8 film of a row where it lies.

        Raises:
            MedretError: If it is not as it was written.
        """
        film: NDArray[np.uint8] = self._films[row]
        if crc32(film.data) != self._checksums[row]:
            where, mend = self._place
            raise MedretError(f"{where}: the film of {self._ids[row]} is damaged: not the pixels that were written. {mend}")
        return film


class Films:
    """Films of one size from several arrays, numbered through: what is asked for is read, and nothing else.

    Attributes:
        arrays: Each (n, S, S) uint8, memory-mapped or not; an empty one only where there is no film at all.
    """

    def __init__(self, arrays: Sequence[NDArray[np.uint8] | CheckedFilms]) -> None:
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
            MedretError: If a film that has a checksum is damaged.
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
