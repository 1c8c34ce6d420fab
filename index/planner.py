"""Which way one search goes: exactly, or through the index's first stage with the settings that its certificate names."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from index.index_manifest import Certificate
    from index.kinds import IndexKind

# Costs are bytes read, weighed by how fast each way reads them (601,000 x 512 on two cores): a stream of whole vectors, or of
# int8 codes, goes at 25 to 27 GB/s and weighs 1. Gathered rows are read, written and read again. Inverted lists of 128-byte
# codes go at 10 GB/s, and each neighbour that a graph visits is a cache miss.
_GATHERED = 3
_LISTED = 3
_VISITED = 8
_NEIGHBOURS = 64  # of a vertex of HNSW32 on its lowest level
_CHECKED = 4  # times the candidates, or the effort, that must not change a filtered answer
_GRAPH_KEEPS = 0.9  # share of rows that are not removed down to which a graph is searched: FAISS HNSW falls to 0.34 at 1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How a search runs.

    Attributes:
        how: "exact", or "approximate": the first stage proposes candidates, the stored vectors rank them.
        kind: The kind of the index.
        candidates: Rows that the first stage proposes for each query; 0 where the search is exact.
        effort: nprobe or efSearch; None where the kind has neither or the search is exact.
        allowed_rows: Rows that may be found.
        rows: Rows of the index, removed ones included.
        reason: One clause for people.
        checked: Whether each query's answer must be confirmed, or is searched exactly instead: its best rows must all lie in
            the first quarter of what the first stage proposed, in the order of that stage.
        confirmed_by: Where `checked`, a smaller effort that must find the same rows; None where the stage looks at all rows.
    """

    how: Literal["exact", "approximate"]
    kind: str
    candidates: int
    effort: int | None
    allowed_rows: int
    rows: int
    reason: str
    checked: bool = False
    confirmed_by: int | None = None


def plan_search(
    kind: "IndexKind",
    rows: int,
    dimension: int,
    k: int,
    asker: str,
    allowed_rows: int | None,
    certificates: "Sequence[Certificate]",
    lists: int | None = None,
    live_rows: int | None = None,
) -> SearchPlan:
    """Choose how to search.

    A search is approximate only with settings that a met certificate names for this kind of query and this many hits. What a
    filter leaves may lie just where the query is not ("no effusion", asked by a film with one): there, scores are so close
    together that no setting measured without a filter tells what is found. So a filtered search takes four times the candidates
    and more lists, each answer is checked, and one that is not confirmed is searched exactly. Whatever reads fewer bytes than
    the first stage, or has no check that shows its losses (a graph), is searched exactly at once.

    Args:
        kind: The kind of the index.
        rows: Rows that its first stage holds, removed ones included.
        dimension: Of the stored vectors.
        k: Hits wanted, from 1.
        asker: "image" or "text": what the query is.
        allowed_rows: Rows that may be found; None for all that are not removed.
        certificates: What was measured when the index was built.
        lists: Inverted lists of the first stage; None where it has none.
        live_rows: Rows that are not removed; None for all.

    Raises:
        ValueError: If k is not positive, or more rows are allowed than there are.
    """
    live_rows = rows if live_rows is None else live_rows
    allowed_rows = live_rows if allowed_rows is None else allowed_rows
    if k < 1 or not 0 <= allowed_rows <= live_rows <= rows:
        raise ValueError(f"k is {k} and {allowed_rows} of {live_rows} of {rows} rows are allowed, expected k above 0 and at most all rows")
    exact = partial(exact_plan, kind.name, rows, allowed_rows)
    if kind.exact:
        return exact()
    certificate = _certificate(certificates, k, asker)
    if isinstance(certificate, str):
        return exact(certificate)
    share, filtered = allowed_rows / max(rows, 1), allowed_rows < live_rows
    if not may_leave_out(kind, share, filtered):
        return exact(f"{kind.name} loses recall where rows are left out")
    candidates = certificate.candidates * (_CHECKED if filtered else 1)
    effort, confirmed_by = _efforts(kind, certificate.effort, share, filtered, lists)
    streamed = allowed_rows * dimension * 4 * (_GATHERED if share < 1 else 1)
    if streamed <= _stage_bytes(kind, rows, dimension, candidates, (effort, confirmed_by), lists):
        return exact()
    within = f", within {_counted(rows, allowed_rows)}" if share < 1 else ""
    return SearchPlan(
        how="approximate",
        kind=kind.name,
        candidates=candidates,
        effort=effort,
        allowed_rows=allowed_rows,
        rows=rows,
        reason=f"approximate: {kind.name}, certified recall@{certificate.k} {certificate.recall:.3f} for {asker}{within}",
        checked=filtered,
        confirmed_by=confirmed_by,
    )


