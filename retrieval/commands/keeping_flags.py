"""The options of an evaluation that is kept as files, or comes from files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.commands.notes import note
from retrieval.commands.protocol_flags import ProtocolFlags

if TYPE_CHECKING:
    from retrieval.results import EvaluationResult


@dataclass(frozen=True, kw_only=True)
class KeepingFlags(ProtocolFlags):
    """What is written beside the printed result, and what is read instead of asking an index."""

    save: Annotated[
        Path | None,
        typer.Option(help="Folder for the result, runs and judgements in TREC's format, and each query's figures, for medret compare."),
    ] = None
    run: Annotated[Path | None, typer.Option(help="trec: the run to score, in TREC's format.")] = None
    qrels: Annotated[Path | None, typer.Option(help="trec: what is relevant, in TREC's format.")] = None

    def given(self) -> dict[str, Any]:
        """Return the options by the names of the benchmarks' parameters."""
        return {**super().given(), "run": self.run, "qrels": self.qrels}

    def check(self, benchmark: str, *, html: bool) -> None:
        """Refuse, before any work, what does not go together or cannot be written."""
        if benchmark == "trec" and (self.run is None or self.qrels is None):
            raise typer.BadParameter("trec needs a run and what is relevant: medret evaluate trec --run FILE --qrels FILE")
        if benchmark == "trec" and (html or self.save is not None):
            raise typer.BadParameter("trec has neither --save nor --html: medret compare reads the run as it is")
        if self.save is not None:
            from retrieval.saved_runs import check_run_folder

            check_run_folder(self.save)

    def keep(self, result: "EvaluationResult") -> None:
        """Write what was asked for, and say what to know about it."""
        if self.save is not None:
            from retrieval.saved_runs import save_run

            for line in save_run(self.save, result):
                note(line)
