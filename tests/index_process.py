"""Changes of an index in a process of their own, that can be killed."""

import os
import signal
import sys
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from killable_process import KillableProcess, begin

from encoders.checkpoint import load_checkpoint
from encoders.errors import MedretError
from index.compact import compact_index
from index.corpora.readers import open_corpus
from index.folder import build_index, open_index
from index.life import add_corpus, add_options
from index.removal import remove_records

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.chmod", "shutil.rmtree"}


class Change(KillableProcess):
    """A process that changes an index; its outcome is the message of its MedretError, or None, and how many calls on files it made.

    Args:
        home: Holds encoder/ and, to add, table.csv.
        folder: The index folder.
        what: "build", "rebuild", "add", "remove" or "compact".
        last_event: It kills itself before so many of its calls on files, counted from 0; None for never.
        limits: See KillableProcess.
    """

    def __init__(self, home: Path, folder: Path, what: str, last_event: int | None = None, **limits: int) -> None:
        super().__init__(_change, home, folder, what, last_event, **limits)

    def die(self) -> None:
        """Wait until it has killed itself, or has come to its end."""
        self.process.join()


def _change(said: Connection, home: Path, folder: Path, what: str, last_event: int | None, limits: dict[str, int]) -> None:
    act = _act(home, folder, what)
    begin(said, limits)
    calls = [0]

    def count(event: str, arguments: Any) -> None:
        if event in _EVENTS:
            if calls[0] == last_event:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1

    sys.addaudithook(count)
    try:
        act()
    except MedretError as error:
        said.send((str(error), calls[0]))
    else:
        said.send((None, calls[0]))


def _act(home: Path, folder: Path, what: str) -> Any:
    if what in ("build", "rebuild"):
        return partial(build_index, folder / "shards", folder, home / "encoder", {"build": "scan", "rebuild": "ivf-scan"}[what])
    if what == "remove":
        return partial(remove_records, folder, patients=["patient0003"])
    if what == "compact":
        return partial(compact_index, folder)
    encoder, corpus = load_checkpoint(home / "encoder"), open_corpus(home / "table.csv")
    return lambda: add_corpus(folder, corpus, encoder, add_options(open_index(folder), batch_size=2, workers=2))
