"""What an index of some kind would cost on this machine: seconds to build, bytes, seconds a query.

Every formula is bytes or operations over a rate of `index.calibration`. With N rows of D dimensions, p of them compacted
(a quarter of D, at least 64), c bytes a code, L lists of which n are probed, k' candidates:

    flat      a query reads         4 N D                                       at flat_bytes
    scan      a query reads         N p                                         at code_bytes,  + k' gather_s D/512
    ivf       a query reads         4 L d + n/L N c                             at list_bytes,  + k' gather_s D/512
    hnsw      a query walks         efSearch log(N)/log(N0) visit_s x misses,                   + k' gather_s D/512
    a quantiser is fitted and run in 2 S D^2 + 25 D^3 + 2 N D p operations        at half of float_flops
    lists are made and filled in    16 T L d + 2 N L d (and 2 N D^2 to rotate)  at half of float_flops
    a product quantiser finds M codes a vector in N M 3e-8 s
    a graph is built in             N log(N)/log(N0) insert_s x misses
    a certificate takes             2 directions x 1,500 queries x 2 N D        at half of float_flops

with S = 40,000 and T = min(N, 64 L) sampled rows and d the dimension of what is listed. "Misses" is what a graph loses where it
does not fit into the processor's cache. n, efSearch and k' are what recall@10 0.99 took for text queries, the harder ones, among
601,000 x 512 CLIP-like vectors; what an index really needs is measured once it is built, and may differ by a factor of two.
"""

import math
import re
from dataclasses import dataclass

from index.calibration import GRAPH_LINKS, Calibration
from index.faiss_stage import count_lists
from index.kinds import IndexKind, fill_factory, find_kind

