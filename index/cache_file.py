"""The files of image caches: films in one Arrow stream, and beside it a note of what they were made of. Films can be removed from them.

A stream is written by appending batch after batch, so that one that was interrupted goes on; uncompressed, its pixels lie in the file
as they are used, and any Arrow reader can read it. Each film has a CRC-32, which is compared whenever it is read.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
import pyarrow as pa

from encoders.atomic import sync, whole_file
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from encoders.preprocess import Fitted
from index.films import CheckedFilms, Films
from index.resume import locked

Listed = list[tuple[str, str]]  # id of each image; bytes and modification time (ns) of its file, or nothing where there is none

FILMS_A_BATCH = 64  # 16 MiB at 512 pixels: of more, the allocator gives every batch fresh pages
PIXELS = ".arrows"  # how Arrow has the name of a stream end
END = b"\xff" * 4 + bytes(4)  # of a stream, by Arrow's specification
_NAME = "[0-9a-f]" * 32  # as `cache_name` gives it


@dataclass(frozen=True, slots=True)
class ImageCache:
    """Decoded images of a list of records.

    Attributes:
        images: N films, memory-mapped, read-only.
        ids: Record id of each of the N.
        sizes: Width and height of each of the N films before they were made square.
        failures: Record id to why its image could not be decoded; these have no row.
    """

    images: Films
    ids: list[str]
    sizes: list[tuple[int, int]]
    failures: dict[str, str]


def open_cache(place: Path, size: int) -> ImageCache:
    """Map the cache at a path without its endings, of squares of a size; no pixel is read.

    Raises:
        MedretError: If it is damaged.
    """
    note, path = place.with_suffix(".json"), place.with_suffix(PIXELS)
    mend = f"Remove {place.name}.* in {place.parent}; they are made anew."
    try:
        content = read_json(note)
        failures = dict(content["failures"])
        expected = [id for id in content["ids"] if id not in failures]
    except (MedretError, KeyError, TypeError, ValueError) as error:
        raise MedretError(f"{note}: what the image cache holds cannot be read from it. {mend}") from error
    try:
        with path.open("rb") as file:  # Arrow's own map would have all pixels read ahead
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)  # and the system what lies around the ids of each batch: half of them
        table = pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()
        table.validate(full=True)  # a flipped bit in an offset would have us read anywhere
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MedretError(f"{path}: the image cache is damaged ({type(error).__name__}). {mend}") from error
    if table.schema != _schema(size):
        raise MedretError(f"{path}: the image cache holds other columns, or no squares of {size} x {size} pixels. {mend}")
    ids = table["id"].to_pylist()
    if ids != expected:
        raise MedretError(f"{path}: the image cache holds {len(ids)} films that are not the {len(expected)} it should hold. {mend}")
    batches = table.to_batches()
    starts = accumulate((len(batch) for batch in batches), initial=0)
    checked = [
        CheckedFilms(batch["pixels"].to_numpy_ndarray(), batch["crc32"].to_numpy(), ids[start : start + len(batch)], (str(path), mend))
        for start, batch in zip(starts, batches, strict=False)
    ]
    held = ImageCache(
        images=Films(checked),
        ids=ids,
        sizes=list(zip(*(table[side].to_numpy().tolist() for side in ("width", "height")), strict=True)),
        failures=failures,
    )
    mapped.madvise(mmap.MADV_NORMAL)
    return held


def write_films(file: BinaryIO, size: int, films: Iterable[tuple[str, Fitted]]) -> None:
    """Append films to a file of squares of a size: as one batch, after the schema where the file is empty.

    Args:
        file: Not past its end.
        size: Side of the squares, in pixels.
        films: The record id of each, and its square.
    """
    schema = _schema(size)
    if not file.tell():
        file.write(schema.serialize())
    if rows := [(fitted.square, id, fitted.width, fitted.height) for id, fitted in films]:
        squares, *columns = zip(*rows, strict=True)
        stacked = np.stack(squares)
        columns.append([crc32(square) for square in stacked])
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(stacked.reshape(-1)), size * size)
        arrays = [pa.ExtensionArray.from_storage(schema.types[0], pixels)]
        arrays += [pa.array(column, type) for column, type in zip(columns, schema.types[1:], strict=True)]
        file.write(pa.record_batch(arrays, schema=schema).serialize())


def _schema(size: int) -> Any:
    pixels = pa.fixed_shape_tensor(pa.uint8(), (size, size))
    return pa.schema({"pixels": pixels, "id": pa.string(), "width": pa.uint32(), "height": pa.uint32(), "crc32": pa.uint32()})


def cache_name(rule: dict[str, Any], listed: Listed) -> str:
    """Return what the files of a cache are called: a hash of how its squares are made and of which images."""
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    for entry in listed:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:32]


def find_notes(folder: Path) -> list[Path]:
    """What says of each finished cache what was decoded, what could not be, and how; files that are none of ours are passed over."""
    return sorted(folder.glob(f"{_NAME}.json"))


def write_note(place: Path, rule: dict[str, Any], listed: Listed, failures: dict[str, str]) -> None:
    """Write what a cache is of. As two columns: a list for each of a million images takes long to read."""
    ids, states = zip(*listed, strict=True)
    write_json(place.with_suffix(".json"), {"rule": rule, "ids": ids, "states": states, "failures": failures})


def listed_in(content: dict[str, Any]) -> Listed:
    """Return the images that the content of a note lists, with a row or not."""
    return list(zip(content.get("ids", ()), content.get("states", ()), strict=True))


def remove_useless(folder: Path) -> None:
    """Remove what nothing reads, though it is of patients: what a killed process left half-done, and caches of the layout before (.npy).

    Call it with the folder locked.
    """
    notes = [note for note in find_notes(folder) if not note.with_suffix(PIXELS).exists()]
    notes += [note for note in folder.glob(f"{_NAME}.part.json") if not note.with_suffix("").with_suffix(f"{PIXELS}.part").exists()]
    for path in [*notes, *folder.glob(f".{_NAME}.*.part"), *folder.glob(f"{_NAME}.npy*")]:
        path.unlink()


def forget(folder: Path, ids: Iterable[str]) -> int:
    """Remove films from every cache in a folder; caches that are not finished, or of an older layout, go altogether.

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
            remove_useless(folder)
            for part in [*folder.glob(f"{_NAME}{PIXELS}.part"), *folder.glob(f"{_NAME}.part.json")]:
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
    states: set[str] = set()
    for note in find_notes(folder):
        listed = [(id, state) for id, state in listed_in(read_json(note)) if id in gone]
        own[note] = {id for id, _ in listed}
        states |= {state for _, state in listed if state}
    others = {note: {id for id, state in listed_in(read_json(note)) if state in states} for note, ids in own.items() if not ids}
    return [(note, ids) for note, ids in [*others.items(), *own.items()] if ids]


def _rewrite(note: Path, content: dict[str, Any], gone: set[str]) -> int:
    """Write one cache anew without some films, under the name of the list that is left; return how many squares went."""
    left = [(id, state) for id, state in listed_in(content) if id not in gone]
    held = open_cache(note.with_suffix(""), content["rule"]["size"])
    rows = [row for row, id in enumerate(held.ids) if id not in gone]
    if rows:
        place = note.with_name(cache_name(content["rule"], left))
        with whole_file(place.with_suffix(PIXELS)) as part, part.open("wb") as file:
            for start in range(0, len(rows), FILMS_A_BATCH):
                films = ((held.ids[row], Fitted(held.images[row], *held.sizes[row])) for row in rows[start : start + FILMS_A_BATCH])
                write_films(file, content["rule"]["size"], films)
            file.write(END)
        failures = {id: reason for id, reason in content["failures"].items() if id not in gone}
        write_note(place, content["rule"], left, failures)
    for old in (note.with_suffix(PIXELS), note):  # pixels first: without its note nobody would know whose they are
        old.unlink(missing_ok=True)
    sync(note.parent)
    return len(held.ids) - len(rows)
