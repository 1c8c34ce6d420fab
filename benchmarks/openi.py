"""The tables of RESULTS.md, "OpenI": finished runs, grouped by name, on the validate split, beside chance and a frozen baseline.

python benchmarks/openi.py OPENI --run convirt=RUN,RUN,RUN --run medclip=RUN --baseline --json OUT.json
Several runs of a name are seeds of it. Needs nothing but the corpus and the runs; --baseline also the published weights.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from openi_frozen import learn_frozen
from openi_measures import KS, RECALL_KS, WORDED, WORDED_K, count_studies, measure, open_engine, rank_worded, score_worded
from results_file import table

from encoders.checkpoint import find_checkpoint, read_fingerprint
from encoders.device import choose_device
from encoders.errors import MedretError

FROZEN = "frozen"
DIRECTIONS = {"report-image": "text → image", "image-report": "image → report"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every run and print the tables; the figures go to --json as well."""
    given = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="medret-openi-") as scratch:
        work = given.work or Path(scratch)
        groups = {name: [_checkpoint(run, given.checkpoint) for run in runs] for name, runs in _groups(given.run).items()}
        if given.baseline:
            groups = {FROZEN: learn_frozen(given.openi, work / FROZEN, given.image_weights, given.text)} | groups
        result = {
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "device": str(choose_device(None)),
            "corpus": count_studies(given.openi),
            "prompts": {name: list(texts) for name, texts in WORDED.items()},
            "runs": {name: _measure(given.openi, name, checkpoints, work) for name, checkpoints in groups.items()},
        }
    print(render(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def render(result: Mapping[str, Any]) -> str:
    """Lay the figures out as markdown."""
    runs = result["runs"]
    blocks = [
        f"{result['date']}, torch {result['torch']}, {result['device']}. Figures are means over the seeds ± their standard deviation.",
        _render_corpus(result["corpus"]),
        "### Own report and own film\n\n" + _render_recall(runs),
        "### Findings by their built-in prompts, text → image\n\n" + _render_macro(runs, "findings"),
        *(f"#### {name}\n\n" + _render_findings(run["seeds"]) for name, run in runs.items()),
        f"### Worded questions: mean P@{WORDED_K}\n\n" + _render_worded(runs),
        "### Image → image, macro over the findings\n\n" + _render_macro(runs, "image-image"),
    ]
    return "\n\n".join(blocks)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openi", type=Path, help="OpenI in the public CSV layout, with split.csv")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=RUN,...", help="runs or checkpoints, a seed each; repeatable")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which of a run; last: nothing chosen on the split")
    parser.add_argument("--baseline", action="store_true", help=f"learn heads on frozen encoders too, as run '{FROZEN}'")
    parser.add_argument("--image-weights", default=os.environ.get("IMAGE_WEIGHTS"), help="of the baseline; IMAGE_WEIGHTS by default")
    parser.add_argument("--text", default=os.environ.get("TEXT"), help="text encoder of the baseline; TEXT by default")
    parser.add_argument("--work", type=Path, help="keep what was encoded here, for the next time")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args(arguments)
    if not given.run and not given.baseline:
        parser.error("give --run, --baseline, or both")
    if given.baseline and not (given.image_weights and given.text):
        parser.error("--baseline needs --image-weights and --text")
    return given


def _groups(pairs: Iterable[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for pair in pairs:
        name, _, runs = pair.partition("=")
        if not name or not runs:
            raise SystemExit(f"--run {pair}: expected NAME=RUN,RUN")
        groups.setdefault(name, []).extend(Path(run) for run in runs.split(","))
    return groups


def _checkpoint(run: Path, which: str) -> Path:
    """The checkpoint that `run` is, or that of a run's best/ or last/."""
    return find_checkpoint(run if (run / "encoder.json").is_file() else run / which)


def _measure(openi: Path, name: str, checkpoints: Sequence[Path], work: Path) -> dict[str, Any]:
    seeds, rankings = [], []
    for checkpoint in checkpoints:
        print(f"{name}: {checkpoint}", file=sys.stderr)
        engine = open_engine(openi, checkpoint, work / read_fingerprint(checkpoint))
        seeds.append(measure(engine))
        rankings.append(rank_worded(engine))
    return {"seeds": seeds, "worded": {finding: score_worded([ranking[finding] for ranking in rankings]) for finding in rankings[0]}}


def _render_corpus(corpus: Mapping[str, Any]) -> str:
    rows = [[name, counts["studies"], counts["with a frontal film"]] for name, counts in corpus["findings"].items() if counts["studies"]]
    line = (
        f"{corpus['studies']} studies of the {corpus['split']} split; {corpus['without a frontal film']} have no frontal film and are "
        f"no candidates; {corpus['without labels']} have no labels and are no candidates where findings are asked for."
    )
    return f"{line}\n\n" + table(["finding", "studies", "with a frontal film"], rows)


def _render_recall(runs: Mapping[str, Any]) -> str:
    """Both directions, the gain over chance, and how many times the baseline's it is."""
    names = [*(f"R@{k}" for k in RECALL_KS), "median rank"]
    head = [
        "run",
        "seeds",
        *(f"{arrow} {name}" for arrow in DIRECTIONS.values() for name in names),
        "R@10 over chance",
        "times the baseline's",
    ]
    rows = []
    for run, measured in runs.items():
        figures = [_spread(measured["seeds"], ("recall", direction, name)) for direction in DIRECTIONS for name in names]
        times = f"{_gain(measured) / _gain(runs[FROZEN]):.1f}" if FROZEN in runs and _gain(runs[FROZEN]) > 0 else "–"
        rows.append([run, len(measured["seeds"]), *figures, f"{_gain(measured):+.3f}", times])
    first = next(iter(runs.values()))["seeds"][0]["recall"]
    rows.append(["chance", "", *(_number(first[direction][name]["chance"]) for direction in DIRECTIONS for name in names), "0", ""])
    sizes = "; ".join(
        f"{arrow}: {first[way]['queries']} queries, {first[way]['candidates']} candidates" for way, arrow in DIRECTIONS.items()
    )
    return f"Candidates are studies by their best frontal film, or distinct reports. {sizes}.\n\n" + table(head, rows)


def _gain(measured: Mapping[str, Any]) -> float:
    """R@10 of text → image over chance, the mean over the seeds."""
    scores = [seed["recall"]["report-image"]["R@10"] for seed in measured["seeds"]]
    return statistics.fmean(score["value"] - score["chance"] for score in scores)


def _render_macro(runs: Mapping[str, Any], part: str) -> str:
    """One line a run: the mean over the findings."""
    names = [f"P@{k}" for k in KS] + (["AP"] if part == "findings" else [])
    rows = [[run, *(_spread(_macro(measured["seeds"], part), (name,)) for name in names)] for run, measured in runs.items()]
    first = _macro(next(iter(runs.values()))["seeds"], part)[0]
    rows.append(["chance", *(_number(first[name]["chance"]) for name in names)])
    return table(["run", *names], rows)


def _macro(seeds: Sequence[Mapping[str, Any]], part: str) -> list[Mapping[str, Any]]:
    if part == "image-image":
        return [seed[part] for seed in seeds]
    names = [*(f"P@{k}" for k in KS), "AP"]
    return [
        {
            name: {kind: statistics.fmean(figures[name][kind] for figures in seed[part].values()) for kind in ("value", "chance")}
            for name in names
        }
        for seed in seeds
    ]


def _render_findings(seeds: Sequence[Mapping[str, Any]]) -> str:
    head = ["finding", "prompts", "relevant", "base rate", *(f"P@{k}" for k in KS), "ceiling of P@50", "AP", "AP by chance"]
    rows = []
    for finding, figures in seeds[0]["findings"].items():
        counts = [
            figures["prompts"],
            f"{figures['relevant']} of {figures['candidates']}",
            _number(figures["relevant"] / figures["candidates"]),
        ]
        values = [_spread(seeds, ("findings", finding, f"P@{k}")) for k in KS]
        own = [_spread(seeds, ("findings", finding, "AP")), _number(figures["AP"]["chance"])]
        rows.append([finding, *counts, *values, _number(figures["P@50"]["ceiling"]), *own])
    return table(head, rows)


def _render_worded(runs: Mapping[str, Any]) -> str:
    head = ["run", "finding", "prompts", "seeds", f"P@{WORDED_K}", "95 % interval over studies", "base rate", "lies above"]
    rows = [
        [
            *(run, finding, score["prompts"], score["seeds"], _number(score[f"P@{WORDED_K}"])),
            *(f"{score['low']:.3f} to {score['high']:.3f}", _number(score["base rate"]), "yes" if score["above the base rate"] else "no"),
        ]
        for run, measured in runs.items()
        for finding, score in measured["worded"].items()
    ]
    return table(head, rows)


def _spread(seeds: Sequence[Mapping[str, Any]], path: Sequence[str]) -> str:
    """The mean of a figure over the seeds, with its standard deviation where there are several."""
    values = []
    for seed in seeds:
        figure: Any = seed
        for name in path:
            figure = figure[name]
        values.append(figure["value"])
    mean = statistics.fmean(values)
    return _number(mean) + (f" ± {statistics.stdev(values):.{1 if mean >= 10 else 3}f}" if len(values) > 1 else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.3f}"  # ranks, and fractions


if __name__ == "__main__":
    try:
        main()
    except MedretError as error:
        raise SystemExit(f"{error}") from None
