"""Files as memory maps that hold no file handle, however many there are, and say nothing to the system about how they are read."""

import ctypes
import mmap
import os
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

_WILL_NEED = 3  # MADV_WILLNEED
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


def will_need(block: npt.NDArray[Any]) -> None:
    """Advise the system that a mapped array will be read; it may not heed that, and nothing depends on it."""
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
