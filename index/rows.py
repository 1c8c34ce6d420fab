"""The rows that a corpus gives each modality: images, reports (one a study), sentences.

They wait on disk, in a file without a name that goes with the process, so that memory does not grow with their texts and labels.
"""

import hashlib
import json
import os
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import IO, Any

from encoders.errors import MedretError
from index.corpora.readers import Corpus
from index.corpora.record import LabelState, Record, Tally
from index.corpora.report import report_text, split_sentences
from index.identities import Identities
from index.pseudonyms import Pseudonymiser
from index.shards import ShardRow


@dataclass(frozen=True, slots=True)
class RowPart:
    """The rows of one modality, in order, read from disk when they are asked for."""

    rows: int
    take: Callable[[int, int], list[ShardRow]]  # first row and the one after the last

    def __iter__(self) -> Iterator[ShardRow]:
        """Yield every row; as often as asked."""
        for chunk in self.cut(1024):
            yield from self.read(chunk)

    def cut(self, size: int) -> list[range]:
        """Return the numbers of the rows in chunks of `size`; the last may have fewer."""
        return [range(start, min(start + size, self.rows)) for start in range(0, self.rows, size)]

    def read(self, chunk: range) -> list[ShardRow]:
        """Return the rows of a chunk."""
        return self.take(chunk.start, chunk.stop)


@dataclass(frozen=True, slots=True)
class CorpusRows:
    """All rows of a corpus.

    Attributes:
        parts: Modality to its rows, of those that have any.
        without_text: Studies (or records without a study) without text in the chosen sections.
        digest: 32 hex digits over all that the rows say, in order.
    """

    parts: dict[str, RowPart]
    without_text: int
    digest: str


