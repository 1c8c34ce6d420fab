"""The command line: parse, call one function, print."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encoders.errors import MedretError

if TYPE_CHECKING:
    from index.corpora.readers import Corpus
    from index.encode import EncodeSummary
    from retrieval.engine import SearchEngine

app = typer.Typer(
    name="medret",
    help="Find chest radiographs and reports by meaning. For research: not a diagnostic device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """How answers are printed."""

    table = "table"
    json = "json"
    html = "html"


class Find(StrEnum):
    """What a query looks for."""

    images = "images"
    reports = "reports"
    sentences = "sentences"


class Vector(StrEnum):
    """Which vector is compared."""

    joint = "joint"
    features = "features"


CorpusPath = Annotated[Path, typer.Argument(help="A corpus folder (MIMIC-CXR-JPG, CheXpert, OpenI, DICOM) or a table of images and texts.")]
CorpusFormat = Annotated[
    str | None, typer.Option("--format", help="mimic-cxr-jpg, chexpert, openi, dicom or table; recognised from the folder when not given.")
]
Reports = Annotated[Path | None, typer.Option(help="Where MIMIC's reports lie, if not beside the images: a folder or the sectioned CSV.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="For tables: NAME=COLUMN, e.g. --column patient=subject; repeatable.")]
Labels = Annotated[str | None, typer.Option("--labels", help="Which labels MIMIC is read with: chexpert, negbio or test-set.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU where there is one when not given.")]
Index = Annotated[Path, typer.Option("--index", envvar="MEDRET_INDEX", help="Folder made by 'medret build-index'.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only records of this split; repeatable.")]
Vectors = Annotated[str, typer.Option(help="joint, features (the encoder's output before projection), or joint,features.")]
Units = Annotated[str, typer.Option("--text-unit", help="report, sentence, or report,sentence.")]
KeyFile = Annotated[Path | None, typer.Option(help="Replace patient, study and file ids by hashes keyed with this file.")]
INDEX = Path("medret-index")


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients to draw.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed draws the same corpus, byte for byte.")] = 0,
) -> None:
    """Write a synthetic corpus: radiograph-like phantoms with reports, in the MIMIC-CXR-JPG layout."""
    from index.corpora.phantom import write_phantoms

    summary = write_phantoms(out, patients, seed)
    print(f"{out}: {summary.patients} patients, {summary.studies} studies, {summary.images} images, {summary.reports} reports")
    print("  " + ", ".join(f"{finding} {count}" for finding, count in summary.findings.items()))
    print(f"Synthetic: nothing here was seen in a patient. Next: medret corpus {out}")


@app.command()
def corpus(
    path: CorpusPath,
    format: CorpusFormat = None,
    reports: Reports = None,
    column: Columns = None,
    labels: Labels = None,
    check_images: Annotated[bool, typer.Option("--check-images", help="Decode every image and name those at fault.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a corpus holds, and every fault found in it."""
    from index.corpora.summary import render_summary, summarise_corpus

    opened = _open_corpus(path, format, reports, column, labels)
    with _progress("checking", "image") as progress:
        summary = summarise_corpus(opened, check_images=check_images, progress=progress)
    print(json.dumps(summary.to_dict(), indent=2) if as_json else render_summary(summary))


def main() -> None:
    """Run the command line; a fault the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except MedretError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'medret'}: {error.strerror or error}. Check the path, its permissions and the free space.")
    except KeyboardInterrupt:
        print("medret: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(message: str) -> None:
    print(f"medret: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
