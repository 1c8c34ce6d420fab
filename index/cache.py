"""Decoded images in one memory-mapped file: decoded once, read by every epoch."""

import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from encoders.atomic import private_folder, sync
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from encoders.pixels import REDUCTION, missing_decoders
from encoders.preprocess import Fitted, Preprocessing
from index.cache_file import (
    END,
    FILMS_A_BATCH,
    PIXELS,
    ImageCache,
    Listed,
    cache_name,
    find_notes,
    listed_in,
    open_cache,
    remove_useless,
    write_films,
    write_note,
)
from index.corpora.record import Record
from index.resume import locked
from index.squares import AHEAD, Square, decode_square, make_ahead

PRIVATE_CACHE = Path("private") / "cache.json"  # in a pseudonymised shards folder: which cache its films came from
_AT_ONCE = 1024  # images between two notes of progress: what a kill costs at most


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
    listed = [(record.id, _state(record)) for record in _imaged(records)]
    if not listed:
        raise MedretError(f"{folder}: none of the records has an image to decode. Check the corpus: medret corpus PATH")
    side = preprocessing.size if size is None else size
    rule = _rule(preprocessing, side)
    private_folder(folder)
    place = folder / cache_name(rule, listed)
    if not _is_whole(place):
        with locked(folder, wait=True, advice="Choose another place for the cache"):
            if not _is_whole(place):
                squares = partial(_copied_or_decoded, _Copies(folder, rule, side), preprocessing, side)
                _fill(place, records, squares, rule, listed, side, progress, workers)
    return open_cache(place, side)


def cached_squares(
    films: Iterable[tuple[str, Record]],
    records: Iterable[Record],
    preprocessing: Preprocessing,
    folder: Path,
    size: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    ahead: int = AHEAD,
) -> Generator[tuple[Record, Square | str]]:
    """Make squares from larger ones in a cache, which is filled first; otherwise as decode_squares.

    Films lie in them as in those of decode_squares; what differs is that each was resized twice. What the cache could not
    decode is tried again, so that the reason names the film as its record does.

    Args:
        films: Those wanted: the id of each among `records`, and its own record, which may have a pseudonym.
        records: Those that the cache holds.
        preprocessing: Says how large the squares shall be.
        folder: The cache.
        size: Side of its squares in pixels, at least the preprocessing's.
        progress: As in build_image_cache.
        workers: As there.
        ahead: As in make_ahead.

    Raises:
        MedretError: As build_image_cache.
        ValueError: If the squares of the cache are smaller than those wanted.
    """
    if preprocessing.size > size:
        raise ValueError(f"squares of {preprocessing.size} pixels from such of {size}")
    cache = build_image_cache(records, preprocessing, folder, size, progress, workers)
    rows = {id: row for row, id in enumerate(cache.ids)}

    def shrunk(film: tuple[str, Record]) -> Square | str:
        row = rows.get(film[0])
        held = decode_square(preprocessing, size, film[1]) if row is None else Fitted(cache.images[row], *cache.sizes[row])
        return held if isinstance(held, str) else preprocessing.shrink(held)

    with closing(make_ahead(films, shrunk, workers, ahead)) as squares:
        yield from ((record, square) for (_, record), square in squares)


def cache_of(shards: Path, corpus: Mapping[str, str | None]) -> Path | None:
    """Return the cache that the films of a shards folder came from, or None.

    Args:
        shards: The shards folder.
        corpus: `corpus` of its manifest; that of a pseudonymised folder names no paths.
    """
    private = shards / PRIVATE_CACHE
    named = read_json(private)["cache"] if private.is_file() else corpus.get("cache")
    return None if named is None else Path(named)


