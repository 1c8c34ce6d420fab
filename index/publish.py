"""How an index changes: a generation is written beside the old one, index.json is replaced, and what is out of use goes.

index.json is the one commit point. Everything else has a name that no published generation had before, so that a crash leaves
the old index or the new one, and a reader that opened the old one goes on with it.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from encoders.atomic import recover_replaced
from encoders.errors import MedretError
from index.index_manifest import INDEX_MANIFEST, IndexManifest, ShardsPart, StoredFile, find_index_manifest, load_index_manifest
from index.manifest import SHARDS_MANIFEST, SHARDS_PLAN, sha256_file
from index.resume import LOCK, is_locked, locked
from index.shards import Part

PARTS = "parts"  # in an index folder: the shards folders that were added or rewritten

_PART = re.compile(r"\d+(-\d+)?")  # the generation that it was begun for and a number
_BLOCK = 4096  # bytes
_BLOCKS = 16  # of a file that are probed


@contextmanager
def writing(folder: Path, new: bool = False) -> Iterator[None]:
    """Keep other writers away from an index folder, and remove what a killed one left there.

    Args:
        folder: The index folder.
        new: There need be no index yet.

    Raises:
        MedretError: If another process is writing there, the folder cannot be written, or it is no index.
    """
    if not new:
        load_index_manifest(folder)
    with locked(folder, advice="Choose another --out" if new else "Check whose it is and its permissions, or change a copy of it"):
        _remove([*folder.glob(".*.part"), *(folder / PARTS).glob(".*.part")])
        manifest = find_index_manifest(folder)
        if manifest is not None:
            recover_replaced(folder / manifest.encoder_folder)
            _remove_obsolete(folder, manifest)
            _sweep(folder, manifest)
        else:
            _remove(generation_folder(folder, number) for number in generations(folder))
        yield


def publish(folder: Path, manifest: IndexManifest, *, forget: bool = False) -> None:
    """Make a generation the one that readers get, then remove what is out of use.

    Args:
        folder: The index folder; the files of the generation are in it.
        manifest: Of the generation.
        forget: Remove what is obsolete at once, though a reader may have it open, not at the next change.
    """
    manifest.save(folder)
    if forget:
        _remove_obsolete(folder, manifest)
    _sweep(folder, manifest)


def _sweep(folder: Path, manifest: IndexManifest) -> None:
    """Remove generations that are neither the published one nor the one before nor open, and parts that were never begun.

    A part that is not published but holds something stays: an encoding that can go on, or shards that somebody put there.
    """
    kept = {manifest.generation, *generations(folder, below=manifest.generation)[-1:]}
    others = [(number, generation_folder(folder, number)) for number in generations(folder) if number not in kept]
    _remove(place for number, place in others if number > manifest.generation or not is_locked(place))
    unnamed = unpublished_parts(folder, manifest)
    _remove(part for part in unnamed if _is_empty(part) and not is_locked(part / LOCK))


def _is_empty(part: Path) -> bool:
    return all(entry.name.startswith(".") for entry in part.iterdir())


def _remove_obsolete(folder: Path, manifest: IndexManifest) -> None:
    if manifest.obsolete:
        _remove(folder / name for name in manifest.obsolete)
        replace(manifest, obsolete=()).save(folder)  # the names may be used again


def generation_folder(folder: Path, number: int) -> Path:
    """Return where the files of a generation are."""
    return folder / f"g{number:05d}"


def generations(folder: Path, below: int | None = None) -> list[int]:
    """Return the numbers of the generations that have a folder, ascending."""
    numbers = [int(entry.name[1:]) for entry in folder.glob("g[0-9]*") if entry.name[1:].isdecimal()]
    return sorted(number for number in numbers if below is None or number < below)


def parts(folder: Path) -> list[Path]:
    """Return the shards folders inside an index folder's parts/, published or not, by name."""
    return sorted(entry for entry in (folder / PARTS).glob("[0-9]*") if _PART.fullmatch(entry.name) and entry.is_dir())


def unpublished_parts(folder: Path, manifest: IndexManifest) -> list[Path]:
    """Return the shards folders inside an index folder's parts/ that its manifest does not name, by name."""
    named = {(folder / part.folder).resolve() for part in manifest.parts}
    return [part for part in parts(folder) if part.resolve() not in named]


