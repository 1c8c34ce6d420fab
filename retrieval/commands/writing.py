"""Files that commands write."""

from pathlib import Path

from encoders.errors import MedretError


def check_places(*paths: Path | None) -> None:
    """Say before the work, not after it, that a result cannot be written."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise MedretError(f"{path}: the folder {path.parent} does not exist. Make it, or name another file")
        if path is not None and path.exists() and not path.is_file():
            raise MedretError(f"{path}: is a folder or a device, expected a file to write")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, for its owner alone."""
    from encoders.atomic import whole_file

    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")
