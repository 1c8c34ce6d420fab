"""Which text stands for a report: what the index holds, or sections read again from the corpus that it was made from."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from index.corpora.record import Record
from index.corpora.report import REPORT_SECTIONS, report_text
from index.shards import Part, ShardRow
from retrieval.engine import SearchEngine
from retrieval.filters import Selection
from retrieval.owners import study_names
from retrieval.text_tasks import seat_texts

INDEX, LONGER = "index", "longer"
CHOICES = (INDEX, *REPORT_SECTIONS, ",".join(REPORT_SECTIONS), LONGER)


def choose_report_text(engine: SearchEngine, selection: Selection, choice: str = INDEX) -> tuple[SearchEngine, str]:
    """Return an engine whose reports are the texts of this choice, and what a protocol says of it.

    Sections are those of the reports of the selected images' studies, encoded now. A study without the section has no text; one
    whose report has neither findings nor impression has MIMIC's last paragraph, as when a corpus is encoded.

    Args:
        engine: The index.
        selection: Which images ask.
        choice: "index", "findings", "impression", "findings,impression" (joined), or "longer": of the two, by characters.

    Raises:
        MedretError: If the choice is not known, the index is pseudonymised, its corpus is not there, or no study has such a text.
    """
    parts = engine.opened.shards.parts
    if choice == INDEX:
        held = dict.fromkeys(" + ".join(part.manifest.text_sections) for part in parts)
        return engine, f"as the index holds it: {' or '.join(held)}"
    if choice not in CHOICES:
        raise MedretError(f"--report-text {choice}: expected one of {' | '.join(CHOICES)}")
    images = engine.table("images")
    wanted = set(study_names(images, np.flatnonzero(selection.rows(images))))
    texts: dict[str, ShardRow] = {}
    for part in parts:
        for record in _records(part):
            unit = record.study_id or record.id
            text = _chosen(record, choice) if unit in wanted and unit not in texts else ""
            if text:
                texts[unit] = ShardRow(replace(record, id=unit, image=None, labels={}, sections={}), text)
    if not texts:
        raise MedretError(f"none of the {len(wanted)} selected studies has text by --report-text {choice}; take another, or index")
    return seat_texts(engine, list(texts.values())), f"{choice}, read from the corpus"


def _chosen(record: Record, choice: str) -> str:
    if choice == LONGER:
        return max((report_text(record.sections, [name]) for name in REPORT_SECTIONS), key=len)
    return report_text(record.sections, choice.split(","))


def _records(part: Part) -> Iterator[Record]:
    """The records of the corpus that a part of an index was made from."""
    made, root = part.manifest, part.root
    if made.pseudonymised or root is None or made.corpus["format"] is None:
        raise MedretError("--report-text reads the corpus again, and this index does not name its own. Leave it out, or take index")
    return open_corpus(root, made.corpus["format"]).records()
