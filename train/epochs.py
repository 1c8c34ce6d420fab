"""In which order the rows of a corpus come, epoch after epoch, and how a batch is shared among corpora."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray


def epoch_batches(studies: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Cut a random order of all rows into batches of one size, in which no study occurs twice.

    Two images of a study share their report: in one batch each would be pushed from the other's text,
    which is its own. A row whose study is already there waits for the next batch. Every row occurs at
    most once. To waste nothing of a small corpus the batches are of equal size, at most `batch_size` and
    at most the number of studies; left over are fewer rows than batches, and rows of a study with more
    images than there are batches.

    Args:
        studies: (N,) the study of each row.
        batch_size: Rows of a batch, at most.
        rng: Gives the order.

    Returns:
        Row numbers, (B,) each.

    Raises:
        ValueError: If there are fewer than two studies: a batch needs a pair to push away.
    """
    return _cut(studies, even_size(studies, batch_size), rng)


def even_size(studies: NDArray[np.int64], batch_size: int) -> int:
    """The size of batches that leave over as little as can be of an epoch.

    Raises:
        ValueError: As `epoch_batches`.
    """
    rows = len(studies)
    largest = min(batch_size, len(np.unique(studies)))
    if largest < 2:
        raise ValueError(f"batches of {largest} pairs from {rows} rows, expected two studies and a batch size of 2 or more")
    return max(rows // -(-rows // largest), 2)


def share_batch(batch_size: int, weights: Sequence[float]) -> list[int]:
    """Share the rows of a batch among corpora, in proportion to their weights, by the largest remainder.

    Args:
        batch_size: Rows, at least as many as there are weights.
        weights: Above 0 each.

    Returns:
        At least 1 each; their sum is batch_size.

    Raises:
        ValueError: If there are more weights than rows.
    """
    if len(weights) > batch_size:
        raise ValueError(f"batch_size is {batch_size}, expected {len(weights)} or more: a row of each corpus")
    ideal = batch_size * np.array(weights) / sum(weights)
    quotas = np.maximum(np.floor(ideal), 1)
    while (over := quotas.sum() - batch_size) != 0:
        owed = ideal - quotas
        if over < 0:
            quotas[np.argmax(owed)] += 1
        else:
            quotas[np.argmin(np.where(quotas > 1, owed, np.inf))] -= 1
    return [int(quota) for quota in quotas]


class RowStream:
    """The rows of one corpus in batches of one size, epoch after epoch, each in another order; no study twice in a batch.

    A row that an epoch leaves over comes in another. The order is a function of the epoch, so that any batch can be had
    at any time; asked for one after the other, each epoch is put in order once.
    """

    def __init__(self, rows: NDArray[np.int64], studies: NDArray[np.int64], size: int, order: Callable[[int], np.random.Generator]) -> None:
        """Stream the rows.

        Args:
            rows: (n,) what a batch holds some of.
            studies: (n,) the study of each.
            size: Rows of a batch; fewer if there are fewer studies.
            order: Gives the random numbers of an epoch.
        """
        self._rows, self._studies, self._order = rows, studies, order
        self.size = min(size, len(np.unique(studies)))
        self._ends = [0]  # batches in all after so many epochs
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()  # the epoch at hand

    @property
    def per_epoch(self) -> int:
        """Batches of the first epoch; one of another may have one or two more or fewer."""
        self._locate(0)
        return self._ends[1]

    def batch(self, number: int) -> NDArray[np.int64]:
        """The rows (size,) of a batch, counted from 0 over all epochs."""
        epoch, place = self._locate(number)
        return self._rows[self._cut(epoch)[place]]

    def epochs(self, batches: int) -> float:
        """How many epochs so many batches are; whole at the end of each."""
        epoch, place = self._locate(batches)
        return epoch + place / (self._ends[epoch + 1] - self._ends[epoch])

    def _locate(self, number: int) -> tuple[int, int]:
        while self._ends[-1] <= number:
            self._ends.append(self._ends[-1] + len(self._cut(len(self._ends) - 1)))
        epoch = bisect_right(self._ends, number) - 1
        return epoch, number - self._ends[epoch]

    def _cut(self, epoch: int) -> list[NDArray[np.int64]]:
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, _cut(self._studies, self.size, self._order(epoch))
        return self._batches


def _cut(studies: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    order = rng.permutation(len(studies))
    stream = zip(order.tolist(), studies[order].tolist(), strict=True)
    waiting: dict[int, deque[int]] = {}
    batches = []
    while len(batch := _next_batch(stream, waiting, size)) == size:
        batches.append(np.array(batch, dtype=np.int64))
    return batches


def _next_batch(stream: Iterator[tuple[int, int]], waiting: dict[int, deque[int]], size: int) -> list[int]:
    batch = []
    taken = set()
    for study in list(islice(waiting, size)):  # those that have waited longest
        batch.append(waiting[study].popleft())
        taken.add(study)
        if not waiting[study]:
            del waiting[study]
    while len(batch) < size and (drawn := next(stream, None)) is not None:
        row, study = drawn
        if study in taken:
            waiting.setdefault(study, deque()).append(row)
        else:
            batch.append(row)
            taken.add(study)
    return batch
