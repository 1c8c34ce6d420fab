"""What to encode, how to compute it and how to store it."""

from dataclasses import dataclass, field
from pathlib import Path

from encoders.precision import PRECISIONS
from index.corpora.report import REPORT_SECTIONS
from index.manifest import VECTORS

TEXT_UNITS = ("report", "sentence")
FEWEST, MOST = 256, 65_536  # rows a shard


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What to encode, and how.

    Raises:
        ValueError: If a setting is out of its range.
    """

    vectors: tuple[str, ...] = ("joint",)  # of "joint" (projected) and "features" (the encoder's output before that)
    text_units: tuple[str, ...] = ("report",)  # of "report" and "sentence"
    dtype: str = "float32"  # or "float16", of the stored vectors
    shard_bytes: int = 4_000_000  # of the vectors in a shard, about: 2,000 rows of 512; a kill costs two shards at most
    shard_rows: int | None = None  # records a shard, whatever their size
    batch_size: int = 32  # may differ between a run and its resumption
    splits: tuple[str, ...] | None = None  # None for all
    workers: int | None = None  # threads that decode images; None for one a core
    pseudonym_key: bytes | None = field(default=None, repr=False)  # replaces patient, study and file ids, see index/pseudonyms.py
    text_sections: tuple[str, ...] = REPORT_SECTIONS  # joined, in this order
    compute: str = "float32"  # "bfloat16", or "auto": bfloat16 where the device has it and the encoder bears it
    compile: bool = False  # by torch.compile
    cache: Path | None = None  # folder of decoded images: films are taken from there, and put there first
    cache_size: int = 512  # pixels, side of the squares in it
    retry_failed: bool = False  # encode again the shards of images that could not be decoded and now can
    max_failures: int | float | None = None  # images: how many, or as a float their share; more stop the run
    rank: int = 0  # which of the processes this is
    size: int = 1  # how many processes share the work: shard number N falls to process N % size

    def __post_init__(self) -> None:
        for name, values, known in (("vectors", self.vectors, tuple(VECTORS)), ("text_units", self.text_units, TEXT_UNITS)):
            if not values or not set(values) <= set(known) or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}, expected some of {known}, each once")
        for name, value, allowed in (("dtype", self.dtype, ("float32", "float16")), ("compute", self.compute, ("auto", *PRECISIONS))):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
        counts = {"shard_bytes": self.shard_bytes, "shard_rows": self.shard_rows, "batch_size": self.batch_size, "workers": self.workers}
        for name, count in {**counts, "cache_size": self.cache_size}.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}, expected above 0")
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank is {self.rank} of {self.size} processes, expected 0 to {self.size - 1}")
        if self.max_failures is not None and (self.max_failures < 0 or (isinstance(self.max_failures, float) and self.max_failures > 1)):
            raise ValueError(f"max_failures is {self.max_failures}, expected a number of images, or a share of them from 0.0 to 1.0")

    @property
    def pixels(self) -> str:
        """How films become squares: "direct", or by way of larger squares in a cache."""
        return "direct" if self.cache is None else f"squares {self.cache_size}"  # "cache 512" of older versions lay a little elsewhere

    def rows_per_shard(self, dimensions: int) -> int:
        """Records a shard, where a record has vectors of so many numbers."""
        if self.shard_rows is not None:
            return self.shard_rows
        wide = dimensions * (4 if self.dtype == "float32" else 2)
        return min(max(self.shard_bytes // wide, FEWEST), MOST)

    def failures_allowed(self, images: int) -> int | None:
        """How many images may fail; None for all."""
        if not isinstance(self.max_failures, float):
            return self.max_failures
        return int(round(self.max_failures * images, 6))  # 0.29 * 100 is a little less than 29
