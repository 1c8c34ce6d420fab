"""The corpora of a run, as its TOML file names them: one [[corpus]] table each."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from encoders.errors import MedretError
from index.corpora.readers import Corpus, open_corpus
from train.config import nearest_word, read_toml, typed_value


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSource:
    """A corpus to learn from, and what its reader is told; every field is a key of a [[corpus]] table.

    Attributes:
        path: The dataset's folder, or a table file.
        weight: Its share of every batch, against the other corpora's; 0: as many parts as it has images (or texts).
        format, reports, labels: As for `open_corpus`; empty where not given.
        columns: For a table: which of its columns is what.
    """

    path: str
    weight: float = 0.0
    format: str = ""
    reports: str = ""
    labels: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty, expected a folder or a table file")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight is {self.weight}, expected 0 or more")

    def open(self) -> Corpus:
        """Open the corpus without reading its records.

        Raises:
            MedretError: As `open_corpus`.
        """
        reports = Path(self.reports) if self.reports else None
        return open_corpus(Path(self.path), self.format or None, reports=reports, columns=self.columns or None, labels=self.labels or None)


def describe_source(corpus: Corpus, weight: float = 0.0) -> CorpusSource:
    """What to write down so that `open` finds the same corpus from any folder."""
    options: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in corpus.options.items()}
    return CorpusSource(path=str(corpus.root), weight=weight, format=corpus.format, **options)


def load_sources(path: Path) -> tuple[CorpusSource, ...]:
    """The corpora that a TOML file names; none if it names none. Paths count from the folder that medret runs in.

    Raises:
        MedretError: If the file cannot be read, a key is unknown, or a value has the wrong type or range.
    """
    where, values = read_toml(path)
    tables = values.get("corpus", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise MedretError(f'{where}: corpus is {tables!r}, expected one table for each corpus: [[corpus]] and then path = "folder"')
    return tuple(_read_table(table, f"{where}, corpus {number}") for number, table in enumerate(tables, start=1))


def dump_sources(sources: Sequence[CorpusSource]) -> str:
    """The corpora as [[corpus]] tables of a TOML file that `load_sources` reads back to the same."""
    return "".join(f"\n[[corpus]]\n{_dump_table(source)}" for source in sources)


def _read_table(table: Mapping[str, Any], where: str) -> CorpusSource:
    known = [entry.name for entry in fields(CorpusSource)]
    for key in table:
        if key not in known:
            raise MedretError(f"{where}: {key} is no key of a corpus.{nearest_word(key, known)} Known are: {', '.join(known)}")
    if "path" not in table:
        raise MedretError(f'{where}: has no path, expected one, such as path = "folder"')
    types = {"weight": float}
    values: dict[str, Any] = {key: typed_value(value, types.get(key, str), key, where) for key, value in table.items() if key != "columns"}
    columns = table.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
        raise MedretError(f'{where}: columns is {columns!r}, expected names, such as columns = {{ patient = "subject" }}')
    try:
        return CorpusSource(**values, columns=columns)
    except ValueError as error:
        raise MedretError(f"{where}: {error}") from error


def _dump_table(source: CorpusSource) -> str:
    given = {key: value for key, value in asdict(source).items() if value}
    columns = given.pop("columns", {})
    # JSON's strings and numbers are TOML's as well
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items()]
    if columns:
        pairs = ", ".join(f"{json.dumps(name)} = {json.dumps(column, ensure_ascii=False)}" for name, column in columns.items())
        lines.append(f"columns = {{ {pairs} }}\n")
    return "".join(lines)
