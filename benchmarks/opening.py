"""From nothing to the first answer: a new process opens an index and finds the neighbours of a stored vector.

python benchmarks/opening.py WORK [--set clip|openi] [--rows 601000] [--openi SHARDS] [--only warm,cold]

Of each way several new processes, in turns, after one that is not counted: milliseconds until the imports are done, for opening
and the first answer, for a second answer; and how much memory is resident then: anonymous (its own alone) and pages of files,
which all processes share. Warm: all files lie in the page cache. Cold: the files of the index and its shards were dropped from
it before each (checked by mincore), Python's own were not. The last row of a kind is the command `medret query --id`, whole.
On 2 cores at 601,000 rows: 5 min, of which 1 min builds what is missing; the FAISS files take 2.6 GB of disk.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from archive_vectors import Archive, asked_archive
from clock import cached_share, files_under, forget, median
from contenders import Medret
from opening_process import ASKED
from peers import usual_lists
from results_file import Results, archive_options, milliseconds, options, table

SECTIONS = ("warm", "cold")
KINDS = ("flat", "scan", "ivf-scan")
FAISS = {"faiss read_index, Flat": "flat", "faiss mapped, Flat": "flat", "faiss read_index, IVF": "ivf", "faiss mapped, IVF": "ivf"}
CHILD = Path(__file__).with_name("opening_process.py")


def main() -> None:
    """Measure what the JSON does not hold, and print the tables."""
    parser = options(__doc__, SECTIONS)
    archive_options(parser)
    given = parser.parse_args()
    archive = asked_archive(given)
    ways = _prepare(archive)
    about = {"script": "opening", "set": given.set, "rows": archive.table().rows, "quick": given.quick}
    results = Results(given.json or given.work / f"opening-{archive.name}.json", about, given.again)
    for section in given.only.split(","):
        times = 2 if given.quick else 5 if section == "warm" else 3
        results.measure(section, lambda section=section, times=times: {"ways": measure(ways, times, cold=section == "cold")})
    print("\n".join([f"### {archive.name}: opening", "", results.heading(("torch", "faiss-cpu", "pyarrow")), "", report(results)]))


def measure(ways: dict[str, tuple[list[str], list[Path]]], times: int, cold: bool) -> dict[str, dict[str, float]]:
    """Run every way in turns.

    Args:
        ways: Name to the command of a process and the files that it reads.
        times: Processes of each that count.

    Returns:
        Medians by way; see opening_process.py. "process": seconds from its start to its end.
    """
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for turn in range(times + 1):
        for name, (command, files) in ways.items():
            if cold:
                forget(files)
            else:
                read_files(files)
            began = time.time()
            told_by_itself = str(CHILD) in command
            done = subprocess.run([*command, repr(began)] if told_by_itself else command, capture_output=True, text=True)
            ended = time.time() - began
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            if turn:
                told = json.loads(done.stdout) if told_by_itself else {}
                taken[name].append({"process": ended, **told})
    return {name: {key: median([one[key] for one in found]) for key in found[0]} for name, found in taken.items()}


def report(results: Results) -> str:
    """Return the figures as Markdown."""
    columns = ["way", "imports", "open + first answer", "second answer", "whole process, ms", "anonymous MB", "file pages MB"]
    parts = []
    for section in results.names(""):
        rows = []
        for name, found in results.get(section)["ways"].items():
            times = [milliseconds(found.get(key)) for key in ("imports", "first", "second", "process")]
            rows.append([name, *times, *(f"{found[key] / 1e6:,.0f}" if key in found else None for key in ("anonymous", "file"))])
        parts += [f"{section} page cache, ms", "", table(columns, rows), ""]
    return "\n".join(parts)


def _prepare(archive: Archive) -> dict[str, tuple[list[str], list[Path]]]:
    """Build what is missing, and return each way's command and files."""
    ways: dict[str, tuple[list[str], list[Path]]] = {}
    me, asked = [sys.executable, str(CHILD)], f"i{ASKED % archive.table().rows:09d}"
    for kind in KINDS:
        folder = archive.folder / f"index-{kind}"
        if not (folder / "index.json").is_file():
            Medret(kind).build(archive, np.empty((0, 0), np.float32))
        files = files_under(folder, archive.shards)
        ways[f"medret {kind}"] = ([*me, "medret", str(folder)], files)
        query = [str(Path(sys.executable).with_name("medret")), "query", "--id", asked, "--index", str(folder)]
        if not Path(query[0]).is_file():  # another environment that has this one's packages
            query[:1] = [sys.executable, "-c", "from retrieval.cli import main; main()"]
        ways[f"`medret query --id`, {kind}"] = (query, files)
    for name, kind in FAISS.items():
        path = archive.folder / f"faiss-{kind}.index"
        if not path.is_file():
            _write_faiss(archive, kind, path)
        ways[name] = ([*me, "mapped" if "mapped" in name else "read", str(path)], [path])
    gc.collect()
    return ways


def _write_faiss(archive: Archive, kind: str, path: Path) -> None:
    import faiss

    vectors = archive.vectors()
    factory = "Flat" if kind == "flat" else f"IVF{usual_lists(len(vectors))},Flat"
    built = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    built.train(vectors)
    built.add(vectors)
    np.save(path.with_suffix(".npy"), vectors[[ASKED % len(vectors)]])
    faiss.write_index(built, str(path))


def read_files(files: Sequence[Path]) -> None:
    """Have files in the page cache."""
    for path in files:
        if cached_share(path) < 1:
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


if __name__ == "__main__":
    main()