def unfinished_parts(folder: Path, manifest: IndexManifest) -> list[Path]:
    """Return the shards folders inside an index folder's parts/ whose encoding goes on, or can."""
    return [part for part in unpublished_parts(folder, manifest) if (part / SHARDS_PLAN).is_file() or is_locked(part / LOCK)]


def next_parts(folder: Path, manifest: IndexManifest, wanted: int = 1) -> list[Path]:
    """Return where the next parts go: names that no part has, nor had one that was published.

    They begin with the next generation, and once that one is published no name is made of it again.
    """
    places = (folder / PARTS / f"{manifest.generation + 1:05d}-{number}" for number in count(1))
    return list(islice((place for place in places if not place.exists()), wanted))


def hold(folder: Path, number: int) -> int:
    """Have a generation kept as long as the directory that is returned, opened, is not closed.

    Raises:
        MedretError: If the generation is gone.
    """
    place = generation_folder(folder, number)
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise MedretError(f"{place}: is missing, though {INDEX_MANIFEST} names it. {mend(folder)}") from error
    with suppress(OSError):  # a file system without locks: the generation is kept for one change
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def store_file(place: Path, generation: int) -> StoredFile:
    """Describe a file of a generation that is being written."""
    return _describe(place, str(generation_folder(Path(), generation)))


def store_encoder(folder: Path, name: str) -> tuple[StoredFile, ...]:
    """Describe the files of the encoder in `folder`/`name`."""
    return tuple(_describe(place, name) for place in sorted((folder / name).iterdir()) if place.is_file())


def _describe(place: Path, folder: str) -> StoredFile:
    return StoredFile(file=f"{folder}/{place.name}", bytes=place.stat().st_size, sha256=sha256_file(place), probe=probe([place]))


def store_part(folder: Path, part: Part) -> ShardsPart:
    """Describe a shards folder as a part of the index in `folder`."""
    place = part.folder.resolve()
    own = place.parent == (folder / PARTS).resolve()  # parts/ may be a link to a larger disk
    relative = f"{PARTS}/{place.name}" if own else os.path.relpath(place, folder.resolve())
    return ShardsPart(folder=relative, sha256=sha256_file(part.folder / SHARDS_MANIFEST), probe=probe_part(part))


def probe_part(part: Part) -> str:
    """Return a checksum over one block of each shard of a folder: 16 hex digits."""
    files = [part.folder / shard.file for entry in part.manifest.modalities.values() for shard in entry.shards]
    return probe(files, blocks=1)


def probe(files: Iterable[Path], blocks: int = _BLOCKS) -> str:
    """Return a checksum over evenly spaced blocks of files: 16 hex digits; what lies between them is not looked at."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                for number in range(blocks):
                    middle = size * (2 * number + 1) // (2 * blocks)
                    digest.update(os.pread(file.fileno(), _BLOCK, max(middle - _BLOCK // 2, 0)))
        except OSError as error:
            raise MedretError(f"{path}: cannot be read ({error.strerror or error}). Check the file and its permissions.") from error
    return digest.hexdigest()[:16]


def check_stored(folder: Path, stored: StoredFile, whole: bool = False, advice: str | None = None) -> None:
    """Check a file of an index: that it is there with its size and its probe and, where `whole`, its checksum.

    Args:
        folder: The index folder.
        stored: The file.
        whole: Read all of it.
        advice: What to do about a fault; when None, as `mend` says.

    Raises:
        MedretError: If it is missing, cut, changed, or another file.
    """
    path = folder / stored.file
    advice = advice or mend(folder)
    if not path.is_file():
        raise MedretError(f"{path}: is missing, though {INDEX_MANIFEST} names it. {advice}")
    size = path.stat().st_size
    if size != stored.bytes:
        raise MedretError(f"{path}: is damaged: {size} bytes, expected {stored.bytes}. {advice}")
    if probe([path]) != stored.probe or (whole and sha256_file(path) != stored.sha256):
        raise MedretError(f"{path}: is damaged: its checksum is not the one in {INDEX_MANIFEST}. {advice}")


def mend(folder: Path) -> str:
    """Say how files of an index are made anew."""
    return f"Make it again from the shards: medret compact --rebuild --index {folder}"


def _remove(places: Iterable[Path]) -> None:
    for place in list(places):
        try:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        except OSError as error:
            raise MedretError(f"{place}: is out of use but cannot be removed ({error.strerror or error}). Remove it.") from error
