"""The command line: its commands in the order of the help, and how a fault ends it."""

import os
import sys
import traceback
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import typer

from encoders.errors import MedretError

DEBUG = "MEDRET_DEBUG"  # set in the environment, it lets tracebacks through

_HOMES = {  # of each command, its module in retrieval.commands
    "phantoms": "corpora",
    "corpus": "corpora",
    "train": "learning",
    "encode": "encoding",
    "cache": "corpora",
    "build-index": "indexes",
    "info": "indexes",
    "add": "indexes",
    "remove": "indexes",
    "compact": "indexes",
    "verify": "indexes",
    "query": "asking",
    "evaluate": "measuring",
    "compare": "comparing",
    "doctor": "doctor",
}


def build_app(asked: str | None = None) -> typer.Typer:
    """Make the command line; of the command that is asked for alone, where it is one: importing the others takes as long as a query."""
    app = typer.Typer(
        name="medret",
        help="Find chest radiographs and reports by meaning. For research: not a diagnostic device.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,  # boxes cut the names of options on a terminal of 80 columns, and an error is no box
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
    app.callback()(lambda: None)  # with it, a single command has to be named too
    for name in [asked] if asked in _HOMES else _HOMES:
        home = import_module(f"retrieval.commands.{_HOMES[name]}")
        app.command(name, cls=getattr(home, "COMMAND_CLASS", None))(getattr(home, name.replace("-", "_")))
    return app


def main() -> None:
    """Run the command line; a fault the user can mend is one line on stderr and exit code 1."""
    asked = sys.argv[1] if len(sys.argv) > 1 else None
    if isinstance(sys.stdout, TextIOWrapper):  # a letter that the terminal does not have ends no command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        build_app(asked)()
    except SystemExit as stop:
        if asked == "query" and stop.code in (None, 0):
            _leave()
        raise
    except MedretError as error:
        _fail(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}. Check the path, its permissions and the free space.")
    except Exception as error:
        if DEBUG in os.environ:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]  # the message may quote data: it is left out
        _fail(f"internal error: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}. Set {DEBUG}=1 for the whole trace")


def _leave() -> None:
    """End a process that is this command's alone, at once: Python takes apart all that was loaded, for as long as a search takes."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and Path(script).name == "medret":
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # whoever started it may have closed one
                stream.flush()
        os._exit(0)


def _fail(message: str) -> None:
    print(f"medret: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
