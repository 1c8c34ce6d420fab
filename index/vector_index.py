"""Build and open an index folder, and search it exactly (with kinds.py the one home of faiss).

The flat kind holds nothing of its own: it searches the vectors in the memory-mapped shards.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.atomic import private_folder
from encoders.checkpoint import copy_checkpoint, find_checkpoint, read_fingerprint
from encoders.errors import MedretError
from index.kinds import find_kind, load_faiss
from index.manifest import INDEX_MANIFEST, SHARDS_MANIFEST, IndexEntry, IndexManifest, load_index_manifest, sha256_file
from index.shards import Shards, ShardTable, open_shards

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Found = tuple[Rows, Scores]

_QUERIES_AT_ONCE = 1024
_MARGIN = 16  # candidates beyond k, so that near-ties of the k-th are usually among them
_MOST_EXCLUDED = 256  # a query that leaves out more rows than this is answered by a scan
_VALUES_AT_ONCE = 1 << 18  # of vectors in float64: what is scored at a time stays in the processor's cache
_SCORES_AT_ONCE = 1 << 24  # of a scan: 64 MiB


class VectorIndex:
    """Exact inner-product search over one kind of vector of one modality.

    Candidates come from float32 arithmetic whose rounding depends on the batch; they are then scored again in float64, so that
    the same two vectors have the same score whatever they are searched with. A query whose candidates might miss a row that
    ties with, or beats, the k-th within float32 rounding is answered by a scan that keeps all such rows.
    """

    def __init__(self, table: ShardTable, vector: str):
        self.table, self.vector = table, vector
        self.rows, self.dimension = table.rows, table.dimension(vector)
        self._blocks = table.blocks(vector)
        self._starts = np.cumsum([0] + [len(block) for block in self._blocks])
        self._faiss = load_faiss()

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
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        self._check(queries, k, allowed, excluded)
        found: list[Found] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            stop = start + _QUERIES_AT_ONCE
            found += self._search(queries[start:stop], k, allowed, None if excluded is None else excluded[start:stop])
        return found

    def _check(self, queries: npt.NDArray[np.float32], k: int, allowed: Any, excluded: Any) -> None:
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
        left_out = [np.unique(np.asarray(rows, np.int64)) for rows in excluded] if excluded is not None else [_NO_ROWS] * len(queries)
        usual = max((len(rows) for rows in left_out if len(rows) <= _MOST_EXCLUDED), default=0)
        reachable = self.rows if allowed is None else int(allowed.sum())
        wanted = min(k + _MARGIN + k // 4 + usual, reachable)
        if wanted == 0:
            return [(_NO_ROWS, _NO_ROWS.astype(np.float32)) for _ in queries]
        rows, scores = self._nearest(queries, wanted, allowed)
        exact = self._score(queries, rows)
        found: dict[int, Found] = {}
        doubtful: list[int] = []
        for place, query in enumerate(queries):
            kept = np.isin(rows[place], left_out[place], assume_unique=True, invert=True)
            if wanted < reachable and (kept.sum() < k or _kth(exact[place, kept], k) <= scores[place, -1] + self._rounding(query)):
                doubtful.append(place)
            else:
                found[place] = self._best(rows[place, kept], exact[place, kept], k)
        for place, candidates in zip(doubtful, self._scan(queries[doubtful], k, allowed, [left_out[d] for d in doubtful]), strict=True):
            found[place] = self._best(candidates, self._score(queries[[place]], candidates[None])[0], k)
        return [found[place] for place in range(len(queries))]

    def _nearest(self, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None) -> Found:
        """Return (Q, k) rows and float32 scores, best first, searching one shard after the other."""
        best_rows = np.full((len(queries), 0), -1, np.int64)
        best_scores = np.full((len(queries), 0), 0, np.float32)
        with _threads(self._faiss, 1 if len(queries) == 1 else None):
            for block, rows in self._searched(allowed):
                scores, places = self._faiss.knn(queries, block, min(k, len(block)), metric=self._faiss.METRIC_INNER_PRODUCT)
                best_rows = np.concatenate([best_rows, rows[places]], axis=1)
                best_scores = np.concatenate([best_scores, scores], axis=1)
                if best_rows.shape[1] > k:
                    kept = np.argpartition(-best_scores, k - 1, axis=1)[:, :k]
                    best_rows = np.take_along_axis(best_rows, kept, axis=1)
                    best_scores = np.take_along_axis(best_scores, kept, axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")
        return np.take_along_axis(best_rows, order, axis=1), np.take_along_axis(best_scores, order, axis=1)

    def _searched(self, allowed: npt.NDArray[np.bool_] | None) -> Iterator[tuple[npt.NDArray[np.float32], Rows]]:
        """Yield the float32 vectors to search, shard by shard, with the row number of each; they hold until the next."""
        room = np.empty((max(map(len, self._blocks)), self.dimension), np.float32)  # reused: fresh memory costs more than the copy
        for start, block in zip(self._starts.tolist(), self._blocks, strict=False):
            places = np.arange(len(block)) if allowed is None else np.flatnonzero(allowed[start : start + len(block)])
            vectors = room[: len(places)]
            if len(places) == len(block) and block.dtype == np.float32:
                vectors = block
            elif len(places) == len(block):
                np.copyto(vectors, block)
            elif block.dtype == np.float32:
                block.take(places, axis=0, out=vectors, mode="clip")  # another mode would copy twice
            else:
                np.copyto(vectors, block[places])
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
                    yield np.flatnonzero(own >= _kth(own, k) - 2 * self._rounding(query))

    def _score(self, queries: npt.NDArray[np.float32], rows: Rows) -> Scores:
        """Return (Q, C) float32 scores of each query with its C rows, computed in float64."""
        scores = np.empty(rows.size, np.float32)
        at_once = max(_VALUES_AT_ONCE // self.dimension, 1)
        for start in range(0, rows.size, at_once):
            pairs = np.arange(start, min(start + at_once, rows.size))
            askers = queries[pairs // rows.shape[1]].astype(np.float64)
            scores[pairs] = (self.table.vectors(self.vector, rows.reshape(-1)[pairs]) * askers).sum(axis=1)
        return scores.reshape(rows.shape)

    def _best(self, rows: Rows, scores: Scores, k: int) -> Found:
        if len(rows) > k:  # drop what is surely beyond k before ids are looked up
            kept = scores >= _kth(scores, k)
            rows, scores = rows[kept], scores[kept]
        order = np.argsort(-scores, kind="stable")
        if len(np.unique(scores)) < len(scores):
            ids = self.table.ids(rows)
            order = np.array(sorted(range(len(rows)), key=lambda place: (-scores[place], ids[place])), dtype=np.int64)
        return rows[order[:k]], scores[order[:k]]

    def _rounding(self, query: npt.NDArray[np.float32]) -> float:
        """Bound of the float32 rounding error of one inner product with a vector of norm 1, in any order of summation."""
        return float((self.dimension + 8) * 2.0**-24 * 1.01 * np.linalg.norm(query))


class OpenedIndex:
    """An index folder, opened and checked.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
        encoder_folder: The checkpoint of its encoder.
        shards: The vectors and metadata it searches.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, shards: Shards):
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.encoder_folder = folder / "encoder"
        self._indexes: dict[tuple[str, str], VectorIndex] = {}

    def index(self, modality: str, vector: str = "joint") -> VectorIndex:
        """Return the index of a modality ("images", "reports", "sentences") by a vector ("joint", "features").

        Raises:
            MedretError: If the folder has none; it names what to do.
        """
        entry = next((entry for entry in self.manifest.indexes if (entry.modality, entry.vector) == (modality, vector)), None)
        if entry is None:
            self.shards.table(modality).dimension(vector)  # says what the shards lack
            raise MedretError(f"{self.folder}: has no index of {modality} by {vector} vectors. Run medret build-index again")
        if (modality, vector) not in self._indexes:
            find_kind(entry.kind)
            self._indexes[modality, vector] = VectorIndex(self.shards.table(modality), vector)
        return self._indexes[modality, vector]


