"""Similarity maps as a page lays them over its films."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.errors import MedretError
from retrieval.pictures import data_uri

if TYPE_CHECKING:
    from encoders.dual import DualEncoder

LONGER_SIDE = 140  # pixels: five to a cell of the finer map of a 224-pixel square, and few bytes
_LEVELS = 64
_OPACITY = 0.62  # of the peak: the film stays readable below
_FAINT, _STRONG = (255, 205, 70), (240, 60, 40)


@dataclass(frozen=True, slots=True)
class FilmMap:
    """A similarity map over a whole film.

    Attributes:
        picture: A transparent PNG of the film's shape, as a data URI.
        left: Of the peak, in percent of the film's width.
        top: Of the peak, in percent of the film's height.
    """

    picture: str
    left: float
    top: float


def draw_map(encoder: "DualEncoder", path: Path, query: NDArray[np.float32], vector: str = "joint") -> FilmMap | None:
    """Map where a film is like a query; None where the film cannot be read, or nothing in it raises the similarity.

    Args:
        encoder: In evaluation mode.
        path: The film.
        query: (D,) float32, unit L2 norm.
        vector: The space of the query, "joint" or "features".
    """
    import torch

    from encoders.similarity_map import similarity_map

    preprocessing = encoder.config.preprocessing
    try:
        square, width, height = preprocessing.read_fitted(path)
    except MedretError:
        return None
    seen = similarity_map(encoder, torch.from_numpy(square), torch.from_numpy(np.array(query, dtype=np.float32)), vector).numpy()
    scale = LONGER_SIDE / max(width, height)
    spread = preprocessing.unsquare(seen, max(round(width * scale), 1), max(round(height * scale), 1))  # (H, W)
    if not spread.any():
        return None
    row, column = np.unravel_index(int(spread.argmax()), spread.shape)
    picture = data_uri(_coloured(spread / spread.max()), "PNG", optimize=True)
    return FilmMap(picture, 100 * (int(column) + 0.5) / spread.shape[1], 100 * (int(row) + 0.5) / spread.shape[0])


def _coloured(values: NDArray[np.float32]) -> Image.Image:
    """Colour values of 0 to 1: nothing at 0, faint yellow, strong red at 1."""
    picture = Image.fromarray(np.round(values * (_LEVELS - 1)).astype(np.uint8))
    steps = np.linspace(0, 1, _LEVELS)[:, None]
    picture.putpalette(np.round((1 - steps) * _FAINT + steps * _STRONG).astype(np.uint8).tobytes())
    picture.info["transparency"] = np.round(255 * _OPACITY * steps[:, 0] ** 1.5).astype(np.uint8).tobytes()
    return picture
