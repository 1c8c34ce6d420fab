"""JSON files that hold one object, read and written without loading anything heavy."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders.atomic import whole_file
from encoders.errors import MedretError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MedretError: If the file is missing, no JSON, or no object.
    """
    mend = "Copy the file again, or make its folder again."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MedretError(f"{path}: cannot be read ({error.strerror or error}). {mend}") from error
    except ValueError as error:
        raise MedretError(f"{path}: not JSON ({' '.join(str(error).split())}). {mend}") from error
    if not isinstance(values, dict):
        raise MedretError(f"{path}: holds a {type(values).__name__}, expected an object. {mend}")
    return values


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all, for its owner alone.

    Raises:
        MedretError: If the disk is full or the place cannot be written.
    """
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
