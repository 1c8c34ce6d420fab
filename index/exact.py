"""Exact search in the memory-mapped shards, holding no vectors of its own."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from index.kinds import faiss_threads, load_faiss
from index.shards import ShardTable
from index.unit_vectors import fetch_units

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Found = tuple[Rows, Scores]

_QUERIES_AT_ONCE = 1024
_CANDIDATES_AT_ONCE = 1 << 22  # of all queries of a batch: some 300 MB
_MARGIN = 16  # candidates beyond k, so that near-ties of the k-th are usually among them
MOST_EXCLUDED = 256  # a query that leaves out more rows than this is answered by a scan, or exactly where a first stage proposes
_VALUES_AT_ONCE = 1 << 18  # of vectors in float64: what is scored at a time stays in the processor's cache
_SCORES_AT_ONCE = 1 << 24  # of a scan: 64 MiB
_VALUES_WORTH_THREADS = 1 << 20  # stored ones: fewer are compared in the time that threads take to start
_VALUES_READ_AGAIN = 1 << 20  # at a time, for each of a few queries: 4 MiB
_ROWS_MAPPED = 32  # of 512 values, at once, when one of them is read
_ROWS_WIDENED = 256  # at a time: they stay in the processor's cache
_HALF_EXPONENT = 0x7C00
_SIGN_EXPONENT_FRACTION = np.int32(-0x70000001)  # all but what the sign was copied to


class ExactSearch:
    """Exact inner-product search over one kind of vector of one modality.

    Candidates come from float32 arithmetic whose rounding depends on the batch; they are then scored again in float64, so that
    the same two vectors have the same score whatever they are searched with. A query whose candidates might miss a row that
    ties with, or beats, the k-th within float32 rounding is answered by a scan that keeps all such rows.
    """

    def __init__(self, table: ShardTable, vector: str) -> None:
        self.table, self.vector = table, vector
        self.rows, self.dimension = table.rows, table.dimension(vector)
        self._blocks = table.blocks(vector)
        self._starts = np.cumsum([0] + [len(block) for block in self._blocks])

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        excluded: Sequence[Rows] | None = None,
    ) -> list[Found]:
        """Return the k best rows of each query.

        Args:
            queries: (Q, D) float32, unit L2 norm per row for scores that are cosines.
            k: Above 0; may exceed the number of rows.
            allowed: (rows,) bool, the rows that may be found; all by default.
            excluded: Q arrays of rows that the query of that place must not find.

        Returns:
            Per query: rows int64 and scores float32, ordered by score descending, then id ascending, exactly, also across the
            boundary at k. Fewer than k where there are fewer.

        Raises:
            ValueError: If the queries are not (Q, D) or not finite, k is not positive, or `allowed` or `excluded` do not fit.
            MedretError: If a vector that may be an answer is damaged.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        self.check(queries, k, allowed, excluded)
        self.table.read_ahead(self.vector)
        found: list[Found] = []
        at_once = queries_at_once(min(_wanted(k, MOST_EXCLUDED), self.rows))
        for start in range(0, len(queries), at_once):
            stop = start + at_once
            found += self._search(queries[start:stop], k, allowed, None if excluded is None else excluded[start:stop])
        return found

    def check(self, queries: npt.NDArray[np.float32], k: int, allowed: Any, excluded: Any) -> None:
        """Raise ValueError if a search cannot be asked like this, see `search`."""
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries are {queries.shape}, expected (Q, {self.dimension})")
        if not np.isfinite(queries).all():
            raise ValueError(f"{int((~np.isfinite(queries).all(axis=1)).sum())} of {len(queries)} queries hold NaN or infinity")
        if k < 1:
            raise ValueError(f"k is {k}, expected above 0")
        if allowed is not None and (allowed.shape != (self.rows,) or allowed.dtype != np.bool_):
            raise ValueError(f"allowed is {allowed.shape} {allowed.dtype}, expected ({self.rows},) bool")
        if excluded is not None and len(excluded) != len(queries):
            raise ValueError(f"excluded has {len(excluded)} entries, expected one for each of {len(queries)} queries")

    def _search(
        self, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None, excluded: Sequence[Rows] | None
    ) -> list[Found]:
        asked = [_NO_ROWS] * len(queries) if excluded is None else excluded
        left_out = [np.unique(np.asarray(rows, np.int64)) if len(rows) else _NO_ROWS for rows in asked]
        usual = most_excluded(left_out)
        reachable = self.rows if allowed is None else int(allowed.sum())
        wanted = min(_wanted(k, usual), reachable)
        if wanted == 0:
            return [(_NO_ROWS, _NO_ROWS.astype(np.float32)) for _ in queries]
        rows, scores = self._nearest(queries, wanted, allowed)
        exact = self.score(queries, np.repeat(np.arange(len(queries)), wanted), rows.reshape(-1)).reshape(rows.shape)
        found: dict[int, Found] = {}
        doubtful: list[int] = []
        for place, query in enumerate(queries):
            kept = ~np.isin(rows[place], left_out[place], assume_unique=True) if len(left_out[place]) else np.ones(wanted, np.bool_)
            if wanted < reachable and (kept.sum() < k or _kth(exact[place, kept], k) <= scores[place, -1] + float(self.rounding(query))):
                doubtful.append(place)
            else:
                found[place] = self.best(rows[place, kept], exact[place, kept], k)
        for place, candidates in zip(doubtful, self._scan(queries[doubtful], k, allowed, [left_out[d] for d in doubtful]), strict=True):
            found[place] = self.best(candidates, self.score(queries[[place]], np.zeros(len(candidates), np.int64), candidates), k)
        return [found[place] for place in range(len(queries))]

    def _nearest(self, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None) -> Found:
        """Return (Q, k) rows and float32 scores, best first, searching shards side by side with a thread each.

        FAISS's own threads share one shard's queries, of which there may be one, and wait for each other after each.
        """
        if len(queries) == 1 and "faiss" not in sys.modules:
            return self._nearest_alone(queries[0], k, allowed)
        shards = iter(range(len(self._blocks)))  # who is done with one takes the next: no one waits for a thread that is held up
        workers = min(load_faiss().omp_get_max_threads(), len(self._blocks))
        if workers == 1 or self.rows * self.dimension < _VALUES_WORTH_THREADS:
            rows, scores = self._nearest_of(shards, queries, k, allowed, 1 if len(queries) == 1 else None)
        else:
            with ThreadPoolExecutor(workers) as pool:
                parts = list(pool.map(lambda _: self._nearest_of(shards, queries, k, allowed, 1), range(workers)))
            rows, scores = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _nearest_of(
        self, shards: Iterable[int], queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None, threads: int | None
    ) -> Found:
        """Return (Q, up to k) rows and float32 scores of these shards, unordered, computed with so many threads of FAISS."""
        best_rows = np.empty((len(queries), 0), np.int64)
        best_scores = np.empty((len(queries), 0), np.float32)
        with faiss_threads(threads):
            for block, rows in self._searched(allowed, shards):
                scores, places = self._knn(queries, block, min(k, len(block)))
                best_rows = np.concatenate([best_rows, rows[places]], axis=1)
                best_scores = np.concatenate([best_scores, scores], axis=1)
                if best_rows.shape[1] > k:
                    kept = np.argpartition(-best_scores, k - 1, axis=1)[:, :k]
                    best_rows = np.take_along_axis(best_rows, kept, axis=1)
                    best_scores = np.take_along_axis(best_scores, kept, axis=1)
        return best_rows, best_scores

    def _nearest_alone(self, query: Scores, k: int, allowed: npt.NDArray[np.bool_] | None) -> Found:
        """Return (1, k) rows and float32 scores of one query, by NumPy: for less than importing FAISS takes."""

        def search(place: int) -> Found:
            start, block = int(self._starts[place]), self._blocks[place]
            rows = np.arange(len(block)) if allowed is None else np.flatnonzero(allowed[start : start + len(block)])
            few = len(rows) * _ROWS_MAPPED < len(block)
            pieces = [block[rows]] if few else self.table.passing(self.vector, place)
            scores = np.concatenate([np.empty(0, np.float32), *(_as_float32(piece) @ query for piece in pieces)])
            if len(scores) > len(rows):
                scores = scores[rows]
            best = np.argpartition(-scores, k - 1)[:k] if len(scores) > k else np.arange(len(scores))
            return start + rows[best], scores[best]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(search, range(len(self._blocks))))
        rows, scores = np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])
        order = np.argsort(-scores, kind="stable")[:k]
        return rows[None, order], scores[None, order]

    def _knn(self, queries: npt.NDArray[np.float32], block: npt.NDArray[np.float32], k: int) -> tuple[Scores, Rows]:
        """Return float32 scores and places, (Q, k or more), of the k best vectors of a block, and perhaps of others.

        For so few queries that FAISS takes no matrix product, it reads the block once for each: so they are given pieces of it
        that stay in the processor's cache.
        """
        faiss = load_faiss()
        read_again = 1 < len(queries) < faiss.cvar.distance_compute_blas_threshold
        at_once = max(_VALUES_READ_AGAIN // self.dimension, 1) if read_again else len(block)
        scores, places = [], []
        for first in range(0, len(block), at_once):
            piece = block[first : first + at_once]
            own, inside = faiss.knn(queries, piece, min(k, len(piece)), metric=faiss.METRIC_INNER_PRODUCT)
            scores.append(own)
            places.append(inside + first)
        return np.concatenate(scores, axis=1), np.concatenate(places, axis=1)

    def _searched(
        self, allowed: npt.NDArray[np.bool_] | None, shards: Iterable[int] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.float32], Rows]]:
        """Yield the float32 vectors to search, of these shards or all, with the row number of each; they hold until the next."""
        room = np.empty((max(map(len, self._blocks)), self.dimension), np.float32)  # reused: fresh memory costs more than the copy
        for shard in range(len(self._blocks)) if shards is None else shards:
            start, block = int(self._starts[shard]), self._blocks[shard]
            places = np.arange(len(block)) if allowed is None else np.flatnonzero(allowed[start : start + len(block)])
            vectors = room[: len(places)]
            if len(places) == len(block) and block.dtype == np.float32:
                vectors = block
            elif len(places) == len(block):
                widen(block, vectors)
            elif block.dtype == np.float32:
                block.take(places, axis=0, out=vectors, mode="clip")  # another mode would copy twice
            else:
                widen(block[places], vectors)
            if len(places):
                yield vectors, start + places

    def _scan(
        self, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None, left_out: Sequence[Rows]
    ) -> Iterator[Rows]:
        """Yield, query by query, every row that is, or within float32 rounding might be, among its k best."""
        at_once = max(_SCORES_AT_ONCE // self.rows, 1)
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            scores = np.full((len(queries[part]), self.rows), -np.inf, np.float32)
            for block, rows in self._searched(allowed):
                scores[:, rows] = queries[part] @ block.T
            for query, own, excluded in zip(queries[part], scores, left_out[part], strict=True):
                own[excluded] = -np.inf
                if int((own > -np.inf).sum()) <= k:
                    yield np.flatnonzero(own > -np.inf)
                else:
                    yield np.flatnonzero(own >= _kth(own, k) - 2 * float(self.rounding(query)))

    def score(self, queries: npt.NDArray[np.float32], owners: Rows, rows: Rows) -> Scores:
        """Return (P,) float32 scores, computed in float64: of the query at each of P places with the row beside it."""
        scores = np.empty(len(rows), np.float32)
        at_once = max(_VALUES_AT_ONCE // self.dimension, 1)
        for start in range(0, len(rows), at_once):
            pairs = slice(start, start + at_once)
            askers = queries[owners[pairs]].astype(np.float64)
            scores[pairs] = (fetch_units(self.table, self.vector, rows[pairs]) * askers).sum(axis=1)
        return scores

    def best(self, rows: Rows, scores: Scores, k: int) -> Found:
        """Return the k best of one query's rows by (score descending, id ascending)."""
        if len(rows) > k:  # drop what is surely beyond k before ids are looked up
            kept = scores >= _kth(scores, k)
            rows, scores = rows[kept], scores[kept]
        order = np.argsort(-scores, kind="stable")
        if (scores[order][1:] == scores[order][:-1]).any():
            ids = self.table.ids(rows)
            order = np.array(sorted(range(len(rows)), key=lambda place: (-scores[place], ids[place])), dtype=np.int64)
        return rows[order[:k]], scores[order[:k]]

    def rounding(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Bound, for each query, the float32 rounding error of an inner product with a vector of norm 1, in any order of summation."""
        norms = np.linalg.norm(queries.astype(np.float64), axis=-1)
        return np.asarray((self.dimension + 8) * 2.0**-24 * 1.01 * norms)


def widen(halves: npt.NDArray[np.float16], wide: Scores) -> Scores:
    """Write float16 values, (N, D), as float32 into `wide` and return it: a third of the time that NumPy's own conversion takes.

    The bits of a half, 13 places up, are a float32 of the same sign and fraction whose exponent is 112 too low.
    """
    for start in range(0, len(halves), _ROWS_WIDENED):
        part, out = halves[start : start + _ROWS_WIDENED], wide[start : start + _ROWS_WIDENED]
        bits = part.view(np.int16)
        if int((bits & _HALF_EXPONENT).max()) == _HALF_EXPONENT:  # infinity or NaN
            np.copyto(out, part)
            continue
        longer = bits.astype(np.int32)
        longer <<= 13
        longer &= _SIGN_EXPONENT_FRACTION
        np.multiply(longer.view(np.float32), np.float32(2.0**112), out=out)
    return wide


def _as_float32(vectors: npt.NDArray[Any]) -> Scores:
    return vectors if vectors.dtype == np.float32 else widen(vectors, np.empty(vectors.shape, np.float32))


def queries_at_once(candidates: int) -> int:
    """Return how many queries to answer at a time that have so many candidates each."""
    return max(min(_QUERIES_AT_ONCE, _CANDIDATES_AT_ONCE // max(candidates, 1)), 1)


def most_excluded(left_out: Sequence[Rows]) -> int:
    """Return how many candidates more to take for all queries of a batch, for the rows that each leaves out."""
    return max((len(rows) for rows in left_out if len(rows) <= MOST_EXCLUDED), default=0)


def _wanted(k: int, excluded: int) -> int:
    """Return how many candidates to take for k hits of which so many may be excluded."""
    return k + _MARGIN + k // 4 + excluded


def _kth(scores: Scores, k: int) -> np.float32:
    """Return the k-th highest score, or the lowest where there are fewer."""
    place = max(len(scores) - k, 0)
    return np.float32(np.partition(scores, place)[place])


_NO_ROWS: Rows = np.empty(0, np.int64)
