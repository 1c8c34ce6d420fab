"""CSV files as the datasets hand them out: plain or gzipped, with or without a byte-order mark."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from encoders.errors import MedretError
from index.corpora.header import columns_found, listed


def find_csv(folder: Path, stem: str) -> Path | None:
    """Return `folder/stem.csv` or `folder/stem.csv.gz`, the plain one where both are there, or None."""
    candidates = (folder / f"{stem}.csv", folder / f"{stem}.csv.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_header(path: Path, delimiter: str = ",") -> tuple[str, ...]:
    """Return a CSV file's column names, without spaces around them.

    Raises:
        MedretError: If the file cannot be read, is empty, or names a column twice.
    """
    with _reading(path) as file:
        return _header(path, next(csv.reader(file, delimiter=delimiter), None))


def read_csv(path: Path, required: Sequence[str] = (), delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file as column name to text; empty lines are skipped.

    Whether the file is gzipped is told from its first bytes, because browsers unpack `.gz` files and keep the name.

    Args:
        path: A UTF-8 file with a header row, plain or gzipped.
        required: Columns that must be there; others are handed on as they are.
        delimiter: What stands between two fields.

    Raises:
        MedretError: If the file cannot be read, lacks a column, or a row has another number of fields than the header.
    """
    with _reading(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = _header(path, next(reader, None))
        require_columns(path, header, required)
        width = len(header)
        for row in reader:
            if len(row) == width:
                yield dict(zip(header, row, strict=True))
            elif row:
                raise MedretError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, expected {width} as in the header. "
                    "The file is damaged or separated by something else: fetch it again."
                )


def require_columns(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    """Check that a file has the columns that its reader needs.

    Raises:
        MedretError: If one is missing; names the file, what is missing and what is there.
    """
    missing = [name for name in required if name not in header]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        mend = f"Use the published file, or rename the column{plural}."
        raise MedretError(f"{path}: no column{plural} {listed(missing)}; {columns_found(header, mend)}")


@contextmanager
def _reading(path: Path) -> Iterator[TextIO]:
    """Open a plain or gzipped UTF-8 text file; what goes wrong while reading becomes a MedretError."""
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") if gzipped else path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except FileNotFoundError as error:
        raise MedretError(f"{path}: no such file. Check the path.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MedretError(f"{path}: the gzip data is damaged or cut short ({error}). Fetch the file again.") from error
    except UnicodeDecodeError as error:
        raise MedretError(f"{path}: not UTF-8 text ({error.reason}). Save it as UTF-8 CSV.") from error
    except csv.Error as error:
        raise MedretError(f"{path}: not a readable CSV file ({error}). Fetch it again or save it as UTF-8 CSV.") from error
    except OSError as error:
        raise MedretError(f"{path}: cannot be read ({error.strerror or error}). Check the file and its permissions.") from error


def _header(path: Path, row: list[str] | None) -> tuple[str, ...]:
    header = tuple(name.strip() for name in row or ())
    if not any(header):
        raise MedretError(f"{path}: empty, expected a CSV file with a header row. Fetch it again.")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise MedretError(f"{path}: names a column more than once; {columns_found(header, f'Rename all but one {listed(twice)}.')}")
    return header
