"""Amounts as people write them: bytes, times, numbers and shares, turns among processes."""

import re
from collections.abc import Mapping

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h)", re.IGNORECASE)
_LIMIT = re.compile(r"(\d+(?:\.\d+)?)(%)|\d+")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Read "16MB" (10^6 bytes each), "16MiB" (2^20) or a number of bytes.

    Raises:
        ValueError: If it is none of these.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no amount of bytes, expected one such as 16MB or 2GiB")
    number, power, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[power.lower()])


def parse_limit(text: str) -> int | float:
    """Read "10", a number, or "2%", a share between 0.0 and 1.0.

    Raises:
        ValueError: If it is neither.
    """
    match = _LIMIT.fullmatch(text.strip())
    if match is None or (match[2] and float(match[1]) > 100):
        raise ValueError(f"{text!r} is neither a number nor a share, expected one such as 10 or 2%")
    return float(match[1]) / 100 if match[2] else int(text)


def own_turn(rank: int | None, size: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return which of how many processes this one is: as told, else as torchrun says, else the only one.

    Raises:
        ValueError: If only one of the two is told.
    """
    if (rank is None) != (size is None):
        raise ValueError("--rank and --size go together: which of how many processes this one is, the first being 0")
    if rank is not None and size is not None:
        return rank, size
    if "LOCAL_RANK" not in environment:  # a cluster may set the others without torchrun
        return 0, 1
    return int(environment["RANK"]), int(environment["WORLD_SIZE"])


def parse_seconds(text: str) -> float:
    """Read "5ms", "0.5 s" or "2min" as seconds, above 0.

    Raises:
        ValueError: If it is none of these.
    """
    match = _SECONDS.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time, expected one such as 5ms or 0.5s")
    return seconds
