"""JPEG, PNG and DICOM bytes in, grey levels out."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from encoders.dicom_pixels import PACKAGES, decode_dicom, is_dicom
from encoders.errors import MedretError
from encoders.film import check_size, coded_format, film_doubts, grey_of_colour, stretched

__all__ = ["DECODING", "REDUCTION", "Film", "Reduction", "decode_image", "film_doubts", "missing_decoders", "read_film", "read_image"]

DECODING = "grey8-v1"
"""The rule below from file to grey levels; another rule gives other embeddings, so its name is fingerprinted.

All: one frame, greyscale (equal channels count as grey), no equalisation.
JPEG, PNG: levels of 8 bits as they are; EXIF orientation applied; colour reduced by BT.601 luma where the
channels agree, refused where they do not; transparent pixels black; 16-bit grey stretched from its smallest
to its largest level; 16-bit PNG with colour or alpha by its high bytes.
DICOM: modality LUT or rescale, then the first VOI LUT, else the first window by its function (LINEAR,
LINEAR_EXACT, SIGMOID), to 0..255. Without either, or where it is degenerate (a width that its function does
not allow, an unknown function, or all of a film that is not constant to one grey): unsigned 8-bit values
without rescale as they are, others stretched from the smallest to the largest value, those in the range of
PixelPaddingValue left out. Then MONOCHROME1 is inverted. Overlays, shutters and PresentationLUTShape are ignored.
"""

REDUCTION = "jpeg-2x-v1"
"""How read_film decodes at a lower resolution what is shrunk anyway; names what caches hold, and is not fingerprinted.

A grey JPEG is decoded at 1/2, 1/4 or 1/8 (libjpeg does so while it decodes) if that leaves at least twice the target.
Against a full decode and antialiased resize of Open-i films enlarged to 2,500 x 3,000, with grain, at quality 95, the
square differs by 0.11 to 0.38 grey levels in the mean, 4 at most; one step further it would be 0.46 to 0.7 and 24.
"""

Reduction = Callable[[int, int], int]  # width and height of a film to the largest reduction allowed: 1, 2, 4 or 8

_MAX_BYTES = 1 << 30  # an uncompressed 16-bit film of MAX_PIXELS takes a sixth of it
_ORIENTATION = 0x0112  # the EXIF tag
_SHAPES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}


class Film(NamedTuple):
    """A film as it was decoded, and as large as it was before."""

    pixels: np.ndarray  # (ceil(height / reduction), ceil(width / reduction)) uint8, 0 is black
    width: int
    height: int
    reduction: int = 1


def read_image(path: Path, name: str | None = None) -> np.ndarray:
    """Read one film as grey levels, by the rule that DECODING names.

    What the file is, JPEG, PNG (8 or 16 bit) or DICOM, is told from its content, not from its suffix.

    Args:
        path: The file.
        name: What messages call it; the path if None. Give the id where paths may hold patient names.

    Returns:
        (H, W) uint8, 0 is black.

    Raises:
        MedretError: If the file cannot be read, is damaged, is no single greyscale film, is above 80
            megapixels, or needs a decoder that is not installed.
    """
    return read_film(path, name).pixels


def read_film(path: Path, name: str | None = None, reduction: Reduction | None = None) -> Film:
    """Read one film, at a lower resolution where `reduction` allows it; otherwise as read_image.

    Args:
        path: The file.
        name: What messages call it; the path if None.
        reduction: Asked for grey JPEGs in upright order; all else is decoded whole.

    Raises:
        MedretError: As read_image.
    """
    name = str(path) if name is None else name
    try:
        if not path.is_file():
            what = "is a folder or a device" if path.exists() else "does not exist"
            raise MedretError(f"{name}: the image {what}, expected a JPEG, PNG or DICOM file. Check the path.")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise MedretError(f"{name}: the image file has {size:,} bytes, expected at most {_MAX_BYTES:,}. Leave it out.")
        data = path.read_bytes()
    except OSError as error:
        raise MedretError(f"{name}: the image cannot be read ({error.strerror or type(error).__name__}). Check its permissions.") from error
    return _decode(data, name, reduction)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of one film; otherwise as read_image.

    Args:
        data: A whole JPEG, PNG or DICOM file.
        name: What messages call the image.

    Returns:
        (H, W) uint8, 0 is black.

    Raises:
        MedretError: As read_image.
    """
    return _decode(data, name, None).pixels


def _decode(data: bytes, name: str, reduction: Reduction | None) -> Film:
    if not data:
        raise MedretError(f"{name}: the image file is empty. Copy it again.")
    if is_dicom(data):
        return _whole(decode_dicom(data, name))
    for shape, magic in _SHAPES.items():
        if data.startswith(magic):
            return _decode_picture(data, shape, name, reduction)
    raise MedretError(f"{name}: neither JPEG, PNG nor DICOM (it starts with {data[:8].hex(' ')}). Convert it or leave it out.")


def missing_decoders() -> list[str]:
    """Name the packages of the dicom extra that are not installed, as pip calls them; empty if all are there."""
    return [package for module, package in PACKAGES.items() if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    return sys.modules[module] is not None if module in sys.modules else find_spec(module) is not None


def _whole(pixels: np.ndarray) -> Film:
    return Film(pixels, width=pixels.shape[1], height=pixels.shape[0])


def _decode_picture(data: bytes, shape: str, name: str, reduction: Reduction | None) -> Film:
    claimed = coded_format(data)
    if claimed is not None:
        check_size(claimed.width, claimed.height, name)  # before Pillow, which would warn of a bomb or decode it
    try:
        with Image.open(BytesIO(data), formats=[shape]) as image:
            check_size(*image.size, name)
            width, height = image.size
            if reduction is not None and image.mode == "L" and shape == "JPEG" and image.getexif().get(_ORIENTATION, 1) == 1:
                by = reduction(width, height)
                if by > 1:
                    image.draft("L", (width // by, height // by))
                    assert image.size == (-(-width // by), -(-height // by))
                return Film(np.array(image), width, height, by)
            image.load()
            return _whole(_grey(ImageOps.exif_transpose(image), name))
    except MedretError:
        raise
    except UnidentifiedImageError as error:
        raise MedretError(f"{name}: starts like a {shape} but cannot be read as one: damaged or cut short. Copy it again.") from error
    except Exception as error:  # a damaged file makes a decoder raise anything from OSError to struct.error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MedretError(f"{name}: the {shape} cannot be decoded ({reason}). Copy it again or leave it out.") from error


def _grey(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I"):  # "I;16" and, in older Pillow, "I": 16-bit grey
        return stretched(np.asarray(image).astype(np.uint16))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    return grey_of_colour(np.asarray(image.convert("RGB")), name)
