"""Which column of a table is what, and what its cells say."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from encoders.errors import MedretError
from index.corpora.header import columns_found, listed
from index.corpora.record import FINDINGS, LabelState

ROLES: Mapping[str, tuple[str, ...]] = {  # role to the column names that are taken for it, the first one found
    "id": ("id", "record_id", "image_id", "dicom_id"),
    "path": ("path", "image_path", "image", "filename", "file_name", "file", "image_index"),
    "text": ("text", "report", "report_text", "caption"),
    "patient": ("patient", "patient_id", "patientid", "subject_id", "subject", "deid_patient_id"),
    "study": ("study", "study_id", "studyid"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "split": ("split",),
    "labels": ("labels", "label", "finding_labels"),
    "date": ("date", "study_date", "studydate"),
    "age": ("age", "patient_age"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
}
SECTIONS = ("findings", "impression", "indication", "comparison", "history", "technique")

_STATES = {
    **dict.fromkeys(("1", "1.0", "true", "positive"), LabelState.POSITIVE),
    **dict.fromkeys(("0", "0.0", "-0.0", "false", "negative"), LabelState.NEGATIVE),
    **dict.fromkeys(("-1", "-1.0", "uncertain"), LabelState.UNCERTAIN),
    **dict.fromkeys(("", "not_mentioned", "not mentioned"), LabelState.NOT_MENTIONED),
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validate", "valid", "val", "validation", "dev"), "validate"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumns:
    """The columns of one table by what they hold.

    Attributes:
        roles: Role to column, for those of ROLES that the table has ("labels": a column that lists the positives).
        sections: Report section to column.
        findings: Finding to column, where each finding has its own.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    findings: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All columns that hold something, each once."""
        return list(dict.fromkeys([*self.roles.values(), *self.sections.values(), *self.findings.values()]))


def find_columns(path: Path, header: Sequence[str], given: Mapping[str, str] | None = None) -> TableColumns:
    """Tell by their names what the columns of a table hold; case, spaces and dashes do not matter.

    Args:
        path: The table, for messages.
        header: Its column names.
        given: Role or section to column name, and these win. "labels" names a column that lists the positives, or one
            finding's column if it bears a finding's name, or several findings' columns separated by commas.

    Returns:
        What was found. Columns named as findings (FINDINGS) are taken unless `given` names the labels; a column that
        lists the positives is taken only where there are none.

    Raises:
        MedretError: If `given` names an unknown role or a column that is not there, or there is neither path nor text.
    """
    given = dict(given or {})
    _check_given(path, header, given)
    free = [name for name in header if name not in given.values()]  # a column that the user named holds that and nothing else
    by_name = {_plain(name): name for name in reversed(free)}
    roles = {role: by_name[alias] for role, aliases in ROLES.items() if (alias := next((a for a in aliases if a in by_name), None))}
    sections = {name: column for name in SECTIONS if (column := by_name.get(name) or by_name.get(f"section_{name}"))}
    findings = {finding: column for column in free if (finding := finding_named(column)) in FINDINGS}
    listed = given.pop("labels", None)
    if listed is not None:
        columns = [part.strip() for part in listed.split(",") if part.strip()]
        is_list = len(columns) == 1 and "," not in listed and finding_named(columns[0]) not in FINDINGS
        findings = {} if is_list else {finding_named(column): column for column in columns}
        roles["labels"] = columns[0]
    if findings:
        roles.pop("labels", None)
    roles |= {role: column for role, column in given.items() if role in ROLES}
    sections |= {role: column for role, column in given.items() if role in SECTIONS}
    if not sections and not roles.keys() & {"path", "text"}:
        mend = "Say which it is, e.g. --column path=COLUMN."
        raise MedretError(f"{path}: no column for the image path or the report text; {columns_found(header, mend)}")
    ordered = {finding: findings[finding] for finding in (*FINDINGS, *findings) if finding in findings}
    return TableColumns(roles=roles, sections=sections, findings=ordered)


def finding_named(name: str) -> str:
    """Return CheXpert's spelling of a finding if the name is one of the 14, else the name without outer spaces."""
    plain = _plain(name)
    return next((finding for finding in FINDINGS if _plain(finding) == plain), name.strip())


def state_of(cell: Any) -> LabelState | None:
    """Read one finding's cell: 1, 0, -1, blank, true, false, or a state's name; None for anything else."""
    return _STATES.get(text_of(cell).lower())


def labels_of(cell: Any) -> dict[str, LabelState | None] | None:
    """Read a cell that lists the positive findings: "A|B", "A;B" or a list; or maps findings to states.

    Returns:
        Finding to state (None where a state is not understood), {} for an empty list, or None for a blank cell.
    """
    if isinstance(cell, str) and cell.lstrip().startswith(("[", "{")):
        try:
            cell = json.loads(cell)
        except ValueError:
            return {cell.strip()[:40]: None}
    if isinstance(cell, Mapping):
        return {finding_named(str(name)): state_of(value) for name, value in cell.items()}
    if isinstance(cell, Sequence) and not isinstance(cell, str):
        return {finding_named(str(name)): LabelState.POSITIVE for name in cell}
    names = [name for name in re.split(r"[|;]", text_of(cell)) if name.strip()]
    return {finding_named(name): LabelState.POSITIVE for name in names} or None


def text_of(cell: Any) -> str:
    """Return a cell as valid text without outer spaces; "" for null and not-a-number."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return str(cell).encode("utf-8", "replace").decode("utf-8").strip()  # JSON can spell halves of characters


def split_of(cell: Any) -> str | None:
    """Return "train", "validate" or "test", also from "val", "dev", "training" and the like; None for other words."""
    return _SPLITS.get(text_of(cell).lower())


def sex_of(cell: Any) -> str | None:
    """Return "F" or "M", also from "female" and "male"; None for other words."""
    return _SEXES.get(text_of(cell).lower())


def date_of(cell: Any) -> date | None:
    """Read "2020-03-01", "20200301" or either with a time behind it; None for other text."""
    try:
        return date.fromisoformat(re.split(r"[T ]", text_of(cell))[0].removesuffix(".0"))
    except ValueError:
        return None


def age_of(cell: Any) -> float | None:
    """Read years; None for text that is no number of years from 0 to 130."""
    try:
        age = float(text_of(cell))
    except ValueError:
        return None
    return age if 0 <= age <= 130 else None


def _check_given(path: Path, header: Sequence[str], given: Mapping[str, str]) -> None:
    for role, column in given.items():
        if role not in ROLES and role not in SECTIONS:
            raise MedretError(f"{path}: a table has no '{role}'. Known are {', '.join((*ROLES, *SECTIONS))}.")
        named = [part.strip() for part in column.split(",") if part.strip()] if role == "labels" else [column]
        missing = [name for name in named if name not in header]
        if missing or not named:
            raise MedretError(f"{path}: no column {listed(missing)} for {role}; {columns_found(header, 'Name one of these.')}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
