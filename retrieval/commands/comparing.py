"""Evaluations compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoders.errors import MedretError
from retrieval.commands.notes import note
from retrieval.commands.options import WithIds
from retrieval.commands.writing import check_places, write_text

if TYPE_CHECKING:
    from retrieval.saved_runs import SavedRun

MOST_RUNS = 6  # colours that can be told apart


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders made by 'medret evaluate --save', or runs in TREC's format; the first is the baseline.")
    ],
    html_out: Annotated[Path | None, typer.Option("--html", help="Write the comparison as one HTML page.")] = None,
    index_dir: Annotated[
        Path | None, typer.Option("--index", help="The index that was asked: the page then shows films and reports.")
    ] = None,
    qrels: Annotated[Path | None, typer.Option(help="What is relevant, for runs in TREC's format.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of the findings and of the queries that changed; P@10 where there is one.")] = None,
    with_ids: WithIds = False,
) -> None:
    """Compare evaluations of the same queries. Intervals, significance, and the queries that changed most are told."""
    if not 2 <= len(runs) <= MOST_RUNS:
        raise typer.BadParameter(f"{len(runs)} runs, expected 2 to {MOST_RUNS}")
    check_places(html_out)
    from retrieval.comparison import compare_runs
    from retrieval.comparison_table import render_comparisons

    complete = not any(run.is_dir() for run in runs)
    comparisons = compare_runs(_named_apart([_load(run, qrels, complete) for run in runs], runs), metric)
    for direction, one in comparisons.items():
        if one.apart:
            note(f"{direction}: {one.apart} queries that not all runs have are left out")
        for option in one.unlike:
            note(f"{direction}: not measured alike: {option.replace('_', ' ')}")
    print(render_comparisons(comparisons))
    if html_out is not None:
        from retrieval.comparison_page import render_comparison
        from retrieval.engine import SearchEngine

        engine = None if index_dir is None else SearchEngine.load(index_dir)
        write_text(html_out, render_comparison(comparisons, engine, with_ids=with_ids))


def _load(run: Path, qrels: Path | None, complete: bool) -> "SavedRun":
    from retrieval.outside_runs import load_outside
    from retrieval.saved_runs import load_run

    if run.is_dir():
        return load_run(run)
    if not run.is_file():
        raise MedretError(f"{run}: no such file or folder, expected a folder made by 'medret evaluate --save' or a run in TREC's format")
    if qrels is None:
        raise MedretError(f"{run}: is a file, and a run in TREC's format needs --qrels FILE")
    return load_outside(run, qrels, complete=complete)


def _named_apart(loaded: "list[SavedRun]", paths: list[Path]) -> "list[SavedRun]":
    """The runs by their own names; by their paths where two have the same name."""
    from dataclasses import replace

    names = [one.name for one in loaded]
    return [replace(one, name=str(path)) if names.count(one.name) > 1 else one for one, path in zip(loaded, paths, strict=True)]
