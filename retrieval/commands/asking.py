"""Questions put to an index."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from encoders.device import choose_device
from retrieval.commands.notes import note
from retrieval.commands.options import (
    INDEX,
    Device,
    Format,
    Index,
    Only,
    SameEncoder,
    Splits,
    Vector,
    Views,
    Where,
    WithIds,
    parse_conditions,
)

if TYPE_CHECKING:
    from retrieval.engine import Answer, SearchEngine


def query(
    text: Annotated[str | None, typer.Option("--text", help="A finding or a report, in plain words.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="A label that the encoder has learned a prompt for.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A film: JPEG, PNG or DICOM.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="A record of the index.")] = None,
    find: Annotated[Literal["images", "reports", "sentences"], typer.Option(help="What to look for.")] = "images",
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    index_dir: Index = INDEX,
    split: Splits = None,
    view: Views = None,
    only: Only = None,
    where: Where = None,
    exclude_same_patient: Annotated[
        bool | None,
        typer.Option("--exclude-same-patient/--include-same-patient", help="On where the query is a record of the corpus."),
    ] = None,
    vector: Annotated[Vector, typer.Option(help="features: the encoder's output before projection.")] = "joint",
    format: Annotated[Format, typer.Option(help="How to print them.")] = "table",
    with_ids: WithIds = False,
    encoder: SameEncoder = None,
    device: Device = None,
) -> None:
    """Print the k records that answer a text, a label, an image or a record best."""
    if sum(given is not None for given in (text, label, image, id)) != 1:
        raise typer.BadParameter("give one of --text, --label, --image and --id")
    from retrieval.engine import Query, SearchEngine
    from retrieval.tables import answer_notes

    search_device = device if device is not None and device.startswith("cuda") else None  # as named: for one query a GPU seldom pays
    engine = SearchEngine.load(index_dir, encoder, choose_device(device), search_device)
    asked = Query(
        text=text,
        label=label,
        image=image,
        id=id,
        find=find,
        k=k,
        splits=tuple(split) if split else None,
        views=tuple(view) if view else None,
        only=parse_conditions(only),
        where=where,
        exclude_same_patient=exclude_same_patient,
        vector=vector,
    )
    answer = engine.search(asked)
    for line in answer_notes(answer):
        note(line)
    _print_answer(engine, answer, format, with_ids)


def _print_answer(engine: "SearchEngine", answer: "Answer", format: Format, with_ids: bool) -> None:
    if format == "json":
        print(json.dumps([hit.to_dict() for hit in answer.hits], indent=2, ensure_ascii=False))
    elif format == "html":
        from retrieval.report import render_answers

        print(render_answers(engine, [answer], with_ids=with_ids))
    else:
        from retrieval.tables import render_answer

        print(render_answer(answer))
