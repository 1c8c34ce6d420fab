"""A folder tree of JPEG and PNG films and nothing else: a record for each file."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from index.corpora.record import Record, Tally
from index.corpora.tree import walk_files

SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case

_PLAIN_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,4}")  # others ("scan.doe_john") are not repeated


def recognises_images(root: Path) -> bool:
    """Whether the folder tree holds a JPEG or PNG file, by the suffix; it is walked until the first."""
    return root.is_dir() and any(_refusal(root, path) is None for path in walk_files(root, Tally()))


def findings_images(root: Path) -> tuple[str, ...]:
    """Return no findings: films alone bear no labels."""
    return ()


def read_images(root: Path, tally: Tally) -> Iterator[Record]:
    """Yield a record for each JPEG or PNG file of a folder tree, folders and files in the order of their names.

    The record's id is the path inside the folder, without its suffix; where another image of the folder would get the same
    id (a.jpg beside a.png), both keep it. Patient, study and view are not known: names of folders are not guessed at. Files
    are told by their suffix and not opened.

    Args:
        root: Any folder; links are followed, each folder once.
        tally: Counts what was left out: hidden files (a name that begins with a dot, or one in such a folder) and other
            files by their suffix, besides what walk_files counts.
    """
    root = root.absolute()
    ambiguous = lru_cache(maxsize=64)(_ambiguous)  # more folders than a path goes deep
    for path in walk_files(root, tally):
        relative = path.relative_to(root)
        reason = _refusal(root, path)
        if reason is not None:
            tally.leave_out(reason, relative.as_posix())
            continue
        unique = path.name not in ambiguous(path.parent)
        yield Record(id=(relative.with_suffix("") if unique else relative).as_posix(), image=path)


def _refusal(root: Path, path: Path) -> str | None:
    """Why a file becomes no record, or None."""
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return "hidden file"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    what = "no suffix" if not suffix else suffix if _PLAIN_SUFFIX.fullmatch(suffix) else "another suffix"
    return f"file that is no JPEG or PNG ({what})"


def _ambiguous(folder: Path) -> set[str]:
    """The names of the images of a folder that without suffix would be another's id."""
    names = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES]
    stems = Counter(Path(name).stem for name in names)
    return {name for name in names if stems[Path(name).stem] > 1 or Path(name).stem in names}
