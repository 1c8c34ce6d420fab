"""JSON files that hold one object, read without loading anything heavy."""

import json
from pathlib import Path
from typing import Any

from encoders.errors import MedretError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MedretError: If the file is missing, no JSON, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MedretError(f"{path}: cannot be read ({error.strerror}). Expected an encoder's folder.") from error
    except ValueError as error:
        raise MedretError(f"{path}: not JSON ({' '.join(str(error).split())}). Copy the file again.") from error
    if not isinstance(values, dict):
        raise MedretError(f"{path}: holds a {type(values).__name__}, expected an object. Copy the file again.")
    return values
