"""Images that ask for texts which a benchmark brings along: listed queries, impressions, sections of reports."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.record import LabelState, Record
from index.guests import seat_reports
from index.shards import ShardRow
from retrieval.benchmarks import listed_rows
from retrieval.engine import SearchEngine
from retrieval.published_lists import PublishedLists
from retrieval.qrels import Rule, read_relevance
from retrieval.tasks import LabelTask


def given_text(id: str, text: str, positive: Collection[str], findings: Sequence[str]) -> ShardRow:
    """Return a text to be ranked that is a right answer for the findings in `positive`, and for no other of `findings`."""
    labels = {finding: LabelState.POSITIVE if finding in positive else LabelState.NEGATIVE for finding in findings}
    return ShardRow(Record(id=id, image=None, labels=labels), text)


def seat_texts(engine: SearchEngine, texts: Sequence[ShardRow], findings: Sequence[str] = ()) -> SearchEngine:
    """Return an engine whose reports are these texts, encoded now; its images are those of the engine.

    Args:
        engine: What holds the images, and encodes the texts.
        texts: T of them, of different ids, none blank.
        findings: What their labels can name.
    """
    vectors = engine.encode_texts([row.text or "" for row in texts])
    return SearchEngine(seat_reports(engine.opened, texts, vectors, findings), engine.encoder_folder, engine.device)


def text_task(
    engine: SearchEngine,
    direction: str,
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    findings: Sequence[str],
    struck: tuple[NDArray[np.int64], ...] | None = None,
    rule: Rule = "finding",
) -> LabelTask:
    """Set up images that each ask for the texts of one finding.

    Args:
        engine: What `seat_texts` returned.
        direction: As the protocol says it.
        rows: (Q,) int64 rows of the images that ask.
        classes: (Q,) int64 places in `findings`.
        findings: K of them.
        struck: For each query the texts that it must not find.
        rule: Which texts answer.
    """
    table = engine.table("reports")
    return LabelTask(
        direction=direction,
        find="reports",
        vector="joint",
        relevance=read_relevance(table.labels(findings), findings),
        allowed=np.ones(table.rows, dtype=np.bool_),
        rows=rows,
        items=np.arange(len(rows)),
        classes=classes,
        struck=struck,
        rule=rule,
    )


def published_text_task(engine: SearchEngine, lists: PublishedLists) -> tuple[SearchEngine, LabelTask]:
    """Set up image-text of chexpert-8x200: each candidate image asks for the listed texts of each class that it shows.

    Raises:
        MedretError: If a listed image is not in the index.

    Source: EGMA's evaluator, k_I2T_retrieval: all 1,600 candidates against all 40 texts.
    """
    candidates = lists.text_candidates
    rows = listed_rows(engine, [candidate.id for candidate in candidates])
    shown = np.array([[name in candidate.positive for name in lists.classes] for candidate in candidates])
    items, classes = np.nonzero(shown)
    if not len(items):
        raise MedretError(f"{lists.folder}: no candidate shows a class that is asked for; fetch the published lists again")
    texts = [given_text(f"text{place:04d}", text, [name], lists.classes) for place, (name, text) in enumerate(lists.text_queries)]
    seated = seat_texts(engine, texts, lists.classes)
    return seated, text_task(seated, "image-text", rows[items], classes.astype(np.int64), lists.classes)


def ceilings(task: LabelTask, ks: Sequence[int]) -> str:
    """Say which P@k a perfect ranking cannot bring to 1 because fewer than k candidates answer, e.g. "P@10 0.5"; "none" if any can."""
    counts = [int(np.count_nonzero(task.relevance.positive & bit)) for bit in task.relevance.bits]
    answers = np.array(counts)[task.classes]
    highest = {k: float(np.minimum(answers, k).mean() / k) for k in ks}
    return ", ".join(f"P@{k} {value:.3g}" for k, value in highest.items() if value < 1) or "none"
