"""Runs and relevance judgements in the text format of TREC, which trec_eval and its kin read and write.

A run has a line `query Q0 document rank score tag` for each answer, judgements a line `query 0 document grade`. Grades from 1 are
relevant, 0 and what is not named are not, and a grade below 0 strikes the document from the query's answers before anything is
counted: the query's own patient, or a label that nobody looked for. Ids hold no blank: `token` says how one is written.

Source: github.com/usnistgov/trec_eval.
"""

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from encoders.atomic import whole_file
from encoders.errors import MedretError

RUN_FIELDS = "query Q0 document rank score tag"
QRELS_FIELDS = "query 0 document grade"
_BROKEN = re.compile(r"[%\s]")  # what would break a word, and what tells that it was mended
STRUCK = -1  # the grade of what a query must not find

Rows = NDArray[np.int64]


def token(id: str) -> str:
    """Write an id as one word: % and blanks as %25, %20 ...; other ids stay as they are."""
    return _BROKEN.sub(lambda sign: quote(sign[0]), id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The answers of a system.

    Attributes:
        name: The file it was read from, for messages.
        queries: The Q query ids, in order of appearance.
        documents: The N document ids, ascending.
        ranked: (Q, R) int64 places in `documents` by (score descending, id ascending); -1 where a query has fewer answers.
    """

    name: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    ranked: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Qrels:
    """What answers which query.

    Attributes:
        name: The file it was read from, for messages.
        queries: The Q query ids, in order of appearance.
        documents: The N document ids, ascending.
        keys: (J,) int64 `query * N + document` of each judgement, ascending.
        grades: (J,) int64.
    """

    name: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    keys: Rows
    grades: Rows

    @property
    def relevant(self) -> Rows:
        """(Q,) int64, the relevant documents of each query."""
        return np.bincount(self.keys[self.grades > 0] // len(self.documents), minlength=len(self.queries)).astype(np.int64)


class JudgedRun(NamedTuple):
    """A run against the Q queries of some judgements, in their order."""

    ranked: Rows  # (Q, R) places in the run's documents, without those struck; -1 where there are fewer
    relevance: NDArray[np.bool_]  # (Q, R)


def write_run(path: Path, queries: Sequence[str], documents: Iterable[Sequence[str]], scores: NDArray[np.float32]) -> None:
    """Write ranked answers whole or not at all.

    Tools order equal scores in their own way (trec_eval: by document id, descending), so an answer that ties with the one above it
    is written one float32 step lower: whoever sorts by the scores then reads the order that was measured.

    Args:
        path: The file.
        queries: Q distinct query ids.
        documents: For each query its document ids in the order of rank, at most R.
        scores: (Q, R) float32 in the order of rank; what stands beyond a query's documents is not read.
    """
    apart = scores.copy()
    for rank in range(1, apart.shape[1]):
        apart[:, rank] = np.fmin(apart[:, rank], np.nextafter(apart[:, rank - 1], np.float32(-np.inf)))
    with whole_file(path) as beside, beside.open("w", encoding="utf-8") as lines:
        for query, names, values in zip(queries, documents, apart, strict=True):
            asked = token(query)
            ranked = enumerate(zip(names, values[: len(names)].tolist(), strict=True), 1)
            lines.writelines(f"{asked} Q0 {token(name)} {rank} {value:.9g} medret\n" for rank, (name, value) in ranked)


def write_qrels(path: Path, queries: Sequence[str], judged: Iterable[Iterable[tuple[Sequence[str], int]]]) -> None:
    """Write judgements whole or not at all.

    Args:
        path: The file.
        queries: Q distinct query ids.
        judged: For each query groups of documents, each with the grade of them all.
    """
    with whole_file(path) as beside, beside.open("w", encoding="utf-8") as lines:
        for query, groups in zip(queries, judged, strict=True):
            asked = token(query)
            for documents, grade in groups:
                if len(documents):
                    lines.write(f"{asked} 0 " + f" {grade}\n{asked} 0 ".join(_tokens(documents)) + f" {grade}\n")


def _tokens(ids: Sequence[str]) -> Sequence[str]:
    """Write ids as words; as they are where all are words already, which is seen at once."""
    together = "\n".join(ids)
    if "%" in together or len(together.split()) != len(ids):
        return [token(id) for id in ids]
    return ids


def read_run(path: Path) -> Run:
    """Read a run; the rank column is not trusted, as everywhere: the scores rank.

    Raises:
        MedretError: If it is no run, a score is no finite number, or a query has a document twice.
    """
    asked, names, query_of, document_of, scores = _table(path, RUN_FIELDS, "score")
    order = np.lexsort((document_of, -scores, query_of))
    lengths = np.bincount(query_of)
    ranked = np.full((len(asked), int(lengths.max())), -1, dtype=np.int64)
    ranked[np.arange(ranked.shape[1]) < lengths[:, None]] = document_of[order]  # row by row: as `order` runs
    return Run(name=str(path), queries=asked, documents=names, ranked=ranked)


def read_qrels(path: Path) -> Qrels:
    """Read judgements.

    Raises:
        MedretError: If they are none, a grade is no whole number, or a document is judged twice for a query.
    """
    asked, names, query_of, document_of, grades = _table(path, QRELS_FIELDS, "grade")
    if (broken := np.flatnonzero(grades != np.floor(grades))).size:
        raise MedretError(f"{path}: query {asked[query_of[broken[0]]]} has a grade of {grades[broken[0]]}, expected whole numbers")
    keys = query_of * len(names) + document_of
    order = np.argsort(keys)
    return Qrels(name=str(path), queries=asked, documents=names, keys=keys[order], grades=grades[order].astype(np.int64))


def judge_run(run: Run, qrels: Qrels) -> JudgedRun:
    """Say of each answer of a run whether it is relevant, after striking what its query must not find.

    A query that the run does not answer has no answers; it is kept, so that silence is no advantage.

    Raises:
        MedretError: If the run answers a query that is not judged.
    """
    known = {query: place for place, query in enumerate(qrels.queries)}
    if strange := [query for query in run.queries if query not in known]:
        raise MedretError(
            f"{run.name}: {len(strange)} of its {len(run.queries)} queries are not in {qrels.name}, the first is {strange[0]}; "
            "expected the judgements of the same queries"
        )
    places = {document: place for place, document in enumerate(qrels.documents)}
    judged_place = np.array([places.get(document, -1) for document in run.documents] + [-1], dtype=np.int64)  # the last: of place -1

    ranked = np.full((len(qrels.queries), run.ranked.shape[1]), -1, dtype=np.int64)
    ranked[[known[query] for query in run.queries]] = run.ranked
    grades = _grades(judged_place[ranked], qrels)
    keep = np.argsort((grades < 0) | (ranked < 0), axis=1, kind="stable")  # what stays first, in its order
    left = np.where(grades < 0, -1, ranked)
    return JudgedRun(np.take_along_axis(left, keep, axis=1), np.take_along_axis(grades > 0, keep, axis=1))


def _grades(documents: Rows, qrels: Qrels) -> Rows:
    """The grade of (Q, R) places in the judgements' documents; 0 where there is none."""
    keys = np.arange(len(documents))[:, None] * len(qrels.documents) + documents
    places = np.minimum(np.searchsorted(qrels.keys, keys), len(qrels.keys) - 1)
    return np.where((qrels.keys[places] == keys) & (documents >= 0), qrels.grades[places], 0)


def _table(path: Path, fields: str, what: str) -> tuple[tuple[str, ...], tuple[str, ...], Rows, Rows, NDArray[np.float64]]:
    """The queries in order of appearance, the documents ascending, and each line's place in both and its `what`: 24 bytes a line."""
    place = fields.split().index(what)
    queries: dict[str, int] = {}
    documents: dict[str, int] = {}
    query_of, document_of, values = array("q"), array("q"), array("d")
    for number, words in _lines(path, fields):
        query_of.append(queries.setdefault(words[0], len(queries)))
        document_of.append(documents.setdefault(words[2], len(documents)))
        values.append(_number(path, number, what, words[place]))
    names = tuple(sorted(documents))
    ascending = np.empty(len(names), dtype=np.int64)
    ascending[[documents[name] for name in names]] = np.arange(len(names))
    asked, of_query, of_document = tuple(queries), np.array(query_of, dtype=np.int64), ascending[np.array(document_of, dtype=np.int64)]
    _refuse_twice(path, of_query * len(names) + of_document, asked, names)
    return asked, names, of_query, of_document, np.array(values)


def _lines(path: Path, fields: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that has any, with its number."""
    expected = len(fields.split())
    found = False
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                words = line.split()
                if words and len(words) != expected:
                    raise MedretError(f"{path}, line {number}: {len(words)} words, expected {expected}: {fields}")
                if words:
                    found = True
                    yield number, words
    except UnicodeDecodeError as error:
        raise MedretError(f"{path}: is no text in UTF-8, expected lines of {fields}") from error
    if not found:
        raise MedretError(f"{path}: is empty, expected lines of {fields}")


def _number(path: Path, line: int, what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MedretError(f"{path}, line {line}: the {what} is {text}, expected a number")
    return value


def _refuse_twice(path: Path, keys: Rows, queries: Sequence[str], documents: Sequence[str]) -> None:
    distinct, counts = np.unique(keys, return_counts=True)
    if (twice := distinct[counts > 1]).size:
        query, document = divmod(int(twice[0]), len(documents))
        raise MedretError(f"{path}: query {queries[query]} has document {documents[document]} more than once, expected each at most once")
