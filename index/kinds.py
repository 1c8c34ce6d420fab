"""The kinds of index, and the one FAISS that all of them search with."""

from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any

from encoders.errors import MedretError


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexKind:
    """How an index searches.

    Attributes:
        name: What the user calls it.
        exact: Whether it always finds the k best.
        copies: Whether it holds vectors of its own, beside those in the shards.
    """

    name: str
    exact: bool
    copies: bool


KINDS = {"flat": IndexKind(name="flat", exact=True, copies=False)}


def find_kind(name: str) -> IndexKind:
    """Return the kind of this name.

    Raises:
        MedretError: If there is none.
    """
    if name not in KINDS:
        raise MedretError(f"index kind {name!r} is not known. Choose one of: {', '.join(KINDS)}")
    return KINDS[name]


def faiss_distributions() -> list[str]:
    """Return the installed distributions that own the `faiss` folder; anything but exactly one is a fault."""
    return sorted(set(packages_distributions().get("faiss", [])))


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
