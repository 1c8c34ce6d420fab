"""Whether the ids of a corpus are unique, told from 24 bytes a record."""

from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from index.corpora.record import Record

Hashes = npt.NDArray[np.int64]
_NONE = 0  # for a record without a study, or without a patient


class Identities:
    """Hashes of each record's id, study and patient. Where hashes collide, the corpus is read again and the words compared.

    What is not seen: two patients in one study whose hashes of 64 bits are equal.
    """

    def __init__(self) -> None:
        self._ids, self._studies, self._patients = array("q"), array("q"), array("q")

    def add(self, record: Record) -> None:
        """Take note of the next record."""
        self._ids.append(_hash(record.id))
        self._studies.append(_NONE if record.study_id is None else _hash(record.study_id))
        self._patients.append(_NONE if record.patient_id is None else _hash(record.patient_id))

    def units(self) -> int:
        """How many studies there are, a record without a study counted as one."""
        ids, studies, _ = self._columns()
        return len(np.unique(np.where(studies == _NONE, ids, studies)))

    def check(self, root: Path, again: Callable[[], Iterable[Record]]) -> None:
        """Compare all ids.

        Args:
            root: The corpus, for messages.
            again: Gives the same records once more, in the same order; called where hashes say that something is amiss.

        Raises:
            MedretError: If two records have one id, a study has two patients, or a study's id is that of a record without one.
        """
        suspects = set(self._suspects().tolist())
        if suspects:
            _compare(root, [record for number, record in enumerate(again()) if number in suspects])

    def _columns(self) -> tuple[Hashes, Hashes, Hashes]:
        ids, studies, patients = (np.frombuffer(column, np.int64) for column in (self._ids, self._studies, self._patients))
        return ids, studies, patients

    def _suspects(self) -> Hashes:
        """Numbers of the records that may break a rule."""
        ids, studies, patients = self._columns()
        alone = studies == _NONE
        amiss = np.concatenate([_shared(studies, patients), np.intersect1d(ids[alone], studies)])
        return np.flatnonzero(np.isin(ids, _repeated(ids)) | np.isin(studies, amiss) | (alone & np.isin(ids, amiss)))


def _hash(word: str) -> int:
    return hash(word) or 1


def _repeated(values: Hashes) -> Hashes:
    ordered = np.sort(values)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _shared(studies: Hashes, patients: Hashes) -> Hashes:
    """Studies that have two patients."""
    named = np.flatnonzero((studies != _NONE) & (patients != _NONE))
    order = named[np.lexsort((patients[named], studies[named]))]
    studies, patients = studies[order], patients[order]
    return np.unique(studies[1:][(studies[1:] == studies[:-1]) & (patients[1:] != patients[:-1])])


def _compare(root: Path, records: list[Record]) -> None:
    seen: set[str] = set()
    patients: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise MedretError(f"{root}: two records have the id {record.id}. Ids must be unique; give the corpus an id column")
        seen.add(record.id)
        if record.study_id is None or record.patient_id is None:
            continue
        if patients.setdefault(record.study_id, record.patient_id) != record.patient_id:
            raise MedretError(
                f"{root}: study {record.study_id} belongs to two patients. Make the study ids unique in the corpus; "
                f"every such study is counted by: medret corpus {root}"
            )
    studies = {record.study_id for record in records}
    for record in records:
        if record.study_id is None and record.id in studies:
            raise MedretError(f"{root}: {record.id} is a study and also a record without a study. Give the record its study")
