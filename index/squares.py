"""Films decoded into squares by threads, ahead of whoever takes them."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from encoders.preprocess import Fitted, Preprocessing
from index.corpora.record import Record

Square = npt.NDArray[np.uint8]
R = TypeVar("R")
T = TypeVar("T")

AHEAD = 64  # squares that may wait


def decode_squares(
    records: Iterable[Record], preprocessing: Preprocessing, size: int, workers: int | None = None, ahead: int = AHEAD
) -> Generator[tuple[Record, Square | str]]:
    """Decode images in threads, ahead of whoever reads them, in the order of the records.

    Yields:
        Each record with its (size, size) uint8 square, or with why it cannot be had, in words that name the record by its id.
    """

    def square(record: Record) -> Square | str:
        made = decode_square(preprocessing, size, record)
        return made if isinstance(made, str) else made.square

    return make_ahead(records, square, workers, ahead)


def make_ahead(records: Iterable[R], make: Callable[[R], T], workers: int | None, ahead: int = AHEAD) -> Generator[tuple[R, T]]:
    """Make the squares of records in threads, ahead of whoever takes them, in the order of the records.

    Args:
        records: Or what names them; taken one by one, as they are needed.
        make: What gives a square, or says why there is none.
        workers: Threads; one a core by default, of those that this process may use.
        ahead: How many squares may wait, at least: as many as are taken at a time, so that all can be made meanwhile.
    """
    threads = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    waiting: deque[tuple[R, Future[T]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for record in records:
                waiting.append((record, pool.submit(make, record)))
                if len(waiting) > ahead + 2 * threads:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, result in waiting:
                result.cancel()


def decode_square(preprocessing: Preprocessing, size: int, record: Record) -> Fitted | str:
    """Decode one film into a (size, size) uint8 square, or say why it cannot be had, in words that name it by its id."""
    assert record.image is not None
    try:
        return preprocessing.read_fitted(record.image, record.id, size)
    except MedretError as error:  # a path can hold a name, so it must not come into a list of failures
        return " ".join(str(error).replace(str(record.image), record.id).split())