@contextmanager
def read_rows(
    corpus: Corpus,
    tally: Tally,
    folder: Path,
    *,
    text_units: Sequence[str],
    text_sections: Sequence[str],
    splits: Sequence[str] | None,
    key: bytes | None,
) -> Iterator[CorpusRows]:
    """Read a corpus into the rows to encode, in its order.

    A study's report is the text of its first record that has any; its id is the study's, or the record's where there is no
    study. Sentences are numbered from 1: "STUDY#1". About 200 bytes of memory a record are held.

    Args:
        corpus: Read once.
        tally: Counts what its reader leaves out, whatever the split.
        folder: On whose file system the rows wait, about 1 KB a record; it must exist.
        text_units: Of "report" and "sentence".
        text_sections: Joined, in this order.
        splits: Those to take, or None for all.
        key: Where given, ids are replaced by keyed hashes, and no row has a path.

    Yields:
        The rows, readable until the context ends. An image row's record has the real path.

    Raises:
        MedretError: If there is nothing to encode, the ids are not unique, or the disk is full.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed below)
    except OSError as error:
        raise _not_writable(folder, error) from error
    with closing(_Spool(file, "sentence" in text_units)) as spool:
        yield _read(corpus, tally, folder, spool, text_units, text_sections, splits, None if key is None else Pseudonymiser(key))


def base_folder(corpus: Corpus) -> Path:
    """Return the folder that image paths are stored relative to: the corpus, or the folder of its table."""
    return corpus.root if corpus.root.is_dir() else corpus.root.parent


def _not_writable(folder: Path, error: OSError) -> MedretError:
    return MedretError(f"{folder}: cannot be written ({error.strerror or error}). Free space or choose another --out")


def _read(
    corpus: Corpus,
    tally: Tally,
    folder: Path,
    spool: "_Spool",
    text_units: Sequence[str],
    sections: Sequence[str],
    splits: Sequence[str] | None,
    pseudonyms: Pseudonymiser | None,
) -> CorpusRows:
    identities = Identities()
    units: set[str] = set()  # of which there is a text
    root = base_folder(corpus)
    for record in _records(corpus, tally, splits):
        identities.add(record)
        unit = record.study_id or record.id
        text = report_text(record.sections, sections) if unit not in units else ""
        if text:
            units.add(unit)
        path = None if record.image is None or pseudonyms is not None else _stored(record.image, root)
        try:
            spool.add(record if pseudonyms is None else pseudonyms.record(record), text or None, path, record.id)
        except OSError as error:
            raise _not_writable(folder, error) from error
    if not len(spool):
        known = ", ".join(splits or ())
        raise MedretError(f"{corpus.root}: no record in split {known}. See which there are: medret corpus {corpus.root}")
    identities.check(corpus.root, lambda: _records(corpus, Tally(), splits))
    try:
        parts = spool.parts(text_units)
    except OSError as error:
        raise _not_writable(folder, error) from error
    if not parts:
        nor_text = f" and no text in {', '.join(sections)}" if text_units else ""
        raise MedretError(f"{corpus.root}: no images{nor_text}. Look at it: medret corpus {corpus.root}")
    return CorpusRows(parts, identities.units() - len(units), spool.digest.hexdigest()[:32])


def _records(corpus: Corpus, tally: Tally, splits: Sequence[str] | None) -> Iterator[Record]:
    return (record for record in corpus.records(tally) if splits is None or record.split in splits)


def _stored(image: Path, root: Path) -> str:
    return str(image.relative_to(root)) if image.is_relative_to(root) else str(image)


class _Spool:
    """Records in a file, two lines of JSON each (what shards say, and what they do not), with the number of every image, every report."""

    def __init__(self, file: IO[bytes], cut: bool) -> None:
        self.file, self.cut, self.digest = file, cut, hashlib.sha256()
        self.ends = array("Q", [0])  # of the lines, in bytes
        self.images, self.reports = array("Q"), array("Q")  # numbers of records
        self.sentences = array("Q", [0])  # how many there are up to and with each report

    def __len__(self) -> int:
        return len(self.ends) - 1

    def add(self, record: Record, text: str | None, path: str | None, real_id: str) -> None:
        number = len(self)
        day = None if record.study_date is None else record.study_date.isoformat()
        who = [record.id, record.patient_id, record.study_id, record.view, record.split, day, record.age, record.sex]
        labels = {finding: int(state) for finding, state in sorted(record.labels.items())}
        said = json.dumps([*who, labels, record.tags, text, path]).encode()
        self.digest.update(said + b"\n")
        kept = json.dumps([None if record.image is None else os.fspath(record.image), real_id]).encode()
        line = said + b"\n" + kept + b"\n"
        self.file.write(line)
        self.ends.append(self.ends[-1] + len(line))
        if record.image is not None:
            self.images.append(number)
        if text:
            self.reports.append(number)
            self.sentences.append(self.sentences[-1] + (len(split_sentences(text)) if self.cut else 0))

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is said already
            self.file.close()

    def parts(self, text_units: Sequence[str]) -> dict[str, RowPart]:
        self.file.flush()
        parts = {"images": RowPart(len(self.images), self._images)}
        if "report" in text_units:
            parts["reports"] = RowPart(len(self.reports), self._reports)
        if "sentence" in text_units:
            parts["sentences"] = RowPart(self.sentences[-1], self._sentences)
        return {modality: part for modality, part in parts.items() if part.rows}

    def _images(self, start: int, stop: int) -> list[ShardRow]:
        read = map(self._row, self.images[start:stop])
        return [ShardRow(record, path=path, real_id=real_id) for record, _, path, real_id in read]

    def _reports(self, start: int, stop: int) -> list[ShardRow]:
        read = map(self._row, self.reports[start:stop])
        return [ShardRow(replace(record, id=record.study_id or record.id, view=None), text=text) for record, text, _, _ in read]

    def _sentences(self, start: int, stop: int) -> list[ShardRow]:
        first = bisect_right(self.sentences, start) - 1  # the report that row `start` is of
        last = bisect_right(self.sentences, stop - 1)
        rows = []
        for number, report in enumerate(self._reports(first, last), first):
            for place, sentence in enumerate(split_sentences(report.text or ""), 1):
                if start <= self.sentences[number] + place - 1 < stop:
                    rows.append(ShardRow(replace(report.record, id=f"{report.record.id}#{place}"), text=sentence))
        return rows

    def _row(self, number: int) -> tuple[Record, str | None, str | None, str]:
        start = self.ends[number]
        said, kept, _ = os.pread(self.file.fileno(), self.ends[number + 1] - start, start).split(b"\n")
        image, real_id = json.loads(kept)
        return *_record(json.loads(said), image), real_id


def _record(said: list[Any], image: str | None) -> tuple[Record, str | None, str | None]:
    id, patient, study, view, split, day, age, sex, labels, tags, text, path = said
    record = Record(
        id=id,
        image=None if image is None else Path(image),
        patient_id=patient,
        study_id=study,
        view=view,
        split=split,
        labels={finding: LabelState(state) for finding, state in labels.items()},
        study_date=None if day is None else date.fromisoformat(day),
        age=age,
        sex=sex,
        tags=tuple(tags),
    )
    return record, text, path
