"""Encoding in a process of its own, that can be killed: forked from a server that has imported all it needs, in some 0.1 s."""

import multiprocessing
import os
import resource
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from encoders.checkpoint import load_checkpoint
from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(  # not this module: the server of Python 3.11 does not know the path of the tests
    [
        "encoders.checkpoint",
        "encoders.prompt",
        "index.encode",
        "index.corpora.table",
        "transformers.models.bert.modeling_bert",
        "transformers.models.resnet.modeling_resnet",
    ]
)


class Encoding:
    """A process that encodes; it says when it begins, and what came of it: None, or the message of its MedretError."""

    def __init__(self, corpus: Path, encoder: Path, out: Path, options: EncodeOptions, **limits: Any) -> None:
        self._said, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_encode, args=(theirs, corpus, encoder, out, options, limits), daemon=True)
        self.process.start()
        theirs.close()
        assert self._said.recv() == "begins"

    def outcome(self) -> str | None:
        said: str | None = self._said.recv()
        self.process.join()
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _encode(said: Connection, corpus: Path, encoder: Path, out: Path, options: EncodeOptions, limits: dict[str, Any]) -> None:
    loaded = load_checkpoint(encoder)
    opened = open_corpus(corpus)
    if "file_bytes" in limits:  # the kernel lets no file grow beyond it, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], resource.RLIM_INFINITY))
    if "user" in limits:
        os.setuid(limits["user"])
    said.send("begins")
    try:
        encode_corpus(opened, loaded, out, checkpoint=encoder, options=options)
    except MedretError as error:
        said.send(str(error))
    else:
        said.send(None)
