"""What every corpus reader yields: one image, or a report without one, with all that its source says of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum
from pathlib import Path

FINDINGS = (  # in the order of CheXpert's train.csv; select by name, never by position
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


NULL_LABEL = -128  # in label matrices: nobody looked for this finding in this record


class LabelState(IntEnum):
    """What a report, or a reader of the film, says about a finding.

    A finding that nobody looked for in this record is absent from `Record.labels` (null in a shard):
    that is not the same as NOT_MENTIONED.
    """

    POSITIVE = 1
    NEGATIVE = 0
    UNCERTAIN = -1
    NOT_MENTIONED = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One image with its study's report, or a report without an image.

    Attributes:
        id: Unique in the corpus and stable between runs (dicom_id, path without suffix, ...).
        image: Absolute path of the image file, or None for a report alone. The file need not exist.
        patient_id: The source's patient, or None where it names none.
        study_id: The source's study: all records of a study share one report.
        view: As the source spells it ("PA", "AP", "LATERAL", "LL", "Frontal", "Lateral"), or None.
        split: "train", "validate" or "test", or None.
        labels: Finding to state; empty where the record was not labelled.
        sections: Section name in lower case ("findings", "impression", "indication", ...) to text.
        study_date: The day of the examination.
        age: Years.
        sex: "F", "M" or None.
        tags: The source's own words for what it found (MeSH problems), as they stand.
    """

    id: str
    image: Path | None
    patient_id: str | None = None
    study_id: str | None = None
    view: str | None = None
    split: str | None = None
    labels: Mapping[str, LabelState] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    study_date: date | None = None
    age: float | None = None
    sex: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """What a reader left out or found at fault: counts by reason, with the first few ids of each.

    `left_out` counts rows that became no record; `faults` counts things wrong with rows that did.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, id: str) -> None:
        """Count a row that becomes no record."""
        self.left_out[reason] += 1
        self._remember(reason, id)

    def fault(self, reason: str, id: str) -> None:
        """Count something wrong with a record that is kept."""
        self.faults[reason] += 1
        self._remember(reason, id)

    def _remember(self, reason: str, id: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < 5:
            examples.append(id)
