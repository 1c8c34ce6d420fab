"""Similarity maps as a page lays them over its films."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.errors import MedretError
from index.corpora.prompts import prompts_for
from retrieval.pictures import data_uri

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from retrieval.engine import SearchEngine

LONGER_SIDE = 140  # pixels: more than two to a cell of the finer map of a 224-pixel square, and few bytes
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


def beyond_normal(engine: "SearchEngine", query: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a query says beyond what the built-in prompts say of a normal film: the direction that its maps follow.

    Without this a map also shows what makes the film like any chest film; on phantoms its peak then misses the finding
    five times as often (benchmarks/RESULTS.md).

    Args:
        engine: Encodes the prompts.
        query: (D,) float32, unit L2 norm, in the joint space.

    Returns:
        (D,) float32, the query less the unit mean of the prompts.
    """
    beyond: NDArray[np.float32] = query - _normal(engine)[1]
    return beyond


def says_normal(engine: "SearchEngine", query: NDArray[np.float32]) -> bool:
    """Whether a query is as near to what the built-in prompts say of a normal film as these are: a map would follow a chance remainder."""
    prompts, normal = _normal(engine)
    return bool(query @ normal >= (prompts @ normal).min())


def _normal(engine: "SearchEngine") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The prompts of a normal film, (P, D), and their unit mean, (D,)."""
    prompts = engine.encode_texts(prompts_for("No Finding"))
    mean = prompts.mean(axis=0)
    return prompts, mean / np.linalg.norm(mean)


def draw_map(encoder: "DualEncoder", path: Path, direction: NDArray[np.float32], vector: str = "joint") -> FilmMap | None:
    """Map what moves a film in a direction; None where the film cannot be read, or nothing in it does.

    Args:
        encoder: In evaluation mode.
        path: The film.
        direction: (D,) float32, as `beyond_normal` makes it, or a query.
        vector: The space of the direction, "joint" or "features".
    """
    import torch

    from encoders.similarity_map import similarity_map

    preprocessing = encoder.config.preprocessing
    try:
        square, width, height = preprocessing.read_fitted(path)
    except MedretError:
        return None
    seen = similarity_map(encoder, torch.from_numpy(square), torch.from_numpy(np.array(direction, dtype=np.float32)), vector).numpy()
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
    picture.info["transparency"] = np.round(255 * _OPACITY * steps[:, 0] ** 2.5).astype(np.uint8).tobytes()
    return picture
