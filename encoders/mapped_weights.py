"""Safetensors as a memory map: arrays that are views of the file, for a process that reads few of them once."""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError

_DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32}
_NOTES = "__metadata__"  # in the header, beside the tensors
_LONGEST_HEADER = 100_000_000  # bytes, as the library has it


def map_safetensors(path: Path, prefixes: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Map the tensors whose names begin with one of `prefixes`; the system is asked to read them ahead.

    Returns:
        Name to a read-only view of the file, in the file's type (float32, float16 ...).

    Raises:
        MedretError: If the file is missing, cut or no safetensors file.
    """
    damaged = f"{path}: cannot be read as weights. The file is cut or damaged; copy it again."
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(mapped[:8], "little")
        if length > min(len(mapped) - 8, _LONGEST_HEADER):
            raise MedretError(damaged)
        header: Mapping[str, Any] = json.loads(mapped[8 : 8 + length])
        if max((entry["data_offsets"][1] for name, entry in header.items() if name != _NOTES), default=0) != len(mapped) - 8 - length:
            raise MedretError(damaged)
        wanted = {name: entry for name, entry in header.items() if name.startswith(prefixes)}
        _read_ahead(mapped, 8 + length, wanted)
        return {name: _view(mapped, 8 + length, entry) for name, entry in wanted.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedretError(damaged) from error


def _view(mapped: mmap.mmap, start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"]
    if last - first != dtype.itemsize * int(np.prod(shape)):
        raise ValueError(entry)
    return np.frombuffer(mapped, dtype, (last - first) // dtype.itemsize, start + first).reshape(shape)


def _read_ahead(mapped: mmap.mmap, start: int, entries: Mapping[str, Any]) -> None:
    """Page faults one by one take many times as long as reading ahead, where the file is not cached; of tables few rows are read."""
    if not hasattr(mmap, "MADV_WILLNEED"):
        return
    spans = sorted(entry["data_offsets"] for name, entry in entries.items() if "embeddings" not in name)
    for place, (first, last) in enumerate(spans):
        if place + 1 < len(spans) and spans[place + 1][0] == last:  # neighbours are read together
            spans[place + 1] = [first, spans[place + 1][1]]
        elif first < last:
            page = (start + first) // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + last - page)
