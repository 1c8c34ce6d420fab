"""Search on a GPU beside the same index on this machine's cores: exact, inverted lists, and CAGRA where FAISS has cuVS.

python benchmarks/gpu_search.py WORK [--set clip|openi] [--rows 601000|10000000] [--openi SHARDS] [--kinds flat,ivf-scan,ivf-flat]

Milliseconds of batches of 1, 16, 256 and 1,000 through medret's own facade, in turns; recall@10 of both against exact search on the
cores. Both search with the settings that were certified on the cores; CAGRA is built and certified on the GPU. The vectors are
stored as float16; those of 10 million take 20 GB on the GPU, in float32.
"""

import time
from functools import partial
from typing import Any

import numpy as np
from archive_vectors import Archive, make_archive
from clock import CORES, in_turns, median, set_threads
from contenders import RECALL, K, Medret
from results_file import Results, archive_options, milliseconds, options, table

from encoders.checkpoint import load_checkpoint
from encoders.errors import MedretError
from index.askers import draw_samples
from index.contract import certify
from index.exact import Found
from index.gpu import Gpu, build_cagra, move_to_gpu
from index.shards import open_shards
from index.vector_index import VectorIndex

BATCHES = (1, 16, 256, 1000)


def main() -> None:
    """Measure what the JSON does not hold, and print the table."""
    parser = options(__doc__)
    archive_options(parser)
    parser.add_argument("--kinds", default="flat,ivf-scan,ivf-flat", help="by commas")
    given = parser.parse_args()
    try:
        gpu = Gpu()
    except MedretError as error:
        raise SystemExit(str(error)) from error
    rows = given.rows or (20_000 if given.quick else 601_000)
    archive = make_archive(given.work, given.set, rows, openi=given.openi, dtype="float16")
    about = {"script": "gpu_search", "set": given.set, "rows": rows, "quick": given.quick}
    results = Results(given.json or given.work / f"gpu-{archive.name}.json", about, given.again)
    for kind in given.kinds.split(","):
        results.measure(kind, partial(measure_kind, archive, kind, gpu))
    if gpu.has_cagra:
        results.measure("cagra", partial(measure_cagra, archive, gpu))
    print("\n".join([f"### {archive.name} on a GPU", "", results.heading(("torch", "faiss-gpu", "faiss-gpu-cuvs")), "", report(results)]))


def measure_kind(archive: Archive, kind: str, gpu: Gpu) -> dict[str, Any]:
    """Open an index, built first where it is missing, and search it in both places."""
    medret = Medret(kind)
    if (archive.folder / f"index-{kind}").is_dir():
        medret.open(archive)
    else:
        medret.build(archive, np.empty((0, 0), np.float32))
    began = time.perf_counter()
    moved = move_to_gpu(medret.index, gpu)
    return {"moving": time.perf_counter() - began, "askers": compare(archive, {"cores": medret.index, "GPU": moved})}


def measure_cagra(archive: Archive, gpu: Gpu) -> dict[str, Any]:
    """Build and certify a graph on the GPU, and search it."""
    held = archive.table()
    began = time.perf_counter()
    graph = VectorIndex(held, "joint", build_cagra(held, "joint", gpu))
    samples = draw_samples(open_shards(archive.shards), "images", "joint", partial(load_checkpoint, archive.encoder))
    graph = VectorIndex(held, "joint", graph.stage, certify(graph, samples, RECALL))
    return {"moving": time.perf_counter() - began, "askers": compare(archive, {"GPU": graph})}


def compare(archive: Archive, ways: dict[str, VectorIndex]) -> dict[str, Any]:
    """Return plan, recall@10 and the seconds of each batch by asker and place."""
    figures: dict[str, Any] = {}
    for asker, queries in archive.queries.items():
        set_threads(CORES)
        right = next(iter(ways.values())).exact.search(queries, K)
        found = {place: index.search(queries, K, asker=asker) for place, index in ways.items()}
        times: dict[str, dict[str, float]] = {place: {} for place in ways}
        for batch in [size for size in BATCHES if size <= len(queries)]:
            set_threads(1 if batch == 1 else CORES)
            calls = {place: partial(index.search, queries[:batch], K, asker=asker) for place, index in ways.items()}
            for place, taken in in_turns(calls, 9 if batch < 256 else 3).items():
                times[place][str(batch)] = median(taken)
        figures[asker] = {
            place: {"plan": index.plan(K, asker=asker).reason, "recall": _recall(found[place], right), "times": times[place]}
            for place, index in ways.items()
        }
    return figures


def report(results: Results) -> str:
    """Return the figures as Markdown."""
    rows = []
    for kind in results.content["sections"]:
        figures = results.get(kind)
        for asker, places in figures["askers"].items():
            for place, one in places.items():
                moving = f"{figures['moving']:.1f}" if place == "GPU" else None
                times = [milliseconds(one["times"].get(str(batch))) for batch in BATCHES]
                rows.append([kind, place, moving, asker, one["plan"], f"{one['recall']:.4f}", *times])
    return table(["kind", "where", "s to get there", "queries", "plan", "recall@10", *(f"ms, {batch}" for batch in BATCHES)], rows)


def _recall(found: list[Found], right: list[Found]) -> float:
    shares = [np.isin(best, rows).mean() for (rows, _), (best, _) in zip(found, right, strict=True)]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
