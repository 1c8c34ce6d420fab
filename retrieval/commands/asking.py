"""Questions put to an index."""

import json
import os
import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from encoders.device import choose_device
from encoders.errors import MedretError
from retrieval.commands.notes import note, told
from retrieval.commands.options import (
    INDEX,
    Device,
    Format,
    Index,
    Only,
    SameEncoder,
    Splits,
    Vector,
    Verbose,
    Views,
    Where,
    WithIds,
    parse_conditions,
)
from retrieval.commands.weighted import WeightedCommand, given_terms

if TYPE_CHECKING:
    from retrieval.engine import Answer, SearchEngine

COMMAND_CLASS = WeightedCommand


def query(
    ctx: typer.Context,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A finding or a report, in plain words; --text:0.5 gives a weight.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="A label that the encoder has learned a prompt for.")] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="A film: JPEG, PNG or DICOM.")] = None,
    id: Annotated[list[str] | None, typer.Option("--id", help="A record of the index.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A finding or a text that no hit shall show; repeatable.")] = None,
    queries: Annotated[Path | None, typer.Option(help='Ask each line of this file: {"text": "edema", "k": 5}; with --out.')] = None,
    out: Annotated[Path | None, typer.Option(help="Where the answers to --queries go, a line each.")] = None,
    find: Annotated[Literal["images", "reports", "sentences"], typer.Option(help="What to look for.")] = "images",
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="How many hits to skip.")] = 0,
    min_score: Annotated[float | None, typer.Option(help="The least score of a hit.")] = None,
    collapse: Annotated[Literal["study", "patient", "duplicates"] | None, typer.Option(help="Keep the best hit alone of each.")] = None,
    index_dir: Index = INDEX,
    split: Splits = None,
    view: Views = None,
    only: Only = None,
    where: Where = None,
    exclude_same_patient: Annotated[
        bool | None,
        typer.Option("--exclude-same-patient/--include-same-patient", help="On where the query is a record of the corpus."),
    ] = None,
    exclude_same_study: Annotated[
        bool, typer.Option("--exclude-same-study", help="Leave out the study of the query, but not its patient's other studies.")
    ] = False,
    vector: Annotated[Vector, typer.Option(help="features: the encoder's output before projection.")] = "joint",
    best_sentence: Annotated[
        bool | None, typer.Option("--best-sentence/--no-best-sentence", help="Of each report, the sentence that answers best.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print them.")] = "table",
    maps: Annotated[bool, typer.Option(help="HTML: show where each film is like the query.")] = True,
    open: Annotated[bool, typer.Option("--open", help="Show the HTML page in the browser.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each term counts for, what was left out, and how it was searched.")
    ] = False,
    with_ids: WithIds = False,
    encoder: SameEncoder = None,
    device: Device = None,
    verbose: Verbose = False,
) -> None:
    """Print the k records that answer a query best. It is a text, a label, an image, a record, or several of them together.

    Each of --text, --label, --image and --id may be given several times, and with a weight in its name:
    --image film.png --text:0.5 "cardiomegaly" --text:-0.5 "pacemaker".
    """
    if queries is None:  # before NumPy is there: for the products of one query, threads wait for each other longer than they work
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    terms = given_terms(ctx, {"text": text, "label": label, "image": image, "id": id})
    for wrong, what_to_do in (
        (bool(terms) == (queries is not None), "give one or more of --text, --label, --image and --id, or --queries FILE"),
        ((queries is None) != (out is None), "--queries and --out go together: one FILE to read, one to write"),
        (open and format == "json", "--open shows HTML; leave out --format json"),
        (queries is not None and (open or format != "table"), "--queries writes JSON lines to --out; leave out --format and --open"),
        (explain and (open or format == "html"), "--explain goes with --format table or json"),
        (best_sentence and find == "sentences", "--best-sentence goes with --find images or reports"),
        (min_score is not None and isnan(min_score), "--min-score is not a number"),
    ):
        if wrong:
            raise typer.BadParameter(what_to_do)
    format = "html" if open else format
    early = None
    if queries is None and encoder is None and "numpy" not in sys.modules:  # a process that has just begun
        from retrieval.early_texts import begin_early

        early = begin_early(index_dir, text or ())
    shared: dict[str, Any] = {
        "without": tuple(without or ()),
        "find": find,
        "k": k,
        "offset": offset,
        "min_score": min_score,
        "collapse": collapse,
        "splits": tuple(split) if split else None,
        "views": tuple(view) if view else None,
        "only": parse_conditions(only),
        "where": where,
        "exclude_same_patient": exclude_same_patient,
        "exclude_same_study": exclude_same_study,
        "vector": vector,
        "best_sentence": best_sentence,
    }
    marks = find == "reports" or (find == "images" and format == "html" and vector == "joint")
    if best_sentence is None and marks and queries is None:
        shared["best_sentence"] = True
    with told(verbose):
        engine = _load(index_dir, encoder, device)
        if early is not None:
            engine.texts.early = early
            engine.prepare(find, vector)
        if queries is not None and out is not None:
            _answer_file(engine, queries, out, shared, explain)
        else:
            from retrieval.engine import Query

            answer = engine.search(Query(terms=terms, **shared))
            if format == "html":
                _show_page(engine, answer, maps, with_ids, open)
            else:
                _print_answer(engine, answer, format, explain)


def _load(index_dir: Path, encoder: Path | None, device: str | None) -> "SearchEngine":
    from retrieval.engine import SearchEngine

    search_device = device if device is not None and device.startswith("cuda") else None  # as named: for one query a GPU seldom pays
    return SearchEngine.load(index_dir, encoder, choose_device(device), search_device)


def _answer_file(engine: "SearchEngine", queries: Path, out: Path, shared: dict[str, Any], explain: bool) -> None:
    from retrieval.explanation import explain as take_apart
    from retrieval.query_file import answer_file

    if out.is_dir() or not out.absolute().parent.is_dir():
        raise MedretError(f"{out}: {'is a folder' if out.is_dir() else 'its folder is not there'}; name a file to write")
    form = (lambda answer: take_apart(engine, answer).to_dict()) if explain else None
    count = answer_file(engine, queries, out, shared, form)
    print(f"{out}: answers to {count:,} {'query' if count == 1 else 'queries'}")


def _show_page(engine: "SearchEngine", answer: "Answer", maps: bool, with_ids: bool, open: bool) -> None:
    from retrieval.commands.browser import open_page
    from retrieval.report import render_answers
    from retrieval.tables import answer_notes

    for line in answer_notes(answer):
        note(line)
    page = render_answers(engine, [answer], with_ids=with_ids, maps=maps)
    print(open_page(page) if open else page)


def _print_answer(engine: "SearchEngine", answer: "Answer", format: Format, explain: bool) -> None:
    from retrieval.explanation import explain as take_apart
    from retrieval.tables import answer_notes, render_answer, render_explanation

    explanation = take_apart(engine, answer) if explain else None
    if explanation is None:
        for line in answer_notes(answer):
            note(line)
    if format == "json":
        print(
            json.dumps(
                [hit.to_dict() for hit in answer.hits] if explanation is None else explanation.to_dict(), indent=2, ensure_ascii=False
            )
        )
    else:
        print(render_answer(answer) if explanation is None else render_explanation(explanation))
