"""Answers and what a command made, as plain text for a terminal."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retrieval.answers import Answer, Hit
from retrieval.filters import EVERYTHING
from retrieval.question import term_name

if TYPE_CHECKING:
    from index.encode_summary import EncodeSummary
    from index.index_manifest import IndexManifest
    from index.manifest import ShardsManifest
    from retrieval.explanation import Explanation


def render_answer(answer: Answer, cosines: Sequence[Sequence[float]] | None = None) -> str:
    """Lay the hits out as aligned columns within the terminal's width; the report's beginning fills what is left of it.

    Where that is little, the columns on the right are cut first, and those that do not fit even so are left out.

    Args:
        answer: What to lay out.
        cosines: Of each hit to each term, shown beside its score; None shows none.
    """
    if not answer.hits:
        return "no hits"
    columns, room = _columns(answer.hits, cosines or []), max(shutil.get_terminal_size((120, 24)).columns, 80)
    widths = _widths(columns, room)
    rows = zip(*([column.title, *column.cells] for column in columns[: len(widths)]), strict=True)
    return "\n".join("  ".join(_cut(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def render_explanation(explanation: "Explanation") -> str:
    """Say what was asked and how, a line each, above the hits and their cosines to each term."""
    several = len(explanation.answer.asked) > 1
    table = render_answer(explanation.answer, explanation.cosines.tolist() if several else None)
    return "\n".join([*explanation.lines(), "", table])


def percentile_figure(value: float | None) -> str:
    """Word the percentile of a score: the nearer to 100, the more digits; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 99 else f"{value:.2f}" if value < 99.9 else f"{min(value, 99.9999):.4f}"  # never all of them


def answer_notes(answer: Answer) -> tuple[str, ...]:
    """Return what to say beside an answer: its notes, and which plan ran wherever it is not plain that all rows were compared."""
    plain = answer.plan.kind == "flat" and answer.query.selection == EVERYTHING and not answer.query.without
    return answer.notes if plain else (*answer.notes, answer.plan.reason)


def render_metrics(row: Mapping[str, float]) -> str:
    """Lay named figures out in one line: whole numbers as such, others with four digits."""
    return ", ".join(f"{name} {value:.0f}" if float(value).is_integer() else f"{name} {value:.4g}" for name, value in row.items())


def render_encoding(summary: "EncodeSummary") -> str:
    """Say what a shards folder holds and, in a second line, what the run took where it encoded anything."""
    held = (("images", summary.images), ("reports", summary.reports), ("sentences", summary.sentences))
    named = ", ".join(f"{count:,} {name}" for name, count in held if count)
    line = f"{summary.folder}: {named or 'no rows yet'} by encoder {summary.encoder}"
    if not summary.complete:
        done = ", ".join(f"{count:,} {name}" for name, count in summary.done.items()) or "nothing new"
        line = f"{summary.folder}: not whole yet: this process has done {done} by encoder {summary.encoder}; others are not done"
    if not summary.rates:
        return line
    rates = ", ".join(f"{rate:,.1f} {name}/s" for name, rate in summary.rates.items())
    compute = f"images in {summary.compute['images']}, texts in {summary.compute['texts']} on {summary.compute['device']}"
    return f"{line}\n{rates}; {summary.seconds:,.0f} s; {summary.peak_rss / 1e6:,.0f} MB at most; {summary.failures} failures; {compute}"


def encoding_progress(modality: str, done: int, total: int, failures: int) -> tuple[int, int, str]:
    """What a bar shows of an encoding: how far it is, of how much, and a remark."""
    return done, total, f"{modality}, {failures} failed" if failures else modality


