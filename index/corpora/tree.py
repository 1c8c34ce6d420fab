"""The files of a folder tree, in a fixed order, each folder once."""

from collections.abc import Iterator
from pathlib import Path

from index.corpora.record import Tally


def walk_files(root: Path, tally: Tally) -> Iterator[Path]:
    """Yield the files of a tree, folders and files in the order of their names; links are followed, each folder once.

    Args:
        root: An absolute folder. Each folder is listed when it is reached, so the first files come at once.
        tally: Counts folders met before through a link, folders that cannot be read, broken links, what is no regular file, and
            files and folders whose name is not UTF-8.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        relative = path.relative_to(root).as_posix()
        try:
            if not _is_utf8(relative):  # ids and paths are stored as text
                tally.leave_out("name that is not UTF-8", relative.encode(errors="backslashreplace").decode())
            elif path.is_dir():
                status = path.stat()
                if (status.st_dev, status.st_ino) in seen:
                    tally.leave_out("folder met before through a link", relative)
                    continue
                seen.add((status.st_dev, status.st_ino))
                waiting.extend(sorted(path.iterdir(), reverse=True))
            elif path.is_file():
                yield path
            else:  # a pipe or a device would block whoever opens it
                tally.leave_out("broken link or no regular file", relative)
        except OSError:
            tally.leave_out("folder cannot be read", relative)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
