"""Films as a page embeds them: small JPEGs in data URIs."""

import base64
import io
from pathlib import Path

from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import read_image

LONGER_SIDE = 420  # pixels: sharp at the 210 CSS pixels that pages show


def film_picture(path: Path | None, side: int = LONGER_SIDE) -> str | None:
    """Return the film as a data URI, windowed as the encoder sees it, at most `side` pixels a side; None where it cannot be read."""
    if path is None:
        return None
    try:
        film = Image.fromarray(read_image(path))
    except MedretError:
        return None
    film.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(film, "JPEG", quality=85)


def data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    """Encode a picture as "JPEG" or "PNG" into a data URI; options are Pillow's."""
    held = io.BytesIO()
    picture.save(held, format=kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(held.getvalue()).decode("ascii")
