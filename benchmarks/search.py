"""Search beside other libraries and the machine's limits, in one run.

pip install usearch hnswlib lancedb scikit-learn && pip install --no-deps sentence-transformers   (what is missing is named and left out)
python benchmarks/search.py WORK [--set clip|openi] [--rows 601000] [--openi SHARDS] [--only exact,approximate] [--slow]

exact        every vector is looked at: recall@10 by image and by text, milliseconds for batches of 1, 16, 256 and 1,000, all in
             turns; beside the time that the machine needs at least, for the bytes that are read and the int8 operations.
approximate  recall@10 of at least 0.99 by image and, apart, by text: each peer with the fastest setting of its ladder that reaches
             it on the very queries it is timed with, and with the fastest that finds as much as medret's fastest index does;
             medret with what it certified for itself on others. Latency is of single queries on one thread, one after another;
             queries/s of all in one call. Building counts all until it can answer: of medret checking the shards, the reports' own
             index and certification too (in brackets: first stage + certificates of the images alone). --slow adds what takes
             minutes to build.

Figures are kept in the JSON as soon as they are there, and not measured again without --again: stop it and go on when you like.
On 2 cores at 601,000 rows: exact 6 min, approximate 8 min, --slow another 20. It takes 8 GB of memory.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from archive_vectors import Archive, Vectors, asked_archive
from clock import CORES, median, percentile, seconds
from contenders import RECALL, Contender, Medret, Setting, Truth, find_truth
from exact_search import exact_tables, measure_exact
from peers import approximate_peers
from results_file import Results, archive_options, installed, milliseconds, options, table

SECTIONS = ("exact", "approximate")
EXACT_KINDS = ("flat", "scan")
KINDS = ("scan", "ivf-scan", "ivf-pq", "ivf-flat", "ivf-rabitq", "hnsw")
SOON = 60.0  # seconds: an index that builds within them is one that need not be planned for
_TRIED = 100  # single queries that decide which of the settings that reach the recall is fastest


def main() -> None:
    """Measure what the JSON does not hold, and print the tables."""
    parser = options(__doc__, SECTIONS)
    archive_options(parser)
    parser.add_argument("--slow", action="store_true", help="also the indexes that take minutes to build")
    parser.add_argument("--contenders", nargs="+", default=[""], help="of the approximate ones, only those whose names hold one of these")
    given = parser.parse_args()
    archive = asked_archive(given)
    about = {"script": "search", "set": given.set, "rows": archive.table().rows, "quick": given.quick}
    results = Results(given.json or given.work / f"search-{archive.name}.json", about, given.again)
    vectors = archive.vectors()
    truths = {asker: find_truth(vectors, queries) for asker, queries in archive.queries.items()}
    wanted = given.only.split(",")
    if "exact" in wanted:
        results.measure("exact", lambda: _exact(archive, vectors, truths, given.quick))
    if "approximate" in wanted:
        contenders = [Medret(kind) for kind in KINDS] + approximate_peers(*vectors.shape)
        for contender in contenders:
            if (given.slow or not contender.slow) and any(part in contender.name for part in given.contenders):
                _approximate(results, contender, archive, vectors, truths, given.quick)
    print(report(results, archive))


def _exact(archive: Archive, vectors: Vectors, truths: dict[str, Truth], quick: bool) -> dict[str, Any]:
    medrets = [Medret(kind) for kind in EXACT_KINDS]
    for medret in medrets:
        medret.build(archive, vectors)
    return measure_exact(archive, vectors, truths, medrets, quick)


def _approximate(results: Results, contender: Contender, archive: Archive, vectors: Vectors, truths: dict[str, Truth], quick: bool) -> None:
    if contender.package != "medret" and installed(contender.package) is None:
        print(f"NOT MEASURED: {contender.name}: pip install {contender.package}", flush=True)
        return
    goals = {} if isinstance(contender, Medret) else {asker: goal for asker in truths if (goal := _goal(results, asker))}
    results.measure(
        f"approximate: {contender.name}", lambda: measure_approximate(contender, archive, vectors, truths, 30 if quick else None, goals)
    )


def _goal(results: Results, asker: str) -> float | None:
    """The recall of medret's fastest index that reaches the recall and builds soon, of those that are measured."""
    every = [results.get(name) for name in results.names("approximate: ")]
    ours = [one["askers"][asker] for one in every if one["medret"] and one["build"] <= SOON and one["askers"][asker]["recall"] >= RECALL]
    return min(ours, key=lambda taken: float(taken["p50"]))["recall"] if ours else None


