"""Threads of this process that compute side by side, each with one thread of torch."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def count_workers() -> int:
    """Return how many should compute for the calling thread: as many as torch computes with in it, at most all of them."""
    import torch

    return min(_workers(os.getpid())[1], torch.get_num_threads())


def work_on(parts: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """Return what `work` makes of each part, in their order; the first exception is raised.

    Parts that need nothing of each other are better served by a thread each than by torch's own threads, which wait for each
    other after every product: where something else keeps a processor busy, that costs many times the products. And a caller
    need not change torch's number of threads, which new threads of the process would inherit.
    """
    pool, _ = _workers(os.getpid())
    return list(pool.map(work, parts))


@cache
def _workers(process: int) -> tuple[ThreadPoolExecutor, int]:
    """Start the workers of a process: a forked one has none of its parent's."""
    import torch  # here, as it takes a second: a process that asks one thing needs no workers

    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="medret-scan", initializer=_compute_alone)
    together = threading.Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))  # all of them started
    torch.set_num_threads(count)  # what threads started from now on will see
    return pool, count


def _compute_alone() -> None:
    import torch

    torch.set_num_threads(1)
    torch.get_num_threads()  # the first use in a thread takes over what is set for new threads: now 1
