"""Encoding in a process of its own, that can be killed."""

from multiprocessing.connection import Connection
from pathlib import Path

from killable_process import KillableProcess, begin

from encoders.checkpoint import load_checkpoint
from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus


class Encoding(KillableProcess):
    """A process that encodes; its outcome is None, or the message of its MedretError."""

    def __init__(self, corpus: Path, encoder: Path, out: Path, options: EncodeOptions, **limits: int) -> None:
        super().__init__(_encode, corpus, encoder, out, options, **limits)


def _encode(said: Connection, corpus: Path, encoder: Path, out: Path, options: EncodeOptions, limits: dict[str, int]) -> None:
    loaded = load_checkpoint(encoder)
    opened = open_corpus(corpus)
    begin(said, limits)
    try:
        encode_corpus(opened, loaded, out, checkpoint=encoder, options=options)
    except MedretError as error:
        said.send(str(error))
    else:
        said.send(None)
