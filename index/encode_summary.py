"""What an encoding made, and what it took."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSummary:
    """What a shards folder holds after a run, and what the run took.

    Attributes:
        failures: Images without a vector; `failures.csv` says why.
        texts_cut: Texts longer than the encoder reads; what lies beyond is not in their vectors.
        without_text: Studies (or records without a study) without text in the chosen sections.
        left_out: Rows of the corpus that became no record, in whatever split: why, and how many.
        shards: How many there shall be, of all processes together.
        resumed_shards: Shards of this process that an earlier run had finished.
        complete: Whether all shards are there; if not, other processes have still to make theirs.
        done: Modality to rows that this process went through in this run.
        compute: As in the manifest.
        seconds: Of this run, from beginning to end.
        rates: Modality to rows a second that this process went through, where it did.
        peak_rss: Bytes of memory that the process has held at most.
    """

    folder: Path
    encoder: str
    images: int
    reports: int
    sentences: int
    failures: int
    texts_cut: int
    without_text: int
    left_out: Mapping[str, int]
    shards: int
    resumed_shards: int
    complete: bool
    done: Mapping[str, int]
    compute: Mapping[str, str]
    seconds: float
    rates: Mapping[str, float]
    peak_rss: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "folder": str(self.folder)}
