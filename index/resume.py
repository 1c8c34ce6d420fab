"""How an interrupted encoding goes on: its plan, what was committed, and the lock that keeps a second process away."""

import csv
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.atomic import private_folder, whole_file
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from index.manifest import SHARDS_PLAN, ShardFile

_COMMITS = "commits"


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


def begin(out: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or check that an earlier run had the same; remove what a killed run left half-written.

    Raises:
        MedretError: If `out` holds another run, or things that are no shards.
    """
    path = out / SHARDS_PLAN
    if path.is_file():
        before = read_json(path)
        for item, now in plan.items():
            if before.get(item) != now:
                raise MedretError(
                    f"{out}: holds shards of another run ({item}: {_short(before.get(item))}, now {_short(now)}). "
                    "Name another --out, or remove that folder to start anew"
                )
    elif others := [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]:
        raise MedretError(f"{out}: is no shards folder and not empty (it holds {sorted(others)[0]}). Choose another --out")
    else:
        write_json(path, plan)
    private_folder(out / _COMMITS)
    for part in list(out.rglob(".*.part")):  # files, and the folder of a half-copied encoder
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def write_commit(out: Path, commit: Commit) -> Commit:
    """Note that a shard is finished; call it when the shard is in its place."""
    content = {**asdict(commit.shard), "failures": commit.failures, "cut": commit.cut}
    write_json(out / _COMMITS / f"{Path(commit.shard.file).stem}.json", content)
    return commit


def read_commit(out: Path, file: str) -> Commit | None:
    """Return the commit of a shard that is there in full; one in which every image failed is tried again."""
    path = out / _COMMITS / f"{Path(file).stem}.json"
    if not path.is_file() or not (out / file).is_file():
        return None
    content = read_json(path)
    shard = ShardFile(file=file, rows=content["rows"], bytes=content["bytes"], sha256=content["sha256"])
    if shard.rows == 0 or (out / file).stat().st_size != shard.bytes:
        return None
    return Commit(shard, [(id, reason) for id, reason in content["failures"]], content["cut"])


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file, whole or not at all, for its owner alone."""
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing here; the lock goes with the process, however it ends.

    Args:
        folder: Where the lock file is kept.
        wait: Wait for a process that holds the lock, instead of raising.

    Raises:
        MedretError: If another process holds the lock, or the folder cannot be written.
    """
    try:
        (folder / ".lock").touch(mode=0o600)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise MedretError(f"{folder}: cannot be written ({error.strerror or error}). Choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise MedretError(f"{folder}: another medret is writing here. Wait for it, or choose another --out") from error
        except OSError:  # file systems without locks: two runs would write the same bytes, each whole
            pass
        yield


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:40] + "…"
