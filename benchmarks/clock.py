"""Times, rates of this machine, and files in and out of the page cache: what the measuring scripts share."""

import ctypes
import mmap
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CORES = os.cpu_count() or 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def seconds(call: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int, patience: float = 5.0, rest: float = 0.0) -> dict[str, list[float]]:
    """Time all calls in turns, after one to warm up, so that a change of the machine hits all alike.

    Args:
        calls: By name.
        rounds: Turns of each.
        patience: Seconds: a call that took longer to warm up is not repeated; that call is its only time.
        rest: Seconds before each call, for the threads of the one before to go to sleep: OpenBLAS's spin for 25 ms and more.

    Returns:
        Seconds of each call, by name.
    """
    warm = {name: seconds(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [taken] if taken > patience else [] for name, taken in warm.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            if warm[name] <= patience:
                time.sleep(rest)
                times[name].append(seconds(call))
    return times


def median(times: Sequence[float]) -> float:
    """Return the median, in the unit of the times."""
    return float(statistics.median(times))


def percentile(times: Sequence[float], share: float) -> float:
    """Return e.g. the 99th percentile, linearly interpolated."""
    return float(np.percentile(times, share))


def set_threads(count: int) -> None:
    """Let torch and faiss compute with `count` threads each."""
    import torch

    from index.kinds import load_faiss

    torch.set_num_threads(count)
    load_faiss().omp_set_num_threads(count)


def memory_rate(mebibytes: int = 1024) -> dict[int, float]:
    """Return bytes/s that 1 and all threads read from memory: the best of several ways and turns."""
    import torch

    words = np.ones(mebibytes << 17, np.int64)
    tensor = torch.from_numpy(words)
    rates = {}
    for count in sorted({1, CORES}):
        parts = np.array_split(words, count)
        torch.set_num_threads(count)
        with ThreadPoolExecutor(count) as pool:
            ways = [lambda pool=pool, parts=parts: list(pool.map(np.bitwise_or.reduce, parts)), lambda: tensor.view(torch.float32).sum()]
            ways.append(lambda pool=pool, parts=parts: list(pool.map(np.max, parts)))
            rates[count] = words.nbytes / min(seconds(way) for _ in range(7) for way in ways)
    torch.set_num_threads(CORES)
    return rates


def matrix_rate(dtype: str, side: int = 2048) -> dict[int, float]:
    """Return operations/s of square matrix products in "int8", "bfloat16" or "float32" at 1 and all threads; the best of 12."""
    import torch

    if dtype == "int8":
        left, right = (torch.randint(-127, 127, (side, side), dtype=torch.int8) for _ in range(2))
    else:
        left, right = (torch.randn(side, side).to(getattr(torch, dtype)) for _ in range(2))
    product = torch._int_mm if dtype == "int8" else torch.mm
    rates = {}
    for count in sorted({1, CORES}):
        torch.set_num_threads(count)
        times = [seconds(lambda: product(left, right.T)) for _ in range(14)]
        rates[count] = 2 * side**3 / min(times[2:])
    torch.set_num_threads(CORES)
    return rates


def forget(files: Iterable[Path]) -> None:
    """Drop files from the page cache.

    Raises:
        RuntimeError: If more than a hundredth of one stayed, e.g. because a process has it mapped: then nothing cold can be measured.
    """
    os.sync()  # dirty pages cannot be dropped
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        share = cached_share(path)
        if share > 0.01:
            raise RuntimeError(f"{path}: {share:.0%} of it stayed in the page cache, so nothing cold can be measured. Close what maps it.")


def cached_share(path: Path) -> float:
    """Return which share of a file's pages lies in the page cache."""
    size = path.stat().st_size
    if size == 0:
        return 0.0
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        buffer = (ctypes.c_char * size).from_buffer(mapped)
        status = _LIBC.mincore(ctypes.c_void_p(ctypes.addressof(buffer)), ctypes.c_size_t(size), found)
        del buffer
    if status:
        raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    return float((np.frombuffer(found, np.uint8) & 1).mean())


def resident(pid: int | str = "self") -> dict[str, int]:
    """Return bytes of a process in memory: all, anonymous (its own alone) and pages of files (shared with the page cache)."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) << 10
    return {"all": fields["Rss"], "anonymous": fields["Anonymous"], "file": fields["Rss"] - fields["Anonymous"]}


def files_under(*places: Path) -> list[Path]:
    """Return all plain files of these files and folders."""
    return [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*"))) if path.is_file()]


def processor() -> str:
    """Return what this machine computes with, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{CORES} cores of {model}"


def commit() -> str:
    """Return the commit of the working tree, with a + where it was changed since."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "no commit"