def encoding_notes(summary: "EncodeSummary", max_tokens: int, *, pseudonymised: bool) -> list[str]:
    """Say, a line each, what a user should know of a shards folder before relying on it, or sharing it."""
    notes = [f"{count} rows of the corpus left out: {reason}" for reason, count in summary.left_out.items()]
    if not summary.complete:
        notes.append("other processes have still to make their shards; the last one to finish makes the folder whole")
    if summary.resumed_shards:
        notes.append(f"{summary.resumed_shards} of {summary.shards} shards were there from an earlier run")
    if summary.without_text and (summary.reports or summary.sentences):
        notes.append(f"{summary.without_text} studies have no text in the sections that are encoded")
    if summary.texts_cut:
        notes.append(f"{summary.texts_cut} texts are longer than the encoder reads ({max_tokens} tokens); their ends were cut")
    if summary.failures:
        notes.append(f"{summary.failures} images could not be encoded; {summary.folder / 'failures.csv'} says why")
    way = _way(summary.compute)
    if summary.images and way != "direct":
        notes.append(f"films come from a {way}: their vectors are close to those of a direct encode, not the same")
    if pseudonymised:
        notes.append("report text is kept as it stands, and text burned into pixels shapes the vectors: look before you share this folder")
    return notes


def mixture_notes(parts: "Sequence[ShardsManifest]") -> list[str]:
    """Say whether the films of the last part of an index became squares in another way than films of the parts before."""
    ways = [_way(part.compute) for part in parts if "images" in part.modalities]
    others = sorted(set(ways) - set(ways[-1:]))
    if not others or "images" not in parts[-1].modalities:
        return []
    ways_before = " and ".join(others)
    return [f"films by several ways: those added {ways[-1]}, others {ways_before}; the vectors of one film differ a little between them"]


def _way(compute: Mapping[str, str]) -> str:
    how, _, size = compute.get("pixels", "direct").partition(" ")
    return {"squares": f"cache of {size}-pixel squares", "cache": f"cache of {size}-pixel squares of an older version"}.get(how, how)


def render_index(folder: Path, manifest: "IndexManifest") -> str:
    """Say what an index folder holds, a line for each index."""
    return "\n".join(
        f"{folder}: {entry.kind} index of {entry.rows:,} {entry.modality} by {entry.vector} vectors ({entry.dimension}-d)"
        for entry in manifest.indexes
    )


class _Column(NamedTuple):
    """A column of a table: its least and greatest width, and its cells below the title."""

    title: str
    least: int
    most: int
    cells: list[str]


def _columns(hits: Sequence[Hit], cosines: Sequence[Sequence[float]]) -> list[_Column]:
    columns = [_Column("rank", 4, 6, [str(hit.rank) for hit in hits]), _Column("score", 6, 6, [f"{hit.score:.3f}" for hit in hits])]
    if any(hit.percentile is not None for hit in hits):
        columns.append(_Column("percentile", 10, 10, [percentile_figure(hit.percentile) for hit in hits]))
    for place, of_term in enumerate(zip(*cosines, strict=True), start=1):
        columns.append(_Column(term_name(place), 6, 6, [f"{cosine:.3f}" for cosine in of_term]))
    positive = [", ".join(finding for finding, state in hit.labels.items() if state == "positive") for hit in hits]
    names_most, report_least = (36, 12) if hits[0].modality == "images" else (20, 20)  # a text was looked for
    said = [
        _Column("patient", 8, 20, [hit.patient_id or "-" for hit in hits]),
        _Column("view", 4, 8, [hit.view or "-" for hit in hits]),
        _Column("positive findings", 10, names_most, [names or "-" for names in positive]),
        _Column("report", report_least, 1000, [" ".join((hit.sentence or hit.text or "").split()) or "-" for hit in hits]),
    ]
    return [*columns, _Column("id", 12, 44, [hit.id for hit in hits]), *(column for column in said if set(column.cells) != {"-"})]


def _widths(columns: Sequence[_Column], room: int) -> list[int]:
    """How wide the columns are, those on the left as wide as they need; fewer than there are where some do not fit."""
    widths = [min(column.most, max(map(len, [column.title, *column.cells]))) for column in columns]
    least = [min(column.least, width) for column, width in zip(columns, widths, strict=True)]
    while sum(least) + 2 * (len(least) - 1) > room:
        least.pop()
    spare = room - sum(least) - 2 * (len(least) - 1)
    for place, width in enumerate(widths[: len(least)]):
        more = min(width - least[place], spare)
        least[place], spare = least[place] + more, spare - more
    return least


def _cut(text: str, width: int) -> str:
    return f"{text:<{width}}" if len(text) <= width else text[: width - 1] + "…"
