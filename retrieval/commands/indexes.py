"""Indexes: built, described, added to, cleared of records, checked."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from encoders.device import choose_device
from retrieval.commands.encoding import default_encoder, encode_with_notes
from retrieval.commands.flags import AddFlags, EncodeFlags, spread
from retrieval.commands.notes import note
from retrieval.commands.options import INDEX, AsJson, Index, load_key, parse_quantity
from retrieval.quantities import parse_bytes, parse_seconds
from retrieval.terminal import progress_bar


@spread(EncodeFlags)
def build_index(
    source: Annotated[Path, typer.Argument(help="A corpus, or a shards folder made by 'medret encode'.")],
    flags: EncodeFlags,
    out: Annotated[Path, typer.Option(envvar="MEDRET_INDEX", help="Index folder.")] = INDEX,
    kind: Annotated[
        str,
        typer.Option(
            help="auto chooses; flat (exact), scan, ivf-scan, ivf-pq, ivf-flat, ivf-rabitq, hnsw, or any FAISS factory string: all but "
            "flat propose candidates that the full vectors then rank."
        ),
    ] = "auto",
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="What approximate search has to find, measured against exact search.")
    ] = 0.99,
    memory: Annotated[str | None, typer.Option(help="With auto: what a search may need, e.g. 2GB; the machine's when not given.")] = None,
    latency: Annotated[str | None, typer.Option(help="With auto: what a query may take, e.g. 5ms.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Build even what is predicted to take over an hour.")] = False,
) -> None:
    """Build an index from shards, or from a corpus. A corpus is encoded first, into OUT/shards."""
    from index.folder import build_index as build
    from index.kinds import find_kind
    from index.manifest import holds_shards
    from retrieval.index_tables import contract_notes, index_folder_lines
    from retrieval.tables import render_encoding

    if kind != "auto":
        if memory or latency:
            raise typer.BadParameter("--memory and --latency choose a kind: they go with --kind auto")
        if not find_kind(kind).exact and recall == 1:  # before hours of encoding
            raise typer.BadParameter(f"--recall 1: no number of queries shows that {kind} never misses; ask for less, or for --kind flat")
    options = flags.options()
    room = None if memory is None else parse_quantity("--memory", memory, parse_bytes)
    time = None if latency is None else parse_quantity("--latency", latency, parse_seconds)
    shards = source
    if not holds_shards(source):
        shards = out / "shards"
        encoder = flags.encoder or default_encoder()
        print(render_encoding(encode_with_notes(flags.corpus(source), encoder, shards, options, flags.device)))
    chosen = _choose_kind(shards, kind, recall, room, time, yes)
    with progress_bar("indexing", "index") as progress:
        manifest = build(shards, out, flags.encoder or shards / "encoder", chosen, recall=recall, progress=progress.stage)
    for line in contract_notes(manifest.indexes, recall):
        note(line)
    print(index_folder_lines(out, manifest.indexes, recall))


def info(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", envvar="MEDRET_INDEX", help="Folder made by 'medret build-index'.")] = INDEX,
    as_json: AsJson = False,
) -> None:
    """Say what an index holds, and what was measured of it. That is what its searches find, and what they take."""
    from index.folder import open_index
    from retrieval.index_tables import describe_index, render_info

    held = describe_index(open_index(index_dir))
    print(json.dumps(held, indent=2) if as_json else render_info(held))


@spread(AddFlags)
def add(
    source: Annotated[Path, typer.Argument(help="A corpus of new records, or a shards folder of them made by the index's encoder.")],
    flags: AddFlags,
    index_dir: Index = INDEX,
) -> None:
    """Add records to an index. Run again to go on where a run was stopped."""
    from encoders.checkpoint import find_checkpoint, load_checkpoint
    from index.folder import open_index
    from index.life import add_corpus, add_options, add_shards
    from index.manifest import holds_shards
    from retrieval.tables import encoding_notes, encoding_progress, render_encoding, render_index

    if holds_shards(source):
        with progress_bar("indexing", "index") as progress:
            manifest = add_shards(index_dir, source, progress.stage)
        _note_mixture(index_dir)
        print(render_index(index_dir, manifest))
        return
    told = flags.options()
    opened = open_index(index_dir)
    options = add_options(opened, **told)
    place = opened.encoder_folder if flags.encoder is None else find_checkpoint(flags.encoder)
    encoder = load_checkpoint(place, choose_device(flags.device))
    with progress_bar("encoding", "row") as rows, progress_bar("indexing", "index") as stages:
        added = add_corpus(
            index_dir,
            flags.corpus(source),
            encoder,
            options,
            progress=lambda *told: rows(*encoding_progress(*told)),
            stages=stages.stage,
        )
    for line in encoding_notes(added.encoded, encoder.config.max_tokens, pseudonymised=options.pseudonym_key is not None):
        note(line)
    _note_mixture(index_dir)
    print(render_encoding(added.encoded))
    print(render_index(index_dir, added.manifest))


def _note_mixture(index_dir: Path) -> None:
    from index.folder import open_index
    from retrieval.tables import mixture_notes

    for line in mixture_notes([part.manifest for part in open_index(index_dir).shards.parts]):
        note(line)


def remove(
    index_dir: Index = INDEX,
    id: Annotated[list[str] | None, typer.Option("--id", help="An image, a report or a sentence, as hits name it; repeatable.")] = None,
    patient: Annotated[list[str] | None, typer.Option("--patient", help="All that is of this patient; repeatable.")] = None,
    study: Annotated[list[str] | None, typer.Option("--study", help="All that is of this study; repeatable.")] = None,
    pseudonymise: Annotated[
        Path | None, typer.Option(help="The ids are the real ones: find them with the key file that the index was pseudonymised with.")
    ] = None,
) -> None:
    """Remove records from every answer at once. 'medret compact' then erases them from the files."""
    from index.removal import remove_records

    if not (id or patient or study):
        raise typer.BadParameter("name what to remove: --id, --patient or --study")
    summary = remove_records(index_dir, ids=id or [], patients=patient or [], studies=study or [], key=load_key(pseudonymise))
    print(f"{index_dir}: removed {_counts(summary.removed)}. To erase them from the files: medret compact --index {index_dir}")


def compact(
    index_dir: Index = INDEX,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the first stages anew though nothing was removed: mends them.")] = False,
) -> None:
    """Erase removed records from an index. Shards, first stages, side tables and caches are written anew without them."""
    from index.compact import compact_index
    from retrieval.tables import render_index

    with progress_bar("indexing", "index") as progress:
        summary = compact_index(index_dir, progress.stage, rebuild=rebuild)
    if summary is None:
        print(f"{index_dir}: nothing was removed and every file is whole: nothing to do (--rebuild makes the first stages anew)")
        return
    for folder in summary.outside:
        note(f"{folder}: lies outside the index and still holds the removed records; delete it where nothing else needs it")
    for folder in summary.unfinished:
        note(f"{folder}: an add that was not finished; it may hold records of the same patients. Finish it, or delete it")
    squares = f" and {summary.squares:,} decoded images" if summary.squares else ""
    print(f"{index_dir}: erased {_counts(summary.removed)}{squares}")
    print(render_index(index_dir, summary.manifest))


def verify(
    shards: Annotated[Path | None, typer.Argument(help="A shards folder or an index; that of --index when not given.")] = None,
    index_dir: Index = INDEX,
) -> None:
    """Compare every file of an index with its checksum. Shards and encoder are included; each that is damaged is named."""
    from index.index_manifest import INDEX_MANIFEST
    from index.verify import verify_index, verify_shards

    folder = index_dir if shards is None else shards
    is_index = shards is None or (folder / INDEX_MANIFEST).is_file()
    verified = verify_index(folder) if is_index else verify_shards(folder)
    if verified.faults:
        for fault in verified.faults:
            print(f"medret: {fault}", file=sys.stderr)
        raise typer.Exit(1)
    held = ", ".join(f"{count:,} {name}" for name, count in verified.records.items())
    print(f"{verified.folder}: whole: {held}; {verified.files:,} files, {verified.bytes:,} bytes, every checksum right")


def _choose_kind(shards: Path, kind: str, recall: float, memory: float | None, latency: float | None, yes: bool) -> str:
    """The kind of index to build; says on stderr what each would cost and why this one."""
    from index.choice import resolve_kind
    from index.manifest import load_shards_manifest
    from retrieval.index_tables import render_predictions

    held = load_shards_manifest(shards)
    rows, dimension = max(
        ((one.rows, size) for one in held.modalities.values() for size in one.dimensions.values()), key=lambda pair: pair[0] * pair[1]
    )
    choice = resolve_kind(kind, rows, dimension, recall, memory, latency, yes, half=held.dtype == "float16")
    if choice.predictions:
        note(f"predicted for {rows:,} x {dimension} vectors on this machine:")
        print(render_predictions(choice.predictions), file=sys.stderr)
    if choice.reason:
        note(choice.reason)
    return choice.kind


def _counts(removed: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in removed.items() if count) or "nothing"
