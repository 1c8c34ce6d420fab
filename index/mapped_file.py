"""Files as memory maps that hold no file handle, however many there are, and say nothing to the system about how they are read."""

import ctypes
import errno
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_WILL_NEED = 3  # MADV_WILLNEED
_FAILED = ctypes.c_void_p(-1).value  # MAP_FAILED
_BYTES_PASSING = 1 << 19  # at a time: they stay in the processor's cache


class MappedFile:
    """A file that is not empty, mapped read-only; it is unmapped with the last array over its memory.

    Python's own maps keep a file handle each; Arrow's advise the system of every column that is looked at, which takes several
    times as long as all else that opens a file.

    Attributes:
        memory: Its bytes.

    Raises:
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self._stat = os.fstat(file.fileno())
            size = self._stat.st_size
            address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        mapped = (ctypes.c_ubyte * size).from_address(address)
        weakref.finalize(mapped, _libc().munmap, address, size).atexit = False
        self._address, self.memory = address, memoryview(mapped).toreadonly()

    def passing(self, block: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Yield the rows of a (n, D) array over this memory piece by piece, each until the next, read from the file without its map.

        To map pages and unmap them takes longer than to copy them once. The array itself is yielded where it lies elsewhere, and
        where the file cannot be opened any more or another one has its path by now.

        Raises:
            OSError: If the file has become shorter, or cannot be read.
        """
        start = block.ctypes.data - self._address
        file = self._open_again() if 0 <= start <= self._stat.st_size - block.nbytes else None
        if file is None:
            yield block
            return
        with file:
            file.seek(start)
            room = np.empty((max(_BYTES_PASSING // block.strides[0], 1), *block.shape[1:]), block.dtype)
            for row in range(0, len(block), len(room)):
                piece = room[: len(block) - row]
                if file.readinto(piece.data) < piece.nbytes:
                    raise OSError(errno.EIO, "has become shorter since it was opened", str(self._path))
                yield piece

    def _open_again(self) -> BufferedReader | None:
        try:
            file = self._path.open("rb")
        except OSError:
            return None
        if os.path.samestat(os.fstat(file.fileno()), self._stat):
            return file
        file.close()
        return None


def read_ahead(blocks: Iterable[npt.NDArray[Any]]) -> None:
    """Have the system read what mapped arrays lie over into its file cache, where it is not there yet."""
    for block in blocks:
        start = block.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
        _libc().madvise(start, block.ctypes.data + block.nbytes - start, _WILL_NEED)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
