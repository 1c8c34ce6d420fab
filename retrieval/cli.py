"""The command line: its commands in the order of the help, and how a fault ends it."""

import os
import sys
import traceback
from pathlib import Path

import typer

from encoders.errors import MedretError
from retrieval.commands.asking import query
from retrieval.commands.corpora import cache, corpus, phantoms
from retrieval.commands.doctor import doctor
from retrieval.commands.encoding import encode
from retrieval.commands.indexes import add, build_index, compact, info, remove, verify
from retrieval.commands.learning import train
from retrieval.commands.measuring import evaluate
from retrieval.commands.weighted import WeightedCommand

DEBUG = "MEDRET_DEBUG"  # set in the environment, it lets tracebacks through

app = typer.Typer(
    name="medret",
    help="Find chest radiographs and reports by meaning. For research: not a diagnostic device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (phantoms, corpus, train, encode, cache, build_index, info, add, remove, compact, verify, query, evaluate, doctor):
    app.command(cls=WeightedCommand if command is query else None)(command)


def main() -> None:
    """Run the command line; a fault the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except MedretError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'medret'}: {error.strerror or error}. Check the path, its permissions and the free space.")
    except Exception as error:
        if DEBUG in os.environ:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]  # the message may quote data: it is left out
        _fail(f"internal error: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}. Set {DEBUG}=1 for the whole trace")


def _fail(message: str) -> None:
    print(f"medret: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