def exact_plan(kind: str, rows: int, allowed_rows: int | None = None, because: str = "") -> SearchPlan:
    """Plan an exact search whatever the index's kind; `because` is one clause that says why, where it is not plain."""
    allowed_rows = rows if allowed_rows is None else allowed_rows
    reason = f"exact over {_counted(rows, allowed_rows)}{because and ': '}{because}"
    return SearchPlan(how="exact", kind=kind, candidates=0, effort=None, allowed_rows=allowed_rows, rows=rows, reason=reason)


def _counted(rows: int, allowed_rows: int) -> str:
    return f"the {allowed_rows:,} allowed rows" if allowed_rows < rows else f"all {rows:,} rows"


def _certificate(certificates: "Sequence[Certificate]", k: int, asker: str) -> "Certificate | str":
    """The certificate for this asker with the fewest hits that reach k, if it is met; else why there is none."""
    known = sorted((one for one in certificates if one.asker == asker), key=lambda one: one.k)
    if not known:
        return f"not certified for {asker} queries"
    reaching = [one for one in known if one.k >= k]
    if not reaching:
        return f"certified up to {known[-1].k} hits, {k} are asked for"
    best = reaching[0]
    if not best.met:
        return f"recall@{best.k} for {asker} is {best.recall:.3f} (at least {best.low:.3f}), short of {best.target:g}"
    return best


def may_leave_out(kind: "IndexKind", share: float, filtered: bool = False) -> bool:
    """Whether the first stage keeps its recall, or its checks show the loss, where only this share of the rows is allowed.

    A graph stops among the rows that it meets first, with more effort too; so it passes over removed rows only, and few.

    Args:
        kind: Of the first stage.
        share: 0 to 1.
        filtered: Whether rows are left out that are not removed.
    """
    if share == 1:
        return True
    if kind.effort == "efSearch":
        return share >= _GRAPH_KEEPS and not filtered
    return kind.name == "scan" or (kind.effort == "nprobe" and kind.selects)


def _efforts(kind: "IndexKind", effort: int | None, share: float, filtered: bool, lists: int | None) -> tuple[int | None, int | None]:
    """The effort of a search, and the smaller one that confirms it."""
    if effort is None or share in (0, 1):
        return effort, None
    if kind.effort != "nprobe":
        return effort, None
    wider = ceil(effort * max(_CHECKED / share if filtered else 1, 1 / share**2))
    if lists is not None and wider >= lists:
        return lists, None
    return wider, ceil(wider / _CHECKED) if filtered else None


def _stage_bytes(
    kind: "IndexKind", rows: int, dimension: int, candidates: int, efforts: tuple[int | None, int | None], lists: int | None
) -> float:
    """Weighed bytes that the first stage and the ranking of its candidates read for one query."""
    ranking = candidates * dimension * 4 * _GATHERED
    code = _code_bytes(kind, dimension)
    effort = sum(one for one in efforts if one is not None)
    if kind.effort == "nprobe" and effort and lists:
        return ranking + lists * dimension * 4 + rows * effort / lists * code * _LISTED
    if kind.effort == "efSearch" and effort:
        return ranking + min(effort * _NEIGHBOURS, rows) * code * _VISITED
    return ranking + rows * code


def _code_bytes(kind: "IndexKind", dimension: int) -> float:
    """Bytes of one row in the first stage; the quantiser keeps about a quarter of 512 dimensions."""
    factory = kind.factory or ""
    if "RaBitQ" in factory:
        return dimension / 8 + 8
    width = dimension / 4 if kind.compact else float(dimension)
    if "x4fs" in factory:
        return width / 2
    return width * 4 if "Flat" in factory else width
