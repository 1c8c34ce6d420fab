"""Encoders learned from corpora."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.commands.notes import note
from retrieval.commands.options import Columns, CorpusFormat, Device, Labels, Reports, parse_columns
from retrieval.terminal import progress_bar

if TYPE_CHECKING:
    from train.config import TrainConfig
    from train.data import ImageSet
    from train.sources import CorpusSource
    from train.trainer import TrainResult, Validate


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: best/, last/, metrics.csv, curves.png, config.toml.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Corpora to learn from: folders or tables. None where the file of --config names them."),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(min=0, help="A corpus's part of every batch; one for each PATH, in their order. By their sizes when not given."),
    ] = None,
    objective: Annotated[str | None, typer.Option(help="convirt, medclip or umcl.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin from this checkpoint or run, with its tokenizer and preprocessing.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of settings, or a ready one: convirt-published, medclip-published, umcl-published.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image encoder: a preset (tiny, resnet50, ...) or a Hugging Face folder.")] = None,
    image_weights: Annotated[str | None, typer.Option(help="Weights of a preset that takes them (efficientnet-lite0: imagenet).")] = None,
    text: Annotated[str | None, typer.Option(help="Text encoder: tiny, bert-base or a Hugging Face folder of the BERT family.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images of the first corpus.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images in a step.")] = None,
    chunk_size: Annotated[int | None, typer.Option(min=0, help="Images or texts encoded at once, where the batch exceeds memory.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order, sentences and augmentation.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: KEY=VALUE as in TOML; repeatable.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept; OUT/cache when not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, with its settings and corpora.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in OUT and start again.")] = False,
    device: Device = None,
    format: CorpusFormat = None,
    reports: Reports = None,
    column: Columns = None,
    labels: Labels = None,
) -> None:
    """Learn an encoder from images, reports and labels. They are of one corpus or several.

    On several GPUs: torchrun --nproc-per-node 8 --no-python medret train ... Every process takes a share of each batch.
    """
    from train.config import load_config, parse_settings

    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with the run in OUT and --overwrite deletes it: give one of them")
    if resume and config is None and (out / "config.toml").is_file():
        config = out / "config.toml"  # the settings it began with
    named = {"objective": objective, "start": start and str(start), "image": image, "image_weights": image_weights, "text": text}
    numbers = {"epochs": epochs, "batch_size": batch_size, "chunk_size": chunk_size, "seed": seed}
    flags = {key: value for key, value in {**named, **numbers}.items() if value is not None}
    settings = load_config(config, **{**parse_settings(setting or []), **flags})
    told = {"format": format, "reports": reports and str(reports), "columns": parse_columns(column), "labels": labels}
    sources = _choose_sources(paths or [], weight or [], {key: value for key, value in told.items() if value}, config, resume)
    result = _train_with_notes(sources, settings, out, device, cache_folder=cache, resume=resume, overwrite=overwrite)
    if result.stopped == "interrupted":
        raise typer.Exit(130)


def _choose_sources(
    paths: list[Path], weights: list[float], told: dict[str, Any], config: Path | None, resume: bool
) -> "list[CorpusSource]":
    """The corpora named on the command line, or else by the settings' file; a run that goes on knows its own."""
    from train.sources import CorpusSource, load_sources

    if weights and len(weights) != len(paths):
        raise typer.BadParameter(f"--weight is given {len(weights)} times for {len(paths)} corpora: give one for each PATH, or none")
    if told and len(paths) != 1:
        alone = "--format, --reports, --column and --labels tell of one PATH"
        raise typer.BadParameter(f"{alone}: name several corpora in the file of --config, a [[corpus]] table each")
    filed = list(load_sources(config)) if config else []
    given = [CorpusSource(path=str(path), weight=part, **told) for path, part in zip(paths, weights or [0.0] * len(paths), strict=True)]
    again = resume and not weights and not told and [source.path for source in filed] == [str(path.absolute()) for path in paths]
    if not (chosen := filed if again or not given else given):
        raise typer.BadParameter("no corpus: name one or several, or have the file of --config name them, a [[corpus]] table each")
    if filed and chosen is given:
        note(f"{config}: its [[corpus]] tables are left aside, the command line names the corpora")
    return chosen


def _train_with_notes(
    sources: "list[CorpusSource]", settings: "TrainConfig", out: Path, device: str | None, **options: Any
) -> "TrainResult":
    """Train, alone or as one of torchrun's processes; the first of them speaks."""
    from retrieval.tables import render_metrics
    from train.distributed import join_group
    from train.run import train_corpora
    from train.samples import Source

    with join_group(device) as group, progress_bar("decoding", "image") as decoding, progress_bar("training", "step") as steps:
        first = group.rank == 0
        opened = [Source(source.open(), source.weight) for source in sources]
        for source in opened:
            if first and source.corpus.recognised:
                note(f"{source.corpus.root}: read as {source.corpus.format}")
        result = train_corpora(
            opened,
            settings,
            out,
            validator=partial(_validator, settings.learn == "prompts"),
            group=group,
            decoding=decoding if first else None,
            progress=(lambda done, total, loss: steps(done, total, f"loss {loss:.3f}")) if first else None,
            report=(lambda row: steps.say(render_metrics(row))) if first else None,
            **options,
        )
    if first:
        for line in result.notes:
            note(line)
        best = f"; best by {result.metric}: {render_metrics(result.best_row)}" if result.best_row else ""
        print(f"{result.stopped} after {result.steps} steps, {result.waiting:.1%} of the time waiting for data{best}")
        if result.stopped == "interrupted":
            print(f"go on with: medret train --out {out} --resume", file=sys.stderr)
        else:
            print(f"encoder: {result.best or result.last}; curves: {out / 'curves.png'}")
    return result


def _validator(labels_alone: bool, images: "ImageSet") -> "Validate":
    """What measures an encoder on held-out images: by their labels alone where only prompts change."""
    from retrieval.validation import paired_validator, record_labels

    texts = ["" if labels_alone else " ".join(sentences) for sentences in images.sentences]
    return paired_validator(images.films, texts, record_labels(images.records))
