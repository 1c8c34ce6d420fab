"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from retrieval.filters import Condition

Format = Literal["table", "json", "html"]
Vector = Literal["joint", "features"]
CorpusPath = Annotated[
    Path, typer.Argument(help="A corpus folder (MIMIC-CXR-JPG, CheXpert, OpenI, DICOM, plain JPEG or PNG) or a table of images and texts.")
]
CorpusFormat = Annotated[
    str | None,
    typer.Option("--format", help="mimic-cxr-jpg, chexpert, openi, table, dicom or images; recognised from the folder when not given."),
]
Reports = Annotated[Path | None, typer.Option(help="Where MIMIC's reports lie, if not beside the images: a folder or the sectioned CSV.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="For tables: NAME=COLUMN, e.g. --column patient=subject; repeatable.")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="MIMIC: chexpert, negbio or test-set. CheXpert Plus: impression, findings or report.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU where there is one when not given.")]
Index = Annotated[Path, typer.Option("--index", envvar="MEDRET_INDEX", help="Folder made by 'medret build-index'.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only records of this split; repeatable.")]
Views = Annotated[
    list[str] | None, typer.Option("--view", help="Only images of this view (as the source spells it: PA, AP, Frontal ...); repeatable.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE[,VALUE]",
        help="Only records that say so of themselves, e.g. sex=F, age=40..60, study_date=2011-05.., 'Pleural Effusion=positive'; "
        "all where repeated.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="EXPRESSION",
        help="Only records of which it holds, e.g. 'view in (PA, AP) and age >= 65 and not pleural_effusion == positive'.",
    ),
]
Vectors = Annotated[str, typer.Option(help="joint, features (the encoder's output before projection), or joint,features.")]
Units = Annotated[str, typer.Option("--text-unit", help="report, sentence, or report,sentence.")]
KeyFile = Annotated[Path | None, typer.Option(help="Replace patient, study and file ids by hashes keyed with this file.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images or texts in a forward pass.")]
DefaultEncoder = Annotated[
    Path | None, typer.Option("--encoder", help="A checkpoint or training run; MEDRET_ENCODER's, else medret's own, when not given.")
]
SameEncoder = Annotated[Path | None, typer.Option("--encoder", help="Use this copy of the index's encoder; another encoder is refused.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode images; one a core when not given.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Encode images that could not be decoded and now can.")]
MaxFailures = Annotated[
    str | None, typer.Option(help="Stop when more images cannot be decoded: a number, or 2% of all. Each process counts its own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say on stderr what is loaded and done, and when.")]
WithIds = Annotated[bool, typer.Option("--with-ids", help="HTML: name patients, records and paths.")]
INDEX = Path("medret-index")
Quantity = TypeVar("Quantity", int, float)


def parse_columns(pairs: list[str] | None) -> dict[str, str] | None:
    """Read --column as which column of a table stands for which name."""
    if not pairs:
        return None
    if unclear := next((pair for pair in pairs if "=" not in pair), None):
        raise typer.BadParameter(f"--column {unclear}: expected NAME=COLUMN, e.g. --column patient=subject")
    return {name.strip(): column for name, column in (pair.split("=", 1) for pair in pairs)}


def load_key(file: Path | None) -> bytes | None:
    """Read the key of pseudonyms from its file; None where no file is named."""
    if file is None:
        return None
    from index.pseudonyms import read_key

    return read_key(file)


def parse_quantity(flag: str, text: str, parse: Callable[[str], Quantity]) -> Quantity:
    """Read the text of an option."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{flag}: {error}") from error


def parse_conditions(only: list[str] | None) -> "tuple[Condition, ...]":
    """Read --only."""
    from retrieval.filters import parse_condition

    try:
        return tuple(parse_condition(text) for text in only or ())
    except ValueError as error:
        raise typer.BadParameter(f"--only {error}") from error
