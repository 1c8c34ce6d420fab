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
    from encoders.export import Export
    from encoders.plain_text import PlainText
    from index.folder import OpenedIndex
    from retrieval.early_texts import EarlyTexts

_log = logging.getLogger(__name__)

MOST = 64  # texts at a time: more take as long in NumPy as loading torch


class QueryTexts:
    """Encodes the texts that an index is asked. Several threads may ask.

    Args:
        opened: The index.
        load: Returns its encoder, which takes seconds for the first time.

    Attributes:
        early: Where some of the texts are being encoded already.
    """

    def __init__(self, opened: "OpenedIndex", load: Callable[[], "DualEncoder"]) -> None:
        self._opened, self._load = opened, load
        self.early: EarlyTexts | None = None
        self._plain: PlainText | EarlyTexts | None = None
        self._opening = threading.Lock()

    def encode(self, texts: Sequence[str], vector: str = "joint", batch_size: int = 64) -> NDArray[np.float32]:
        """Encode N texts, at least one and none blank, into (N, D) float32 unit vectors, "joint" or "features"."""
        reason = why_torch(self._opened.manifest.text_encoder, "text", len(texts), MOST)
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

    def _tokenised(self) -> "PlainText | EarlyTexts | DualEncoder":
        """What knows how long texts are."""
        return self._load() if why_torch(self._opened.manifest.text_encoder, "text", 1, MOST) else self._open()

    def _open(self) -> "PlainText | EarlyTexts":
        with self._opening:
            if self._plain is None:
                check_encoder(self._opened)
                if self.early is not None and self.early.folder == self._opened.encoder_folder:
                    self._plain = self.early
                else:
                    from encoders.plain_text import PlainText

                    self._plain = PlainText(self._opened.encoder_folder)
            return self._plain


def why_torch(tried: "Export | None", half: str, count: int, most: int) -> str:
    """Say why torch encodes so many texts or films; empty where it need not.

    Args:
        tried: How that half of the encoder was found to run without torch.
        half: "text" or "image".
        count: How many are asked.
        most: How many at a time are sooner done without torch than it is loaded.
    """
    if "torch" in sys.modules:
        return "it is loaded"
    if tried is None:
        return f"the index was built before its {half} encoder was tried without torch: medret compact --rebuild tries it"
    if tried.way != "numpy":
        return tried.reason
    return f"{count} {half}s at once" if count > most else ""


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
