"""A page shown in the user's browser."""

import os
import tempfile
import webbrowser
from pathlib import Path

from encoders.errors import MedretError


def open_page(page: str) -> Path:
    """Write a page to a temporary file that only its owner may read, and open it; the file stays.

    Raises:
        MedretError: If no browser can be started; the page is written all the same.
    """
    handle, name = tempfile.mkstemp(prefix="medret-", suffix=".html")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(page)
    path = Path(name)
    if not webbrowser.open(path.as_uri()):
        raise MedretError(f"{path}: the page is there, but no browser could be started. Open it by hand, or set BROWSER to a browser")
    return path
