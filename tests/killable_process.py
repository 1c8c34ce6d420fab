"""A process that can be killed at any moment: forked from a server that has imported all it needs, in some 0.1 s."""

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(  # none of the tests' own: the server of Python 3.11 does not know their path
    [
        "encoders.checkpoint",
        "encoders.prompt",
        "index.askers",
        "index.compact",
        "index.contract",
        "index.corpora.table",
        "index.encode",
        "index.life",
        "index.kinds",
        "faiss",
        "transformers.models.bert.modeling_bert",
        "transformers.models.resnet.modeling_resnet",
    ]
)


class KillableProcess:
    """A process that says when it begins, and what came of it.

    Args:
        target: Called in it with a connection, on which it calls `begin`, then sends the outcome; the arguments; and the limits.
        arguments: For the target.
        limits: "file_bytes": no file may grow beyond it; "user": who it runs as.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any, **limits: int) -> None:
        self._said, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=target, args=(theirs, *arguments, limits), daemon=True)
        self.process.start()
        theirs.close()
        assert self._said.recv() == "begins"

    def outcome(self) -> Any:
        """Wait for its end, and return what it said."""
        said = self._said.recv()
        self.process.join()
        return said

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.join()


def begin(said: Connection, limits: dict[str, int]) -> None:
    """In the process: take on the limits, and say that what shall be watched begins."""
    if "file_bytes" in limits:  # the kernel lets no file grow beyond it, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], resource.RLIM_INFINITY))
    if "user" in limits:
        os.setuid(limits["user"])
    said.send("begins")
