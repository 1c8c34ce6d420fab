"""Other libraries' indexes, as their users set them up. A package that is not installed is named and left out.

pip install usearch hnswlib lancedb scikit-learn && pip install --no-deps sentence-transformers
"""

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from archive_vectors import Archive, Vectors
from clock import CORES, files_under
from contenders import Contender, K, Mask, Rows, Setting, padded

from index.kinds import load_faiss

PROBES = (4, 8, 16, 32, 64, 128, 256, 512)
FACTORS = (2, 4, 10, 20, 40, 100)
BREADTHS = (16, 32, 64, 128, 256, 512, 1024)


class Faiss(Contender):
    """A FAISS index by its factory string.

    Args:
        factory: With `{lists}` and `{dimension}` to fill in.
        factors: What the number of candidates for a Refine is multiplied by; none where there is no Refine.
        construction: efConstruction of an HNSW graph.
        said: Added to the name.
    """

    def __init__(
        self, factory: str, factors: Sequence[int] = (), construction: int | None = None, said: str = "", slow: bool = False
    ) -> None:
        self.factory, self.factors, self.construction, self.slow = factory, factors, construction, slow
        self.name = f"faiss {factory.replace('{lists}', '').replace('{dimension}', '')}{said}"

    def build(self, archive: Archive, vectors: Vectors) -> None:
        """Train on what FAISS samples by itself, and add."""
        faiss = load_faiss()
        faiss.omp_set_num_threads(CORES)
        factory = self.factory.format(lists=usual_lists(len(vectors)), dimension=vectors.shape[1])
        self.index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if self.construction:
            faiss.downcast_index(self.index).hnsw.efConstruction = self.construction
        if not self.index.is_trained:
            self.index.train(vectors)
        self.index.add(vectors)

    def bytes(self) -> int:
        """Return the size of the index as FAISS writes it."""
        return len(load_faiss().serialize_index(self.index))

    def ladder(self, asker: str) -> list[list[Setting]]:
        """Return efSearch, or nprobe by factors."""
        if "HNSW" in self.factory:
            return [[Setting(f"efSearch {breadth}", {"breadth": breadth})] for breadth in BREADTHS]
        if not self.factors:
            return [[Setting(f"nprobe {probes}", {"probes": probes})] for probes in PROBES]
        return [
            [Setting(f"nprobe {probes}, {K * factor} candidates", {"probes": probes, "factor": factor}) for factor in self.factors]
            for probes in PROBES
        ]

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        """Search with the parameters of the call."""
        faiss = load_faiss()
        faiss.omp_set_num_threads(threads)
        return np.asarray(self.index.search(queries, K, params=self._parameters(setting))[1], np.int64)

    def filtered(self, queries: Vectors, setting: Setting, allowed: Mask) -> Rows:
        """Search with FAISS's own selector of a bit per row."""
        faiss = load_faiss()
        faiss.omp_set_num_threads(1)
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
        parameters = self._parameters(setting, selector)
        return np.concatenate([self.index.search(query[None], K, params=parameters)[1] for query in queries])

    def _parameters(self, setting: Setting, selector: Any = None) -> Any:
        faiss, chosen = load_faiss(), {} if selector is None else {"sel": selector}
        if "breadth" in setting.values:
            return faiss.SearchParametersHNSW(efSearch=setting.values["breadth"], **chosen)
        parameters = faiss.SearchParametersIVF(nprobe=setting.values["probes"], **chosen)
        if "RR" in self.factory:
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        if "factor" in setting.values:
            parameters = faiss.IndexRefineSearchParameters(k_factor=setting.values["factor"], base_index_params=parameters)
        return parameters


class Hnswlib(Contender):
    """hnswlib with M 16 and ef_construction 200, its readme's settings."""

    name, package, slow = "hnswlib M 16", "hnswlib", True

    def build(self, archive: Archive, vectors: Vectors) -> None:
        """Add with all threads."""
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=0)
        self.index.add_items(vectors, num_threads=CORES)

    def bytes(self) -> int:
        """Return the size of its file."""
        return int(self.index.index_file_size())

    def ladder(self, asker: str) -> list[list[Setting]]:
        """Return its ef."""
        return [[Setting(f"ef {breadth}", {"breadth": breadth})] for breadth in BREADTHS]

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        """Search."""
        self.index.set_ef(setting.values["breadth"])
        return self.index.knn_query(queries, k=K, num_threads=threads)[0].astype(np.int64)


