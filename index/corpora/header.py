"""What a message may tell of a table: its column names and short codes, never what may be a patient's data."""

import re
from collections.abc import Sequence

_LONGEST_NAME = 40  # characters
_MOST_WORDS = 3
_DATA = re.compile(  # what a column name does not hold, but a row of a table without a header does
    r"\.(png|jpe?g|dcm|dicom|tiff?|bmp|nii|txt|gz)\b"  # a file
    r"|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\b\d{4}\b|\d{5}|^\d+[dwmy]$"  # a date, a year, an identifier, an age
    r"|, |\. |\.$|\^|\n"  # a sentence, a name
    r"|^(f|m|male|female|ap|pa|ll|lateral|frontal)$",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z0-9._-]{1,12}")


def columns_found(header: Sequence[str], mend: str) -> str:
    """Word for a message what columns a table has and what to do ("found 'a', 'b'. Rename one of them.").

    A table without a header row has its first row in that place: where any cell does not look like a name, none is shown.
    """
    if not _looks_like_header(header):
        return "its first row does not look like column names; is the header missing?"
    return f"found {listed(header)}. {mend}"


def listed(names: Sequence[str]) -> str:
    """Return the first 30 names in quotes, each cut at 40 characters."""
    shown = ", ".join(f"'{name[:_LONGEST_NAME]}'" for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def quoted(cell: str) -> str:
    """Return a cell in quotes if it is a short code, such as '3' or 'fold-7'; else what it is, as free text may name a patient."""
    text = cell.strip()
    if not text:
        return "blank"
    return f"'{text}'" if _CODE.fullmatch(text) else "free text"


def _looks_like_header(header: Sequence[str]) -> bool:
    """Whether every cell looks like a column name; the first may be blank, as that of a table's row numbers is."""
    return all(_looks_like_name(cell) for cell in header[not header[0].strip() :]) if header else True


def _looks_like_name(cell: str) -> bool:
    name = cell.strip()
    if not any(map(str.isalpha, name)) or len(name) > _LONGEST_NAME or _DATA.search(name):
        return False
    words = name.split()
    return len(words) == 1 or (len(words) <= _MOST_WORDS and not name.isupper())  # "DOE JANE" is no column
