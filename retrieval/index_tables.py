"""What an index holds, costs and finds, as plain text for a terminal."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from index.cost import Prediction
    from index.folder import OpenedIndex
    from index.index_manifest import IndexEntry
    from index.score_scale import ScoreScale

_PERCENT = (90, 99, 99.9, 99.99)


def describe_index(opened: "OpenedIndex") -> dict[str, Any]:
    """Return what an index folder holds, as a dictionary that JSON can hold.

    Keys: folder, encoder, generation, recall (the target), created_by, parts (path, rows by modality, bytes) and indexes
    (modality, vector, dimension, kind, exact, effort: what its settings are called, rows, removed, bytes, certificates, scales: how
    the scores of random pairs spread, with those that 90, 99, ... % of them stay below).
    """
    from index.kinds import find_kind

    manifest = opened.manifest
    parts = [
        {
            "path": os.path.normpath(opened.folder.resolve() / stored.folder),
            "rows": {name: held.rows for name, held in part.manifest.modalities.items()},
            "bytes": sum(shard.bytes for held in part.manifest.modalities.values() for shard in held.shards),
        }
        for stored, part in zip(manifest.parts, opened.shards.parts, strict=True)
    ]
    indexes = []
    for entry in manifest.indexes:
        kind, live = find_kind(entry.kind), opened.shards.table(entry.modality).live
        indexes.append(
            {
                "modality": entry.modality,
                "vector": entry.vector,
                "dimension": entry.dimension,
                "kind": entry.kind,
                "exact": kind.exact,
                "effort": kind.effort,
                "rows": entry.rows,
                "removed": 0 if live is None else int((~live).sum()),
                "bytes": sum(file.bytes for file in entry.files),
                "certificates": [asdict(certificate) for certificate in entry.certificates],
                "scales": [_scale(scale) for scale in entry.scales],
            }
        )
    return {
        "folder": str(opened.folder),
        "encoder": manifest.encoder,
        "generation": manifest.generation,
        "recall": manifest.recall,
        "created_by": manifest.created_by,
        "parts": parts,
        "indexes": indexes,
    }


def render_info(held: Mapping[str, Any]) -> str:
    """Lay out what `describe_index` returned: the folder, its shards, and each index with its certificates."""
    lines = [f"{held['folder']}: generation {held['generation']}, encoder {held['encoder']}, by {held['created_by']}"]
    for part in held["parts"]:
        rows = ", ".join(f"{count:,} {name}" for name, count in part["rows"].items())
        lines.append(f"shards {part['path']}: {rows}; {amount(part['bytes'])}")
    for entry in held["indexes"]:
        lines += ["", _entry_line(entry), *_contract(entry, held["recall"]), *_scale_lines(entry["scales"])]
    return "\n".join(lines)


def render_contract(entry: "IndexEntry", target: float) -> str:
    """Lay out what a newly built index was measured to find; "" where it is exact."""
    from index.kinds import find_kind

    kind = find_kind(entry.kind)
    certificates = [asdict(certificate) for certificate in entry.certificates]
    return "\n".join(_contract({"exact": kind.exact, "effort": kind.effort, "certificates": certificates}, target, exact=""))


def contract_notes(entries: Sequence["IndexEntry"], target: float) -> list[str]:
    """Say where searches are exact though the kind is not: what could not be measured, and in one line what missed its target and why."""
    from index.contract import most_recall_shown
    from index.kinds import find_kind

    approximate = [entry for entry in entries if not find_kind(entry.kind).exact]
    unmeasured = [entry for entry in approximate if not entry.certificates]
    notes = [f"{one.modality} by {one.vector}: too few records to measure recall with, so every search is exact" for one in unmeasured]
    certificates = [certificate for entry in approximate for certificate in entry.certificates]
    unmet = [one for one in certificates if not one.met]
    if unmet:
        few = [one for one in unmet if one.recall == 1 and most_recall_shown(one.queries) < target]
        causes = [f"{len(unmet) - len(few)} fell short of it"] if len(few) < len(unmet) else []
        if few:
            most = max(one.queries for one in few)
            causes.append(f"{len(few)} found all, but {most:,} queries cannot show more than {most_recall_shown(most):.3f}")
        where = f"{len(unmet)} of {len(certificates)} measurements"
        notes.append(f"{where} do not show a recall of {target:g}, and such searches are exact: {'; '.join(causes)}")
    return notes


def render_predictions(predictions: Sequence["Prediction"]) -> str:
    """Lay out what each kind is predicted to cost."""
    rows = [["kind", "build", "certify", "memory", "disk", "a query"]]
    rows += [
        [
            one.kind,
            duration(one.build_s),
            duration(one.certify_s),
            amount(one.needed_bytes),
            amount(one.disk_bytes),
            duration(one.latency_s),
        ]
        for one in predictions
    ]
    return "\n".join(_aligned(rows))


def _entry_line(entry: Mapping[str, Any]) -> str:
    removed = f", {entry['removed']:,} removed" if entry["removed"] else ""
    held = f"; {amount(entry['bytes'])} beside the shards" if entry["bytes"] else ""
    return (
        f"{entry['modality']} by {entry['vector']} vectors ({entry['dimension']}-d): {entry['kind']}, {entry['rows']:,} rows{removed}{held}"
    )


def _contract(entry: Mapping[str, Any], target: float, exact: str = "  exact: every search compares all rows") -> list[str]:
    if entry["exact"]:
        return [exact] if exact else []
    if not entry["certificates"]:
        return [f"  no certificate (target recall {target:g}): every search compares all rows"]
    head = ["queries", "k", "target", "recall", "interval", "contract", "p50", "p99", "settings", "measured with"]
    return [f"  {line}" for line in _aligned([head, *(_certificate_row(one, entry["effort"]) for one in entry["certificates"])])]


def _certificate_row(one: Mapping[str, Any], effort: str | None) -> list[str]:
    settings = f"{one['candidates']:,} candidates"
    return [
        one["asker"],
        str(one["k"]),
        f"{one['target']:g}",
        f"{one['recall']:.4f}",
        f"{one['low']:.4f} to {one['high']:.4f}",
        "met" if one["met"] else "NOT MET: exact",
        duration(one["p50_ms"] / 1e3),
        duration(one["p99_ms"] / 1e3),
        settings if one["effort"] is None else f"{effort or 'effort'} {one['effort']:,}, {settings}",
        f"{one['queries']:,} {one['drawn']}",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _scale(scale: "ScoreScale") -> dict[str, Any]:
    below = {f"{percent:g}": round(scale.score(percent), 6) for percent in _PERCENT}
    return {
        "asker": scale.asker,
        "drawn": scale.drawn,
        "pairs": scale.pairs,
        "mean": scale.mean,
        "deviation": scale.deviation,
        "below": below,
    }


def _scale_lines(scales: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out how the scores of random pairs spread; what a percentage stays below only where a few pairs lie above."""
    head = ["random pairs", "mean", "deviation", *(f"{percent:g} % below" for percent in _PERCENT), "measured with"]
    rows = []
    for scale in scales:
        shown = [scale["below"][f"{percent:g}"] if scale["pairs"] * (1 - percent / 100) >= 1 else None for percent in _PERCENT]
        cells = ["-" if score is None else f"{score:.3f}" for score in shown]
        measured = f"{scale['pairs']:,} pairs, asked by {scale['drawn']}"
        rows.append([scale["asker"], f"{scale['mean']:.3f}", f"{scale['deviation']:.3f}", *cells, measured])
    return [f"  {line}" for line in _aligned([head, *rows])] if rows else []


def amount(size: float) -> str:
    """Word an amount of bytes: 0 MB, 0.3 MB, 82 MB, 1.24 GB."""
    if size >= 1e9:
        return f"{size / 1e9:,.2f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10e6 or size == 0 else f"{max(size / 1e6, 0.1):.1f} MB"


def duration(seconds: float) -> str:
    """Word a time: 0.53 ms, 41 ms, 4.3 s, 12 min, 5.4 h."""
    if seconds == 0:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def index_folder_lines(folder: Path, entries: Sequence["IndexEntry"], target: float) -> str:
    """Say what an index folder holds after it was built: a line for each index, and what it was measured to find."""
    lines = []
    for entry in entries:
        lines.append(f"{folder}: {entry.kind} index of {entry.rows:,} {entry.modality} by {entry.vector} vectors ({entry.dimension}-d)")
        if table := render_contract(entry, target):
            lines.append(table)
    return "\n".join(lines)
