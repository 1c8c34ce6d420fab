"""What an archive of 10 and 100 million vectors would cost, and one of 5 million that was built to check it.

python benchmarks/scale.py WORK [--rows 5000000] [--kinds scan,ivf-scan] [--only predicted,measured]

predicted  index.cost on this machine's calibrated rates: build, certification, memory, disk and latency of every kind.
measured   512-d vectors of the set "clip", stored as float16 (5.1 GB for 5 million, kept in WORK, made in 3 min), indexed and
           asked: seconds to build, the most memory resident, bytes, latency on one thread, and recall@10 of 300 image and
           300 text queries against exact search; each figure beside the one predicted for as many rows and the same settings.

On 2 cores at 5 million rows: 11 min after the archive is made: of each kind most goes into its certification, which compares
3,000 queries with exact search. It takes 8 GB of memory to be at its best, 12 GB of disk.
"""

import resource
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from archive_vectors import Archive, Vectors, make_archive
from clock import CORES, median, percentile, seconds, set_threads
from contenders import K, Medret, Truth
from results_file import Results, milliseconds, options, table
from search import batch_rate, single_times

from index.calibration import Calibration, calibrate
from index.cost import predict
from index.kinds import KINDS

SECTIONS = ("predicted", "measured")
COUNTS = (601_000, 5_000_000, 10_000_000, 100_000_000)
SHARD = 32_768
QUERIES = 300
TIMED = 100  # of them, one by one


def main() -> None:
    """Measure what the JSON does not hold, and print the tables."""
    parser = options(__doc__, SECTIONS)
    parser.add_argument("--rows", type=int, help="5,000,000 when not given")
    parser.add_argument("--kinds", default="scan,ivf-scan", help="by commas")
    given = parser.parse_args()
    rows = given.rows or (20_000 if given.quick else 5_000_000)
    about = {"script": "scale", "rows": rows, "quick": given.quick}
    results = Results(given.json or given.work / f"scale-{rows}.json", about, given.again)
    if "predicted" in given.only.split(","):
        results.measure("predicted", predicted)
    if "measured" in given.only.split(","):
        archive = make_archive(given.work, "clip", rows, dtype="float16", block=SHARD)
        results.measure("truth", lambda: _truth(archive))
        for kind in given.kinds.split(","):
            results.measure(f"measured: {kind}", partial(measure, archive, kind, results))
    print("\n".join(["### Scale", "", results.heading(("torch", "faiss-cpu")), "", report(results)]))


def predicted() -> dict[str, Any]:
    """Return this machine's rates and the table of predictions."""
    calibration = calibrate()
    return {"calibration": asdict(calibration), "table": prediction_table(calibration)}


def prediction_table(calibration: Calibration) -> str:
    """Return a Markdown table of what every kind is predicted to cost for so many vectors of 512 dimensions."""
    lines = []
    for rows in COUNTS:
        for kind in KINDS.values():
            one = predict(kind, rows, 512, calibration)
            sizes = [f"{size / 1e9:.2f}" for size in (one.memory_bytes, one.mapped_bytes, one.disk_bytes)]
            lines.append([f"{rows:,}", one.kind, f"{one.build_s:,.1f}", f"{one.certify_s:,.1f}", *sizes, f"{one.latency_s * 1e3:,.2f}"])
    return table(["vectors", "kind", "build s", "certify s", "memory GB", "read by every query GB", "disk GB", "ms a query"], lines)


