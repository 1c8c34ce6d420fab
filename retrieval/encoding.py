"""Texts and films through an encoder into vectors, a batch at a time: for queries, and to validate while training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from encoders.image_half import ImageHalf


class FilmRows(Protocol):
    """(N, S, S) uint8 films, of which some can be had at a time: an array, or what reads one."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]: ...


def encode_texts(encoder: "DualEncoder", texts: Sequence[str], vector: str = "joint", batch_size: int = 64) -> NDArray[np.float32]:
    """Encode N texts, at least one, into (N, D) float32 unit vectors: "joint" or "features"."""
    import torch

    with torch.inference_mode():
        parts = [getattr(encoder.encode_texts(texts[start : start + batch_size]), vector) for start in range(0, len(texts), batch_size)]
        vectors: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    return vectors


def encode_labels(encoder: "DualEncoder", names: Sequence[str], vector: str = "joint") -> NDArray[np.float32]:
    """Encode N labels, at least one, through their continuous prompts into (N, D) float32 unit vectors: "joint" or "features"."""
    import torch

    with torch.inference_mode():
        vectors: NDArray[np.float32] = getattr(encoder.encode_labels(names), vector).float().cpu().numpy()
    return vectors


def encode_films(encoder: "DualEncoder | ImageHalf", films: FilmRows, vector: str = "joint", batch_size: int = 32) -> NDArray[np.float32]:
    """Encode N films, at least one, (N, S, S) uint8 as the encoder's preprocessing makes them, into (N, D) float32 unit vectors."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(films), batch_size):
            batch = torch.from_numpy(np.array(films[start : start + batch_size])).to(encoder.device)  # a copy: films may be mapped
            parts.append(getattr(encoder.encode_images(batch), vector))
        vectors: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    return vectors
