"""Corpora: drawn, described, decoded ahead."""

import json
from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands.encoding import default_encoder
from retrieval.commands.flags import CorpusFlags, spread
from retrieval.commands.notes import note
from retrieval.commands.options import AsJson, CorpusPath, DefaultEncoder, Splits, Workers
from retrieval.terminal import progress_bar


def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet, or be empty.")],
    patients: Annotated[int, typer.Option(min=1, max=2_500_000, help="How many patients to draw.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same corpus, byte for byte.")] = 0,
    combinations: Annotated[
        int | None, typer.Option(min=1, max=42, help="How many sets of findings occur, with no device and no doubt; else any.")
    ] = None,
) -> None:
    """Write a synthetic corpus of radiograph-like phantoms. It has reports, and the MIMIC-CXR-JPG layout."""
    from index.corpora.phantom import write_phantoms

    with progress_bar("drawing", "patient") as progress:
        summary = write_phantoms(out, patients, seed, progress=lambda done: progress(done, patients), combinations=combinations)
    print(f"{out}: {summary.patients} patients, {summary.studies} studies, {summary.images} images, {summary.reports} reports")
    print("positive images: " + ", ".join(f"{finding} {count}" for finding, count in summary.findings.items() if count))
    print(f"Synthetic: nothing here was seen in a patient. Next: medret corpus {out}")


@spread(CorpusFlags)
def corpus(
    path: CorpusPath,
    flags: CorpusFlags,
    check_images: Annotated[bool, typer.Option("--check-images", help="Decode every image and name those at fault.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a corpus holds, and every fault found in it."""
    from index.corpora.summary import render_summary, summarise_corpus

    with progress_bar("checking", "image") as progress:
        summary = summarise_corpus(flags.corpus(path), check_images=check_images, progress=progress)
    print(json.dumps(summary.to_dict(), indent=2) if as_json else render_summary(summary))


@spread(CorpusFlags)
def cache(
    path: CorpusPath,
    out: Annotated[
        Path, typer.Option(help="Folder of the cache, for 'medret encode --cache', and 'medret train --cache' with --set cache_size=512.")
    ],
    flags: CorpusFlags,
    encoder: DefaultEncoder = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the squares that films are kept as, in pixels.")] = 512,
    split: Splits = None,
    workers: Workers = None,
) -> None:
    """Decode the images of a corpus once, for encoders to come. It serves each that fits films into squares as this one does."""
    from encoders.checkpoint import find_checkpoint, read_preprocessing
    from index.corpus_cache import cache_corpus

    preprocessing = read_preprocessing(find_checkpoint(encoder or default_encoder()))
    with progress_bar("decoding", "image") as progress:
        held = cache_corpus(flags.corpus(path), preprocessing, out, size, splits=split, workers=workers, progress=progress)
    print(f"{out}: {len(held.ids):,} images of {size} x {size} pixels")
    if held.failures:
        note(f"{len(held.failures)} images cannot be decoded; the first: {next(iter(held.failures.values()))}")
