"""What a checkpoint says of its making: as notes for a program, and as a model card for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from encoders.dual import DualEncoder
from train.config import TrainConfig
from train.data import TrainingData

_FOLDERS = ("image", "image_weights", "text", "start")  # settings that can be paths
_OBJECTIVES = {
    "convirt": "ConVIRT: an image and its own report attract, all other pairs of a batch repel (Zhang et al., arXiv:2010.00747)",
    "medclip": "MedCLIP: images and texts drawn independently, matched by what their labels have in common (Wang et al., arXiv:2210.10163)",
    "umcl": "UMCL: images, texts and labels in one space (Wang et al., arXiv:2307.05920; its equations were not available, what is "
    "done here is inferred from UniCL, arXiv:2204.03610, and CoOp, arXiv:2109.01134)",
}
_LABELS = {
    "mimic-cxr-jpg": "the corpus's label file (MIMIC-CXR's was made by a program that read the reports)",
    "chexpert": "the corpus's label file (CheXpert's was made by a program that read the reports)",
    "openi": "MeSH terms given to the reports by indexers, as far as they name one of the findings",
    "table": "columns of a table, as somebody filled them",
}
_UNCERTAIN = {
    "zeros": "uncertain labels counted as absent",
    "ones": "uncertain labels counted as present",
    "ignore": "studies with an uncertain label counted as unlabelled",
    "mixed": "uncertain labels counted as present for atelectasis, edema and pleural effusion, else as absent",
}


def checkpoint_notes(
    encoder: DualEncoder, config: TrainConfig, data: TrainingData, step: int, row: Mapping[str, float], temperature: float
) -> dict[str, Any]:
    """The making of a checkpoint as JSON values: folders by their name alone, and nothing of any patient.

    Args:
        encoder: The checkpoint's.
        config: Settings.
        data: What it learned from.
        step: Steps taken.
        row: What it was measured by, a row of metrics.csv; empty if it was not.
        temperature: What divides the similarities now.
    """
    settings = {name: Path(value).name if name in _FOLDERS else value for name, value in asdict(config).items()}
    spoken = sum(bool(sentences) for sentences in data.validate.sentences)
    held_out = {"images": len(data.validate), "studies": len(np.unique(data.validate.studies)), "with_reports": spoken}
    return {
        "encoder": _architecture(encoder),
        "step": step,
        "metrics": dict(row),
        "temperature": temperature,
        "findings": list(data.findings),
        "corpora": [asdict(corpus) for corpus in data.corpora],
        "held_out": held_out,
        "notes": list(data_notes(data)),
        "config": settings,
    }


def _architecture(encoder: DualEncoder) -> dict[str, Any]:
    made = encoder.config
    return {
        "image": made.image["kind"],
        "text": made.text["kind"],
        "size": made.preprocessing.size,
        "dimension": made.dimension,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "prompts": list(encoder.prompts.config.names) if encoder.prompts else [],
    }


def data_notes(data: TrainingData) -> tuple[str, ...]:
    """What a user should know of the data: who is held out, and how much of each corpus was left out, and why."""
    left_out = [
        f"Left out of corpus {number} ({corpus.format}): {', '.join(f'{count:,} {reason}' for reason, count in corpus.left_out.items())}."
        for number, corpus in enumerate(data.corpora, 1)
        if corpus.left_out
    ]
    return (*data.notes, *left_out)


def render_card(notes: Mapping[str, Any], chosen_by: str | None = None) -> str:
    """The notes of a checkpoint as a model card in Markdown.

    Args:
        notes: Of `checkpoint_notes`.
        chosen_by: The figure by which this checkpoint was chosen among those of its run; None if it was not.
    """
    config = notes["config"]
    sections = {
        "Data": _data(notes),
        "Settings": _settings(notes),
        "Figures": _figures(notes, chosen_by),
        "Limits": _limits(notes),
    }
    made = notes["encoder"]
    begun = f" Begun from {config['start']}." if config["start"] else ""
    prompts = f" Continuous prompts for {', '.join(made['prompts'])}." if made["prompts"] else ""
    head = (
        "# An encoder of chest radiographs and reports\n\n"
        f"Images ({made['image']}, {made['size']} pixels) and texts ({made['text']}) in one space of {made['dimension']} dimensions; "
        f"{made['parameters'] / 1e6:.1f} million parameters.{prompts}{begun}\n\n"
        f"Learned in {notes['step']:,} steps by {_OBJECTIVES[config['objective']]}.\n\n"
        "**For research only. It is no medical device and must not be used to diagnose.**\n"
    )
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _data(notes: Mapping[str, Any]) -> str:
    corpora = notes["corpora"]
    counted = ("images", "studies", "texts", "validation_images")
    parts = sum(corpus["weight"] for corpus in corpora)
    rows = [[corpus["format"], *(f"{corpus[name]:,}" for name in counted), f"{corpus['weight'] / parts:.0%}"] for corpus in corpora]
    lines = [_table(["corpus", "images", "studies", "reports", "held-out images", "part of the mix"], rows)]
    lines += notes["notes"]
    return "\n\n".join([*lines, _labels(notes)])


def _labels(notes: Mapping[str, Any]) -> str:
    config = notes["config"]
    if config["objective"] == "convirt":
        return "Labels were not learned from: only which image and which report belong together."
    sources = [f"{name}: {_LABELS[name]}" for name in dict.fromkeys(corpus["format"] for corpus in notes["corpora"]) if name in _LABELS]
    names = ", ".join(notes["findings"]) or "none"
    return f"Labels: {names}; {_UNCERTAIN[config['uncertain']]}. Where they come from: {'; '.join(sources) or 'nowhere'}."


def _settings(notes: Mapping[str, Any]) -> str:
    config = notes["config"]
    changed = [
        f"{field.name} = {_plain(config[field.name])}"
        for field in fields(TrainConfig)
        if _plain(config[field.name]) != _plain(field.default)
    ]
    learned = config["objective"] != "convirt" and config["learn_temperature"]
    temperature = (
        f"learned, from {config['temperature']:g} to {notes['temperature']:.4g}" if learned else f"{notes['temperature']:g}, fixed"
    )
    return f"Other than medret's defaults: {', '.join(changed) or 'nothing'}. All are in encoder.json.\n\nTemperature: {temperature}."


def _figures(notes: Mapping[str, Any], chosen_by: str | None) -> str:
    row, held_out = notes["metrics"], notes["held_out"]
    if not row:
        return "Not measured: the run was interrupted before its first validation."
    hidden = ("step", "epoch", "lr", "temperature", "seconds", "images_per_second", "waiting")
    table = _table(["figure", "value"], [[name.replace("_", " "), f"{value:.4g}"] for name, value in row.items() if name not in hidden])
    text = (
        f"After step {row['step']:,.0f} (epoch {row['epoch']:.3g}), among the {held_out['images']:,} held-out images of "
        f"{held_out['studies']:,} studies ({held_out['with_reports']:,} images have a report) and their reports alone: a larger "
        f"collection is harder to search. Losses are in nats.\n\n{table}"
    )
    if row["step"] != notes["step"]:
        text += f"\n\nThe encoder has taken {notes['step'] - row['step']:,.0f} steps since."
    if chosen_by:
        text += f"\n\nThis checkpoint is the one of its run with the best {chosen_by.replace('_', ' ')}, which flatters that figure."
    return text


def _limits(notes: Mapping[str, Any]) -> str:
    config = notes["config"]
    flips = config["flip_probability"]
    sides = (
        f"It learned from films of which {flips:.0%} were mirrored: it cannot tell left from right."
        if flips
        else "It learned from films that were never mirrored: left and right differ to it as far as the reports name them."
    )
    lines = [
        sides,
        f"Texts beyond {config['max_tokens']} tokens are cut.",
        "It finds what is alike to what it learned from. Other scanners, other populations and rare findings are untested until you test "
        "them: medret evaluate.",
        "Reports name what their writers saw and cared about; a finding that they leave out was learned as absent, or not at all.",
        "The terms of use of the corpora above hold for what was learned from them.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
