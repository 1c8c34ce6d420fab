"""What counts as a film: its size, its greyness, its grey levels, and what looks wrong with it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from encoders.errors import MedretError

MAX_PIXELS = 80_000_000  # four times the largest radiography detector, and below the size at which Pillow warns
_COLOUR_SPREAD = 16  # grey levels between channels that JPEG noise and rounding can make
_COLOUR_SHARE = 0.01  # of the pixels: a small coloured marker does not make a colour picture
_INVERTED = -0.1  # correlation with a chest below which a film is doubted: 0.4 % of 1,500 Open-i films, none of 750 paediatric


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture without pixels, or one so large that decoding it would exhaust memory.

    Raises:
        MedretError: If width x height is 0 or above MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise MedretError(f"{name}: the image is {width} x {height} pixels, expected at least 1 x 1. Leave it out or export it again.")
    if width * height > MAX_PIXELS:
        raise MedretError(
            f"{name}: the image is {width} x {height} pixels, expected at most {MAX_PIXELS // 10**6} megapixels "
            "(it may be a decompression bomb). Leave it out or export it smaller."
        )


class CodedFormat(NamedTuple):
    """What the header of a compressed image claims."""

    width: int
    height: int
    precision: int  # bits a sample
    components: int


def coded_format(data: bytes) -> CodedFormat | None:
    """Read the header of a PNG, JPEG, JPEG-LS or JPEG 2000 stream, without decoding it; None where there is none.

    The components of a PNG are given as 1, whatever they are.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 25:
        return CodedFormat(_number(data, 16, 4), _number(data, 20, 4), data[24], 1)
    if data[:2] == b"\xff\xd8":
        for marker, at in jpeg_segments(data):
            is_frame = marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))  # 0xF7: JPEG-LS
            if is_frame and len(data) > at + 5:
                return CodedFormat(_number(data, at + 3, 2), _number(data, at + 1, 2), data[at], data[at + 5])
        return None
    start = data[:4096].find(b"\xff\x4f\xff\x51")  # some writers put a JP2 box before the codestream
    if start >= 0 and len(data) > start + 42:
        right, bottom, left, top = (_number(data, start + at, 4) for at in (8, 12, 16, 20))
        return CodedFormat(right - left, bottom - top, (data[start + 42] & 0x7F) + 1, _number(data, start + 40, 2))
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, where its content starts) for the segments of a JPEG or JPEG-LS stream, up to the first scan or a fault."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        yield marker, at + 4
        if marker == 0xDA:  # start of scan
            return
        at += 2 + _number(data, at + 2, 2)


def grey_of_colour(colour: np.ndarray, name: str) -> np.ndarray:
    """Reduce three channels that agree to one.

    Args:
        colour: (H, W, 3) uint8.
        name: What messages call the image.

    Returns:
        (H, W) uint8, luma of ITU-R BT.601; the channel itself where all three are equal.

    Raises:
        MedretError: If the channels differ by more than 16 levels in more than 1 % of the pixels.
    """
    red, green, blue = (colour[..., channel] for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)  # (H, W) uint8
    share = float(np.count_nonzero(spread > _COLOUR_SPREAD) / spread.size)
    if share > _COLOUR_SHARE:
        raise MedretError(f"{name}: no greyscale film: {share:.0%} of the pixels are coloured. Leave it out or export it in grey.")
    return np.asarray(Image.fromarray(colour).convert("L"))


def stretched(levels: np.ndarray) -> np.ndarray:
    """Stretch integers to the full range: the smallest becomes 0, the largest 255; a constant image becomes 0.

    Args:
        levels: (H, W) unsigned integers.

    Returns:
        (H, W) uint8, rounded to the nearest level.
    """
    low, high = int(levels.min()), int(levels.max())
    table = np.rint(np.arange(high - low + 1) * (255 / max(high - low, 1))).astype(np.uint8)
    grey: np.ndarray = table[levels - levels.dtype.type(low)]
    return grey


def film_doubts(pixels: np.ndarray) -> list[str]:
    """Say what looks wrong with a film that decodes; for a person to look at, never corrected.

    A film is doubted as inverted if it does not resemble a chest between dark air, as frontal and lateral
    films alike do: bright towards the midline and towards the abdomen.

    Args:
        pixels: (H, W) uint8.

    Returns:
        Short phrases such as "looks inverted (...)"; empty for a film without doubts.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        return [f"is constant (every pixel is {low})"]
    doubts = []
    if min(pixels.shape) < 64:
        doubts.append(f"is small ({pixels.shape[1]} x {pixels.shape[0]} pixels)")
    if high - low < 32:
        doubts.append(f"has hardly any contrast (grey levels {low} to {high})")
    if _likeness_to_a_chest(pixels) < _INVERTED:
        doubts.append("looks inverted (bright outside the body, dark along the midline and the abdomen)")
    return doubts


def _likeness_to_a_chest(pixels: np.ndarray) -> float:
    """Correlate a film, averaged over 16 x 16 fields, with 0.3 y - x^2; -1..1, 0 for a film of one grey."""
    coarse = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX), dtype=np.float64)
    middle = (np.arange(16) - 7.5) / 8  # -1..1 from the top left
    expected = 0.3 * middle[:, None] - middle[None, :] ** 2  # (16, 16)
    coarse, expected = coarse - coarse.mean(), expected - expected.mean()
    norm = float(np.linalg.norm(coarse) * np.linalg.norm(expected))
    return float((coarse * expected).sum()) / norm if norm > 0 else 0.0


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
