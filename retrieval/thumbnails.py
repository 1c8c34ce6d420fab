"""Films as they stand in a page: small JPEGs within it."""

import base64
import io
from pathlib import Path

from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import read_image

THUMBNAIL = 420  # pixels on the longer side: sharp at the 210 CSS pixels that pages show


def thumbnail(path: Path | None, side: int = THUMBNAIL) -> str | None:
    """Return the film as a data URI, at most `side` pixels wide and high; None where it cannot be read: a page says so in its place."""
    if path is None:
        return None
    try:
        film = Image.fromarray(read_image(path))
    except MedretError:
        return None
    film.thumbnail((side, side), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    film.save(held, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")
