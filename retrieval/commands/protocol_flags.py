"""The options of benchmarks that have a protocol of their own."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


@dataclass(frozen=True, kw_only=True)
class ProtocolFlags:
    """Options that some benchmarks have; None where not given."""

    report_text: Annotated[
        str | None,
        typer.Option(
            metavar="SECTIONS",
            help="report-recall: index (what the index holds; when not given), or read again from its corpus: findings, impression, "
            "findings,impression or longer (of the two).",
        ),
    ] = None
    own_report: Annotated[
        Literal["counted", "excluded"] | None, typer.Option(help="5x200: whether an image's own report is a candidate; counted.")
    ] = None
    same_text: Annotated[
        Literal["each", "once"] | None, typer.Option(help="5x200: identical texts are a candidate each (when not given), or one.")
    ] = None
    per_class: Annotated[int | None, typer.Option(min=1, help="5x200 without a list: images drawn of each finding; 200.")] = None
    list_out: Annotated[Path | None, typer.Option(help="5x200 without a list: write which images were drawn, as a list.")] = None
    fractions: Annotated[
        list[float] | None,
        typer.Option("--fraction", min=0, max=1, help="linear-probe: of the training patients; 0.01, 0.1 and 1. Repeatable."),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return the options by the names of the benchmarks' parameters."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
