"""How long it takes to score ranked answers against labels: medret beside ranx, ir-measures and pytrec-eval-terrier.

N candidates bear some of 14 findings, Q queries ask for those that they bear themselves, and each run names the best R candidates. Each
contender scores the same run in a process of its own, on one core, in processor time: P@10, recall@10, nDCG@10, mAP (over the R) and
MRR. Peers want the judgements as dictionaries; building those is timed apart. They need an environment of their own:

    python -m venv PEERS && PEERS/bin/pip install ranx ir-measures pytrec-eval-terrier
    python benchmarks/scoring.py WORK --peers PEERS/bin/python
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from results_file import Results, milliseconds, options, table

SECTIONS = ("medret", "pytrec-eval-terrier", "ir-measures", "ranx")
WORKER = Path(__file__).with_name("scoring_contenders.py")
ONE_CORE = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "NUMBA", "MKL", "OPENBLAS")}


def make_run(path: Path, queries: int, candidates: int, depth: int, seed: int = 0) -> None:
    """Write masks of 14 findings and a ranking that is better than chance: Q, N and R as told."""
    draw = np.random.default_rng(seed)
    shares = np.geomspace(0.01, 0.15, 14)
    masks = ((draw.random((candidates, 14)) < shares) << np.arange(14)).sum(axis=1).astype(np.uint16)
    asking = draw.choice(np.flatnonzero(masks), queries, replace=False)
    ranked = np.empty((queries, depth), dtype=np.int32)
    for query, row in enumerate(asking):
        scores = draw.random(candidates) + 0.2 * ((masks & masks[row]) != 0)
        ranked[query] = np.argsort(-scores)[:depth]
    np.savez(path, ranked=ranked, query_masks=masks[asking], candidate_masks=masks)


def measure(name: str, python: str, run: Path) -> dict[str, Any]:
    """Let one contender score the run, and return what it reports."""
    command = ["taskset", "-c", "0", python, str(WORKER), name, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_CORE}, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure what is missing from the JSON and print the table."""
    parser = options(__doc__ or "", SECTIONS)
    parser.add_argument("--peers", help="a Python that has ranx, ir-measures and pytrec-eval-terrier; without it medret alone")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--depth", type=int, default=1000, help="answers of each query that are scored; trec_eval's usual number")
    given = parser.parse_args()
    size = (50, 5_000, 100) if given.quick else (given.queries, given.candidates, given.depth)
    given.work.mkdir(parents=True, exist_ok=True)
    run = given.work / "scoring-{}-{}-{}.npz".format(*size)
    if not run.is_file():
        make_run(run, *size)
    about = {"script": "scoring", **dict(zip(("queries", "candidates", "depth"), size, strict=True))}
    results = Results(given.json or run.with_suffix(".json"), about, given.again)
    for name in given.only.split(",") if given.peers else SECTIONS[:1]:
        results.measure(name, lambda name=name: measure(name, sys.executable if name == "medret" else given.peers, run))
    ours = results.get("medret")["values"]
    rows = []
    for name in results.names(""):
        one = results.get(name)
        apart = max(abs(one["values"][figure] - value) for figure, value in ours.items() if figure in one["values"])
        times = [milliseconds(one[part]) for part in ("build", "first", "score")]
        rows.append([f"{name} {one['version']}", *times, f"{one['memory'] / 1e6:,.0f}", f"{apart:.0e}"])
    print(results.heading(["numpy"]))
    print("{:,} queries, {:,} candidates, 14 findings, {:,} answers each\n".format(*size))
    print(table(["", "judgements, ms", "first scoring, ms", "scoring, ms", "memory, MB", "farthest from medret"], rows))


if __name__ == "__main__":
    main()
