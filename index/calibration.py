"""What this machine can do, measured in about two seconds: the rates that predictions of index.cost are made of."""

import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from index.integer_products import integer_products, torch_threads
from index.kinds import faiss_threads, load_faiss

_FLAT_ROWS, _FLAT_COLUMNS = 49_152, 512  # 100 MB of float32: more than a processor's cache keeps
_CODE_ROWS, _CODE_COLUMNS = 400_000, 128  # 51 MB of codes
_GRAPH_ROWS = 6_000
GRAPH_LINKS = 32
GRAPH_BUILD_EFFORT = 64  # as index.faiss_stage builds them
_GRAPH_EFFORT = 256
_FETCHED = 256  # at a time
_SECONDS = 0.15  # a rate is the best of what fits into this


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Measured rates of one machine.

    Attributes:
        flat_bytes: Bytes a second that FAISS's exact float32 search reads for a single query, one thread.
        code_bytes: Bytes a second of int8 codes that a single query is multiplied with, one thread.
        list_bytes: Bytes a second of scalar-quantised codes that FAISS scans for a single query, one thread.
        float_flops: float32 operations a second of a large matrix product, all threads (two a multiply-add).
        gather_s: Seconds to fetch one 512-d float32 vector at a random place of a table that no cache holds, check and score it.
        half_gather_s: The same of a float16 vector.
        insert_s: Seconds to insert one vector into a graph of `graph_rows` (HNSW, 32 links): one thread's, shared by all threads.
        visit_s: Seconds a graph search takes for each unit of efSearch, one thread.
        graph_rows: Rows of that graph.
        memory: Bytes of physical memory.
    """

    flat_bytes: float
    code_bytes: float
    list_bytes: float
    float_flops: float
    gather_s: float
    half_gather_s: float
    insert_s: float
    visit_s: float
    graph_rows: int
    memory: int


@cache
def calibrate() -> Calibration:
    """Measure this machine: about two seconds and 250 MB, once a process.

    What else the machine does meanwhile slows it, and so what is predicted; the best of several runs is taken.

    Raises:
        MedretError: If FAISS is missing.
    """
    random = np.random.default_rng(0)
    vectors = random.standard_normal((_FLAT_ROWS, _FLAT_COLUMNS), np.float32)
    insert_s, visit_s = _graph_seconds(random)
    return Calibration(
        flat_bytes=vectors.nbytes / _flat_seconds(vectors),
        code_bytes=_CODE_ROWS * _CODE_COLUMNS / _code_seconds(random),
        list_bytes=_CODE_ROWS * _CODE_COLUMNS / _list_seconds(random),
        float_flops=_float_flops(vectors),
        gather_s=_gather_seconds(vectors, random),
        half_gather_s=_gather_seconds(vectors.astype(np.float16), random),
        insert_s=insert_s,
        visit_s=visit_s,
        graph_rows=_GRAPH_ROWS,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def threads() -> int:
    """Threads that builds and batches run with."""
    return max(int(load_faiss().omp_get_max_threads()), 1)


def _best(work: Callable[[], object], once: bool = False) -> float:
    """Seconds of the quickest run; of the only one where it cannot be repeated."""
    if not once:
        work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < (1 if once else 3) or (not once and time.perf_counter() - began < _SECONDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _one_thread(work: Callable[[], object], once: bool = False) -> float:
    with faiss_threads(1), torch_threads(1):
        return _best(work, once)


def _flat_seconds(vectors: np.ndarray) -> float:
    faiss = load_faiss()
    return _one_thread(lambda: faiss.knn(vectors[:1], vectors, 10, metric=faiss.METRIC_INNER_PRODUCT))


def _code_seconds(random: np.random.Generator) -> float:
    codes = random.integers(-127, 128, (_CODE_ROWS, _CODE_COLUMNS), np.int8)
    out = np.empty((1, 16_384), np.int32)

    def scan() -> None:
        for start in range(0, _CODE_ROWS, out.shape[1]):
            part = codes[start : start + out.shape[1]]
            integer_products(codes[:1], part, out[:, : len(part)])

    return _one_thread(scan)


def _list_seconds(random: np.random.Generator) -> float:
    faiss = load_faiss()
    scanned = faiss.IndexScalarQuantizer(_CODE_COLUMNS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    some = random.standard_normal((_CODE_ROWS // 16, _CODE_COLUMNS), np.float32)
    scanned.train(some)
    codes = scanned.sa_encode(some)
    scanned.add_sa_codes(np.tile(codes, (16, 1)))
    return _one_thread(lambda: scanned.search(some[:1], 10))


def _float_flops(vectors: np.ndarray) -> float:
    many, few = torch.from_numpy(vectors[:16_384]), torch.from_numpy(vectors[:1024])
    out = torch.empty(len(many), len(few))
    return 2 * out.numel() * many.shape[1] / _best(lambda: torch.mm(many, few.T, out=out))


def _gather_seconds(vectors: np.ndarray, random: np.random.Generator) -> float:
    """Seconds a vector, each fetched once in turn: a few fetched again and again would come from the processor's cache.

    They lie in small pages, as those of mapped files do: looking up where a page lies costs about as much as its bytes.
    """
    memory = mmap.mmap(-1, vectors.nbytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    paged = np.frombuffer(memory, vectors.dtype).reshape(vectors.shape)
    paged[:] = vectors
    query = vectors[0].astype(np.float32)
    parts = np.split(random.permutation(len(vectors)), len(vectors) // _FETCHED)

    def gather() -> None:
        for places in parts:
            fetched = paged[places].astype(np.float32, copy=False)
            np.einsum("ij,ij->i", fetched, fetched)
            fetched @ query

    return _one_thread(gather) / len(vectors)


def _graph_seconds(random: np.random.Generator) -> tuple[float, float]:
    """Seconds for each vector inserted, and for each unit of efSearch; the vectors lie near a 16-dimensional space, as embeddings do."""
    faiss = load_faiss()
    vectors = random.standard_normal((_GRAPH_ROWS, 16), np.float32) @ random.standard_normal((16, _CODE_COLUMNS), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    graph = faiss.IndexHNSWSQ(_CODE_COLUMNS, faiss.ScalarQuantizer.QT_8bit, GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = GRAPH_BUILD_EFFORT
    graph.train(vectors)
    insert_s = _one_thread(lambda: graph.add(vectors[:_GRAPH_ROWS]), once=True) / len(vectors)
    wanted = faiss.SearchParametersHNSW(efSearch=_GRAPH_EFFORT)
    return insert_s / threads(), _one_thread(lambda: graph.search(vectors[:8], 10, params=wanted)) / 8 / _GRAPH_EFFORT
