"""What is to be known beside a result: a line each, on stderr."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGES = ("encoders", "index", "retrieval")


def note(line: str) -> None:
    """Print one of them."""
    print(f"note: {line}", file=sys.stderr)


@contextmanager
def told(verbose: bool) -> Iterator[None]:
    """Print what the packages log of their work, such as what was loaded and how long it took, if so wanted."""
    if not verbose:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(relativeCreated)6.0f ms  %(message)s"))
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
