"""Records that go: from every answer at once, by a list of rows that nobody may find any more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from index.corpora.record import Record
from index.folder import OpenedIndex, open_index, read_removed
from index.generation import link_files, write_generation
from index.index_manifest import IndexManifest
from index.pseudonyms import Pseudonymiser
from index.publish import publish, writing
from index.resume import read_plan
from index.shards import Part

KEY_CHECK = "pseudonym_key"  # in a shards folder's plan, or after compaction under "corpus" in its manifest

Rows = npt.NDArray[np.int64]

_NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveSummary:
    """What was removed: modality to how many records; and the index as it is now."""

    removed: Mapping[str, int]
    manifest: IndexManifest


def remove_records(
    folder: Path, *, ids: Sequence[str] = (), patients: Sequence[str] = (), studies: Sequence[str] = (), key: bytes | None = None
) -> RemoveSummary:
    """Remove records from every answer at once; their bytes stay in the files until the index is compacted.

    Args:
        folder: The index folder.
        ids: Of images, reports or sentences. A report goes with its sentences.
        patients: All images, reports and sentences of these go.
        studies: Likewise.
        key: Where the index is pseudonymised and the ids are the real ones.

    Raises:
        MedretError: If any is not in the index (then nothing is removed), the key is another one, or another process is writing.
    """
    with writing(folder):
        opened = open_index(folder)
        if key is not None:
            check_key(opened, key)
        names = None if key is None else Pseudonymiser(key)
        gone = _chosen(opened, {"id": ids, "patient_id": patients, "study_id": studies}, names)
        before = read_removed(folder, opened.manifest)
        together = {modality: np.union1d(before.get(modality, _NONE), rows) for modality, rows in gone.items()}
        number = opened.manifest.generation + 1
        draft = replace(opened.manifest, generation=number)
        manifest = write_generation(folder, draft, together, partial(link_files, folder, number))
        publish(folder, manifest)
    return RemoveSummary(removed={modality: len(rows) for modality, rows in gone.items()}, manifest=manifest)


def check_key(opened: OpenedIndex, key: bytes | None) -> None:
    """Check that this is the key that the ids of an index were made with; None where they are the real ones.

    Raises:
        MedretError: If it is not.
    """
    part = opened.shards.parts[0]
    if part.manifest.pseudonymised and key is None:
        raise MedretError(f"{opened.folder}: is pseudonymised. Give the key that made it: --pseudonymise KEYFILE")
    if not part.manifest.pseudonymised and key is not None:
        raise MedretError(f"{opened.folder}: is not pseudonymised. Leave out --pseudonymise, or build another index")
    if key is not None and key_check(part) not in (None, Pseudonymiser(key).check):
        raise MedretError(f"{opened.folder}: was pseudonymised with another key. Give that one: --pseudonymise KEYFILE")


def key_check(part: Part) -> str | None:
    """Return what tells the key of a pseudonymised shards folder from another, or None."""
    check = (read_plan(part.folder) or {}).get(KEY_CHECK)
    return check or part.manifest.corpus.get(KEY_CHECK)


def _chosen(opened: OpenedIndex, asked: Mapping[str, Sequence[str]], names: Pseudonymiser | None) -> dict[str, Rows]:
    """Return modality to the rows, ascending, that ids, patients and studies stand for; each has to stand for one at least."""
    tables = [opened.shards.table(modality) for modality in opened.shards.modalities]
    chosen = {table.modality: [_NONE] for table in tables}
    for column, values in asked.items():
        spelt = {value: _spellings(column, value, names) for value in values}
        wanted = [spelling for spellings in spelt.values() for spelling in spellings]
        found: set[str] = set()
        for table in tables:
            rows = table.rows_of(column, wanted)
            found |= set(table.values(column, rows))
            chosen[table.modality].append(rows)
        for value, spellings in spelt.items():
            if found.isdisjoint(spellings):
                word = {"id": "record", "patient_id": "patient", "study_id": "study"}[column]
                raise MedretError(f"{opened.folder}: has no {word} {value}. Nothing was removed")
    gone = {modality: np.unique(np.concatenate(parts)) for modality, parts in chosen.items()}
    if len(gone.get("reports", _NONE)) and "sentences" in gone:
        reports = set(opened.shards.table("reports").ids(gone["reports"]))
        live = opened.shards.table("sentences").live_rows
        ids = opened.shards.table("sentences").ids(live)
        own = [row for row, id in zip(live.tolist(), ids, strict=True) if id.rpartition("#")[0] in reports]
        gone["sentences"] = np.union1d(gone["sentences"], np.array(own, np.int64))
    return gone


def _spellings(column: str, value: str, names: Pseudonymiser | None) -> list[str]:
    """Return what a real id may be called in the index."""
    if names is None:
        return [value]
    unit, mark, number = value.rpartition("#")
    record = names.record(Record(id=value, image=None, patient_id=value, study_id=unit or value))
    if column == "patient_id":
        return [str(record.patient_id)]
    study = str(names.record(Record(id=value, image=None, study_id=value)).study_id)
    if column == "study_id":
        return [study]
    alone = names.record(Record(id=unit or value, image=None)).id  # a report without a study is called like its record
    return [record.id, study, *([f"{record.study_id}#{number}", f"{alone}#{number}"] if mark else [])]
