"""Searches that look at every vector, timed in turns: the first section of search.py."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from archive_vectors import Archive, Vectors
from clock import CORES, in_turns, matrix_rate, median, memory_rate, set_threads
from contenders import K, Medret, Rows, Setting, Truth
from results_file import installed, milliseconds, table

from index.kinds import load_faiss

BATCHES = (1, 16, 256, 1000)
ROUNDS = {1: 9, 16: 7, 256: 3, 1000: 3}
SINGLES = 5  # single queries in a row, as a user's would come; their mean is one time
REST = 0.25  # seconds before they come: to a machine that does nothing else, not into the spinning threads of another search
FLAT = ("faiss IndexFlatIP, 1 thread", f"faiss IndexFlatIP, {CORES} threads")

Search = Callable[[Vectors], Rows]


def exact_searches(vectors: Vectors, medrets: list[Medret]) -> tuple[dict[str, Search], list[str]]:
    """Return what searches exactly, by name, and the names of what is not installed."""
    found: dict[str, Search] = {}
    for medret in medrets:
        found[medret.name] = lambda queries, medret=medret: medret.search(queries, Setting("", {"asker": "image"}), CORES)
    flat = load_faiss().IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    for name, threads in zip(FLAT, (1, CORES), strict=True):
        found[name] = _faiss(flat, threads)
    found |= {"torch matmul + topk": _torch(vectors), "numpy": lambda queries: _numpy(vectors, queries)}
    missing = []
    for package, make in (("usearch", _usearch), ("sentence-transformers", _sentences)):
        if installed(package) is None:
            missing.append(package)
        else:
            found[f"{package} exact" if package == "usearch" else f"{package} semantic_search"] = make(vectors)
    return found, missing


def measure_exact(archive: Archive, vectors: Vectors, truths: dict[str, Truth], medrets: list[Medret], quick: bool) -> dict[str, Any]:
    """Time all at every batch size, and take their recall; see `exact_tables` for what it means."""
    searches, missing = exact_searches(vectors, medrets)
    figures: dict[str, Any] = {
        "missing": missing,
        "rows": len(vectors),
        "dimension": vectors.shape[1],
        "memory_rate": {str(k): v for k, v in memory_rate(128 if quick else 1024).items()},
        "matrix_rates": {dtype: max(matrix_rate(dtype, 1024 if quick else 2048).values()) for dtype in ("int8", "float32")},
        "scan_bytes": {medret.name: medret.bytes() or vectors.nbytes for medret in medrets},
        "seconds": {},
        "recall": {},
    }
    for batch in BATCHES:
        set_threads(CORES)
        calls = {name: _next_batches(search, archive.queries["image"], batch) for name, search in searches.items()}
        times = in_turns(calls, 2 if quick else ROUNDS[batch], rest=REST if batch == 1 else 0)
        share = SINGLES if batch == 1 else 1
        figures["seconds"][str(batch)] = {name: [one / share for one in taken] for name, taken in times.items()}
    for name, search in searches.items():
        slow = min(figures["seconds"]["1000"][name]) > 10
        figures["recall"][name] = {}
        for asker, queries in archive.queries.items():
            asked = queries[:256] if slow else queries
            if name.startswith("medret"):
                kind = next(medret for medret in medrets if medret.name == name)
                rows = kind.search(asked, Setting("", {"asker": asker}), CORES)
            else:
                rows = search(asked)
            truth = Truth(truths[asker].rows[: len(asked)], truths[asker].scores[: len(asked)])
            figures["recall"][name][asker] = {"recall": truth.recall(rows, asked, vectors), "queries": len(asked)}
    return figures


def exact_tables(figures: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    seconds = {batch: {name: median(times) for name, times in taken.items()} for batch, taken in figures["seconds"].items()}
    rows = []
    for name in next(iter(seconds.values())):
        recalls = [f"{taken['recall']:.5f} ({taken['queries']})" for taken in figures["recall"][name].values()]
        rows.append([name, *recalls, *(milliseconds(taken[name]) for taken in seconds.values())])
    head = ["ms a batch", *(f"recall@10 {asker} (queries)" for asker in next(iter(figures["recall"].values()))), *seconds]
    parts = [table(head, rows), "", _limits(figures, seconds)]
    if figures["missing"]:
        parts += ["", f"**Not measured, because not installed: {', '.join(figures['missing'])}.**"]
    return "\n".join(parts)


def _limits(figures: dict[str, Any], seconds: dict[str, dict[str, float]]) -> str:
    """Each of medret's scans beside the machine's limits and beside the fastest and FAISS's exact peers, in this run."""
    rate, rates = max(figures["memory_rate"].values()), figures["matrix_rates"]
    reading = f"Memory is read at {figures['memory_rate']['1'] / 1e9:.1f} GB/s by one thread, at best {rate / 1e9:.1f}"
    said = f"{reading}; products run at {rates['int8'] / 1e12:.2f} TOP/s in int8, {rates['float32'] / 1e12:.2f} in fp32."
    rows = []
    for name, size in figures["scan_bytes"].items():
        for batch, taken in seconds.items():
            peers = {peer: time for peer, time in taken.items() if not peer.startswith("medret")}
            fastest = min(peers, key=lambda peer: peers[peer])
            flat = min(peers[peer] for peer in FLAT)
            coded = size < figures["rows"] * figures["dimension"] * 4  # int8 codes, one byte a number; else fp32
            products = 2 * int(batch) * (size if coded else size / 4)
            limit = max(size / rate, products / rates["int8" if coded else "float32"])
            rows.append(
                [
                    name,
                    batch,
                    f"{size / 1e6:,.0f}",
                    milliseconds(limit),
                    f"{taken[name] / limit:.2f}",
                    f"{flat / taken[name]:.2f}",
                    f"{peers[fastest] / taken[name]:.2f} ({fastest})",
                ]
            )
    columns = ["search", "batch", "MB read", "limit, ms", "time / limit", "times as fast as IndexFlatIP", "as the fastest peer"]
    return f"{said}\n\n{table(columns, rows)}"


