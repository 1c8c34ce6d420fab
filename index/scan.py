"""The scan: all compacted int8 codes are multiplied with the query, and the rows with the best products are candidates."""

import mmap
import sys
import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.atomic import whole_file
from encoders.errors import MedretError
from index.exact import Rows
from index.integer_products import integer_products, is_worth_torch
from index.kinds import IndexKind
from index.quantiser import MOST, Codes, Quantiser, Vectors, load_quantiser
from index.workers import count_workers, work_on

_BLOCK = 64  # rows whose largest score is looked at before their own
_QUERIES_AT_ONCE = 1024
_ROWS_AT_ONCE = ((64, 1 << 14), (_QUERIES_AT_ONCE, 1 << 12))  # for up to so many queries: scores stay in the cache
_ROWS_OF_ONE = 1 << 20  # of a single query at a time
_ROWS_ENCODED = 4096  # at a time
_NEVER = int(np.iinfo(np.int32).min)  # the score of a row that is not allowed
_LOWEST = _NEVER + 1
_NO_ROWS: Rows = np.empty(0, np.int64)
_POOLED = 1 << 20  # keys beyond which the pool is cut


class ScanStage:
    """Finds candidates by the integer products of all codes with those of the query.

    The candidates of a query are the rows whose product is at least the count-th highest: a set that depends on nothing else,
    not on the other queries of the batch. Only where more than 2 x count rows would qualify, as they tie, the first are taken.

    Args:
        kind: The row of index.kinds.
        quantiser: What made the codes.
        codes: (rows, p) int8 in the order of the shards; mapped or in memory.
    """

    lists: int | None = None

    def __init__(self, kind: IndexKind, quantiser: Quantiser, codes: Codes) -> None:
        self.kind, self.quantiser = kind, quantiser
        self._set(codes)
        self._rooms = threading.local()

    def _set(self, codes: Codes) -> None:
        self._codes, self.rows = codes, len(codes)
        self._plain = np.asarray(codes)  # slices of a memmap object cost more than the products of a small chunk

    def candidates(self, queries: Vectors, count: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None) -> list[Rows]:
        """Return the rows with the highest products for each query, see index.stages.FirstStage."""
        asked = self.quantiser.quantise_queries(queries)
        workers = count_workers() if is_worth_torch(len(asked)) else 0
        if len(asked) == 1:
            return [self._candidates_of_one(asked, count, allowed, workers)]
        layout = _KeyLayout(self.rows, self.quantiser.dimension)
        at_once = max(min(-(-len(asked) // workers), _QUERIES_AT_ONCE, layout.queries), 1)
        parts = [asked[start : start + at_once] for start in range(0, len(asked), at_once)]
        found = work_on(parts, lambda part: self._candidates(part, count, allowed, layout))
        return [rows for part in found for rows in part]

    def _candidates_of_one(self, asked: Codes, count: int, allowed: npt.NDArray[np.bool_] | None, workers: int) -> Rows:
        """Return what a pool would, without its bookkeeping of many queries, a tenth of a millisecond."""
        found, reached, bound = [_NO_ROWS], [np.empty(0, np.int32)], _LOWEST
        for start in range(0, self.rows, _ROWS_OF_ONE):
            stop = min(start + _ROWS_OF_ONE, self.rows)
            scores, maxima = self._scores(asked, start, stop, None if allowed is None else ~allowed[start:stop], workers)
            bound = max(bound, int(_bounds(scores, maxima, count)[0]))
            blocks = np.flatnonzero(maxima[0] >= bound)
            inside = scores.reshape(-1, _BLOCK)[blocks]
            hits = np.flatnonzero(inside >= bound)
            found.append(blocks[hits // _BLOCK] * _BLOCK + hits % _BLOCK + start)
            reached.append(inside.reshape(-1)[hits])
        rows, products = np.concatenate(found), np.concatenate(reached)
        order = np.argsort(-products, kind="stable")[: 2 * count]  # rows that tie stay in their order
        best = products[order]
        return np.asarray(rows[order[best >= best[count - 1]]] if len(best) > count else rows[order])

    def _candidates(self, asked: Codes, count: int, allowed: npt.NDArray[np.bool_] | None, layout: "_KeyLayout") -> list[Rows]:
        pool = _Pool(len(asked), count, layout)
        forbidden = None if allowed is None else ~allowed
        at_once = next(rows for queries, rows in _ROWS_AT_ONCE if len(asked) <= queries)
        checked = 0  # rows that the bounds are drawn from
        for start in range(0, self.rows, at_once):
            stop = min(start + at_once, self.rows)
            scores, maxima = self._scores(asked, start, stop, None if forbidden is None else forbidden[start:stop])
            if start == 0:
                pool.raise_bounds(scores, maxima)
            pool.take(scores, maxima, start)
            if stop >= 2 * checked or pool.waiting > _POOLED:
                pool.cut()
                checked = stop
        return pool.rows()

    def _scores(
        self, asked: Codes, start: int, stop: int, forbidden: npt.NDArray[np.bool_] | None, workers: int = 0
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return (Q, n) scores of the rows from start to stop, n filled up to whole blocks, and the (Q, n / 64) largest of each block.

        The scores hold until the next call. So many workers, to whom a single query is given, take a share of the rows each; the
        calling thread takes all of them where it is 0.
        """
        blocks = -(-(stop - start) // _BLOCK)
        room = getattr(self._rooms, "scores", None)  # reused: fresh memory costs as much as the products
        if room is None or len(room) < len(asked) * blocks * _BLOCK:
            room = self._rooms.scores = np.empty(len(asked) * blocks * _BLOCK, np.int32)
        scores: npt.NDArray[np.int32] = room[: len(asked) * blocks * _BLOCK].reshape(len(asked), -1)
        maxima = np.empty((len(asked), blocks), np.int32)

        def fill(part: slice) -> None:
            places = slice(part.start * _BLOCK, min(part.stop * _BLOCK, stop - start))
            inside = scores[:, places]
            products = inside if inside.flags.c_contiguous else np.empty(inside.shape, np.int32)
            integer_products(asked, self._plain[start + places.start : start + places.stop], products)
            if products is not inside:
                inside[:] = products
            if forbidden is not None:
                inside[:, forbidden[places]] = _NEVER
            scores[:, places.stop : part.stop * _BLOCK] = _NEVER
            _find_maxima(scores[:, part.start * _BLOCK : part.stop * _BLOCK], maxima[:, part])

        if workers:
            share = -(-blocks // workers)
            work_on([slice(first, min(first + share, blocks)) for first in range(0, blocks, share)], fill)
        else:
            fill(slice(0, blocks))
        return scores, maxima

    def add(self, vectors: Iterable[Vectors]) -> None:
        """Append rows, see index.stages.FirstStage."""
        self._set(np.concatenate([self._codes, *(self.quantiser.quantise(block) for block in vectors)]))

    def save(self, folder: Path, name: str) -> list[str]:
        """Write NAME.codes.npy and NAME.quantiser.npz into `folder`."""
        files = [f"{name}.codes.npy", f"{name}.quantiser.npz"]
        with whole_file(folder / files[0]) as part, part.open("wb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(self._codes), allow_pickle=False)
        self.quantiser.save(folder / files[1])
        return files

    def efforts(self) -> tuple[int | None, ...]:
        """Return (None,): all rows are always looked at."""
        return (None,)

    def read_ahead(self) -> None:
        """Ask the system to read the codes into its file cache: page faults one by one are many times slower."""
        mapped = getattr(self._codes, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)


def build_scan(kind: IndexKind, quantiser: Quantiser, blocks: Sequence[npt.NDArray[Any]]) -> ScanStage:
    """Return the scan over these blocks of stored vectors, (n, D) float32 or float16 each."""
    codes = np.empty((sum(map(len, blocks)), quantiser.dimension), np.int8)
    start = 0
    for block in blocks:
        for first in range(0, len(block), _ROWS_ENCODED):
            piece = quantiser.quantise(block[first : first + _ROWS_ENCODED])
            codes[start : start + len(piece)] = piece
            start += len(piece)
    return ScanStage(kind, quantiser, codes)


def load_scan(kind: IndexKind, codes: Path, quantiser: Path, rows: int, dimension: int) -> ScanStage:
    """Map the codes and read the quantiser that `ScanStage.save` wrote.

    Raises:
        MedretError: If a file is missing, damaged, or made for other rows.
    """
    made = load_quantiser(quantiser, dimension)
    try:
        mapped = np.load(codes, mmap_mode="c", allow_pickle=False)  # "c": torch takes writable arrays only; nothing is written
    except (OSError, ValueError, EOFError) as error:
        raise MedretError(f"{codes}: the index file cannot be read ({error}). Run medret build-index again") from error
    if mapped.dtype != np.int8 or mapped.shape != (rows, made.dimension) or not mapped.flags.c_contiguous:
        raise MedretError(
            f"{codes}: holds {mapped.shape} {mapped.dtype}, expected ({rows}, {made.dimension}) int8. Run medret build-index again"
        )
    return ScanStage(kind, made, mapped)


def _find_maxima(scores: npt.NDArray[np.int32], maxima: npt.NDArray[np.int32]) -> None:
    """Write the largest of each 64 of the (Q, n) scores into (Q, n / 64) maxima."""
    blocks = scores.reshape(len(scores), -1, _BLOCK)
    if "torch" not in sys.modules:
        np.max(blocks, axis=2, out=maxima)
        return
    import torch  # several times as fast

    torch.amax(torch.from_numpy(blocks), 2, out=torch.from_numpy(maxima))


def _bounds(scores: npt.NDArray[np.int32], maxima: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """Return (Q,) scores that `count` of these rows reach at least: the count-th highest of the largest scores of blocks."""
    size = _BLOCK
    while size > 1 and scores.shape[1] // size <= 2 * count:
        size //= 2
    groups = maxima if size == _BLOCK else scores.reshape(len(scores), -1, size).max(axis=2)
    place = groups.shape[1] - count
    if place <= 0:
        return np.full(len(scores), _LOWEST, np.int32)
    bounds: npt.NDArray[np.int32] = np.maximum(np.partition(groups, place, axis=1)[:, place], np.int32(_LOWEST))
    return bounds


class _KeyLayout:
    """How a query's place, a score and a row are packed into one uint64, so that sorting keys sorts by all three.

    From the highest bits: the query, how far its score lies below the highest possible, the row.
    """

    def __init__(self, rows: int, dimension: int) -> None:
        self.highest = MOST * MOST * dimension
        self.row_bits = np.uint64(max(rows - 1, 1).bit_length())
        self.low_bits = np.uint64((2 * self.highest).bit_length()) + self.row_bits
        self.queries = 1 << (64 - int(self.low_bits))  # that a batch may have

    def pack(self, owners: Rows, scores: npt.NDArray[np.int32], rows: Rows) -> npt.NDArray[np.uint64]:
        """Return a key for each row found."""
        below = (self.highest - scores.astype(np.int64)).astype(np.uint64)
        keys: npt.NDArray[Any] = (owners.astype(np.uint64) << self.low_bits) | (below << self.row_bits) | rows.astype(np.uint64)
        return keys


class _Pool:
    """The rows found so far, and for each query a score that its count-th best row surely reaches."""

    def __init__(self, queries: int, count: int, layout: _KeyLayout) -> None:
        self.count, self._layout = count, layout
        self._bounds = np.full(queries, _LOWEST, np.int32)
        self._keys = np.empty(0, np.uint64)
        self._new: list[npt.NDArray[np.uint64]] = []
        self.waiting = 0
        self._edges = np.arange(queries + 1, dtype=np.uint64)

    def raise_bounds(self, scores: npt.NDArray[np.int32], maxima: npt.NDArray[np.int32]) -> None:
        """Bound by what so many of these rows reach."""
        self._bounds = np.maximum(self._bounds, _bounds(scores, maxima, self.count))

    def take(self, scores: npt.NDArray[np.int32], maxima: npt.NDArray[np.int32], first_row: int) -> None:
        """Take the rows that reach their query's bound; only blocks whose largest score does are looked into."""
        blocks = np.flatnonzero(maxima >= self._bounds[:, None])  # numbered through all queries
        owners = blocks // maxima.shape[1]
        inside = scores.reshape(-1, _BLOCK)[blocks]
        hits = np.flatnonzero(inside >= self._bounds[owners, None])
        pairs = hits // _BLOCK
        rows = blocks[pairs] % maxima.shape[1] * _BLOCK + hits % _BLOCK + first_row
        self._new.append(self._layout.pack(owners[pairs], inside.reshape(-1)[hits], rows))
        self.waiting += len(hits)

    def cut(self) -> None:
        """Sort by query, score and row; drop what lies below the count-th best, and raise the bounds to that."""
        keys = np.concatenate([self._keys, *self._new])
        keys.sort()
        self._new, self.waiting = [], 0
        layout = self._layout
        starts = self._starts(keys)
        sizes = np.diff(starts)
        last = starts[:-1] + np.minimum(self.count, sizes) - 1  # of each query, its count-th best
        below = keys >> layout.row_bits  # query and score, without the row
        limits = np.zeros(len(sizes), np.uint64)
        limits[sizes > 0] = below[last[sizes > 0]]
        places = np.arange(len(keys)) - np.repeat(starts[:-1], sizes)
        self._keys = keys[(below <= np.repeat(limits, sizes)) & (places < 2 * self.count)]
        full = sizes >= self.count
        below_mask = (np.uint64(1) << (layout.low_bits - layout.row_bits)) - np.uint64(1)
        reached = layout.highest - (limits & below_mask).astype(np.int64)
        self._bounds[full] = np.maximum(self._bounds[full], reached[full])

    def rows(self) -> list[Rows]:
        """Return the candidates of each query."""
        if self._new:
            self.cut()
        found = (self._keys & ((np.uint64(1) << self._layout.row_bits) - np.uint64(1))).astype(np.int64)
        starts = self._starts(self._keys).tolist()
        return [found[start:stop] for start, stop in pairwise(starts)]

    def _starts(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """Return (Q + 1,) places where the keys of each query begin, and the end."""
        return np.searchsorted(keys >> self._layout.low_bits, self._edges).astype(np.int64)
