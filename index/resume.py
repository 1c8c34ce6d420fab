"""How an interrupted encoding goes on: its plan, what was committed, and the locks that keep processes out of each other's way."""

import csv
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.atomic import private_folder, whole_file
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from index.manifest import PRIVATE_PATHS, SHARDS_PLAN, ShardFile

LOCK = ".lock"  # in a folder: held by whoever writes there

_COMMITS = "commits"
_SHARD = re.compile(r"\.\w+-(\d+)\.(arrow|json)\..*part")  # of which number a half-written shard or commit is


class OtherRunError(MedretError):
    """A folder holds another run; `difference` says how its plan differs."""

    def __init__(self, out: Path, difference: str) -> None:
        super().__init__(f"{out}: holds shards of another run ({difference}). Name another --out, or remove that folder to start anew")
        self.difference = difference


@dataclass(frozen=True, slots=True)
class Commit:
    """A finished shard.

    Attributes:
        failures: Record id and reason of each image of its chunk that has no row in it.
        cut: How many of its texts are longer than the encoder reads.
    """

    shard: ShardFile
    failures: list[tuple[str, str]]
    cut: int


def read_plan(out: Path) -> Mapping[str, Any] | None:
    """Return the plan of the run that `out` holds, or None."""
    path = out / SHARDS_PLAN
    return read_json(path) if path.is_file() else None


def check_place(out: Path) -> None:
    """Refuse a folder that holds other things; nothing is written.

    Raises:
        MedretError: If it holds things that are no shards.
    """
    if out.is_dir() and not (out / SHARDS_PLAN).is_file():
        others = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
        if others:
            raise MedretError(f"{out}: is no shards folder and not empty (it holds {others[0]}). Choose another --out")


def begin(out: Path, plan: Mapping[str, Any], rank: int = 0, size: int = 1) -> None:
    """Write the plan, or check that an earlier run had the same; remove what this process, killed, left half-written.

    Call it with `planning` held. A process that shares the work removes no other one's half-written shards.

    Raises:
        OtherRunError: If `out` holds another run.
    """
    before = read_plan(out)
    if before is not None:
        for item, now in plan.items():
            if before.get(item) != now:
                raise OtherRunError(out, f"{item}: {_short(before.get(item))}, now {_short(now)}")
    else:
        write_json(out / SHARDS_PLAN, plan)
    private_folder(out / _COMMITS)
    folders = (out, out / _COMMITS, out / PRIVATE_PATHS.parent)  # no others: a cache in here has locks of its own
    for part in [part for folder in folders for part in folder.glob(".*.part")]:  # files, and the folder of a half-copied encoder
        shard = _SHARD.fullmatch(part.name)
        if shard is None or int(shard[1]) % size == rank:
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def write_commit(out: Path, commit: Commit) -> Commit:
    """Note that a shard is finished; call it when the shard is in its place."""
    content = {**asdict(commit.shard), "failures": commit.failures, "cut": commit.cut}
    write_json(out / _COMMITS / f"{Path(commit.shard.file).stem}.json", content)
    return commit


def read_commit(out: Path, file: str) -> Commit | None:
    """Return the commit of a shard that is there in full; None where the shard or its commit is missing or damaged: make it again."""
    path = out / _COMMITS / f"{Path(file).stem}.json"
    if not path.is_file() or not (out / file).is_file():
        return None
    try:
        content = read_json(path)
        shard = ShardFile(file=file, rows=int(content["rows"]), bytes=int(content["bytes"]), sha256=content["sha256"])
        commit = Commit(shard, [(id, reason) for id, reason in content["failures"]], int(content["cut"]))
    except (MedretError, KeyError, TypeError, ValueError):
        return None
    return commit if (out / file).stat().st_size == shard.bytes else None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file, whole or not at all, for its owner alone."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


@contextmanager
def locked(
    folder: Path, wait: bool = False, *, name: str = LOCK, shared: bool = False, advice: str = "Choose another --out"
) -> Iterator[None]:
    """Keep other processes from writing here; the lock goes with the process, however it ends.

    Args:
        folder: Where the lock file is kept.
        wait: Wait for a process that holds the lock, instead of raising.
        name: Of the lock file.
        shared: Let others in that share it too; together they keep out whoever wants it alone.
        advice: What to do where the folder cannot be written.

    Raises:
        MedretError: If another process holds the lock, or the folder cannot be written.
    """
    try:
        (folder / name).touch(mode=0o600)
        lock = (folder / name).open("w")
    except OSError as error:
        raise MedretError(f"{folder}: cannot be written ({error.strerror or error}). {advice}") from error
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise MedretError(f"{folder}: another medret is writing here. Wait for it") from error
        except OSError:  # file systems without locks: two runs would write the same bytes, each whole
            pass
        yield


def is_locked(place: Path) -> bool:
    """Whether somebody holds a lock on a file or folder, alone or with others; no where it is gone, or cannot be locked."""
    try:
        handle = os.open(place, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


@contextmanager
def encoding(out: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    """Hold a shards folder for one process, or for one of several that share the work, each with a rank of its own.

    Raises:
        MedretError: As locked.
    """
    with ExitStack() as held:
        held.enter_context(locked(out, shared=size > 1))
        if size > 1:
            held.enter_context(locked(out, name=f".lock-{rank}"))
        yield


def planning(out: Path) -> AbstractContextManager[None]:
    """Hold the plan and the manifest of a shards folder among the processes that share the work; waits for them."""
    return locked(out, wait=True, name=".lock-plan")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:40] + "…"
