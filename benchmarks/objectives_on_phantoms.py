"""Many false negatives: the objectives at equal steps on few combinations of findings in many patients.

python benchmarks/objectives_on_phantoms.py OUT [--patients 400] [--seeds 3] [--epochs 30] [--device cuda]

Draws phantoms in which only eight sets of findings occur, so that in a batch of 32 about four other studies have the very
set of an image, and ConVIRT pushes their reports from it. Each objective learns from the same train split (70 % of the
patients), from the same weights, for the same number of steps of as many images and one text for each; its last checkpoint
is scored on the test split (20 % of the patients): P@k of the built-in prompts and of the images, averaged over the findings,
with the mean over the seeds of the training and its standard deviation. Started again, it goes on where it was stopped.

What each is given, to be fair to it:

- convirt: as published, temperature 0.1, lambda 0.75.
- medclip, as published: a learned temperature from 0.07; texts drawn whatever the images are; the softmax of the label
  cosines as it is. In a batch of 32 that is nearly uniform: e / (4 e + 28) = 7 % for each of four texts that fit, 2.6 % for
  each that does not. And the counts of a label differ between the images and the texts of a batch: noise, of which so small
  a batch has more than signal.
- medclip, alike, targets at 0.1: each text shares a finding with an image, and the label cosines are sharpened as much as
  ConVIRT sharpens those of the vectors: with those four texts, each gets 25 %.
- umcl, equal: targets are texts with the same set of labels, UniCL's own. umcl, cosine: texts in part by what they share.
  Both learn the temperature, from 0.07.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.checkpoint import load_checkpoint
from index.corpora.phantom import write_phantoms
from index.corpora.readers import Corpus, open_corpus
from index.corpora.record import LabelState, Tally
from index.encode import EncodeOptions, encode_corpus
from index.folder import build_index
from retrieval.engine import SearchEngine
from retrieval.evaluation import evaluate_label_precision
from train.config import load_config
from train.distributed import Group, join_group
from train.run import train_corpora
from train.samples import Source

COMBINATIONS = 8
BATCH = 32
OBJECTIVES: dict[str, dict[str, object]] = {
    "convirt": {"objective": "convirt"},
    "umcl, equal": {"objective": "umcl", "temperature": 0.07, "relation": "equal"},
    "medclip, alike, targets at 0.1": {
        "objective": "medclip",
        "temperature": 0.07,
        "text_draw": "alike",
        "soft_target_temperature": 0.1,
    },
    "medclip, as published": {"objective": "medclip", "temperature": 0.07},
    "umcl, cosine": {"objective": "umcl", "temperature": 0.07, "relation": "cosine"},
}
DIRECTIONS = ("text-image", "image-image")
KS = (5, 10, 50)


def main(out: Path, patients: int, seeds: int, epochs: int, group: Group) -> None:
    """Draw the corpus, train and score every objective with every seed, and print the table."""
    folder = out / f"corpus-{patients}"
    if not folder.exists():
        write_phantoms(folder, patients, 0, combinations=COMBINATIONS)
    corpus = open_corpus(folder)
    print(f"{patients} patients, {COMBINATIONS} sets of findings; {others_alike(corpus):.1f} other studies of a batch have the same set\n")
    columns = [f"{direction.replace('-', ' → ')} P@{k}" for direction in DIRECTIONS for k in KS]
    print(f"| {seeds} seeds, {epochs} epochs | steps | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    chances: list[float] = []
    for name, settings in OBJECTIVES.items():
        steps, rows = set(), []
        for seed in range(seeds):
            run = out / f"{name.replace(',', '').replace(' ', '-')}-{patients}-{epochs}-{seed}"
            steps.add(learn(corpus, run, settings, epochs, seed, group))
            values, chances = score(corpus, run, group)
            rows.append(values)
        cells = [f"{mean:.3f} ± {spread(column):.3f}" for mean, column in zip(np.mean(rows, axis=0), np.transpose(rows), strict=True)]
        print(f"| {name} | {', '.join(map(str, steps))} | " + " | ".join(cells) + " |", flush=True)
    print("| chance | | " + " | ".join(f"{chance:.3f}" for chance in chances) + " |")


def spread(values: NDArray[np.float64]) -> float:
    """Standard deviation over the seeds, n - 1 in the denominator; nan for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def others_alike(corpus: Corpus) -> float:
    """How many of the other studies of a batch have the same set of positive findings, on average."""
    sets = {
        record.study_id: frozenset(name for name, state in record.labels.items() if state == LabelState.POSITIVE)
        for record in corpus.records(Tally())
        if record.split == "train"
    }
    return (BATCH - 1) * sum((count / len(sets)) ** 2 for count in Counter(sets.values()).values())


def learn(corpus: Corpus, run: Path, settings: dict[str, object], epochs: int, seed: int, group: Group) -> int:
    """Train one run to its last step, if it is not there already; return how many steps it took."""
    same = {"epochs": epochs, "batch_size": BATCH, "texts_per_image": 1, "patience": 0, "seed": seed}
    config = load_config(None, **same, **settings)
    result = train_corpora([Source(corpus)], config, run, cache_folder=run.parent / "cache", group=group, resume=True)
    if result.stopped == "interrupted":
        sys.exit(130)
    return result.steps


def score(corpus: Corpus, run: Path, group: Group) -> tuple[list[float], list[float]]:
    """P@k of the run's last checkpoint on the test split, in the order of the table's columns, and chance."""
    checkpoint, index = run / "last", run.with_name(f"{run.name}-index")
    encode_corpus(corpus, load_checkpoint(checkpoint).to(group.device), index / "shards", options=EncodeOptions(splits=("test",)))
    build_index(index / "shards", index, checkpoint)
    result = evaluate_label_precision(SearchEngine.load(index), directions=DIRECTIONS, ks=KS)
    scores = [result.directions[direction].metrics[f"P@{k}"] for direction in DIRECTIONS for k in KS]
    return [each.value for each in scores], [each.chance for each in scores]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with join_group(given.device) as solo:
        main(given.out, given.patients, given.seeds, given.epochs, solo)
