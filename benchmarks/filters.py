"""Search among a part of the rows: recall and latency at 50 %, 10 %, 1 % and 0.1 %, medret's kinds beside FAISS with selectors.

python benchmarks/filters.py WORK [--set clip|openi] [--rows 601000] [--openi SHARDS] [--slow]

Three ways to choose the rows: at random; and those that lie furthest along one direction, as the films with one finding do, asked
by the half of the queries that lie along it (near) and by the other half (far). FAISS searches with the setting that was enough
without a filter; medret plans by itself. One thread, query by query. --slow adds FAISS HNSW, whose graph takes minutes.
Figures are kept in the JSON as soon as they are there. On 2 cores at 601,000 rows: 9 min, --slow another 4.
"""

import time
from functools import partial
from typing import Any

import numpy as np
from archive_vectors import Archive, Vectors, asked_archive
from clock import median, percentile
from contenders import Contender, K, Mask, Medret, Setting, Truth, find_truth
from peers import Faiss
from results_file import Results, archive_options, milliseconds, options, table
from search import choose

SHARES = (0.5, 0.1, 0.01, 0.001)
CHOSEN = ("random", "near", "far")
KINDS = ("flat", "scan", "ivf-scan", "ivf-pq", "ivf-flat", "ivf-rabitq", "hnsw")

Case = tuple[Mask, Vectors, Truth]


def main() -> None:
    """Measure what the JSON does not hold, and print the tables."""
    parser = options(__doc__)
    archive_options(parser)
    parser.add_argument("--slow", action="store_true", help="also FAISS HNSW")
    given = parser.parse_args()
    archive = asked_archive(given)
    about = {"script": "filters", "set": given.set, "rows": archive.table().rows, "quick": given.quick}
    results = Results(given.json or given.work / f"filters-{archive.name}.json", about, given.again)
    vectors = archive.vectors()
    cases = make_cases(archive, vectors, 20 if given.quick else 150)
    contenders: list[Contender] = [Medret(kind) for kind in KINDS] + [Faiss("IVF{lists},Flat"), Faiss("IVF{lists},SQ8")]
    contenders += [Faiss("HNSW32", construction=40, said=" efConstruction 40", slow=True)] if given.slow else []
    for contender in contenders:
        results.measure(contender.name, partial(_measure, contender, archive, vectors, cases))
    print("\n".join([f"### {archive.name}: filters", "", results.heading(("torch", "faiss-cpu")), "", report(results)]))


def make_cases(archive: Archive, vectors: Vectors, queries: int) -> dict[tuple[str, str, float], Case]:
    """Return the allowed rows, the queries and what they should find, by kind of query, way to choose and share."""
    rng = np.random.default_rng(0)
    at_random = rng.random(len(vectors))
    direction = vectors[rng.integers(len(vectors))] - vectors[:20_000].mean(axis=0)
    along = vectors @ direction
    cases = {}
    for asker, asked in archive.queries.items():
        order = np.argsort(-(asked @ direction))
        who = {
            "random": asked[:queries],
            "near": asked[order[: len(order) // 2]][:queries],
            "far": asked[order[::-1][: len(order) // 2]][:queries],
        }
        for share in SHARES:
            count = max(int(share * len(vectors)), K)
            masks = {"random": _highest(at_random, count), "along": _highest(along, count)}
            for way in CHOSEN:
                mask = masks["random" if way == "random" else "along"]
                cases[asker, way, share] = mask, who[way], find_truth(vectors, who[way], mask)
    return cases


def _highest(values: np.ndarray, count: int) -> Mask:
    mask = np.zeros(len(values), bool)
    mask[np.argpartition(-values, count - 1)[:count]] = True
    return mask


def _measure(contender: Contender, archive: Archive, vectors: Vectors, cases: dict[tuple[str, str, float], Case]) -> dict[str, Any]:
    contender.build(archive, vectors)
    figures: dict[str, Any] = {"cases": []}
    for asker, queries in archive.queries.items():
        setting, _ = choose(contender, asker, queries, vectors, find_truth(vectors, queries))
        for (whose, way, share), case in cases.items():
            if whose == asker:
                figures["cases"].append({"asker": asker, "way": way, "share": share, **_one(contender, setting, asker, case, vectors)})
    contender.close()
    return figures


def _one(contender: Contender, setting: Setting, asker: str, case: Case, vectors: Vectors) -> dict[str, Any]:
    mask, asked, truth = case
    contender.filtered(asked[:3], setting, mask)
    times, found = [], []
    for query in asked:
        began = time.perf_counter()
        rows = contender.filtered(query[None], setting, mask)
        times.append(time.perf_counter() - began)
        found.append(rows)
    plan = setting.words
    if isinstance(contender, Medret):
        plan = contender.index.plan(K, asker=asker, allowed_rows=int(mask.sum())).how
    recall = truth.recall(np.concatenate(found), asked, vectors)
    return {"plan": plan, "recall": recall, "queries": len(asked), "p50": median(times), "p99": percentile(times, 99)}


def report(results: Results) -> str:
    """Return the figures as Markdown: recall and p50, in a table for each kind of query and way to choose."""
    names = results.names("")
    cases = {name: results.get(name)["cases"] for name in names}
    parts = []
    for asker in dict.fromkeys(case["asker"] for case in cases[names[0]]):
        for way in CHOSEN:
            rows = []
            for name in names:
                taken = [case for case in cases[name] if (case["asker"], case["way"]) == (asker, way)]
                rows.append([name, *map(_cell, taken)])
            columns = ["index", *(f"{share:.1%}" for share in SHARES)]
            parts += [f"{asker} queries, rows chosen: {way}; recall@10 / p50 ms / p99 ms (plan)", "", table(columns, rows), ""]
    return "\n".join(parts)


def _cell(case: dict[str, Any]) -> str:
    return f"{case['recall']:.4f} / {milliseconds(case['p50'])} / {milliseconds(case['p99'])} ({case['plan']})"


if __name__ == "__main__":
    main()
