"""The options of an evaluation that is kept as files, or comes from files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.commands.notes import note
from retrieval.commands.protocol_flags import ProtocolFlags, option_name

if TYPE_CHECKING:
    from retrieval.results import EvaluationResult


@dataclass(frozen=True, kw_only=True)
class KeepingFlags(ProtocolFlags):
    """What is written beside the printed result, and what is read instead of asking an index."""

    save: Annotated[
        Path | None,
        typer.Option(help="Folder for the result, runs and judgements in TREC's format, and each query's figures, for medret compare."),
    ] = None
    freeze: Annotated[
        Path | None, typer.Option(help="Write what was asked of what, as ids, seeds and hashes, so that it can be repeated exactly.")
    ] = None
    frozen: Annotated[Path | None, typer.Option(help="Repeat what such a file froze, or say what differs; brings its own options.")] = None
    run: Annotated[Path | None, typer.Option(help="trec: the run to score, in TREC's format.")] = None
    qrels: Annotated[Path | None, typer.Option(help="trec: what is relevant, in TREC's format.")] = None

    def given(self) -> dict[str, Any]:
        """Return the options by the names of the benchmarks' parameters."""
        return {**super().given(), "run": self.run, "qrels": self.qrels}

    def check(self, benchmark: str, *, html: bool) -> None:
        """Refuse, before any work, what does not go together or cannot be written."""
        if benchmark == "trec" and (self.run is None or self.qrels is None):
            raise typer.BadParameter("trec needs a run and what is relevant: medret evaluate trec --run FILE --qrels FILE")
        if benchmark == "trec" and (html or self.save or self.freeze or self.frozen):
            raise typer.BadParameter("trec has no --html, --save, --freeze and --frozen: medret compare reads the run as it is")
        if self.save is not None:
            from retrieval.saved_runs import check_run_folder

            check_run_folder(self.save)

    def thaw(self, benchmark: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options to measure with: those given, or those frozen."""
        if self.frozen is None:
            return given
        from retrieval.frozen_sets import frozen_options, load_frozen

        own = sorted(name for name, value in given.items() if value not in (None, [], ()) and not isinstance(value, Path))
        if own:
            raise typer.BadParameter(f"--frozen brings its own options; leave out {', '.join(map(option_name, own))}")
        return given | frozen_options(load_frozen(self.frozen, benchmark))

    def resamples(self, benchmark: str, asked: int | None) -> int:
        """Return how many resamples are behind each interval: as asked, else as frozen."""
        from retrieval.frozen_sets import RESAMPLES, load_frozen

        if asked is not None or self.frozen is None:
            return RESAMPLES if asked is None else asked
        return int(load_frozen(self.frozen, benchmark).get("resamples", RESAMPLES))

    def keep(self, result: "EvaluationResult", options: dict[str, Any], encoder: str, resamples: int) -> None:
        """Hold the result against what was frozen, write what was asked for, and say what to know about it."""
        if self.freeze is not None or self.frozen is not None:
            from encoders.json_object import write_json
            from retrieval.frozen_sets import check_frozen, freeze, load_frozen

            told = {name: value for name, value in options.items() if value not in (None, [], ())}
            now = freeze(result, told, encoder, resamples)
            if self.frozen is not None:
                for line in check_frozen(load_frozen(self.frozen, result.benchmark), now):
                    note(line)
            if self.freeze is not None:
                write_json(self.freeze, now)
        if self.save is not None:
            from retrieval.saved_runs import save_run

            for line in save_run(self.save, result):
                note(line)