def build_index(shards_folder: Path, out: Path, encoder_folder: Path, kind: str = "flat") -> IndexManifest:
    """Make an index folder: one index per modality and vector, the encoder, and a pointer to the shards.

    Args:
        shards_folder: Made by `encode_corpus`; every checksum is verified. It may lie inside `out` (as `out`/shards).
        out: The index folder; an index that is already there is replaced.
        encoder_folder: The checkpoint that made the shards (or a training run that holds it); copied, by hard link where
            the file system allows, to `out`/encoder.
        kind: One of KINDS.

    Raises:
        MedretError: If the encoder is not the one of the shards, a shard is damaged, or `out` holds other things.
    """
    find_kind(kind)
    load_faiss()
    shards = open_shards(shards_folder, verify=True)
    checkpoint = find_checkpoint(encoder_folder)
    _check_encoder(shards, read_fingerprint(checkpoint), checkpoint)
    _check_out(out, shards.manifest.encoder)
    private_folder(out)
    copy_checkpoint(checkpoint, out / "encoder")
    manifest = IndexManifest(
        encoder=shards.manifest.encoder,
        shards=os.path.relpath(shards_folder.resolve(), out.resolve()),
        shards_sha256=sha256_file(shards_folder / SHARDS_MANIFEST),
        indexes=tuple(
            IndexEntry(modality=modality, vector=vector, kind=kind, rows=entry.rows, dimension=dimension)
            for modality, entry in shards.manifest.modalities.items()
            for vector, dimension in entry.dimensions.items()
        ),
    )
    manifest.save(out)
    return manifest


