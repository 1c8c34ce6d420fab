"""The files of finished image caches: pixels in one .npy, and beside it a note of what they are of. Films can be removed from them."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from encoders.atomic import sync, whole_file
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from index.resume import locked

Listed = list[list[Any]]  # id, bytes and modification time (ns) of each image; the id alone where there is no file

HEADER = 128  # bytes before the pixels in the .npy file
_NOTE = re.compile(r"[0-9a-f]{32}\.json")  # beside each finished .npy file: what is in it


@dataclass(frozen=True, slots=True)
class ImageCache:
    """Decoded images of a list of records.

    Attributes:
        images: (N, S, S) uint8, memory-mapped, read-only.
        ids: Record id of each of the N.
        sizes: Width and height of each of the N films before they were made square; empty in files of older versions.
        failures: Record id to why its image could not be decoded; these have no row.
    """

    images: npt.NDArray[np.uint8]
    ids: list[str]
    sizes: list[tuple[int, int]]
    failures: dict[str, str]


def open_cache(place: Path, size: int) -> ImageCache:
    """Map the cache at a path without its endings, of squares of a size.

    Raises:
        MedretError: If it is damaged.
    """
    content, path = read_json(place.with_suffix(".json")), place.with_suffix(".npy")
    mend = f"Remove {place.name}.* in {place.parent}; they are made anew."
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MedretError(f"{path}: the image cache is damaged ({type(error).__name__}). {mend}") from error
    ids = [entry[0] for entry in kept_entries(content)]
    if images.shape != (len(ids), size, size) or images.dtype != np.uint8:
        raise MedretError(f"{path}: the image cache holds {images.shape}, expected ({len(ids)}, {size}, {size}). {mend}")
    sizes = read_sizes(content.get("sizes", ""))
    if "sizes" in content and len(sizes) != len(ids):
        raise MedretError(f"{path}: the image cache has the sizes of {len(sizes)} films, expected {len(ids)}. {mend}")
    return ImageCache(images=images, ids=ids, sizes=sizes, failures=dict(content["failures"]))


def read_sizes(text: str) -> list[tuple[int, int]]:
    """Read what `write_sizes` wrote."""
    return [(int(width), int(height)) for width, _, height in (size.partition("x") for size in text.split())]


def write_sizes(sizes: Iterable[tuple[int, int]]) -> str:
    """Widths and heights as a note holds them: one string, since a list of a million takes seconds to write as JSON."""
    return " ".join(f"{width}x{height}" for width, height in sizes)


def cache_name(rule: dict[str, Any], listed: Listed) -> str:
    """Return what the files of a cache are called: a hash of how its squares are made and of which images."""
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    for entry in listed:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:32]


def find_notes(folder: Path) -> list[Path]:
    """What says of each finished cache what is in it; files that are none of ours are passed over."""
    return [path for path in sorted(folder.glob("*.json")) if _NOTE.fullmatch(path.name)]


def kept_entries(content: dict[str, Any]) -> Listed:
    """Return the images of a note that have a row, in order."""
    return [entry for entry in content["records"] if entry[0] not in content["failures"]]


def write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Fill the room before the pixels, so that NumPy can read the file."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert file.tell() == HEADER


def forget(folder: Path, ids: Iterable[str]) -> int:
    """Remove films from every cache in a folder; caches that are not finished go altogether.

    A cache that calls them by other ids, as one with real ids beside one with pseudonyms, loses what has the size and the
    modification time of one of them: it may be another film, which is then decoded again.

    Each cache is written anew without them, whole or not at all, and then the old one goes; it is found again for the records
    that are left. To be called again where it was interrupted.

    Args:
        folder: Where caches are kept; nothing is done if it does not exist.
        ids: Of the records.

    Returns:
        How many squares went.

    Raises:
        MedretError: If the folder cannot be written, or a cache is damaged.
    """
    if not folder.is_dir():
        return 0
    gone, removed = set(ids), 0
    with locked(folder, wait=True):
        try:
            for part in [*folder.glob("*.npy.part"), *folder.glob("*.part.json"), *folder.glob(".*.part")]:
                part.unlink()
            for note, lost in _holding(folder, gone):
                removed += _rewrite(note, read_json(note), lost)
        except OSError as error:
            raise MedretError(f"{folder}: cannot be written ({error.strerror or error}). Mend that and run again.") from error
    return removed


def _holding(folder: Path, gone: set[str]) -> list[tuple[Path, set[str]]]:
    """Return the note of each cache that holds some films, and what it calls them.

    Those with other ids come first: once the last cache with these ids is written anew nothing tells of them.
    """
    own: dict[Path, set[str]] = {}
    states: set[tuple[int, ...]] = set()
    for note in find_notes(folder):
        entries = [entry for entry in _listed(note) if entry[0] in gone]
        own[note] = {entry[0] for entry in entries}
        states |= {tuple(entry[1:]) for entry in entries if entry[1:]}
    others = {note: {entry[0] for entry in _listed(note) if tuple(entry[1:]) in states} for note, ids in own.items() if not ids}
    return [(note, ids) for note, ids in [*others.items(), *own.items()] if ids]


def _listed(note: Path) -> Listed:
    listed: Listed = read_json(note).get("records", [])
    return listed


def _rewrite(note: Path, content: dict[str, Any], gone: set[str]) -> int:
    """Write one cache anew without some films, under the name of the list that is left; return how many squares went."""
    if not note.with_suffix(".npy").is_file():
        note.unlink()
        return 0
    left = [entry for entry in content["records"] if entry[0] not in gone]
    rows = [row for row, entry in enumerate(kept_entries(content)) if entry[0] not in gone]
    held = open_cache(note.with_suffix(""), content["rule"]["size"])
    if rows:
        place = note.with_name(cache_name(content["rule"], left))
        with whole_file(place.with_suffix(".npy")) as part, part.open("wb") as file:
            file.write(bytes(HEADER))
            for start in range(0, len(rows), 256):
                file.write(held.images[rows[start : start + 256]].tobytes())
            write_header(file, (len(rows), *held.images.shape[1:]))
        failures = {id: reason for id, reason in content["failures"].items() if id not in gone}
        sizes = {"sizes": write_sizes(held.sizes[row] for row in rows)} if held.sizes else {}
        write_json(place.with_suffix(".json"), {"rule": content["rule"], "records": left, "failures": failures, **sizes})
    for old in (note.with_suffix(".npy"), note):  # pixels first: without its note nobody would know whose they are
        old.unlink(missing_ok=True)
    sync(note.parent)
    return len(held.ids) - len(rows)
