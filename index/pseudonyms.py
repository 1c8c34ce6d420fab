"""Keyed hashes in place of patient, study and file ids.

The hashes are HMAC-SHA256 under the owner's key: the same key gives the same pseudonyms in every run, and without it they
can be neither reversed nor recomputed from a list of hospital numbers, as plain hashes can.

Limits: report text is kept as it stands, and names burned into the pixels stay in the pixels; neither is scrubbed.
"""

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

from encoders.errors import MedretError
from index.corpora.record import Record

_SHORTEST_KEY = 16  # bytes
_OLDEST_AGE = 89  # years


def read_key(path: Path) -> bytes:
    """Read a key file, without the blanks and line ends around the key.

    Raises:
        MedretError: If it is missing, shorter than 16 bytes, or readable by others than its owner.
    """
    make = f"Make one: openssl rand -hex 32 > {path} && chmod 600 {path}"
    if not path.is_file():
        raise MedretError(f"{path}: no such key file. {make}")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise MedretError(f"{path}: the key may be read by others (mode {mode:03o}, expected 600). Run: chmod 600 {path}")
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise MedretError(f"{path}: the key cannot be read ({error.strerror}). Check its owner and permissions.") from error
    if len(key) < _SHORTEST_KEY:
        raise MedretError(f"{path}: the key has {len(key)} bytes, expected at least {_SHORTEST_KEY}. {make}")
    return key


class Pseudonymiser:
    """Replaces what names a person in records.

    Args:
        key: At least 16 secret bytes, as `read_key` returns them.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _SHORTEST_KEY:
            raise ValueError(f"the key has {len(key)} bytes, expected at least {_SHORTEST_KEY}")
        self._key = key

    @property
    def check(self) -> str:
        """Something that tells this key from another without giving it away: 32 hex digits."""
        return self._hash("key check", "")

    def record(self, record: Record) -> Record:
        """Return the record with pseudonyms for its own, its patient's and its study's id.

        The examination date goes, and an age above 89 becomes 90 (the HIPAA safe harbour, 45 CFR 164.514(b)(2), asks for
        both). The image path stays: whoever writes the record decides where it may be kept.
        """
        return replace(
            record,
            id=self._hash("file", record.id),
            patient_id=None if record.patient_id is None else self._hash("patient", record.patient_id),
            study_id=None if record.study_id is None else self._hash("study", record.study_id),
            study_date=None,
            age=90.0 if record.age is not None and record.age > _OLDEST_AGE else record.age,
        )

    def _hash(self, domain: str, id: str) -> str:
        """Return 32 hex digits (128 bits); the domain keeps a patient and a study of the same number apart."""
        return hmac.new(self._key, f"{domain}\0{id}".encode(), hashlib.sha256).hexdigest()[:32]
