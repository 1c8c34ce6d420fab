"""The texts of queries into vectors: in NumPy where an index says that this agrees with torch and torch is not loaded, else by torch."""

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from index.publish import check_stored
from retrieval.encoding import encode_texts

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from encoders.plain_text import PlainText
    from index.folder import OpenedIndex

_log = logging.getLogger(__name__)

MOST = 64  # texts at a time: more take as long in NumPy as loading torch
_REBUILD = "the index was built before its text encoder was tried without torch: medret compact --rebuild tries it"


class QueryTexts:
    """Encodes the texts that an index is asked. Several threads may ask.

    Args:
        opened: The index.
        load: Returns its encoder, which takes seconds for the first time.
    """

    def __init__(self, opened: "OpenedIndex", load: Callable[[], "DualEncoder"]) -> None:
        self._opened, self._load = opened, load
        self._plain: PlainText | None = None
        self._opening = threading.Lock()

    def encode(self, texts: Sequence[str], vector: str = "joint", batch_size: int = 64) -> NDArray[np.float32]:
        """Encode N texts, at least one and none blank, into (N, D) float32 unit vectors, "joint" or "features"."""
        reason = self._against(len(texts))
        plain = None if reason else self._open()
        _log.info("%d texts encoded %s", len(texts), f"by torch: {reason}" if plain is None else "in NumPy, without torch")
        if plain is None:
            return encode_texts(self._load(), texts, vector, batch_size)
        joint, features = plain.encode(texts)
        return joint if vector == "joint" else features

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether it is longer than the encoder reads."""
        return self._tokenised().is_cut(texts)

    @property
    def max_tokens(self) -> int:
        """How many tokens the encoder reads."""
        return self._tokenised().max_tokens

    def _tokenised(self) -> "PlainText | DualEncoder":
        """What knows how long texts are."""
        return self._load() if self._against(1) else self._open()

    def _open(self) -> "PlainText":
        with self._opening:
            if self._plain is None:
                from encoders.plain_text import PlainText

                check_encoder(self._opened)
                self._plain = PlainText(self._opened.encoder_folder)
            return self._plain

    def _against(self, count: int) -> str:
        """Why torch encodes so many texts; empty where it need not."""
        if "torch" in sys.modules:
            return "it is loaded"
        tried = self._opened.manifest.text_encoder
        if tried is None:
            return _REBUILD
        if tried.way != "numpy":
            return tried.reason
        return f"{count} texts at once" if count > MOST else ""


def check_encoder(opened: "OpenedIndex") -> None:
    """Check that the files that define the encoder are those of the index, by size and probe: for what is not hashed whole.

    Others that lie beside them, such as a model card, may be written anew.

    Raises:
        MedretError: If one is missing or another.
    """
    from encoders.checkpoint import FILES

    for stored in opened.manifest.encoder_files:
        if Path(stored.file).name in FILES:
            check_stored(opened.folder, stored, advice="Copy it again from the encoder that the index was built with")
