"""What is to be known beside a result: a line each, on stderr."""

import sys


def note(line: str) -> None:
    """Print one of them."""
    print(f"note: {line}", file=sys.stderr)
