"""Files as memory maps that hold no file handle, however many there are, and say nothing to the system about how they are read."""

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

_WILL_NEED, _POPULATE_READ = 3, 22  # MADV_: the second of Linux 5.14
_FAILED = ctypes.c_void_p(-1).value  # MAP_FAILED


def map_file(path: Path) -> memoryview:
    """Map a file that is not empty, read-only; it is unmapped with the last array over it.

    Python's own maps keep a file handle each; Arrow's advise the system of every column that is looked at, which takes several
    times as long as all else that opens a file.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    mapped = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(mapped, _libc().munmap, address, size).atexit = False
    return memoryview(mapped).toreadonly()


def read_ahead(blocks: Iterable[npt.NDArray[Any]]) -> None:
    """Have mapped arrays read and mapped, other threads going on meanwhile; a system that cannot is advised to read them soon."""
    for block in blocks:
        start = block.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
        length = block.ctypes.data + block.nbytes - start
        if _libc().madvise(start, length, _POPULATE_READ) != 0:
            _libc().madvise(start, length, _WILL_NEED)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
