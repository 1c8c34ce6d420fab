"""Figures of a script in a JSON file, kept as soon as they are there, so that a run can be stopped and gone on with."""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clock import commit, processor

from encoders.json_object import read_json, write_json


class Results:
    """The figures of one script about one set; a section that is there is not measured again.

    Args:
        path: The JSON file; made where it is missing.
        about: What the figures depend on (set, rows, script); a file about something else is refused.
        again: Measure also what is there.
    """

    def __init__(self, path: Path, about: dict[str, Any], again: bool = False) -> None:
        self.path, self.again = path, again
        self.content: dict[str, Any] = read_json(path) if path.is_file() else {"about": about, "sections": {}}
        if self.content["about"] != about:
            raise SystemExit(f"{path}: is about {self.content['about']}, not {about}. Name another --json")

    def measure(self, section: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the figures of a section: those in the file, else what the call returns, written at once."""
        if section not in self.content["sections"] or self.again:
            print(f"... {section}", flush=True)
            began = os.times().elapsed
            figures = measured()
            where = {"date": date.today().isoformat(), "commit": commit(), "load": os.getloadavg()[0]}
            self.content["sections"][section] = {**figures, "run": {**where, "seconds": os.times().elapsed - began}}
            self.content["machine"] = processor()
            write_json(self.path, self.content)
        return self.get(section)

    def get(self, section: str) -> dict[str, Any]:
        """Return the figures of a section that was measured."""
        return dict(self.content["sections"][section])

    def names(self, prefix: str) -> list[str]:
        """Return the sections whose names begin so, in the order in which they were measured."""
        return [name for name in self.content["sections"] if name.startswith(prefix)]

    def heading(self, packages: Iterable[str]) -> str:
        """Return the line that a table needs: when, where, with which versions and how busy the machine was."""
        runs = [section["run"] for section in self.content["sections"].values()]
        days = sorted({run["date"] for run in runs})
        versions = ", ".join(f"{name} {installed(name) or 'not installed'}" for name in packages)
        busiest = max((run["load"] for run in runs), default=0.0)
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        when = " to ".join(dict.fromkeys([days[0], days[-1]]))
        return f"{when}, {self.content['machine']}, load up to {busiest:.1f}, {commits}; {versions}."


def installed(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; None is a dash."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join('–' if cell is None else str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def milliseconds(seconds: float | None) -> str:
    """Return a time in ms with three significant digits."""
    if seconds is None:
        return "–"
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def options(doc: str, sections: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser with what every script takes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("work", type=Path, help="where archives and indexes are kept between runs")
    parser.add_argument("--json", type=Path, help="the figures; WORK/SCRIPT-SET-ROWS.json when not given")
    parser.add_argument("--again", action="store_true", help="measure also what the JSON holds")
    parser.add_argument("--quick", action="store_true", help="20,000 rows and few repetitions: shows that it runs, measures nothing")
    if sections:
        parser.add_argument("--only", default=",".join(sections), help=f"sections, by commas; of {', '.join(sections)}")
    return parser


def archive_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which archive is searched."""
    parser.add_argument("--set", choices=("clip", "openi"), default="clip", help="see archive_vectors.py")
    parser.add_argument("--rows", type=int, help="601,000 when not given")
    parser.add_argument("--openi", type=Path, help="shards of Open-i, for --set openi")
