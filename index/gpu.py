"""Search on an NVIDIA GPU through faiss-gpu: exact, inverted lists, and CAGRA graphs where cuVS is built in.

Whatever the GPU proposes is ranked by the vectors in the shards on the host, as every first stage is: scores are the same.
"""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from index.exact import ExactSearch, Found, Rows, Scores
from index.kinds import IndexKind, faiss_distributions, faiss_fault, load_faiss

if TYPE_CHECKING:
    from index.faiss_stage import FaissStage
    from index.quantiser import Quantiser
    from index.shards import ShardTable
    from index.vector_index import VectorIndex

_MOST_FOUND = 2048  # k and nprobe that FAISS's GPU kernels take
_ON_GPU = ("ivf-scan", "ivf-flat")  # FAISS has no RaBitQ, HNSW or integer scan on a GPU
_GRAPH_EFFORTS = (32, 64, 128, 256, 512)  # itopk_size of CAGRA

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Gpu:
    """One GPU as FAISS sees it; FAISS's resources serve one search at a time, so searches take turns.

    Raises:
        MedretError: If the installed FAISS has no GPU support, or sees no such GPU.
    """

    def __init__(self, device: str = "cuda") -> None:
        self.faiss = load_faiss()
        installed = ", ".join(faiss_distributions())
        if not hasattr(self.faiss, "GpuIndexFlatIP"):
            raise MedretError(
                f"--device {device}: {installed} cannot use a GPU. pip uninstall -y {installed}, then pip install 'medret[gpu]'; "
                "or search on the CPU: --device cpu"
            )
        self.number = int(device.partition(":")[2] or 0)
        found = int(self.faiss.get_num_gpus())
        if self.number >= found:
            raise MedretError(f"--device {device}: {installed} sees {found} GPUs. Run medret doctor, or search on the CPU: --device cpu")
        self.resources = self.faiss.StandardGpuResources()
        self.turn = threading.Lock()

    @property
    def has_cagra(self) -> bool:
        """Whether the installed FAISS was built with NVIDIA's cuVS."""
        return hasattr(self.faiss, "GpuIndexCagra") and "CUVS" in self.faiss.get_compile_options()


class GpuExact(ExactSearch):
    """Exact search whose candidates come from float32 products on the GPU; what is doubtful is settled on the host, as ever.

    The vectors that are not removed are kept on the GPU where they fit; otherwise, and under a filter, they are sent there block
    by block. FAISS multiplies in float32 proper, not TF32, so that the bound on its rounding holds there too.
    """

    def __init__(self, table: "ShardTable", vector: str, gpu: Gpu) -> None:
        super().__init__(table, vector)
        self._gpu = gpu
        with gpu.turn:
            self._held = self._hold()

    def _hold(self) -> Any:
        """Copy all vectors that are not removed to the GPU, numbered like `live_rows`; None where they do not fit."""
        faiss = self._gpu.faiss
        config = faiss.GpuIndexFlatConfig()
        config.device = self._gpu.number
        try:
            held = faiss.GpuIndexFlatIP(self._gpu.resources, self.dimension, config)
            for block, _ in self._searched(self.table.live):
                held.add(block)
        except RuntimeError as error:
            if "memory" not in str(error).lower():
                raise MedretError(f"the GPU cannot take the vectors ({faiss_fault(error)}). Search on the CPU: --device cpu") from error
            return None
        return held

    def _nearest(self, queries: Vectors, k: int, allowed: Mask | None) -> Found:
        if k > _MOST_FOUND or self._held is None or allowed is not self.table.live:
            return super()._nearest(queries, k, allowed)
        with self._gpu.turn:
            scores, places = self._held.search(queries, k)
        return places if allowed is None else self.table.live_rows[places], scores

    def _knn(self, queries: Vectors, block: Vectors, k: int) -> tuple[Scores, Rows]:
        if k > _MOST_FOUND:
            return super()._knn(queries, block, k)
        faiss = self._gpu.faiss
        with self._gpu.turn:
            scores, places = faiss.knn_gpu(
                self._gpu.resources, queries, block, k, metric=faiss.METRIC_INNER_PRODUCT, device=self._gpu.number
            )
        return scores, places


