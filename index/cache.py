"""Decoded images in one memory-mapped file: decoded once, read by every epoch."""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from encoders.atomic import private_folder
from encoders.errors import MedretError
from encoders.json_object import read_json, write_json
from encoders.pixels import missing_decoders, read_image
from encoders.preprocess import Preprocessing
from index.corpora.record import Record
from index.resume import locked

Square = npt.NDArray[np.uint8]

_AT_ONCE = 1024  # images between two notes of progress: what a kill costs at most
_HEADER = 128  # bytes before the pixels in the .npy file


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
    waits for the first and takes what it decoded. The file is named by a hash over the ids, the preprocessing, the size, the
    decoders that are missing, and the size and modification time of every image file, so that a changed image, or one whose
    decoder was installed since, is decoded anew. Files of other hashes are left alone.

    Args:
        records: Those without an image are passed over.
        preprocessing: Says how a film becomes a square.
        folder: Where the cache is kept; made for its owner alone.
        size: Side of the squares in pixels; the preprocessing's own by default.
        progress: Called with images done and images in all.
        workers: Threads that decode; one a core by default.

    Raises:
        MedretError: If there is no image at all, none can be decoded, or the disk is too small.
    """
    records = [record for record in records if record.image is not None]
    if not records:
        raise MedretError(f"{folder}: none of the records has an image to decode. Check the corpus: medret corpus PATH")
    side = preprocessing.size if size is None else size
    private_folder(folder)
    place = folder / _key(records, preprocessing, side)
    if not _is_whole(place):
        with locked(folder, wait=True):
            if not _is_whole(place):
                _decode_into(place, records, preprocessing, side, progress, workers)
    return _open(place, side)


def decode_squares(
    records: Iterable[Record], preprocessing: Preprocessing, size: int, workers: int | None = None
) -> Generator[tuple[Record, Square | str]]:
    """Decode images in threads, ahead of whoever reads them, in the order of the records.

    Yields:
        Each record with its (size, size) uint8 square, or with why it cannot be had, in words that name the record by its id.
    """
    threads = workers or os.cpu_count() or 1
    waiting: deque[tuple[Record, Future[Square | str]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for record in records:
                waiting.append((record, pool.submit(_square, record, preprocessing, size)))
                if len(waiting) > 64 + 2 * threads:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, result in waiting:
                result.cancel()


def _square(record: Record, preprocessing: Preprocessing, size: int) -> Square | str:
    assert record.image is not None
    try:
        return preprocessing.read_square(record.image, record.id, size)
    except MedretError as error:  # a path can hold a name, so it must not come into a list of failures
        return " ".join(str(error).replace(str(record.image), record.id).split())


def _is_whole(place: Path) -> bool:
    return place.with_suffix(".json").is_file() and place.with_suffix(".npy").is_file()


def _key(records: Sequence[Record], preprocessing: Preprocessing, size: int) -> str:
    digest = hashlib.sha256(json.dumps([preprocessing.to_dict(), size, missing_decoders()], sort_keys=True).encode())
    for record in records:
        assert record.image is not None
        try:
            status = record.image.stat()
            state = [status.st_size, status.st_mtime_ns]
        except OSError:
            state = []
        digest.update(json.dumps([record.id, *state]).encode())
    return digest.hexdigest()[:32]


def _decode_into(
    place: Path,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    size: int,
    progress: Callable[[int, int], None] | None,
    workers: int | None,
) -> None:
    part, note = place.with_suffix(".npy.part"), place.with_suffix(".part.json")
    done, failures = _resume(part, note, size)
    needed = (len(records) - done) * size * size
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise MedretError(f"{place.parent}: {needed >> 20} MiB are needed for decoded images, {free >> 20} are free. Free space.")
    try:
        part.touch(mode=0o600)
        with part.open("ab") as file:
            file.write(bytes(_HEADER - file.tell() if file.tell() < _HEADER else 0))
            for record, square in decode_squares(records[done:], preprocessing, size, workers):
                if isinstance(square, str):
                    failures[record.id] = square
                else:
                    file.write(square.tobytes())
                done += 1
                if done % _AT_ONCE == 0:
                    _note(file, note, done, failures)
                if progress is not None:
                    progress(done, len(records))
            _note(file, note, done, failures)
        ids = [record.id for record in records if record.id not in failures]
        if not ids:
            note.unlink()  # whatever is mended, the next run begins anew
            raise MedretError(f"{place.parent}: none of {len(records)} images can be decoded; the first: {next(iter(failures.values()))}")
        write_json(place.with_suffix(".json"), {"ids": ids, "failures": failures})
        _finish(part, place.with_suffix(".npy"), (len(ids), size, size))
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
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == _HEADER
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _open(place: Path, size: int) -> ImageCache:
    content, path = read_json(place.with_suffix(".json")), place.with_suffix(".npy")
    mend = f"Remove {place.name}.* in {place.parent}; they are made anew."
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MedretError(f"{path}: the image cache is damaged ({type(error).__name__}). {mend}") from error
    if images.shape != (len(content["ids"]), size, size) or images.dtype != np.uint8:
        raise MedretError(f"{path}: the image cache holds {images.shape}, expected ({len(content['ids'])}, {size}, {size}). {mend}")
    return ImageCache(images=images, ids=list(content["ids"]), failures=dict(content["failures"]))
