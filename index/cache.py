"""Decoded images in one memory-mapped file: decoded once, read by every epoch."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from encoders.atomic import private_folder, whole_file
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from encoders.pixels import REDUCTION, missing_decoders
from encoders.preprocess import Preprocessing
from index.corpora.record import Record
from index.resume import locked
from index.squares import Square, decode_square, make_ahead

Listed = list[list[Any]]  # id, bytes and modification time (ns) of each image; the id alone where there is no file

PRIVATE_CACHE = Path("private") / "cache.json"  # in a pseudonymised shards folder: which cache its films came from
_AT_ONCE = 1024  # images between two notes of progress: what a kill costs at most
_HEADER = 128  # bytes before the pixels in the .npy file
_NOTE = re.compile(r"[0-9a-f]{32}\.json")  # beside each finished .npy file: what is in it


@dataclass(frozen=True, slots=True)
class ImageCache:
    """Decoded images of a list of records.

    Attributes:
        images: (N, S, S) uint8, memory-mapped, read-only.
        ids: Record id of each of the N.
        failures: Record id to why its image could not be decoded; these have no row.
    """

    images: npt.NDArray[np.uint8]
    ids: list[str]
    failures: dict[str, str]


def build_image_cache(
    records: Iterable[Record],
    preprocessing: Preprocessing,
    folder: Path,
    size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> ImageCache:
    """Decode the images of records into a memory-mapped file, or reuse the file that holds exactly these.

    It can be killed at any moment: the next call goes on after the last 1,024 images that were finished. A second process
    waits for the first and takes what it decoded. The file is named by a hash over the ids, the preprocessing (but for what
    happens to squares afterwards), the size, the decoders that are missing, and the size and modification time of every image
    file, so that a changed image, or one whose decoder was installed since, is decoded anew. What other caches in the folder
    hold of the same files is copied from there. They are left alone.

    Args:
        records: Gone through twice; those without an image are passed over.
        preprocessing: Says how a film becomes a square.
        folder: Where the cache is kept; made for its owner alone.
        size: Side of the squares in pixels; the preprocessing's own by default.
        progress: Called with images done and images in all.
        workers: Threads that decode; one a core by default.

    Raises:
        MedretError: If there is no image at all, none can be decoded, or the disk is too small.
    """
    records = list(records) if isinstance(records, Iterator) else records
    listed = [[record.id, *_state(record)] for record in _imaged(records)]
    if not listed:
        raise MedretError(f"{folder}: none of the records has an image to decode. Check the corpus: medret corpus PATH")
    side = preprocessing.size if size is None else size
    rule = _rule(preprocessing, side)
    private_folder(folder)
    place = folder / _key(rule, listed)
    if not _is_whole(place):
        with locked(folder, wait=True):
            if not _is_whole(place):
                squares = partial(_copied_or_decoded, _Copies(folder, rule, side), preprocessing, side)
                _fill(place, records, squares, rule, listed, side, progress, workers)
    return _open(place, side)


def cached_squares(
    films: Iterable[Record],
    records: Iterable[Record],
    preprocessing: Preprocessing,
    folder: Path,
    size: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Generator[tuple[Record, Square | str]]:
    """Make squares from larger ones in a cache, which is filled first; otherwise as decode_squares.

    Args:
        films: Those wanted, each one of `records`.
        records: Those that the cache holds.
        preprocessing: Says how large the squares shall be.
        folder: The cache.
        size: Side of its squares in pixels, at least the preprocessing's.
        progress: As in build_image_cache.
        workers: As there.

    Raises:
        MedretError: If the squares of the cache are smaller than those wanted, or as build_image_cache.
    """
    wanted = preprocessing.size
    if wanted > size:
        raise MedretError(f"{folder}: squares of {size} pixels are kept, but the encoder reads {wanted}. Cache larger ones: size {wanted}")
    cache = build_image_cache(records, preprocessing, folder, size, progress, workers)
    rows = {id: row for row, id in enumerate(cache.ids)}

    def shrunk(record: Record) -> Square | str:
        row = rows.get(record.id)
        return cache.failures[record.id] if row is None else preprocessing.shrink(cache.images[row], wanted)

    yield from make_ahead(films, shrunk, workers)


def cache_of(shards: Path, corpus: Mapping[str, str | None]) -> Path | None:
    """Return the cache that the films of a shards folder came from, or None.

    Args:
        shards: The shards folder.
        corpus: `corpus` of its manifest; that of a pseudonymised folder names no paths.
    """
    private = shards / PRIVATE_CACHE
    named = read_json(private)["cache"] if private.is_file() else corpus.get("cache")
    return None if named is None else Path(named)


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
    for note in _notes(folder):
        entries = [entry for entry in _listed(note) if entry[0] in gone]
        own[note] = {entry[0] for entry in entries}
        states |= {tuple(entry[1:]) for entry in entries if entry[1:]}
    others = {note: {entry[0] for entry in _listed(note) if tuple(entry[1:]) in states} for note, ids in own.items() if not ids}
    return [(note, ids) for note, ids in [*others.items(), *own.items()] if ids]


class _Copies:
    """Squares of the same rule in the finished caches of a folder, by id, bytes and modification time."""

    def __init__(self, folder: Path, rule: dict[str, Any], size: int) -> None:
        self._places: dict[str, tuple[list[Any], int, npt.NDArray[np.uint8]]] = {}
        for note in _notes(folder):
            with suppress(MedretError):  # damaged: its films are decoded
                content = read_json(note)
                if content.get("rule") == rule and note.with_suffix(".npy").is_file():
                    held, kept = _open(note.with_suffix(""), size), _kept(content)
                    self._places |= {entry[0]: (entry[1:], row, held.images) for row, entry in enumerate(kept)}

    def find(self, record: Record) -> Square | None:
        state, row, images = self._places.get(record.id, ([], 0, None))
        return None if images is None or not state or state != _state(record) else np.array(images[row])


def _copied_or_decoded(copies: _Copies, preprocessing: Preprocessing, size: int, record: Record) -> Square | str:
    square = copies.find(record)
    return decode_square(preprocessing, size, record) if square is None else square


def _imaged(records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if record.image is not None)


def _state(record: Record) -> list[int]:
    assert record.image is not None
    try:
        status = record.image.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _rule(preprocessing: Preprocessing, size: int) -> dict[str, Any]:
    """All that a square depends on besides its film."""
    settings = {name: getattr(preprocessing, name) for name in ("fit", "resampling", "decoding")}
    return {**settings, "reduction": REDUCTION, "size": size, "missing": missing_decoders()}


def _key(rule: dict[str, Any], listed: Listed) -> str:
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    for entry in listed:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:32]


def _notes(folder: Path) -> list[Path]:
    """What says of each finished cache what is in it; files that are none of ours are passed over."""
    return [path for path in sorted(folder.glob("*.json")) if _NOTE.fullmatch(path.name)]


def _listed(note: Path) -> Listed:
    listed: Listed = read_json(note).get("records", [])
    return listed


def _kept(content: dict[str, Any]) -> Listed:
    return [entry for entry in content["records"] if entry[0] not in content["failures"]]


def _rewrite(note: Path, content: dict[str, Any], gone: set[str]) -> int:
    """Write one cache anew without some films, under the name of the list that is left; return how many squares went."""
    if not note.with_suffix(".npy").is_file():
        note.unlink()
        return 0
    left = [entry for entry in content["records"] if entry[0] not in gone]
    rows = [row for row, entry in enumerate(_kept(content)) if entry[0] not in gone]
    held = _open(note.with_suffix(""), content["rule"]["size"])
    if rows:
        place = note.with_name(_key(content["rule"], left))
        with whole_file(place.with_suffix(".npy")) as part, part.open("wb") as file:
            file.write(bytes(_HEADER))
            for start in range(0, len(rows), 256):
                file.write(held.images[rows[start : start + 256]].tobytes())
            _write_header(file, (len(rows), *held.images.shape[1:]))
        failures = {id: reason for id, reason in content["failures"].items() if id not in gone}
        write_json(place.with_suffix(".json"), {"rule": content["rule"], "records": left, "failures": failures})
    for old in (note.with_suffix(".npy"), note):  # pixels first: without its note nobody would know whose they are
        old.unlink(missing_ok=True)
    _sync(note.parent)
    return len(held.ids) - len(rows)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_whole(place: Path) -> bool:
    return place.with_suffix(".json").is_file() and place.with_suffix(".npy").is_file()


def _fill(
    place: Path,
    records: Iterable[Record],
    make: Callable[[Record], Square | str],
    rule: dict[str, Any],
    listed: Listed,
    size: int,
    progress: Callable[[int, int], None] | None,
    workers: int | None,
) -> None:
    part, note = place.with_suffix(".npy.part"), place.with_suffix(".part.json")
    done, failures = _resume(part, note, size)
    needed = (len(listed) - done) * size * size
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise MedretError(f"{place.parent}: {needed >> 20} MiB are needed for decoded images, {free >> 20} are free. Free space.")
    try:
        part.touch(mode=0o600)
        with part.open("ab") as file:
            file.write(bytes(_HEADER - file.tell() if file.tell() < _HEADER else 0))
            for record, square in make_ahead(islice(_imaged(records), done, None), make, workers):
                if isinstance(square, str):
                    failures[record.id] = square
                else:
                    file.write(square.tobytes())
                done += 1
                if done % _AT_ONCE == 0:
                    _note(file, note, done, failures)
                if progress is not None:
                    progress(done, len(listed))
            _note(file, note, done, failures)
        kept = len(listed) - len(failures)
        if not kept:
            note.unlink()  # whatever is mended, the next run begins anew
            raise MedretError(f"{place.parent}: none of {len(listed)} images can be decoded; the first: {next(iter(failures.values()))}")
        write_json(place.with_suffix(".json"), {"rule": rule, "records": listed, "failures": failures})
        _finish(part, place.with_suffix(".npy"), (kept, size, size))
    except OSError as error:
        raise MedretError(f"{place.parent}: cannot be written ({error.strerror or error}). Free space or choose another place.") from error
    note.unlink(missing_ok=True)


def _resume(part: Path, note: Path, size: int) -> tuple[int, dict[str, str]]:
    """Return how many images an earlier run finished, and which failed; cut off what it wrote after its last note."""
    if part.is_file() and note.is_file():
        progress = read_json(note)
        done, failures = int(progress["done"]), dict(progress["failures"])
        length = _HEADER + (done - len(failures)) * size * size
        if part.stat().st_size >= length:
            os.truncate(part, length)
            return done, failures
    part.unlink(missing_ok=True)
    return 0, {}


def _note(file: BinaryIO, note: Path, done: int, failures: dict[str, str]) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_json(note, {"done": done, "failures": failures})


def _finish(part: Path, path: Path, shape: tuple[int, int, int]) -> None:
    """Write the .npy header into the room left for it, and give the file its name."""
    with part.open("r+b") as file:
        _write_header(file, shape)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert file.tell() == _HEADER


def _open(place: Path, size: int) -> ImageCache:
    content, path = read_json(place.with_suffix(".json")), place.with_suffix(".npy")
    mend = f"Remove {place.name}.* in {place.parent}; they are made anew."
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MedretError(f"{path}: the image cache is damaged ({type(error).__name__}). {mend}") from error
    ids = [entry[0] for entry in _kept(content)]
    if images.shape != (len(ids), size, size) or images.dtype != np.uint8:
        raise MedretError(f"{path}: the image cache holds {images.shape}, expected ({len(ids)}, {size}, {size}). {mend}")
    return ImageCache(images=images, ids=ids, failures=dict(content["failures"]))