class GpuLists:
    """The inverted lists of a stage on the GPU: the same centroids and codes, so that its certificates hold.

    Where the GPU cannot do what is asked (a filter, more than 2,048 lists or rows), the stage on the host answers.

    Args:
        host: The stage; it stays in memory.
        searcher: The stage's inverted lists, as FAISS has them.
        gpu: Where to.
    """

    def __init__(self, host: "FaissStage", searcher: Any, gpu: Gpu) -> None:
        self.kind, self.rows, self.lists = host.kind, host.rows, host.lists
        self._host, self._gpu = host, gpu
        with gpu.turn:
            try:
                self._lists = gpu.faiss.index_cpu_to_gpu(gpu.resources, gpu.number, searcher)
            except RuntimeError as error:
                raise MedretError(f"the GPU cannot take the {host.kind.name} index ({faiss_fault(error)}). Use --device cpu") from error

    def candidates(self, queries: Vectors, count: int, effort: int | None, allowed: Mask | None) -> list[Rows]:
        """Return likely rows, see index.stages.FirstStage."""
        if allowed is not None or effort is None or max(effort, count) > _MOST_FOUND:
            return self._host.candidates(queries, count, effort, allowed)
        quantiser = self._host.quantiser
        asked = np.ascontiguousarray(queries if quantiser is None else quantiser.project_queries(queries))
        parameters = self._gpu.faiss.SearchParametersIVF(nprobe=effort)
        with self._gpu.turn:
            rows = self._lists.search(asked, min(count, self.rows), params=parameters)[1]
        return [own[own >= 0] for own in rows]

    def add(self, vectors: Iterable[Vectors]) -> None:
        """Raise: what is on the GPU is a copy, and the index on disk is what grows."""
        raise ValueError("a copy on the GPU cannot grow; add to the index itself")

    def save(self, folder: Any, name: str) -> list[str]:
        """Write the stage on the host."""
        return self._host.save(folder, name)

    def efforts(self) -> tuple[int | None, ...]:
        """Return the settings to tune over."""
        return self._host.efforts()

    def read_ahead(self) -> None:
        """Do nothing: all of it is on the GPU."""


class CagraStage:
    """A CAGRA graph on the GPU over compacted vectors; it has to be certified (index.contract) before it is searched.

    Args:
        quantiser: What makes a query fit the graph.
        graph: A trained faiss.GpuIndexCagra.
        gpu: Where it is.
    """

    kind = IndexKind(name="cagra", compact=True, effort="itopk")
    lists: int | None = None

    def __init__(self, quantiser: "Quantiser", graph: Any, gpu: Gpu) -> None:
        self.quantiser, self._graph, self._gpu = quantiser, graph, gpu
        self.rows = int(graph.ntotal)

    def candidates(self, queries: Vectors, count: int, effort: int | None, allowed: Mask | None) -> list[Rows]:
        """Return likely rows, see index.stages.FirstStage; a graph is not searched under a filter, see index.planner."""
        if allowed is not None:
            raise ValueError("a graph on the GPU is searched without a filter only")
        count = min(count, self.rows, _GRAPH_EFFORTS[-1])
        parameters = self._gpu.faiss.SearchParametersCagra()
        parameters.itopk_size = max(effort or _GRAPH_EFFORTS[0], -(-count // 32) * 32)  # CAGRA wants multiples of 32, from k
        with self._gpu.turn:
            rows = self._graph.search(self.quantiser.project_queries(queries), count, params=parameters)[1]
        return [own[(own >= 0) & (own < self.rows)] for own in rows]

    def add(self, vectors: Iterable[Vectors]) -> None:
        """Raise: recall falls where a graph is extended; it is built again in seconds."""
        raise ValueError("a graph on the GPU is built again, not extended")

    def save(self, folder: Any, name: str) -> list[str]:
        """Raise: it is built where it is searched."""
        raise ValueError("a graph on the GPU is not stored")

    def efforts(self) -> tuple[int | None, ...]:
        """Return the sizes of the list of candidates that CAGRA keeps."""
        return _GRAPH_EFFORTS

    def read_ahead(self) -> None:
        """Do nothing: all of it is on the GPU."""


def build_cagra(table: "ShardTable", vector: str, gpu: Gpu) -> CagraStage:
    """Build a CAGRA graph over all rows of a table; it takes the memory of their compacted float32 vectors.

    Raises:
        MedretError: If the installed FAISS has no cuVS, or the graph cannot be built.
    """
    if not gpu.has_cagra:
        raise MedretError("CAGRA needs FAISS with cuVS: pip uninstall -y the FAISS that is there, then pip install 'medret[gpu-cuvs]'")
    from index.quantiser import fit_quantiser

    faiss = gpu.faiss
    blocks = [block for block in table.blocks(vector) if len(block)]
    quantiser = fit_quantiser(blocks, table.rows)
    config = faiss.GpuIndexCagraConfig()
    config.device = gpu.number
    try:
        with gpu.turn:
            graph = faiss.GpuIndexCagra(gpu.resources, quantiser.dimension, faiss.METRIC_INNER_PRODUCT, config)
            graph.train(np.concatenate([quantiser.project(block) for block in blocks]))
    except RuntimeError as error:
        raise MedretError(f"CAGRA cannot be built over {table.rows} vectors ({faiss_fault(error)})") from error
    return CagraStage(quantiser, graph, gpu)


def move_to_gpu(host: "VectorIndex", gpu: Gpu) -> "VectorIndex":
    """Return the same index, searched on the GPU.

    Inverted lists that FAISS has GPU code for are copied there with their certificates. Every other kind is searched exactly,
    as its plans then say: on a GPU that costs less than what these kinds save.
    """
    from index.faiss_stage import FaissStage
    from index.late_stage import LateStage
    from index.vector_index import VectorIndex

    stage, certificates = host.stage.stage if isinstance(host.stage, LateStage) else host.stage, host.certificates
    moved = GpuLists(stage, stage.searcher, gpu) if isinstance(stage, FaissStage) and stage.kind.name in _ON_GPU else None
    found = VectorIndex(host.table, host.vector, moved, certificates if moved else (), host.scales)
    found.exact = GpuExact(host.table, host.vector, gpu)
    return found