def open_index(folder: Path, verify: bool = False) -> OpenedIndex:
    """Open an index folder and check that its encoder, its shards and itself belong together.

    Args:
        folder: Made by `build_index`.
        verify: Compare every shard with its checksum, instead of its size alone.

    Raises:
        MedretError: If anything is missing, damaged, or of another encoder.
    """
    manifest = load_index_manifest(folder)
    place = Path(os.path.normpath(folder.resolve() / manifest.shards))
    if not (place / SHARDS_MANIFEST).is_file():
        raise MedretError(f"{folder}: its shards are not at {place}. Move both folders together, or run medret build-index again")
    if sha256_file(place / SHARDS_MANIFEST) != manifest.shards_sha256:
        raise MedretError(
            f"{folder}: the shards at {place} are not those it was built from. Run: medret build-index {place} --out {folder}"
        )
    shards = open_shards(place, verify)
    _check_encoder(shards, read_fingerprint(folder / "encoder"), folder / "encoder")
    return OpenedIndex(folder, manifest, shards)


def _check_encoder(shards: Shards, fingerprint: str, checkpoint: Path) -> None:
    if fingerprint != shards.manifest.encoder:
        raise MedretError(
            f"{shards.folder}: vectors of encoder {shards.manifest.encoder}, but {checkpoint} is encoder {fingerprint}. "
            f"Name the encoder that made them, or encode again: medret encode CORPUS --encoder {checkpoint} --out NEW"
        )


def _check_out(out: Path, fingerprint: str) -> None:
    """Refuse a folder that holds other things: `out`/encoder would be replaced."""
    if not out.exists() or (out / INDEX_MANIFEST).is_file():
        return
    if not out.is_dir():
        raise MedretError(f"{out}: is a file, expected a folder for the index. Choose another --out")
    others = [entry.name for entry in out.iterdir() if entry.name not in ("encoder", "shards") and not entry.name.startswith(".")]
    if others:
        raise MedretError(f"{out}: is no index and not empty (it holds {sorted(others)[0]}). Choose another --out")
    if (out / "encoder").exists() and read_fingerprint(out / "encoder") != fingerprint:
        raise MedretError(f"{out}: is no index, and its encoder/ is not encoder {fingerprint}. Remove it, or choose another --out")


@contextmanager
def _threads(faiss: Any, count: int | None) -> Iterator[None]:
    """Search with `count` threads: for a single query a second one costs more than it brings."""
    before = faiss.omp_get_max_threads()
    if count is not None:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _kth(scores: Scores, k: int) -> np.float32:
    """Return the k-th highest score, or the lowest where there are fewer."""
    place = max(len(scores) - k, 0)
    return np.float32(np.partition(scores, place)[place])


_NO_ROWS: Rows = np.empty(0, np.int64)
