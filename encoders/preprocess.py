"""Grey levels in, normalised tensors out: the one path of training, encoding and querying."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import DECODING, Film, read_film

if TYPE_CHECKING:
    from torch import Tensor  # torch loads where tensors are made, so that workers which only decode stay small

Fit = Literal["pad", "crop", "squash"]
Resampling = Literal["bilinear", "bicubic"]


class Fitted(NamedTuple):
    """A film brought to a square, and as large as it was before."""

    square: np.ndarray  # (S, S) uint8
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a film becomes the tensor that an image backbone reads; part of a checkpoint's fingerprint.

    Raises:
        ValueError: If a setting is out of its range.
    """

    size: int = 224  # pixels, side of the square
    fit: Fit = "pad"
    mean: float | tuple[float, float, float] = 0.5  # of grey levels in 0..1, one for all three channels or one for each
    std: float | tuple[float, float, float] = 0.25  # the same; Open-i films have 0.58 and 0.25
    resampling: Resampling = "bicubic"  # Pillow's, which widens its kernel when shrinking: antialiased
    decoding: str = DECODING

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"size is {self.size!r}, expected a whole number above 0")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit is {self.fit!r}, expected one of {', '.join(get_args(Fit))}")
        if self.resampling not in get_args(Resampling):
            raise ValueError(f"resampling is {self.resampling!r}, expected one of {', '.join(get_args(Resampling))}")
        if self.decoding != DECODING:
            raise ValueError(f"decoding is {self.decoding!r}, expected {DECODING!r}, the rule of this version")
        if not all(np.isfinite(_channels(self.mean))):
            raise ValueError(f"mean is {self.mean}, expected one finite number or three")
        if not all(value > 0 and np.isfinite(value) for value in _channels(self.std)):
            raise ValueError(f"std is {self.std}, expected one number above 0 or three")

    def read_square(self, path: Path) -> np.ndarray:
        """Read a film and bring it to a square: the one way of every film that is learned from, encoded or asked with.

        Films much larger than the square are decoded at a lower resolution, which changes the square by less than one
        grey level in the mean (see encoders.pixels.REDUCTION); it is computed for the film's full size all the same.

        Args:
            path: A JPEG, PNG or DICOM file.

        Returns:
            (S, S) uint8.

        Raises:
            MedretError: As encoders.pixels.read_image.
        """
        return self.read_fitted(path).square

    def read_fitted(self, path: Path, name: str | None = None, size: int | None = None) -> Fitted:
        """As read_square, with the width and height that `shrink` needs.

        Args:
            path: A JPEG, PNG or DICOM file.
            name: What messages call it; the path if None.
            size: S, side of the square in pixels; the setting's if None.
        """
        size = self.size if size is None else size
        film = read_film(path, name, partial(self._reduction, size))
        return Fitted(self._fitted(film, size), film.width, film.height)

    def square(self, pixels: np.ndarray, size: int | None = None) -> np.ndarray:
        """Bring a film to a square: what caches hold.

        "pad" scales the longer side to the square's and pads the other evenly with black; "crop" scales the
        shorter side and cuts the middle out; "squash" scales each side on its own. Small films are enlarged.

        Args:
            pixels: (H, W) uint8.
            size: S, side of the square in pixels; the setting's if None. Training may cache a larger one.

        Returns:
            (S, S) uint8.

        Raises:
            ValueError: If pixels is not (H, W) uint8 or is empty.
        """
        size = self.size if size is None else size
        if pixels.ndim != 2 or pixels.dtype != np.uint8 or not pixels.size:
            raise ValueError(f"pixels is {pixels.dtype} {pixels.shape}, expected (H, W) uint8")
        return self._fitted(Film(pixels, width=pixels.shape[1], height=pixels.shape[0]), size)

    def shrink(self, fitted: Fitted) -> np.ndarray:
        """Make the setting's square of a film from a larger one, as a cache holds it: the film lies where it lies in a direct one.

        Padding is cut off first and put on again. Resized with the film it would blur its edges, and as both squares hold
        whole pixels of the film, each rounded on its own, would shift and stretch it by up to a pixel.

        Returns:
            (S, S) uint8.
        """
        square, width, height = fitted
        left, top, inner_width, inner_height = self._place(width, height, len(square))
        return self._placed(Image.fromarray(square[top : top + inner_height, left : left + inner_width]), None, width, height, self.size)

    def unsquare(self, values: np.ndarray, width: int, height: int) -> np.ndarray:
        """Lay what is known of each pixel of a square over the film that it was made of; padding is cut off.

        Args:
            values: (S, S) float32.
            width: Of the film, or of a smaller picture of it.
            height: The same.

        Returns:
            (height, width) float32; 0 where the square does not show the film.
        """
        left, top, inner_width, inner_height = self._place(width, height, len(values))
        shown = Image.fromarray(np.ascontiguousarray(values[top : top + inner_height, left : left + inner_width], dtype=np.float32))
        if self.fit != "crop":
            return np.asarray(shown.resize((width, height), Image.Resampling.BILINEAR))
        side, film = min(width, height), np.zeros((height, width), dtype=np.float32)
        left, top = (width - side) // 2, (height - side) // 2
        film[top : top + side, left : left + side] = np.asarray(shown.resize((side, side), Image.Resampling.BILINEAR))
        return film

    def _reduction(self, size: int, width: int, height: int) -> int:
        """The largest reduction that leaves at least twice the resolution of the square."""
        excess = (max(width, height) if self.fit == "pad" else min(width, height)) / size
        return next((by for by in (8, 4, 2) if excess >= 2 * by), 1)

    def _fitted(self, film: Film, size: int) -> np.ndarray:
        image = Image.fromarray(film.pixels)
        width, height = film.width / film.reduction, film.height / film.reduction  # in decoded pixels: the last may stand for fewer
        box = (0.0, 0.0, width, height)
        if self.fit == "crop":  # a box is cut at fractions of a pixel, so that the middle stays the middle
            side = min(height, width)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        return self._placed(image, box, film.width, film.height, size)

    def _place(self, width: int, height: int, size: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of what a square shows of a film that is so wide and high; padding is around it."""
        if self.fit != "pad":
            return 0, 0, size, size
        scale = size / max(height, width)
        inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
        return (size - inner_width) // 2, (size - inner_height) // 2, inner_width, inner_height

    def _placed(self, image: Image.Image, box: tuple[float, float, float, float] | None, width: int, height: int, size: int) -> np.ndarray:
        """The square of a film that is so wide and high; `box` is what of the image goes into it."""
        left, top, inner_width, inner_height = self._place(width, height, size)
        square = Image.new("L", (size, size))
        square.paste(image.resize((inner_width, inner_height), Image.Resampling[self.resampling.upper()], box=box), (left, top))
        return np.array(square)

    def normalise(self, images: "Tensor") -> "Tensor":
        """Bring squares to what the backbone reads, (level / 255 - mean) / std in three channels, on their device.

        Args:
            images: (B, S, S) uint8, or float32 grey levels 0..255 (augmented ones); S is the setting's size.

        Returns:
            (B, 3, S, S) float32; the same for uint8 and for float32 of the same levels.

        Raises:
            ValueError: If images has another shape or dtype.
        """
        import torch

        if images.ndim != 3 or images.shape[1:] != (self.size, self.size) or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images is {images.dtype} {tuple(images.shape)}, expected uint8 or float32 (B, {self.size}, {self.size})")
        mean, std = (
            torch.tensor(_channels(value), dtype=torch.float32, device=images.device).view(1, 3, 1, 1) for value in (self.mean, self.std)
        )
        return (images[:, None].to(torch.float32) - 255 * mean) / (255 * std)  # (B, 3, S, S)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        """Read the settings that to_dict wrote.

        Raises:
            MedretError: If a key is missing or unknown, or a value is out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        wrong = sorted(set(settings) ^ set(known))
        if wrong:
            raise MedretError(
                f"preprocessing: {', '.join(wrong)} missing or unknown, expected {', '.join(known)}. Make the checkpoint again."
            )
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise MedretError(f"preprocessing: {error}. Make the checkpoint again or use the version that made it.") from error


def _channels(value: float | tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = value if isinstance(value, tuple) else (value, value, value)
    return float(red), float(green), float(blue)
