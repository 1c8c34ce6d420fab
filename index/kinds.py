"""The kinds of index, and the one FAISS that all of them search with."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from encoders.errors import MedretError

_FAISS_PLACE = re.compile(r"^Error in .*? at \S+:\d+: (Error: '.*?' failed: ?)?")
_FAISS_WRITTEN = re.compile(r"write error in .*: \d+ != \d+ \((.*)\)")
_TRIED_DIMENSIONS = (512, 768, 720)  # a factory string may fit one length only: PQ96 divides 768, not 512


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexKind:
    """How an index searches.

    Attributes:
        name: What the user calls it.
        exact: Whether it always finds the k best; the others find candidates that are ranked again by the shards' vectors.
        factory: The FAISS factory string of the first stage, with {D} for the dimension (compacted, where `compact`) and {lists}
            for the number of inverted lists; None where FAISS takes no part in it.
        compact: Whether the first stage holds compacted vectors (index.quantiser).
        mixed: Whether their directions are turned at random among themselves, so that each is coded as finely as it matters.
        cells: Whether the lists are Euclidean cells, twice as many, that are looked through in their own order (index.cells).
        effort: The search parameter that trades time for recall: "nprobe", "efSearch", or None.
        selects: Whether inverted lists can be searched for allowed rows alone.
        grade: Recall that the tuner aims at beyond the user's target, or None.
    """

    name: str
    exact: bool = False
    factory: str | None = None
    compact: bool = False
    mixed: bool = False
    cells: bool = False
    effort: str | None = None
    selects: bool = True
    grade: float | None = None


KINDS = {
    kind.name: kind
    for kind in (
        IndexKind(name="flat", exact=True),
        IndexKind(name="scan", compact=True, mixed=True, grade=0.9999),
        IndexKind(name="ivf-scan", factory="IVF{lists},SQ8", compact=True, effort="nprobe"),
        IndexKind(name="ivf-pq", factory="IVF{lists},PQ{D}x4fsr", compact=True, mixed=True, cells=True, effort="nprobe"),
        IndexKind(name="ivf-flat", factory="IVF{lists},Flat", effort="nprobe"),
        IndexKind(name="ivf-rabitq", factory="RR{D},IVF{lists},RaBitQfs", effort="nprobe"),
        IndexKind(name="hnsw", factory="HNSW32,SQ8", compact=True, effort="efSearch"),
    )
}


def find_kind(name: str) -> IndexKind:
    """Return the kind of this name; any other name is tried as a FAISS factory string, over the vectors as stored.

    Raises:
        MedretError: If it is neither.
    """
    return KINDS[name] if name in KINDS else _factory_kind(name)


@cache
def _factory_kind(name: str) -> IndexKind:
    faiss = load_faiss()
    fault = ""
    for dimension in _TRIED_DIMENSIONS:
        try:
            made = faiss.index_factory(dimension, fill_factory(name, dimension, 16), faiss.METRIC_INNER_PRODUCT)
        except (RuntimeError, ValueError, TypeError) as error:
            fault = faiss_fault(error)
            continue
        if isinstance(made, faiss.IndexRefine):
            raise MedretError(f"index kind {name!r} refines what every kind here ranks by the shards' vectors. Leave out its last part")
        return _described(name, faiss, made)
    known = ", ".join(KINDS)
    raise MedretError(f"index kind {name!r} is not known, and is no FAISS factory string ({fault}). Choose one of: {known}")


def _described(name: str, faiss: Any, made: Any) -> IndexKind:
    inner = faiss.downcast_index(made.index) if hasattr(made, "chain") else made
    effort = "nprobe" if isinstance(inner, faiss.IndexIVF) else "efSearch" if isinstance(inner, faiss.IndexHNSW) else None
    return IndexKind(name=name, factory=name, effort=effort, selects=not isinstance(inner, faiss.IndexIVFAdditiveQuantizer))


def fill_factory(factory: str, dimension: int, lists: int) -> str:
    """Return a factory string with its {D} and {lists} filled in."""
    return factory.replace("{D}", str(dimension)).replace("{lists}", str(lists))


def faiss_fault(error: BaseException) -> str:
    """Return what FAISS says is wrong in one line, without its source file and its own expressions; of a full disk, the system's word."""
    line = _FAISS_PLACE.sub("", " ".join(str(error).split()))
    written = _FAISS_WRITTEN.fullmatch(line)
    return (written[1] if written else line)[:200]


def faiss_distributions() -> list[str]:
    """Return the installed distributions that own the `faiss` folder; anything but exactly one is a fault."""
    from importlib.metadata import packages_distributions

    return sorted(set(packages_distributions().get("faiss", [])))


@cache  # looking through all installed distributions takes longer than a search
def load_faiss() -> Any:
    """Import FAISS.

    All FAISS wheels own the same folder: a second one overwrites files of the first, and removing either breaks both.

    Raises:
        MedretError: If no FAISS or more than one is installed, or it cannot be loaded.
    """
    found = faiss_distributions()
    if len(found) > 1:
        raise MedretError(
            f"{len(found)} FAISS packages are installed over each other: {', '.join(found)}. Keep one: pip uninstall -y "
            f"{' '.join(found)}, then pip install 'medret[cpu]' (or 'medret[gpu]')"
        )
    if not found:
        raise MedretError("FAISS is not installed. Install one: pip install 'medret[cpu]' (or 'medret[gpu]' with an NVIDIA GPU)")
    try:
        import faiss
    except (ImportError, RuntimeError) as error:
        raise MedretError(
            f"{found[0]} is installed but cannot be loaded ({error}). Install it anew: pip install --force-reinstall {found[0]}"
        ) from error
    return faiss


@contextmanager
def faiss_threads(count: int | None) -> Iterator[None]:
    """Let FAISS compute with `count` threads, which it counts for each calling thread on its own; None leaves the number.

    For a single query a second thread costs more than it brings.
    """
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    if count is not None:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