def measure_approximate(
    contender: Contender,
    archive: Archive,
    vectors: Vectors,
    truths: dict[str, Truth],
    singles: int | None = None,
    goals: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Build it, and for each kind of query find its fastest setting that reaches the recall, and time that.

    Args:
        contender: Closed when done.
        truths: By kind of query.
        singles: Single queries to time; all when None.
        goals: Other recalls, by kind of query, whose fastest settings are timed as well, as "same".
    """
    built = seconds(lambda: contender.build(archive, vectors))
    figures: dict[str, Any] = {"build": built, "bytes": contender.bytes(), "medret": isinstance(contender, Medret), "askers": {}}
    if isinstance(contender, Medret):
        figures |= {"certificates": contender.certificates(), "parts": dict(contender.parts)}
    for asker, queries in archive.queries.items():
        chosen = partial(_timed, contender, asker, queries, vectors, truths[asker], singles)
        figures["askers"][asker] = chosen(RECALL)
        if goals and asker in goals:
            figures["askers"][asker]["same"] = chosen(goals[asker])
    contender.close()
    return figures


def _timed(
    contender: Contender, asker: str, queries: Vectors, vectors: Vectors, truth: Truth, singles: int | None, goal: float
) -> dict[str, Any]:
    setting, recall = choose(contender, asker, queries, vectors, truth, goal)
    times = single_times(contender, queries[:singles], setting)
    return {
        "setting": setting.words,
        "recall": recall,
        "p50": median(times),
        "p99": percentile(times, 99),
        "rates": {str(threads): batch_rate(contender, queries, setting, threads) for threads in sorted({1, CORES})},
    }


def choose(
    contender: Contender, asker: str, queries: Vectors, vectors: Vectors, truth: Truth, goal: float = RECALL
) -> tuple[Setting, float]:
    """Return the fastest setting that reaches the recall on these queries, or else that of the highest recall; and its recall."""
    reached: list[tuple[Setting, float]] = []
    best: tuple[Setting, float] | None = None
    for steps in contender.ladder(asker):
        tried = [(steps[-1], _recall(contender, steps[-1], queries, vectors, truth))]
        if len(steps) > 1 and tried[0][1] >= goal:  # the dearest step reaches it: which is the cheapest that does?
            for setting in steps[:-1]:
                tried.append((setting, _recall(contender, setting, queries, vectors, truth)))
                if tried[-1][1] >= goal:
                    break
        best = max([*tried, *([best] if best else [])], key=lambda pair: pair[1])
        enough = [pair for pair in tried if pair[1] >= goal]
        reached += enough[-1:]
        if enough and (len(steps) == 1 or enough[-1][0] is steps[0]):
            break  # whatever comes is dearer in both
    if not reached:
        assert best is not None
        return best
    return min(reached, key=lambda pair: median(single_times(contender, queries[:_TRIED], pair[0])))


def single_times(contender: Contender, queries: Vectors, setting: Setting) -> list[float]:
    """Return the seconds of each query, one after another on one thread, after some to warm up."""
    for query in queries[:20]:
        contender.search(query[None], setting, 1)
    return [seconds(lambda query=query: contender.search(query[None], setting, 1)) for query in queries]


def batch_rate(contender: Contender, queries: Vectors, setting: Setting, threads: int) -> float:
    """Return queries/s of all in one call, the median of three."""
    return len(queries) / median([seconds(lambda: contender.search(queries, setting, threads)) for _ in range(3)])


def _recall(contender: Contender, setting: Setting, queries: Vectors, vectors: Vectors, truth: Truth) -> float:
    return truth.recall(contender.search(queries, setting, CORES), queries, vectors)


def report(results: Results, archive: Archive) -> str:
    """Return what the JSON holds as Markdown, for RESULTS.md."""
    packages = ("torch", "faiss-cpu", "numpy", "usearch", "hnswlib", "lancedb", "sentence-transformers")
    parts = [f"### {archive.name}", "", results.heading(packages)]
    if results.names("exact"):
        parts += ["", "#### Exact grade", "", exact_tables(results.get("exact"))]
    found = {name.removeprefix("approximate: "): results.get(name) for name in results.names("approximate: ")}
    for asker in archive.queries if found else ():
        parts += ["", f"#### {asker} queries, recall@10 ≥ {RECALL}", "", *_approximate_tables(found, asker)]
    promises = [f"- {name}: {line}" for name, figures in found.items() for line in figures.get("certificates", [])]
    return "\n".join([*parts, *(["", "What medret certified while it built:", "", *promises] if promises else [])])


def _approximate_tables(found: dict[str, dict[str, Any]], asker: str) -> list[str]:
    rows = []
    for name, figures in sorted(
        found.items(), key=lambda pair: (pair[1]["askers"][asker]["recall"] < RECALL, pair[1]["askers"][asker]["p50"])
    ):
        taken = figures["askers"][asker]
        rates = [f"{rate:,.0f}" for rate in taken["rates"].values()]
        recall = f"{taken['recall']:.4f}" + ("" if taken["recall"] >= RECALL else " (never reached)")
        times = [milliseconds(taken["p50"]), milliseconds(taken["p99"])]
        parts = " + ".join(f"{part:.1f}" for part in figures.get("parts", {}).values())
        rows.append(
            [
                name,
                f"{figures['build']:.1f}" + (f" ({parts})" if parts else ""),
                f"{figures['bytes'] / 1e6:,.0f}",
                taken["setting"],
                recall,
                *times,
                *rates,
            ]
        )
    threads = next(iter(found.values()))["askers"][asker]["rates"]
    columns = ["index", "build s", "MB", "setting", "recall@10", "p50 ms", "p99 ms", *(f"queries/s, {count} thr." for count in threads)]
    return [table(columns, rows), "", verdict(found, asker)]


def verdict(found: dict[str, dict[str, Any]], asker: str) -> str:
    """Say how medret's fastest compares with the fastest peer, among those that reach the recall and build within a minute."""
    soon = {name: figures for name, figures in found.items() if figures["build"] <= SOON and figures["askers"][asker]["recall"] >= RECALL}
    sides = [{name: figures for name, figures in soon.items() if figures["medret"] is ours} for ours in (True, False)]
    if not all(sides):
        return f"Of {'medret' if not sides[0] else 'the peers'} none reaches {RECALL} and builds within {SOON:.0f} s."
    parts = []
    most = str(max(map(int, next(iter(found.values()))["askers"][asker]["rates"])))
    for what, better in (("p50", min), ("rate", max)):

        def figure(name: str, what: str = what) -> float:
            taken = soon[name]["askers"][asker]
            return float(taken["p50"] if what == "p50" else taken["rates"][most])

        ours, theirs = (better(side, key=figure) for side in sides)
        ratio = figure(theirs) / figure(ours) if what == "p50" else figure(ours) / figure(theirs)
        parts.append(f"{'latency' if what == 'p50' else 'queries/s'}: {ours} is {ratio:.2f} × as fast as {theirs}")
    said = f"Among those that reach {RECALL} and build within {SOON:.0f} s: {'; '.join(parts)}."
    return " ".join([said, *_same_recall(found, min(sides[0], key=lambda name: float(soon[name]["askers"][asker]["p50"])), asker)])


def _same_recall(found: dict[str, dict[str, Any]], ours: str, asker: str) -> list[str]:
    """Say how fast the peers are that find as much as medret's fastest index does, where that was measured."""
    own = found[ours]["askers"][asker]
    peers = {name: one["askers"][asker]["same"] for name, one in found.items() if one["build"] <= SOON and "same" in one["askers"][asker]}
    enough = {name: same for name, same in peers.items() if same["recall"] >= own["recall"]}
    if not enough:
        return [f"None of them finds as much as {ours} does ({own['recall']:.4f})."] if peers else []
    name, same = min(enough.items(), key=lambda pair: float(pair[1]["p50"]))
    taken = f"{name} takes {milliseconds(same['p50'])} ms ({same['setting']}; {same['recall']:.4f})"
    return [f"To find as much as {ours} ({own['recall']:.4f}), {taken}: {ours} is {same['p50'] / own['p50']:.2f} × as fast."]


if __name__ == "__main__":
    main()
