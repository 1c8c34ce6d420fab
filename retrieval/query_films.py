"""The films of queries into vectors: in NumPy where an index says that this agrees with torch and torch is not loaded, else by torch."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.checkpoint import read_preprocessing
from encoders.errors import MedretError, UncoveredError
from index.publish import mend
from retrieval.encoding import encode_films
from retrieval.query_texts import check_encoder, why_torch

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from encoders.image_half import ImageHalf
    from encoders.plain_image import PlainImage
    from index.folder import OpenedIndex

_log = logging.getLogger(__name__)

MOST = 8  # films at a time: more take as long in NumPy as loading torch


class QueryFilms:
    """Encodes the films that an index is asked with. Several threads may ask.

    Args:
        opened: The index.
        load: Returns what encodes its films by torch, which takes seconds for the first time.
    """

    def __init__(self, opened: "OpenedIndex", load: "Callable[[], DualEncoder | ImageHalf]") -> None:
        self._opened, self._load = opened, load
        self._plain: PlainImage | None = None
        self._opening = threading.Lock()

    def encode(self, paths: Sequence[Path], vector: str = "joint") -> NDArray[np.float32]:
        """Encode N films, at least one, into (N, D) float32 unit vectors, "joint" or "features", by the path that the corpus took.

        Raises:
            MedretError: If a file is no readable greyscale film, or what the index holds to encode films is damaged.
        """
        read = read_preprocessing(self._opened.encoder_folder).read_square
        with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
            squares = np.stack(list(pool.map(read, paths)))  # (N, S, S)
        reason = why_torch(self._opened.manifest.image_encoder, "image", len(paths), MOST)
        _log.info("%d films encoded %s", len(paths), f"by torch: {reason}" if reason else "in NumPy, without torch")
        if reason:
            return encode_films(self._load(), squares, vector)
        try:
            joint, features = self._open().encode(squares)
        except UncoveredError as error:
            raise MedretError(f"{self._opened.folder}: {error}. {mend(self._opened.folder)}") from error
        return joint if vector == "joint" else features

    def _open(self) -> "PlainImage":
        with self._opening:
            if self._plain is None:
                from encoders.plain_image import PlainImage, RecordedNetwork

                assert self._opened.manifest.image_encoder is not None
                check_encoder(self._opened)
                network = RecordedNetwork.from_text(self._opened.manifest.image_encoder.network)
                self._plain = PlainImage(self._opened.encoder_folder, network)
            return self._plain