def _next_batches(search: Search, queries: Vectors, batch: int) -> Callable[[], None]:
    """Return a call that searches the next queries of the cycle: one batch, or single ones in a row."""
    starts = cycle(range(0, max(len(queries) - batch + 1, 1), batch))

    def call() -> None:
        for _ in range(SINGLES if batch == 1 else 1):
            start = next(starts)
            search(queries[start : start + batch])

    return call


def _faiss(flat: Any, threads: int) -> Search:
    def search(queries: Vectors) -> Rows:
        load_faiss().omp_set_num_threads(threads)
        return np.asarray(flat.search(queries, K)[1], np.int64)

    return search


def _torch(vectors: Vectors) -> Search:
    import torch

    stored = torch.from_numpy(vectors)
    return lambda queries: torch.topk(torch.from_numpy(queries) @ stored.T, K, dim=1).indices.numpy()


def _numpy(vectors: Vectors, queries: Vectors) -> Rows:
    """As one writes it, 256 queries at a time, so that the scores fit into memory."""
    parts = []
    for start in range(0, len(queries), 256):
        scores = queries[start : start + 256] @ vectors.T
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
        parts.append(np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), 1), 1))
    return np.concatenate(parts)


def _usearch(vectors: Vectors) -> Search:
    from usearch.index import MetricKind, search

    return lambda queries: np.asarray(search(vectors, queries, K, MetricKind.IP, exact=True, threads=CORES).keys, np.int64).reshape(-1, K)


def _sentences(vectors: Vectors) -> Search:
    import torch
    from sentence_transformers import util

    stored = torch.from_numpy(vectors)

    def search(queries: Vectors) -> Rows:
        hits = util.semantic_search(torch.from_numpy(queries), stored, top_k=K, score_function=util.dot_score)
        return np.array([[hit["corpus_id"] for hit in found] for found in hits], np.int64)

    return search
