"""The rows that a corpus gives each modality: images, reports (one a study), sentences."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from encoders.errors import MedretError
from index.corpora.readers import Corpus
from index.corpora.record import Record, Tally
from index.corpora.report import report_text, split_sentences
from index.pseudonyms import Pseudonymiser
from index.shards import ShardRow

Rows = dict[str, list[ShardRow]]


def read_rows(
    corpus: Corpus,
    tally: Tally,
    *,
    text_units: Sequence[str],
    text_sections: Sequence[str],
    splits: Sequence[str] | None,
    key: bytes | None,
) -> tuple[Rows, int]:
    """Read a corpus into the rows to encode, in its order.

    A study's report is the text of its first record that has any; its id is the study's, or the record's where there is no
    study. Sentences are numbered from 1: "STUDY#1".

    Args:
        corpus: Read once.
        tally: Counts what its reader leaves out, whatever the split.
        text_units: Of "report" and "sentence".
        text_sections: Joined, in this order.
        splits: Those to take, or None for all.
        key: Where given, ids are replaced by keyed hashes, and no row has a path.

    Returns:
        Modality to rows (each image row's record has the real path), and how many studies, or records without one, have no text.

    Raises:
        MedretError: If there is nothing to encode, or the ids are not unique.
    """
    records = [record for record in corpus.records(tally) if splits is None or record.split in splits]
    if not records:
        raise MedretError(f"{corpus.root}: no record in split {', '.join(splits or ())}. See which there are: medret corpus {corpus.root}")
    _check_ids(corpus, records)
    if key is not None:
        pseudonyms = Pseudonymiser(key)
        records = [pseudonyms.record(record) for record in records]
    root = base_folder(corpus)
    paths = [None if record.image is None or key is not None else _stored(record.image, root) for record in records]
    rows: Rows = {"images": [ShardRow(record, path=path) for record, path in zip(records, paths, strict=True) if record.image is not None]}
    reports = _reports(records, text_sections)
    if "report" in text_units:
        rows["reports"] = reports
    if "sentence" in text_units:
        rows["sentences"] = [sentence for report in reports for sentence in _sentences(report)]
    if not any(rows.values()):
        raise MedretError(f"{corpus.root}: no images and no text in {', '.join(text_sections)}. Look at it: medret corpus {corpus.root}")
    return rows, len({record.study_id or record.id for record in records}) - len(reports)


def base_folder(corpus: Corpus) -> Path:
    """Return the folder that image paths are stored relative to: the corpus, or the folder of its table."""
    return corpus.root if corpus.root.is_dir() else corpus.root.parent


def digest_rows(rows: Rows) -> str:
    """Return a SHA-256 over all that the rows say, in order."""
    digest = hashlib.sha256()
    for modality, part in rows.items():
        for row in part:
            record = row.record
            labels: Mapping[str, int] = {finding: int(state) for finding, state in sorted(record.labels.items())}
            who = [record.id, record.patient_id, record.study_id, record.view, record.split, str(record.study_date), record.age, record.sex]
            digest.update(json.dumps([modality, *who, labels, record.tags, row.text, row.path]).encode() + b"\n")
    return digest.hexdigest()


def _reports(records: Sequence[Record], text_sections: Sequence[str]) -> list[ShardRow]:
    reports: dict[str, ShardRow] = {}
    for record in records:
        unit = record.study_id or record.id
        text = report_text(record.sections, text_sections) if unit not in reports else ""
        if text:
            reports[unit] = ShardRow(replace(record, id=unit, view=None), text=text)
    return list(reports.values())


def _check_ids(corpus: Corpus, records: Sequence[Record]) -> None:
    seen: set[str] = set()
    patients: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise MedretError(f"{corpus.root}: two records have the id {record.id}. Ids must be unique; give the corpus an id column")
        seen.add(record.id)
        if record.study_id is None or record.patient_id is None:
            continue
        if patients.setdefault(record.study_id, record.patient_id) != record.patient_id:
            raise MedretError(
                f"{corpus.root}: study {record.study_id} belongs to two patients. Make the study ids unique in the corpus; "
                f"every such study is counted by: medret corpus {corpus.root}"
            )
    studies = {record.study_id for record in records}
    for record in records:
        if record.study_id is None and record.id in studies:
            raise MedretError(f"{corpus.root}: {record.id} is a study and also a record without a study. Give the record its study")


def _stored(image: Path, root: Path) -> str:
    return str(image.relative_to(root)) if image.is_relative_to(root) else str(image)


def _sentences(report: ShardRow) -> Iterator[ShardRow]:
    for number, sentence in enumerate(split_sentences(report.text or ""), start=1):
        yield ShardRow(replace(report.record, id=f"{report.record.id}#{number}"), text=sentence)
