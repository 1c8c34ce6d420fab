"""Files and folders that appear whole or not at all."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from encoders.errors import MedretError


@contextmanager
def whole_file(path: Path, mode: int = 0o600) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed to `path`.

    Args:
        path: Where the file shall be; an existing file is replaced, of a link what it names.
        mode: Permission bits of the new file.

    Raises:
        MedretError: If the disk is full, the place cannot be written, or a folder or a device is there.
    """
    if path.exists() and not path.is_file():  # root may replace /dev/null
        raise MedretError(f"{path}: is a folder or a device, expected a file to write. Choose another place.")
    place = path.resolve()  # /dev/stdout is a link
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode))  # private from its first byte
        yield beside
        beside.chmod(mode)
        sync(beside)
        beside.replace(place)
        sync(place.parent)
    except OSError as error:
        raise MedretError(f"{path}: cannot be written ({error.strerror or error}). Free space or choose another place.") from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; on success it is synced and renamed to `path`.

    An existing folder at `path` is replaced; the new folder and the files in it are their owner's alone
    (modes 0700 and 0600; but a hard link keeps the mode of the file it names).

    Raises:
        MedretError: If the disk is full, the place cannot be written, or something else than a folder is there.
    """
    if path.exists() and not path.is_dir():
        raise MedretError(f"{path}: is no folder. Choose another place.")
    beside = old = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        yield beside
        for entry in [*beside.rglob("*"), beside]:
            _make_private(entry)
            sync(entry)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / path.name)
        try:
            beside.replace(path)
        except OSError:
            if old is not None:
                (old / path.name).replace(path)
            raise
        sync(path.parent)
    except OSError as error:
        raise MedretError(f"{path}: cannot be written ({error.strerror or error}). Free space or choose another place.") from error
    finally:
        for leftover in (beside, old):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)


def recover_replaced(path: Path) -> None:
    """Undo what a process that was killed while it wrote `path` left: put back what it had put aside, remove the rest.

    For whoever knows that nobody is writing there now.

    Raises:
        MedretError: If the place cannot be written.
    """
    try:
        for aside in path.parent.glob(f".{path.name}.*.old"):
            if not path.exists() and (aside / path.name).exists():
                (aside / path.name).replace(path)
            shutil.rmtree(aside)
        for part in path.parent.glob(f".{path.name}.*.part"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    except OSError as error:
        raise MedretError(f"{path}: cannot be written ({error.strerror or error}). Free space or choose another place.") from error


def private_folder(path: Path) -> Path:
    """Make `path` and its missing parents, readable by their owner alone (mode 0700); return it."""
    try:
        missing = [folder for folder in [path, *path.parents] if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise MedretError(f"{path}: the folder cannot be made ({error.strerror or error}). Choose another place.") from error
    return path


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_private(path: Path) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        path.chmod(0o700)
    elif status.st_nlink == 1:  # a link's mode is also that of the file elsewhere
        path.chmod(0o600)
