"""A FAISS index as the first stage, over the vectors as stored or compacted."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.atomic import whole_file
from encoders.errors import MedretError
from index.cells import Cells, load_cells, measure_cells
from index.exact import Rows
from index.kinds import IndexKind, faiss_fault, faiss_threads, fill_factory, load_faiss
from index.quantiser import Quantiser, Vectors, load_quantiser, take_sample

_POINTS_PER_LIST = 64  # of a k-means sample: more of them raise the recall by less than its noise
_ITERATIONS = 8  # of k-means, likewise
_CONSTRUCTION = 64  # efConstruction of a graph: 100 builds 1.6 times as long and finds 0.5 % more text neighbours at equal efSearch
_SAMPLE = 65_536  # rows to train on where there are no lists
_LEAST = 16  # rows to train on, repeated where there are fewer: 4 bits of a product quantiser have as many values
_AT_ONCE = 16_384  # rows
_MOST_EFFORT = 1024  # efSearch


class FaissStage:
    """Finds candidates with any FAISS index made by a factory string.

    Search parameters go with each call and are never set on the index, so that threads can share it.

    Args:
        kind: The row of index.kinds.
        quantiser: What is done to vectors and queries first, or None.
        searcher: The trained FAISS index.
        cells: Its lists, where they are looked through in an order of their own.
    """

    def __init__(self, kind: IndexKind, quantiser: Quantiser | None, searcher: Any, cells: Cells | None = None) -> None:
        self.kind, self.quantiser, self._cells = kind, quantiser, cells
        self._faiss, self._searcher = load_faiss(), searcher
        self._core = _core(self._faiss, searcher)
        self._projection = None if quantiser is None else _projection(self._faiss, quantiser)
        self.rows = int(searcher.ntotal)
        self.lists = int(self._core.nlist) if kind.effort == "nprobe" else None

    @property
    def searcher(self) -> Any:
        """The FAISS index itself, for a copy of it on another device."""
        return self._searcher

    def candidates(self, queries: Vectors, count: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None) -> list[Rows]:
        """Return the rows that FAISS finds for each query, see index.stages.FirstStage."""
        count = min(count, self.rows)
        if count == 0:
            return [np.empty(0, np.int64) for _ in queries]
        with faiss_threads(1 if len(queries) == 1 else None):
            asked = np.ascontiguousarray(queries)
            rows = self._search(asked if self._projection is None else self._projection.apply(asked), count, effort, allowed)
        return [own[own >= 0] for own in rows]

    def _search(self, asked: Vectors, count: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None) -> Rows:
        parameters, selector = self._parameters(count, effort, allowed)
        if self._cells is not None:
            assert effort is not None
            return self._look_through(self._cells, asked, count, effort, parameters)
        try:
            rows: Rows = self._searcher.search(asked, count, params=parameters)[1]
        except RuntimeError as error:
            if selector is None:
                raise
            raise MedretError(
                f"FAISS index {self.kind.name!r} cannot search among allowed rows only ({faiss_fault(error)}). "
                "Build the index with another --kind to filter, or to remove rows"
            ) from error
        return rows

    def _look_through(self, cells: Cells, asked: Vectors, count: int, effort: int, parameters: Any) -> Rows:
        """Search the likeliest lists. FAISS's own wrapper takes their number from the index, which threads share."""
        lists, products = cells.likeliest(asked, effort)
        rows, scores = np.empty((len(asked), count), np.int64), np.empty((len(asked), count), np.float32)
        places = [self._faiss.swig_ptr(array) for array in (asked, lists, products, scores, rows)]
        self._core.search_preassigned_c(len(asked), places[0], count, *places[1:], False, parameters)
        return rows

    def _parameters(self, count: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None) -> tuple[Any, Any]:
        """Return the parameters of one call, and the selector they refer to, which must live as long."""
        faiss, selector = self._faiss, None
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        options = {} if selector is None else {"sel": selector}
        if self.kind.effort == "nprobe" and effort is not None:
            parameters = faiss.SearchParametersIVF(nprobe=effort, **options)
        elif self.kind.effort == "efSearch":
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort or 0, count), **options)
        elif selector is not None:
            parameters = faiss.SearchParameters(**options)
        else:
            return None, None
        if hasattr(self._searcher, "chain"):
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        return parameters, selector

    def add(self, vectors: Iterable[Vectors]) -> None:
        """Append rows, see index.stages.FirstStage."""
        for block in vectors:
            for start in range(0, len(block), _AT_ONCE):
                try:
                    self._searcher.add(_prepared(block[start : start + _AT_ONCE], self.quantiser))
                except RuntimeError as error:
                    raise MedretError(
                        f"FAISS index {self.kind.name!r} takes no more rows ({faiss_fault(error)}). Build one of another --kind"
                    ) from error
        self.rows = int(self._searcher.ntotal)

    def save(self, folder: Path, name: str) -> list[str]:
        """Write NAME.faiss, and NAME.quantiser.npz and NAME.cells.npz where it has them, into `folder`."""
        files = [f"{name}.faiss"]
        with whole_file(folder / files[0]) as part:
            try:
                self._faiss.write_index(self._searcher, str(part))
            except RuntimeError as error:
                raise MedretError(
                    f"{folder / files[0]}: cannot be written ({faiss_fault(error)}). Free space or use another place"
                ) from error
        if self.quantiser is not None:
            files.append(f"{name}.quantiser.npz")
            self.quantiser.save(folder / files[1])
        if self._cells is not None:
            files.append(f"{name}.cells.npz")
            self._cells.save(folder / files[-1])
        return files

    def efforts(self) -> tuple[int | None, ...]:
        """Return the settings of nprobe or efSearch from cheap to dear, by factors of two; (None,) where there is neither."""
        if self.lists is not None:
            return (*(1 << step for step in range(self.lists.bit_length()) if 1 << step < self.lists), self.lists)
        if self.kind.effort == "efSearch":
            return tuple(16 << step for step in range((_MOST_EFFORT // 16).bit_length()))
        return (None,)

    def read_ahead(self) -> None:
        """Do nothing: the index lies in memory."""


def build_faiss(
    kind: IndexKind, quantiser: Quantiser | None, blocks: list[npt.NDArray[Any]], rows: int, dimension: int, seed: int
) -> FaissStage:
    """Train a FAISS index on an even sample and add all rows.

    The same rows, seed and number of threads make the same index; with lists of compacted or raw vectors any number of threads
    does (a random rotation, "RR", is rounded differently). Graphs (hnsw) differ from build to build, and in what they find,
    as several threads link vectors in the order they come to.

    Raises:
        MedretError: If FAISS cannot make the index for vectors of this length, or cannot train it on so few rows.
    """
    faiss = load_faiss()
    length = dimension if quantiser is None else quantiser.dimension
    lists = count_lists(rows, kind.cells)
    assert kind.factory is not None
    try:
        searcher = faiss.index_factory(length, fill_factory(kind.factory, length, lists), faiss.METRIC_INNER_PRODUCT)
        wanted = _prepare(faiss, searcher, seed, kind.cells)
        sample = take_sample(blocks, rows, wanted)
        sample = _prepared(np.resize(sample, (max(len(sample), _LEAST), dimension)), quantiser)
        searcher.train(sample)
        cells = measure_cells(_centres(faiss, searcher), sample) if kind.cells else None
        stage = FaissStage(kind, quantiser, searcher, cells)
        stage.add(blocks)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise MedretError(
            f"FAISS index {kind.factory!r} cannot be built over {rows} vectors of length {length} ({faiss_fault(error)}). "
            "Choose another --kind"
        ) from error
    return stage


def load_faiss_stage(
    kind: IndexKind, path: Path, quantiser: Path | None, rows: int, dimension: int, cells: Path | None = None
) -> FaissStage:
    """Read what `FaissStage.save` wrote; whoever calls has compared the checksums, as FAISS trusts what it reads.

    The file is read, not mapped: over a map (IO_FLAG_MMAP_IFC) a cold IVF index needs 50 to 400 ms for each of its first
    searches, as it asks for random access and faults in page by page; reading 400 MB whole takes less than three of them.

    Raises:
        MedretError: If a file is missing, damaged, or made for other rows.
    """
    faiss = load_faiss()
    made = None if quantiser is None else load_quantiser(quantiser, dimension)
    length = dimension if made is None else made.dimension
    searcher = _read(faiss, path)
    if (searcher.ntotal, searcher.d) != (rows, length):
        raise MedretError(
            f"{path}: holds {searcher.ntotal} vectors of length {searcher.d}, expected {rows} of {length}. Run medret build-index again"
        )
    return FaissStage(kind, made, searcher, None if cells is None else load_cells(cells, _centres(faiss, searcher)))


def count_lists(rows: int, cells: bool = False) -> int:
    """Return the number of inverted lists for so many rows: a power of two near 1.3 times their square root; twice that of cells."""
    return min(int(np.clip(2 ** round(np.log2(max(rows, 1) ** 0.5 * 1.3)), 16, 65_536)) << cells, max(rows, 1))


def _centres(faiss: Any, searcher: Any) -> Vectors:
    """Return the (L, d) centres of inverted lists."""
    centres: Vectors = faiss.downcast_index(searcher.quantizer).reconstruct_n()
    return centres


def _prepare(faiss: Any, searcher: Any, seed: int, cells: bool) -> int:
    """Set how the index is built; return how many rows to train on."""
    core = _core(faiss, searcher)
    if hasattr(core, "pq"):
        core.pq.cp.min_points_per_centroid = 1  # it has no say in what is made, but for a warning to each subspace
    if isinstance(core, faiss.IndexHNSW):
        core.hnsw.efConstruction = _CONSTRUCTION
    if not isinstance(core, faiss.IndexIVF):
        return _SAMPLE
    core.cp.niter, core.cp.seed = _ITERATIONS, seed + 1234  # 1234 is what FAISS takes
    core.cp.max_points_per_centroid, core.cp.min_points_per_centroid = _POINTS_PER_LIST, 1
    if cells:  # FAISS makes lists of most inner products otherwise, by directions alone
        core.cp.spherical = False
        faiss.downcast_index(core.quantizer).metric_type = faiss.METRIC_L2
    return max(_POINTS_PER_LIST * int(core.nlist), _SAMPLE // 4)


def _core(faiss: Any, searcher: Any) -> Any:
    """Return the index that searches, inside of any transformation of the vectors."""
    while hasattr(searcher, "chain"):
        searcher = faiss.downcast_index(searcher.index)
    return searcher


def _projection(faiss: Any, quantiser: Quantiser) -> Any:
    """Return `quantiser.project_queries` on FAISS's threads: NumPy's go on spinning and take a core from the search that follows."""
    projection = faiss.LinearTransform(*quantiser.rotation.shape, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(quantiser.rotation.T).ravel(), projection.A)
    projection.is_trained = True
    return projection


def _prepared(vectors: npt.NDArray[Any], quantiser: Quantiser | None) -> Vectors:
    return np.ascontiguousarray(vectors, np.float32) if quantiser is None else quantiser.project(vectors)


def _read(faiss: Any, path: Path) -> Any:
    try:
        return faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise MedretError(f"{path}: the index file cannot be read ({faiss_fault(error)}). Run medret build-index again") from error