class Usearch(Contender):
    """usearch in bf16 with connectivity 32, expansion_add 128 (its default)."""

    name, package, slow = "usearch bf16, M 32", "usearch", True

    def build(self, archive: Archive, vectors: Vectors) -> None:
        """Add with all threads."""
        from usearch.index import Index

        self.index = Index(ndim=vectors.shape[1], metric="ip", dtype="bf16", connectivity=32, expansion_add=128)
        self.index.add(np.arange(len(vectors)), vectors, threads=CORES)

    def bytes(self) -> int:
        """Return the size of its file."""
        return int(self.index.serialized_length)

    def ladder(self, asker: str) -> list[list[Setting]]:
        """Return its expansion."""
        return [[Setting(f"expansion {breadth}", {"breadth": breadth})] for breadth in BREADTHS]

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        """Search."""
        self.index.expansion_search = setting.values["breadth"]
        keys = self.index.search(queries, K, threads=threads).keys
        return np.asarray(keys, np.int64).reshape(len(queries), K)


class Lance(Contender):
    """LanceDB's IVF_PQ or IVF_HNSW_SQ with its default sizes, opened from disk; it chooses its threads itself."""

    package = "lancedb"

    def __init__(self, kind: str, slow: bool) -> None:
        self.kind, self.name, self.slow = kind, f"LanceDB {kind}", slow

    def build(self, archive: Archive, vectors: Vectors) -> None:
        """Write the table, then the index; both count."""
        import lancedb
        import pyarrow as pa

        self.folder = archive.folder / f"lance-{self.kind}"
        shutil.rmtree(self.folder, ignore_errors=True)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        content = pa.table({"row": pa.array(np.arange(len(vectors))), "vector": flat})
        self.index = lancedb.connect(str(self.folder)).create_table("vectors", content)
        self.index.create_index(metric="dot", vector_column_name="vector", index_type=self.kind)

    def bytes(self) -> int:
        """Return the bytes of its folder."""
        return sum(path.stat().st_size for path in files_under(self.folder))

    def ladder(self, asker: str) -> list[list[Setting]]:
        """Return nprobes by refine factors."""
        return [
            [Setting(f"nprobes {probes}, refine {factor}", {"probes": probes, "factor": factor}) for factor in (4, 20, 100)]
            for probes in (16, 64, 256)
        ]

    def search(self, queries: Vectors, setting: Setting, threads: int) -> Rows:
        """Search query by query: it has no batches."""
        return padded([self._one(query, setting) for query in queries])

    def close(self) -> None:
        """Remove the table as well."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _one(self, query: np.ndarray, setting: Setting) -> Rows:
        search = self.index.search(query).distance_type("dot").nprobes(setting.values["probes"]).refine_factor(setting.values["factor"])
        return search.limit(K).select(["row", "_distance"]).to_arrow()["row"].to_numpy().astype(np.int64)


def approximate_peers(rows: int, dimension: int) -> list[Contender]:
    """Return all, those that build fast first."""
    fine = {"factors": FACTORS}
    chosen = autofaiss_choice(rows, dimension, 16 << 30)
    peers: list[Contender] = [
        Faiss("IVF{lists},Flat"),
        Faiss("IVF{lists},SQ8"),
        Faiss("RR{dimension},IVF{lists},RaBitQfs,Refine(SQfp16)", **fine),
        Faiss(f"IVF{{lists}},PQ{dimension // 4}x4fs,Refine(SQfp16)", **fine),
        Lance("IVF_PQ", slow=True),
        Faiss(chosen, construction=40 if "HNSW" in chosen else None, said=" (autofaiss's choice)", slow=True),
        Faiss("HNSW32", construction=100, said=" efConstruction 100", slow=True),
        Hnswlib(),
        Usearch(),
        Lance("IVF_HNSW_SQ", slow=True),
    ]
    return peers


def usual_lists(rows: int) -> int:
    """Return about 1.3 × the root of the rows, as a power of two: 1,024 for 601,000."""
    return int(np.clip(2 ** round(np.log2(np.sqrt(rows) * 1.3)), 16, 65_536))


def autofaiss_choice(rows: int, dimension: int, memory: int) -> str:
    """Return the factory string that autofaiss takes first, for vectors that need not be mapped.

    Source: criteo/autofaiss, autofaiss/external/optimize.py, get_optimal_index_keys_v2. It leaves efConstruction at FAISS's 40 and
    tunes efSearch to 10 ms a query; here it is given the cheapest efSearch that reaches the recall, which is faster.
    """
    if rows < 1_000:
        return "Flat"
    if rows < 10_000:
        return "HNSW15"
    neighbours = int((memory / (4 * rows) - dimension) // 2)
    if neighbours >= 8:
        return f"HNSW{min(neighbours, 32)}"
    return f"IVF{int(2 ** round(np.log2(4 * np.sqrt(rows))))},Flat"