def measure(archive: Archive, kind: str, results: Results) -> dict[str, Any]:
    """Build an index, ask it, and predict the same from the calibration and its certified settings."""
    calibration = calibrate()  # first, while nothing else is in memory
    medret = Medret(kind)
    building = seconds(lambda: medret.build(archive, np.empty((0, 0), np.float32)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    truth = results.get("truth")
    figures: dict[str, Any] = {"build": building, "rss": peak, "bytes": medret.bytes(), "certificates": medret.certificates(), "askers": {}}
    for asker, queries in _asked(archive).items():
        setting = medret.ladder(asker)[0][0]
        best = Truth(np.array(truth["rows"][asker]), np.array(truth["scores"][asker]))
        found = medret.search(queries, setting, CORES)
        stored = medret.index.table.vectors("joint", found.reshape(-1).clip(0))
        scores = np.einsum("qkd,qd->qk", stored.reshape(*found.shape, -1).astype(np.float64), queries.astype(np.float64))
        recall = best.share_of(np.where(found < 0, -np.inf, scores))
        times = single_times(medret, queries[:TIMED], setting)
        rate = batch_rate(medret, queries, setting, CORES)
        plan = medret.index.plan(K, asker=asker)
        effort, candidates = (plan.effort, plan.candidates) if plan.how == "approximate" else (None, None)
        expected = predict(kind, archive.table().rows, queries.shape[1], calibration, effort=effort, candidates=candidates, half=True)
        measured = {"setting": setting.words, "recall": recall, "p50": median(times), "p99": percentile(times, 99), "rate": rate}
        figures["askers"][asker] = {**measured, "predicted": asdict(expected)}
    medret.close()
    return figures


def report(results: Results) -> str:
    """Return the figures as Markdown."""
    parts = []
    if results.names("predicted"):
        found = results.get("predicted")
        parts += ["Predicted for 512-d float32 vectors from the rates that were measured on this machine:", "", found["table"], ""]
    rows = []
    for name in results.names("measured: "):
        figures = results.get(name)
        for asker, taken in figures["askers"].items():
            said = taken["predicted"]
            rows.append(
                [
                    name.removeprefix("measured: "),
                    f"{figures['build']:.0f} / {said['build_s'] + said['certify_s']:.0f}",
                    f"{figures['bytes'] / 1e9:.2f} / {said['disk_bytes'] / 1e9:.2f}",
                    f"{figures['rss'] / 1e9:.1f}",
                    asker,
                    taken["setting"],
                    f"{taken['recall']:.4f}",
                    f"{milliseconds(taken['p50'])} / {milliseconds(said['latency_s'])}",
                    milliseconds(taken["p99"]),
                    f"{taken['rate']:,.0f}",
                ]
            )
    if rows:
        columns = ["kind", "build s", "disk GB", "peak GB", "queries", "setting", "recall@10", "p50 ms", "p99 ms", "queries/s"]
        parts += [f"{results.content['about']['rows']:,} × 512 in float16, measured / predicted:", "", table(columns, rows)]
    return "\n".join(parts)


def _asked(archive: Archive) -> dict[str, Vectors]:
    return {asker: queries[:QUERIES] for asker, queries in archive.queries.items()}


def _truth(archive: Archive) -> dict[str, Any]:
    """Return the ten best rows of each query and their float64 scores, by plain products, shard by shard in bounded memory."""
    set_threads(CORES)
    figures: dict[str, Any] = {"rows": {}, "scores": {}}
    blocks = archive.table().blocks("joint")
    best = {asker: (np.empty((len(q), 0), np.int64), np.empty((len(q), 0))) for asker, q in _asked(archive).items()}
    start = 0
    for block in blocks:
        vectors = block.astype(np.float32)
        for asker, queries in _asked(archive).items():
            near = np.argpartition(-(queries @ vectors.T), min(2 * K, len(vectors) - 1), axis=1)[:, : 2 * K]
            scores = np.einsum("qkd,qd->qk", vectors[near].astype(np.float64), queries.astype(np.float64))
            rows, scores = np.hstack([best[asker][0], near + start]), np.hstack([best[asker][1], scores])
            order = np.argsort(-scores, axis=1)[:, :K]
            best[asker] = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        start += len(block)
    for asker, (rows, scores) in best.items():
        figures["rows"][asker], figures["scores"][asker] = rows.tolist(), scores.tolist()
    return figures


if __name__ == "__main__":
    main()
