"""Groups of options that commands share, each read into one object."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.commands.notes import note
from retrieval.commands.options import (
    BatchSize,
    Columns,
    CorpusFormat,
    DefaultEncoder,
    Device,
    KeyFile,
    Labels,
    MaxFailures,
    Reports,
    RetryFailed,
    SameEncoder,
    Splits,
    Units,
    Vectors,
    Workers,
    load_key,
    parse_columns,
    parse_quantity,
)
from retrieval.quantities import own_turn, parse_bytes, parse_limit

if TYPE_CHECKING:
    from index.corpora.readers import Corpus
    from index.encode import EncodeOptions

_OPTIONS = {"shard_bytes": "shard_size", "text_units": "text_unit"}  # setting to option, where they differ


@dataclass(frozen=True, kw_only=True)
class CorpusFlags:
    """The options of every command that opens one corpus."""

    format: CorpusFormat = None
    reports: Reports = None
    column: Columns = None
    labels: Labels = None

    def corpus(self, path: Path) -> "Corpus":
        """Open the corpus, and say what it was taken for."""
        from index.corpora.readers import open_corpus

        opened = open_corpus(path, self.format, reports=self.reports, columns=parse_columns(self.column), labels=self.labels)
        if opened.recognised:
            note(f"{path}: read as {opened.format}")
        return opened


@dataclass(frozen=True, kw_only=True)
class EncodeFlags(CorpusFlags):
    """The options of every command that encodes a corpus."""

    encoder: DefaultEncoder = None
    vectors: Vectors = "joint"
    text_unit: Units = "report"
    split: Splits = None
    pseudonymise: KeyFile = None
    dtype: Annotated[str, typer.Option(help="float32, or float16 for half the space.")] = "float32"
    batch_size: BatchSize = 32
    shard_size: Annotated[str, typer.Option(help="Of the vectors in a shard, about; a kill costs two shards at most.")] = "4MB"
    compute: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where the device has it and it leaves the vectors alone.")
    ] = "auto"
    compile: Annotated[bool, typer.Option("--compile", help="By torch.compile: a minute to begin, then faster.")] = False
    cache: Annotated[
        Path | None, typer.Option(help="Folder of decoded images: read from there, those that are missing put there first.")
    ] = None
    cache_size: Annotated[int, typer.Option(min=1, help="Side of the squares in it, in pixels.")] = 512
    workers: Workers = None
    retry_failed: RetryFailed = False
    max_failures: MaxFailures = None
    device: Device = None

    def options(self, rank: int | None = 0, size: int | None = 1) -> "EncodeOptions":
        """Read the options that are texts; a process that is told neither rank nor size asks torchrun."""
        from index.encode import EncodeOptions

        key = load_key(self.pseudonymise)
        same = ("dtype", "batch_size", "compute", "compile", "cache", "cache_size", "workers", "retry_failed")
        try:
            turn = own_turn(rank, size, os.environ)
            return EncodeOptions(
                **{name: getattr(self, name) for name in same},
                vectors=tuple(self.vectors.split(",")),
                text_units=tuple(self.text_unit.split(",")),
                splits=tuple(self.split) if self.split else None,
                pseudonym_key=key,
                shard_bytes=parse_quantity("--shard-size", self.shard_size, parse_bytes),
                max_failures=None if self.max_failures is None else parse_quantity("--max-failures", self.max_failures, parse_limit),
                rank=turn[0],
                size=turn[1],
            )
        except ValueError as error:
            raise typer.BadParameter(_named_as_option(str(error))) from error


@dataclass(frozen=True, kw_only=True)
class AddFlags(CorpusFlags):
    """The options of encoding that may differ from those of the records that an index holds."""

    encoder: SameEncoder = None
    split: Splits = None
    pseudonymise: Annotated[Path | None, typer.Option(help="The key file that the index was pseudonymised with.")] = None
    batch_size: BatchSize = 32
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded images; the index's own when not given.")] = None
    workers: Workers = None
    retry_failed: RetryFailed = False
    max_failures: MaxFailures = None
    device: Device = None

    def options(self) -> dict[str, Any]:
        """Return what is asked, by the names of EncodeOptions."""
        chosen = {name: getattr(self, name) for name in ("batch_size", "workers", "retry_failed", "cache")}
        chosen["splits"] = tuple(self.split) if self.split else None
        chosen["pseudonym_key"] = load_key(self.pseudonymise)
        return {
            **chosen,
            "max_failures": None if self.max_failures is None else parse_quantity("--max-failures", self.max_failures, parse_limit),
        }


def _named_as_option(fault: str) -> str:
    """What EncodeOptions says of one of its settings, named as the command line names it."""
    setting, sign, rest = fault.partition(" is ")
    return f"--{_OPTIONS.get(setting, setting).replace('_', '-')} is {rest}" if sign and setting.isidentifier() else fault


def spread(flags: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of `flags` as options of its own; it takes them as one argument of that name."""

    def spread(command: Callable[..., None]) -> Callable[..., None]:
        names = [field.name for field in fields(flags)]

        @wraps(command)
        def run(**given: Any) -> None:
            command(flags=flags(**{name: given.pop(name) for name in names}), **given)

        own = [parameter for parameter in signature(command).parameters.values() if parameter.name != "flags"]
        added = [parameter for parameter in signature(flags).parameters.values() if parameter.name in names]
        parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own + added]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return spread
