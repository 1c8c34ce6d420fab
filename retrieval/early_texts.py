"""The texts of a process that asks one thing, encoded by a copy of it on another core while it imports what searches."""

import json
import os
import sys
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from encoders.plain_text import PlainText

Vectors = NDArray[np.float32]


class EarlyTexts:
    """A PlainText that has begun with some texts already, in a forked process.

    What that process fails at, because it is killed for instance, and other texts, are encoded here, where it is said what is wrong.

    Args:
        folder: The checkpoint.
        texts: As they were given.
    """

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        self.folder, self._texts, self._folded = folder, list(texts), fold(texts)
        self._pipe, end = os.pipe()
        here = os.getpid()
        try:
            if other := _fork():
                threading.Thread(target=os.waitpid, args=(other, 0), daemon=True).start()  # else it stays in the table of processes
            elif other == 0:
                self._encode_into(end)
        finally:  # whatever was raised, Ctrl-C too: there is one that goes on with the command
            if os.getpid() != here:
                os._exit(0)
        os.close(end)

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return joint vectors and features, see PlainText."""
        if list(texts) != self._folded or self._told is None:
            return self._plain.encode(texts)
        return np.array(self._told["joint"], np.float32), np.array(self._told["features"], np.float32)

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether it is longer than the encoder reads."""
        if list(texts) != self._texts or self._told is None:
            return self._plain.is_cut(texts)
        return list(self._told["cut"])

    @property
    def max_tokens(self) -> int:
        """How many tokens the encoder reads."""
        return self._plain.max_tokens

    def _encode_into(self, pipe: int) -> None:
        """Encode in the forked process, which leaves its parent's streams alone."""
        os.close(self._pipe)  # or it would wait for a parent that is gone to read it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        joint, features = self._plain.encode(self._folded)
        told = {"joint": joint.tolist(), "features": features.tolist(), "cut": self._plain.is_cut(self._texts)}
        with os.fdopen(pipe, "w") as out:
            json.dump(told, out)

    @cached_property
    def _told(self) -> dict[str, Any] | None:
        with os.fdopen(self._pipe) as pipe:
            content = pipe.read()
        return json.loads(content) if content.endswith("}") else None

    @cached_property
    def _plain(self) -> "PlainText":
        from encoders.plain_text import PlainText

        return PlainText(self.folder)


def _fork() -> int | None:
    """Return 0 in the new process and its number in this one; None where the system allows no more."""
    try:
        return os.fork()
    except OSError:
        return None


def begin_early(index_dir: Path, texts: Sequence[str]) -> EarlyTexts | None:
    """Begin to encode texts that an index will be asked, where it is known to be right without torch and a core is free.

    Raises:
        MedretError: If the folder is no index.
    """
    from index.index_manifest import load_index_manifest

    tried = (manifest := load_index_manifest(index_dir)).text_encoder
    if not texts or tried is None or tried.way != "numpy" or "torch" in sys.modules:
        return None
    free = len(os.sched_getaffinity(0)) > 1 if hasattr(os, "sched_getaffinity") else False
    return EarlyTexts(index_dir / manifest.encoder_folder, texts) if free else None


def fold(texts: Sequence[str]) -> list[str]:
    """Return texts with single spaces."""
    return [" ".join(text.split()) for text in texts]
