"""What bfloat16 does to vectors, neighbours and precision: one corpus, encoded in float32 and in bfloat16.

python benchmarks/bfloat16.py WORK CORPUS [--encoder RUN] [--split SPLIT]

Cosines are between the vectors of a record in either precision, the lowest of all; overlaps the mean share of the ten nearest
that stays (of images among images, of reports among reports, of images to reports), itself left out; P@k that of label-precision,
with 95 % intervals. Both sides are computed in bfloat16 here; `--compute auto` takes it only for a side whose cosines stay above 0.9999.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from drawn_vectors import Vectors
from results_file import table

from encoders.checkpoint import default_checkpoint, find_checkpoint, load_checkpoint
from encoders.precision import PRECISIONS
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus
from index.folder import build_index
from retrieval.engine import SearchEngine
from retrieval.evaluation import evaluate_label_precision
from retrieval.figures import add_intervals
from retrieval.results import Score

K = 10


def index_corpus(folder: Path, corpus: Path, checkpoint: Path, compute: str, split: str | None) -> SearchEngine:
    """Encode a corpus, or go on, and return what searches it."""
    options = EncodeOptions(compute=compute, splits=None if split is None else (split,))
    encode_corpus(open_corpus(corpus), load_checkpoint(checkpoint), folder / "shards", checkpoint=checkpoint, options=options)
    build_index(folder / "shards", folder, checkpoint)
    return SearchEngine.load(folder)


def neighbours(asking: Vectors, found: Vectors) -> list[set[int]]:
    """Return the places of the ten nearest of each; where a set asks itself, without itself."""
    scores = asking @ found.T
    if asking is found:
        np.fill_diagonal(scores, -2)
    return [set(row) for row in np.argsort(-scores, axis=1, kind="stable")[:, :K].tolist()]


def overlap(one: tuple[Vectors, Vectors], other: tuple[Vectors, Vectors]) -> float:
    """Return the mean share of the ten nearest that two pairs of askers and found agree on."""
    pairs = zip(neighbours(*one), neighbours(*other), strict=True)
    return float(np.mean([len(mine & theirs) / len(mine) for mine, theirs in pairs]))


def compare(engines: list[SearchEngine]) -> list[tuple[Any, ...]]:
    """Return the rows of the table: what is measured, in float32, in bfloat16."""
    held: list[dict[str, Vectors]] = []
    for engine in engines:
        tables = [engine.opened.shards.table(modality) for modality in ("images", "reports")]
        held.append({each.modality: each.vectors("joint", np.arange(each.rows)) for each in tables})
    exact, rounded = held
    rows: list[tuple[Any, ...]] = []
    for modality in exact:
        cosines = np.einsum("ij,ij->i", exact[modality], rounded[modality], dtype=np.float64)
        rows.append((f"lowest cosine of {len(cosines)} {modality}", None, f"{cosines.min():.6f}"))
    for asking, found in (("images", "images"), ("reports", "reports"), ("reports", "images")):
        share = overlap((exact[asking], exact[found]), (rounded[asking], rounded[found]))
        rows.append((f"top-10 overlap, {asking} to {found}", None, f"{share:.3f}"))
    results = [add_intervals(evaluate_label_precision(engine)).directions for engine in engines]
    for direction, first in results[0].items():
        for name in first.metrics:
            rows.append((f"{direction} {name}", *(_figure(result[direction].metrics[name]) for result in results)))
    return rows


def _figure(score: Score) -> str:
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def main() -> None:
    """Encode twice, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--encoder", type=Path, help="a checkpoint or run; the one that comes along when not given")
    parser.add_argument("--split")
    given = parser.parse_args()
    checkpoint = default_checkpoint() if given.encoder is None else find_checkpoint(given.encoder)
    engines = [index_corpus(given.work / compute, given.corpus, checkpoint, compute, given.split) for compute in PRECISIONS]
    print(table(("", *PRECISIONS), compare(engines)))


if __name__ == "__main__":
    main()