_HALF = 0.5  # of the rate of a large matrix product: what pieces of a build reach
_CACHE = 32e6  # bytes
_MISSES = 1.8
_OVERHEAD = 1e-4  # seconds a query spends outside the loops above
_CODED = 3e-8  # seconds that all threads take to find one 4-bit code of a product quantiser
_QUERIES = 2 * 1500
_SAMPLE = 40_000
_CANDIDATES = {"scan": 200, "ivf-scan": 30, "ivf-pq": 100, "ivf-flat": 20, "ivf-rabitq": 1000, "hnsw": 1000}
_CELLS_PROBED = 2.5  # times the root of their number


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one kind of index would cost.

    Attributes:
        kind: Its name.
        build_s: Seconds to build its first stage.
        certify_s: Seconds to measure what it finds against exact search; 0 for what is exact.
        memory_bytes: Held by each process that searches.
        mapped_bytes: Of mapped files that every query reads: shared by all processes, and to be kept in memory for the speed
            predicted. The candidates of a two-stage kind are fetched from the shards besides.
        disk_bytes: Of its files, beside the shards.
        latency_s: Seconds a single query takes, one thread, files in memory, its encoding not included.
        effort: nprobe or efSearch that this supposes; None where the kind has none.
        candidates: Rows ranked again in full that this supposes.
    """

    kind: str
    latency_s: float
    build_s: float = 0.0
    certify_s: float = 0.0
    memory_bytes: float = 0.0
    mapped_bytes: float = 0.0
    disk_bytes: float = 0.0
    effort: int | None = None
    candidates: int = 0

    @property
    def needed_bytes(self) -> float:
        """Memory that it needs to be as fast as predicted."""
        return self.memory_bytes + self.mapped_bytes


def predict(
    kind: IndexKind | str,
    rows: int,
    dimension: int,
    calibration: Calibration,
    *,
    effort: int | None = None,
    candidates: int | None = None,
    half: bool = False,
) -> Prediction:
    """Predict what an index of a kind costs.

    Args:
        kind: A kind or its name; a FAISS factory string is read for its lists, links and codes.
        rows: N, above 0.
        dimension: D.
        calibration: Of this machine.
        effort: nprobe or efSearch; by default what recall 0.99 is likely to take.
        candidates: Rows ranked again; by default likewise.
        half: Whether the stored vectors are float16: half the bytes, but widened when they are compared or fetched.

    Raises:
        MedretError: If the kind is not known.
    """
    kind = find_kind(kind) if isinstance(kind, str) else kind
    whole = 4.0 * rows * dimension
    if kind.exact:
        return Prediction(kind=kind.name, mapped_bytes=whole / (2 if half else 1), latency_s=_OVERHEAD + whole / calibration.flat_bytes)
    width = min(max(-(-dimension // 4 // 32) * 32, 64), dimension) if kind.compact else dimension
    count = min(_CANDIDATES.get(kind.name, 200) if candidates is None else candidates, rows)
    certify = 2 * _QUERIES * rows * dimension / (_HALF * calibration.float_flops)
    compacting = _compacting(rows, dimension, width) / (_HALF * calibration.float_flops) if kind.compact else 0.0
    last = _OVERHEAD + count * (calibration.half_gather_s if half else calibration.gather_s) * dimension / 512
    if kind.factory is None:
        held, mapped, latency, building = 0.0, float(rows * width), rows * width / calibration.code_bytes, 0.0
    else:
        effort, held, latency, building = _faiss_cost(kind, rows, dimension, width, effort, calibration)
        mapped = 0.0
    return Prediction(
        kind=kind.name,
        build_s=compacting + building + whole / calibration.flat_bytes,
        certify_s=certify,
        memory_bytes=held,
        mapped_bytes=mapped,
        disk_bytes=held + mapped,
        latency_s=latency + last,
        effort=effort,
        candidates=count,
    )


def _compacting(rows: int, dimension: int, width: int) -> float:
    """Operations."""
    return 2.0 * min(rows, _SAMPLE) * dimension**2 + 25.0 * dimension**3 + 2.0 * rows * dimension * width


def _faiss_cost(
    kind: IndexKind, rows: int, dimension: int, width: int, effort: int | None, calibration: Calibration
) -> tuple[int | None, float, float, float]:
    """The effort, the bytes held, the seconds a query and the seconds to build of a FAISS first stage."""
    factory = fill_factory(kind.factory or "", width, count_lists(rows, kind.cells))
    code = code_bytes(factory, width)
    rate = _HALF * calibration.float_flops
    rotating = 2.0 * rows * width**2 / rate if re.search(r"\b(RR|OPQ|PCA|ITQ)", factory) else 0.0
    coding = rows * int(coded[1]) * _CODED if (coded := re.search(r"PQ(\d+)x4", factory)) else 0.0
    if (links := re.search(r"HNSW(\d+)", factory)) and "IVF" not in factory:
        effort = 1000 if effort is None else effort
        held = rows * (code + 8.0 * int(links[1]) + 16)
        depth = math.log(max(rows, 2)) / math.log(calibration.graph_rows) * (_MISSES if held > _CACHE else 1.0)
        building = rotating + rows * depth * calibration.insert_s * max(int(links[1]) / GRAPH_LINKS, 0.5) * max(width / 128, 0.5)
        return effort, held, min(effort, rows) * max(depth, 0.3) * calibration.visit_s * max(width / 128, 0.5), building
    if named := re.search(r"IVF(\d+)", factory):
        lists = int(named[1])
        effort = min(round((_CELLS_PROBED if kind.cells else 4) * math.sqrt(lists)) if effort is None else effort, lists)
        held = rows * (code + 8) + 4.0 * lists * width
        training = 16.0 * min(rows, 64 * lists) * lists * width
        building = rotating + coding + (training + 2.0 * rows * lists * width) / rate
        return effort, held, (4.0 * lists * width + effort / lists * rows * code) / calibration.list_bytes, building
    return None, rows * code, rows * code / calibration.list_bytes, rotating + 2.0 * rows * dimension * 256 / rate


def code_bytes(factory: str, width: int) -> float:
    """Return the bytes of a vector of `width` dimensions as a FAISS factory string stores it, without its id or links."""
    if quantised := re.search(r"PQ(\d+)(?:x(\d+))?", factory):
        return int(quantised[1]) * int(quantised[2] or 8) / 8
    if "RaBitQ" in factory:
        return width / 8 + 14
    bits = {"SQ4": 0.5, "SQ6": 0.75, "SQ8": 1, "SQfp16": 2, "SQbf16": 2}
    return width * next((size for name, size in bits.items() if name in factory), 4)
