"""The options of benchmarks that have a protocol of their own."""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

_OPTIONS = {"ks": "-k"} | {
    f"{name}s": f"--{name.replace('_', '-')}" for name in ("direction", "split", "view", "fraction", "measure", "ask_split", "finding")
}  # parameter to option, where they differ


def option_name(parameter: str) -> str:
    """Name the option that stands for a parameter of a benchmark."""
    return _OPTIONS.get(parameter, f"--{parameter.replace('_', '-')}")


class MeasureName(StrEnum):
    """The measures of `retrieval.measures`, as Typer lists choices of a repeatable option."""

    P = "P"
    recall = "recall"
    nDCG = "nDCG"  # noqa: N815
    mAP = "mAP"  # noqa: N815
    MRR = "MRR"
    median_rank = "median_rank"


@dataclass(frozen=True, kw_only=True)
class ProtocolFlags:
    """Options that some benchmarks have; None where not given."""

    measures: Annotated[
        list[MeasureName] | None,
        typer.Option("--measure", help="On labels: P (when not given), recall, nDCG, all by -k; mAP, MRR, median_rank. Repeatable."),
    ] = None
    denominator: Annotated[
        Literal["k", "min(k, relevant)"] | None, typer.Option(help="Of P@k: k (when not given), or what a perfect ranking can reach.")
    ] = None
    relevance: Annotated[
        Literal["finding", "any", "exact"] | None,
        typer.Option(
            help="label-precision, 5x200: what answers an image: records positive for the query's finding (when not given), for any of "
            "the image's, or for exactly the image's."
        ),
    ] = None
    findings: Annotated[
        list[str] | None, typer.Option("--finding", help="Where labels are asked: only this finding; all when not given. Repeatable.")
    ] = None
    ask_splits: Annotated[
        list[str] | None,
        typer.Option("--ask-split", help="label-precision: only images of this split ask; those of --split are ranked. Repeatable."),
    ] = None
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
        Literal["each", "once"] | None,
        typer.Option(help="Identical texts are one candidate (report-recall's default), or each is (5x200's)."),
    ] = None
    per_class: Annotated[int | None, typer.Option(min=1, help="5x200 without a list: images drawn of each finding; 200.")] = None
    list_out: Annotated[Path | None, typer.Option(help="5x200 without a list: write which images were drawn, as a list.")] = None
    fractions: Annotated[
        list[float] | None,
        typer.Option("--fraction", min=1e-4, max=1, help="linear-probe: of the training patients; 0.01, 0.1 and 1. Repeatable."),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return the options by the names of the benchmarks' parameters."""
        given = {field.name: getattr(self, field.name) for field in fields(ProtocolFlags)}
        return given | {"findings": list(dict.fromkeys(self.findings or ()))}
