"""What stands behind a row of the index: its record, its study's report, its image file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.answers import Hit

if TYPE_CHECKING:
    from index.shards import Shards


class Place(NamedTuple):
    """Where a record came in an answer."""

    rank: int
    score: float
    percentile: float | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rows of one answer: (R,) int64 and (R,) float32 scores, best first, which has rank `first`; (R,) float64 percentiles."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    percentiles: NDArray[np.float64] | None = None
    first: int = 1

    def places(self) -> list[Place]:
        """Return the place of each row."""
        percentiles = [None] * len(self.rows) if self.percentiles is None else self.percentiles.tolist()
        pairs = zip(self.scores.tolist(), percentiles, strict=True)
        return [Place(rank, score, percentile) for rank, (score, percentile) in enumerate(pairs, start=self.first)]


class Shelf:
    """Looks up records, report texts and image files of a shards folder.

    Args:
        shards: The opened folder.
    """

    def __init__(self, shards: "Shards") -> None:
        self._shards = shards
        self._pseudonymised = shards.manifest.pseudonymised

    def hits(self, modality: str, ranked: Sequence[Ranked]) -> list[tuple[Hit, ...]]:
        """Return the hits of each answer, in its order; one look-up serves all, as each goes through whole columns."""
        rows = np.concatenate([one.rows for one in ranked])
        records = self._shards.table(modality).records(rows)
        texts = iter(self._report_texts(records) if modality == "images" else [record["text"] for record in records])
        shown = iter(records)
        return [tuple(self._hit(place, next(shown), next(texts)) for place in one.places()) for one in ranked]

    def image_path(self, id: str) -> Path | None:
        """Return the file of an image record, where it is known, also where hits do not name it."""
        if "images" not in self._shards.modalities:
            return None
        table = self._shards.table("images")
        row = table.find(id)
        return None if row is None else self._file(table.records(np.array([row], dtype=np.int64))[0])

    @property
    def knows_files(self) -> bool:
        """Whether a file can be told to be a record: not in a pseudonymised index without its private table."""
        return not self._pseudonymised or bool(self._private_paths)

    def row_of_file(self, path: Path) -> int | None:
        """Return the image record of the corpus that this file is, or None."""
        table = self._shards.table("images")
        places = {Path(os.path.abspath(path)), Path(path).resolve()}  # noqa: PTH100 (absolute() keeps "..")
        if self._pseudonymised:
            return next((table.find(id) for id, file in self._private_paths.items() if file in places), None)
        homes = {home for part in self._shards.parts if part.root is not None for home in (part.root, part.root.resolve())}
        below = {place.relative_to(home) for place in places for home in homes if place.is_relative_to(home)}
        rows = table.rows_of("path", [str(place) for place in places | below])
        for row, record in zip(rows.tolist(), table.records(rows), strict=True):  # another part may have a file of that name
            if not places.isdisjoint({Path(record["path"]), Path(record["path"]).resolve()}):
                return int(row)
        return None

    def _hit(self, place: "Place", record: Mapping[str, Any], text: str | None) -> Hit:
        file = self._file(record) if record["modality"] == "images" else None
        return Hit(
            rank=place.rank,
            score=place.score,
            id=record["id"],
            modality=record["modality"],
            patient_id=record["patient_id"],
            study_id=record["study_id"],
            view=record["view"],
            labels=record["labels"],
            text=text,
            path=None if self._pseudonymised else file,
            image_path=file,
            percentile=place.percentile,
        )

    def _report_texts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The report of each image's study, else of the record itself, or None."""
        if "reports" not in self._shards.modalities:
            return [None] * len(records)
        reports = self._shards.table("reports")
        units = [record["study_id"] or record["id"] for record in records]  # what a report is called
        texts = {report["id"]: report["text"] for report in reports.records(reports.rows_of("id", units))}
        return [texts.get(unit) for unit in units]

    def _file(self, record: Mapping[str, Any]) -> Path | None:
        if self._pseudonymised:
            return self._private_paths.get(record["id"])
        return None if record["path"] is None else Path(record["path"])

    @cached_property
    def _private_paths(self) -> Mapping[str, Path]:
        """Where the images of a pseudonymised index are, for those who may read the table; nothing for others."""
        return self._shards.private_paths()
