"""What is compared: indexes that are built over an archive and asked for ten rows; and the truth that they are measured by."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from archive_vectors import Archive, Vectors
from clock import CORES, set_threads

from index.folder import OpenedIndex, build_index, open_index
from index.kinds import load_faiss

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

K = 10
RECALL = 0.99
_TIE = 1e-6  # of a cosine: what float32 sums of 512 products differ by; a row as near as the tenth within this is no miss


@dataclass(frozen=True)
class Setting:
    """How one search is run.

    Attributes:
        words: For the table.
        values: For the contender.
    """

    words: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Contender:
    """An index that is built, and asked with a setting.

    Attributes:
        name: In tables.
        package: The distribution that must be installed.
        slow: Whether building takes minutes at 601,000 rows.
    """

    name = ""
    package = "faiss-cpu"
    slow = False

    def build(self, archive: Archive, vectors: Vectors) -> None:
        """Build with all threads; what `vectors` shows is the archive's stored vectors in memory."""
        raise NotImplementedError

    def bytes(self) -> int:
        """Return what the index takes, in bytes, with all vectors that it holds."""
        raise NotImplementedError

    def ladder(self, asker: str) -> list[list[Setting]]:
        """Return settings to try: an outer list from cheap to dear, each a list from cheap to dear."""
        raise NotImplementedError

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        """Return (Q, 10) rows; -1 where fewer are found."""
        raise NotImplementedError

    def filtered(self, queries: Vectors, setting: Setting, allowed: Mask) -> Rows:
        """Return (Q, 10) rows among the allowed ones, one thread, query by query."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the memory back."""
        vars(self).pop("index", None)


class Medret(Contender):
    """A kind of medret's, through its own builder, reader and facade, with the settings that it certified for itself.

    Peers are given the cheapest setting that reaches the recall on the very queries they are measured with; medret has not seen
    those: it tunes itself on stored images and reports while it builds, and the lower end of the interval must reach the recall.
    """

    package = "medret"

    parts: Mapping[str, float] = {}  # seconds of the build that go into the images' index; the reports' has its own

    def __init__(self, kind: str) -> None:
        self.kind, self.name = kind, f"medret {kind}"

    def build(self, archive: Archive, vectors: Vectors) -> None:
        """Build the index folder anew, certificates included, and open it."""
        folder = archive.folder / f"index-{self.kind}"
        shutil.rmtree(folder, ignore_errors=True)
        set_threads(CORES)
        began = time.perf_counter()
        marks = {("begun", 0): 0.0}

        def progress(what: str, done: int, total: int) -> None:
            marks[what, done] = time.perf_counter() - began

        build_index(archive.shards, folder, archive.encoder, self.kind, recall=RECALL, progress=progress)
        first, second = marks.get(("first stages", 1), 0.0), marks.get(("first stages", 2), 0.0)
        self.parts = {"first stage": first, "certificates": marks.get(("measurements", 1), second) - second}
        self.open(archive)

    def open(self, archive: Archive) -> OpenedIndex:
        """Open what was built."""
        opened = open_index(archive.folder / f"index-{self.kind}")
        self.entry = next(entry for entry in opened.manifest.indexes if entry.modality == "images")
        self.index = opened.index("images")
        return opened

    def bytes(self) -> int:
        """Return the bytes of the index's own files; the shards, which every archive has, come on top."""
        return sum(file.bytes for file in self.entry.files)

    def ladder(self, asker: str) -> list[list[Setting]]:
        """Return the one setting that was certified."""
        plan = self.index.plan(K, asker=asker)
        effort = "" if plan.effort is None else f", effort {plan.effort}"
        words = f"{plan.candidates} candidates{effort}" if plan.how == "approximate" else "exact"
        return [[Setting(words, {"asker": asker})]]

    def certificates(self) -> list[str]:
        """Return what the index promises, a line each."""
        return [
            f"{c.asker} k={c.k}: recall {c.recall:.4f} ({c.low:.4f}–{c.high:.4f}) of {c.queries}, {c.candidates} candidates, "
            f"effort {c.effort}, {c.p50_ms:.2f} ms, {'met' if c.met else 'not met: answered exactly'}"
            for c in self.entry.certificates
        ]

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        """Search through the facade."""
        set_threads(threads)
        return padded([rows for rows, _ in self.index.search(queries, K, asker=setting.values["asker"])])

    def filtered(self, queries: Vectors, setting: Setting, allowed: Mask) -> Rows:
        """Search through the facade, which plans anew for the filter."""
        set_threads(1)
        return padded([self.index.search(query[None], K, asker=setting.values["asker"], allowed=allowed)[0][0] for query in queries])


@dataclass(frozen=True)
class Truth:
    """The rows with the ten highest inner products in float64, (Q, 10), and these products."""

    rows: Rows
    scores: npt.NDArray[np.float64]

    def recall(self, found: Rows, queries: Vectors, vectors: Vectors) -> float:
        """Return the mean share of the ten that were found; a row that ties with the tenth counts, a row named twice does not."""
        scores = np.full(found.shape, -np.inf)
        for place, (query, rows) in enumerate(zip(queries, found, strict=True)):
            own = np.unique(rows[rows >= 0])
            scores[place, : len(own)] = vectors[own].astype(np.float64) @ query
        return self.share_of(scores)

    def share_of(self, scores: npt.NDArray[np.float64]) -> float:
        """Return the same from the (Q, 10) float64 inner products of what was found, each row once, −inf where nothing was."""
        hits = (scores >= self.scores[:, -1:] - _TIE).sum(axis=1)
        return float(np.minimum(hits, self.scores.shape[1]).sum() / self.scores.size)


def find_truth(vectors: Vectors, queries: Vectors, allowed: Mask | None = None) -> Truth:
    """Search by FAISS's exact float32 search for twice as many, and rank these in float64."""
    set_threads(CORES)
    faiss = load_faiss()
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    pool = vectors if allowed is None else vectors[rows]
    _, near = faiss.knn(queries, pool, min(2 * K, len(pool)), metric=faiss.METRIC_INNER_PRODUCT)
    scores = np.einsum("qkd,qd->qk", pool[near].astype(np.float64), queries.astype(np.float64))
    order = np.argsort(-scores, axis=1)[:, :K]
    return Truth(rows[np.take_along_axis(near, order, axis=1)], np.take_along_axis(scores, order, axis=1))


def padded(found: list[Rows]) -> Rows:
    """Return lists of rows as (Q, 10), -1 where there are fewer."""
    whole = np.full((len(found), K), -1, np.int64)
    for place, rows in enumerate(found):
        whole[place, : len(rows)] = rows[:K]
    return whole