class _Copies:
    """Squares of the same rule in the finished caches of a folder, by id, bytes and modification time."""

    def __init__(self, folder: Path, rule: dict[str, Any], size: int) -> None:
        self._places: dict[str, tuple[str, int, ImageCache]] = {}
        for note in find_notes(folder):
            with suppress(MedretError):  # damaged: its films are decoded
                content = read_json(note)
                if content.get("rule") == rule and note.with_suffix(PIXELS).is_file():
                    held, states = open_cache(note.with_suffix(""), size), dict(listed_in(content))
                    self._places |= {id: (states[id], row, held) for row, id in enumerate(held.ids)}

    def find(self, record: Record) -> Fitted | None:
        state, row, held = self._places.get(record.id, ("", 0, None))
        if held is None or not state or state != _state(record):
            return None
        with suppress(MedretError):  # damaged: it is decoded
            return Fitted(held.images[row].copy(), *held.sizes[row])
        return None


def _copied_or_decoded(copies: _Copies, preprocessing: Preprocessing, size: int, record: Record) -> Fitted | str:
    copy = copies.find(record)
    return decode_square(preprocessing, size, record) if copy is None else copy


def _imaged(records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if record.image is not None)


def _state(record: Record) -> str:
    assert record.image is not None
    try:
        status = record.image.stat()
    except OSError:
        return ""
    if not os.access(record.image, os.R_OK):  # to be decoded once it can be: neither size nor time would tell
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _rule(preprocessing: Preprocessing, size: int) -> dict[str, Any]:
    """All that a square depends on besides its film."""
    settings = {name: getattr(preprocessing, name) for name in ("fit", "resampling", "decoding")}
    return {**settings, "reduction": REDUCTION, "size": size, "missing": missing_decoders()}


def _is_whole(place: Path) -> bool:
    return place.with_suffix(".json").is_file() and place.with_suffix(PIXELS).is_file()


def _fill(
    place: Path,
    records: Iterable[Record],
    make: Callable[[Record], Fitted | str],
    rule: dict[str, Any],
    listed: Listed,
    size: int,
    progress: Callable[[int, int], None] | None,
    workers: int | None,
) -> None:
    part, note = place.with_suffix(f"{PIXELS}.part"), place.with_suffix(".part.json")
    done, failures = _resume(part, note)
    try:
        remove_useless(place.parent)
        needed, free = (len(listed) - done) * size * size, shutil.disk_usage(place.parent).free
        if needed > free:
            raise MedretError(f"{place.parent}: {needed >> 20} MiB are needed for decoded images, {free >> 20} are free. Free space.")
        part.touch(mode=0o600)
        films: list[tuple[str, Fitted]] = []
        with part.open("ab") as file:
            for record, made in make_ahead(islice(_imaged(records), done, None), make, workers):
                if isinstance(made, str):
                    failures[record.id] = made
                else:
                    films.append((record.id, made))
                done += 1
                noted = done % _AT_ONCE == 0 or done == len(listed)
                if noted or len(films) == FILMS_A_BATCH:
                    write_films(file, size, films)
                    films.clear()
                if noted:
                    _note(file, note, done, failures)
                if progress is not None:
                    progress(done, len(listed))
            file.write(END)
        if len(failures) == len(listed):
            note.unlink()  # whatever is mended, the next run begins anew
            raise MedretError(f"{place.parent}: none of {done} images can be decoded; the first: {next(iter(failures.values()))}")
        sync(part)
        write_note(place, rule, listed, failures)
        part.replace(place.with_suffix(PIXELS))
    except OSError as error:
        raise MedretError(f"{place.parent}: cannot be written ({error.strerror or error}). Free space or choose another place.") from error
    note.unlink(missing_ok=True)


def _resume(part: Path, note: Path) -> tuple[int, dict[str, str]]:
    """Return how many images an earlier run finished and which of them failed; cut off what came after its last note."""
    if part.is_file() and note.is_file():
        progress = read_json(note)
        if part.stat().st_size >= progress["bytes"]:
            os.truncate(part, progress["bytes"])
            return int(progress["done"]), dict(progress["failures"])
    part.unlink(missing_ok=True)
    return 0, {}


def _note(file: BinaryIO, note: Path, done: int, failures: dict[str, str]) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_json(note, {"done": done, "bytes": file.tell(), "failures": failures})
