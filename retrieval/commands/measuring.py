"""Retrieval measured on a benchmark."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from encoders.device import choose_device
from retrieval.commands.encoding import encode_with_notes
from retrieval.commands.flags import spread
from retrieval.commands.keeping_flags import KeepingFlags
from retrieval.commands.options import INDEX, Device, Index, Only, Splits, Vector, Views, Where, WithIds, parse_conditions
from retrieval.commands.protocol_flags import option_name
from retrieval.commands.writing import check_places, write_text

if TYPE_CHECKING:
    from retrieval.results import EvaluationResult

Benchmark = Literal[
    "label-precision", "report-recall", "chexpert-8x200", "chexpert-5x200", "mimic-5x200", "zero-shot", "linear-probe", "trec"
]


@spread(KeepingFlags)
def evaluate(
    benchmark: Annotated[Benchmark, typer.Argument(help="What to measure.")],
    lists: Annotated[
        Path | None,
        typer.Argument(help="chexpert-8x200: the folder of the published lists; 5x200: a CSV list, drawn from the index when not given."),
    ] = None,
    *,
    flags: KeepingFlags,
    index_dir: Index = INDEX,
    direction: Annotated[list[str] | None, typer.Option("--direction", help="text-image, image-image, ...; all when not given.")] = None,
    split: Splits = None,
    view: Views = None,
    only: Only = None,
    where: Where = None,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Cut-offs; repeatable.")] = None,
    by: Annotated[
        Literal["image", "study"] | None, typer.Option(help="Candidates: images (when not given), or each study by its best image.")
    ] = None,
    uncertain: Annotated[
        Literal["negative", "positive", "ignore"] | None,
        typer.Option(help="Where labels are asked: what uncertain ones count as; negative."),
    ] = None,
    exclude_same_patient: Annotated[
        bool | None,
        typer.Option("--exclude-same-patient/--include-same-patient", help="For image queries; on, but off for chexpert-8x200."),
    ] = None,
    max_queries: Annotated[int | None, typer.Option(min=1, help="label-precision: image queries of each finding; 1000.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of what is drawn: queries, lists, fractions; 0.")] = None,
    image_vector: Annotated[
        Vector | None,
        typer.Option(help="What image-image compares: joint, of chexpert-8x200 features. linear-probe learns from: features where it can."),
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help="chexpert-8x200: encode just the listed images, from here.")] = None,
    encoder: Annotated[Path | None, typer.Option(help="With --image-root: the encoder; else a check of the index's own.")] = None,
    resamples: Annotated[
        int | None, typer.Option(min=0, help="Bootstrap resamples of patients behind each 95 % interval; 2000, 0 for none.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write the result and examples as one HTML page.")] = None,
    with_ids: WithIds = False,
    maps: Annotated[bool, typer.Option(help="HTML: show where each film is like the query.")] = True,
    device: Device = None,
) -> None:
    """Score retrieval on a benchmark, chance beside each figure."""
    from retrieval.engine import SearchEngine
    from retrieval.figures import add_intervals
    from retrieval.result_tables import render_result

    given: dict[str, Any] = {
        "directions": direction,
        "ks": list(dict.fromkeys(k or ())),
        "splits": split,
        "views": view,
        "by": by,
        "uncertain": uncertain,
    }
    given |= {"exclude_same_patient": exclude_same_patient, "max_queries": max_queries, "seed": seed, "image_vector": image_vector}
    given |= {"only": parse_conditions(only), "where": where, **flags.given()}
    flags.check(benchmark, html=html_out is not None)
    given = flags.thaw(benchmark, given)
    drawn = flags.resamples(benchmark, resamples)
    measure = _measure(benchmark, lists, given, drawn)
    check_places(json_out, html_out, flags.list_out, flags.freeze)
    with _listed_index(lists, image_root, encoder, device) as listed:
        engine = None if benchmark == "trec" else SearchEngine.load(listed or index_dir, encoder, choose_device(device))
        result = measure() if engine is None else measure(engine)
        result = add_intervals(result, drawn) if drawn else result
        if engine is not None:
            flags.keep(result, given, engine.fingerprint, drawn)
        content = result.to_dict()
        print(render_result(content))
        if json_out is not None:
            write_text(json_out, json.dumps(content, indent=2) + "\n")
        if html_out is not None and engine is not None:
            from retrieval.report import render_evaluation

            write_text(html_out, render_evaluation(engine, content, with_ids=with_ids, maps=maps))


@contextmanager
def _listed_index(lists: Path | None, image_root: Path | None, encoder: Path | None, device: str | None) -> Iterator[Path | None]:
    """An index of just the images of the published lists, gone afterwards; None where one exists already."""
    if image_root is None:
        yield None
        return
    if lists is None or not lists.is_dir() or encoder is None:
        raise typer.BadParameter("--image-root goes with chexpert-8x200 and --encoder")
    from encoders.errors import MedretError
    from index.corpora.csvfile import read_csv
    from index.encode import FAILURES, EncodeOptions
    from index.folder import build_index as build
    from retrieval.published_lists import listed_corpus, load_published_lists

    corpus = listed_corpus(load_published_lists(lists), image_root)
    with tempfile.TemporaryDirectory(prefix="medret-") as folder:
        out = Path(folder) / "index"
        summary = encode_with_notes(corpus, encoder, out / "shards", EncodeOptions(vectors=("joint", "features")), device)
        if summary.failures:
            why = next(read_csv(out / "shards" / FAILURES))["reason"].partition(". ")[0]
            raise MedretError(f"{image_root}: {summary.failures} of the listed images cannot be read, the first: {why}. Fetch them again")
        build(out / "shards", out, encoder)
        yield out


def _measure(benchmark: Benchmark, lists: Path | None, given: dict[str, Any], resamples: int) -> "Callable[..., EvaluationResult]":
    """The benchmark with the options that were given; one that it does not have is wrong usage, not ignored."""
    from retrieval.protocols import BENCHMARKS

    chosen = BENCHMARKS[benchmark]
    measure, directions = chosen.measure, chosen.directions
    if lists is None and chosen.lists == "needed":
        raise typer.BadParameter(f"{benchmark} needs the folder of its lists: medret evaluate {benchmark} LISTS")
    if lists is not None and chosen.lists == "none":
        raise typer.BadParameter(f"{benchmark} takes no lists, but is given {lists}")
    options = {name: value for name, value in given.items() if value not in (None, [], ())}
    if foreign := sorted(options.keys() - signature(measure).parameters.keys()):
        raise typer.BadParameter(f"{benchmark} has no option {option_name(foreign[0])}")
    if lists is not None and (idle := [name for name in chosen.drawn if name in options]):
        raise typer.BadParameter(f"{option_name(idle[0])} is of lists that are drawn, and {lists} is given")
    if unknown := [name for name in options.get("directions", []) if name not in directions]:
        raise typer.BadParameter(f"--direction {unknown[0]}: {benchmark} has {', '.join(directions)}")
    if lists is not None:
        options["lists"] = lists
    if "resamples" in signature(measure).parameters:  # others leave their intervals to `add_intervals`
        options["resamples"] = resamples
    return partial(measure, **options)
