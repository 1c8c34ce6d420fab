"""Many queries in a file, a JSON object a line, and their answers in another."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from encoders.atomic import whole_file
from encoders.errors import MedretError
from retrieval.answers import Answer, Query
from retrieval.engine import AT_ONCE, SearchEngine
from retrieval.filters import parse_condition
from retrieval.terms import KINDS, read_term

_TEXT, _TEXTS, _WHOLE, _NUMBER, _FLAG, _TERMS = "a string", "a list of strings", "a whole number", "a number", "true or false", "a list"
_FORMS = {
    **dict.fromkeys(("name", *KINDS, "find", "collapse", "where", "vector"), _TEXT),
    **dict.fromkeys(("without", "splits", "views", "only"), _TEXTS),
    **dict.fromkeys(("k", "offset"), _WHOLE),
    **dict.fromkeys(("exclude_same_patient", "exclude_same_study", "best_sentence"), _FLAG),
    "min_score": _NUMBER,
    "terms": _TERMS,
}
_FITS: dict[str, Callable[[Any], bool]] = {
    _TEXT: lambda value: isinstance(value, str),
    _TEXTS: lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    _WHOLE: lambda value: isinstance(value, int) and not isinstance(value, bool),
    _NUMBER: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    _FLAG: lambda value: isinstance(value, bool),
    _TERMS: lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
}


def answer_file(
    engine: SearchEngine,
    source: Path,
    out: Path,
    defaults: Mapping[str, Any] | None = None,
    form: Callable[[Answer], Mapping[str, Any]] | None = None,
) -> int:
    """Answer every query of a file; the answers appear whole or not at all.

    A line is an object with the fields of `Query`: {"text": "edema", "k": 5}, {"terms": [{"image": "film.png"}, {"text": "edema",
    "weight": 0.5}]}; its "name", if any, is repeated beside its answer. Blank lines are passed over. Of a file of any length,
    64 queries are in memory at a time.

    Args:
        engine: What answers.
        source: The queries.
        out: Gets a line an answer, in the order of the queries: "line" (from 1), "name" and what `form` gives.
        defaults: Fields of `Query` that hold where a line does not say otherwise.
        form: Makes an object of an answer; by default its plan, its notes and its hits.

    Returns:
        How many there were.

    Raises:
        MedretError: Naming the line that is no query, or cannot be answered; or if `out` is `source`.
        OSError: If `source` cannot be read.
    """
    count = 0
    with source.open("rb") as lines, whole_file(out) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as answers:
        if out.exists() and out.samefile(source):
            raise MedretError(f"{out}: holds the queries, and would be replaced by the answers; name another file to write")
        waiting = _read_queries(source, lines, defaults or {})
        while batch := list(islice(waiting, AT_ONCE)):
            for (line, name, _), answer in zip(batch, _answer(engine, source, batch), strict=True):
                named = {"line": line} if name is None else {"line": line, "name": name}
                answers.write(json.dumps({**named, **(form or _plain)(answer)}, ensure_ascii=False) + "\n")
            count += len(batch)
        if not count:
            raise MedretError(f'{source}: holds no queries; expected a JSON object a line, e.g. {{"text": "edema"}}')
    return count


def read_query(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Query:
    """Make a query of what JSON says.

    Args:
        given: Fields of `Query`; conditions of "only" are written as on the command line. null stands for a field that is not given.
        defaults: Fields that hold where it does not say otherwise.

    Raises:
        ValueError: If a field is unknown, or has no value that it can have.
    """
    fields = dict(given)
    for key, value in given.items():
        if key not in _FORMS:
            raise ValueError(f"unknown field {key!r}, expected {', '.join(_FORMS)}")
        if value is None:
            del fields[key]
        elif not _FITS[_FORMS[key]](value):
            raise ValueError(f"{key} is a {type(value).__name__}, expected {_FORMS[key]}")
    fields.pop("name", None)
    if "only" in fields:
        fields["only"] = tuple(map(parse_condition, fields["only"]))
    if "terms" in fields:
        fields["terms"] = tuple(map(read_term, fields["terms"]))
    return Query(**{**(defaults or {}), **fields})


def _read_queries(source: Path, lines: IO[bytes], defaults: Mapping[str, Any]) -> Iterator[tuple[int, str | None, Query]]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MedretError(
                f"{source} line {line}: is no JSON ({getattr(error, 'msg', 'not UTF-8, or beyond reading')}); expected an object a line"
            ) from error
        if not isinstance(given, dict):
            raise MedretError(f'{source} line {line}: is a {type(given).__name__}, expected an object, e.g. {{"text": "edema"}}')
        try:
            yield line, given.get("name"), read_query(given, defaults)
        except (ValueError, MedretError) as error:
            raise MedretError(f"{source} line {line}: {error}") from error


def _answer(engine: SearchEngine, source: Path, batch: list[tuple[int, str | None, Query]]) -> list[Answer]:
    try:
        return list(engine.search_all([query for _, _, query in batch]))
    except MedretError:
        for line, _, query in batch:  # which one it was
            try:
                engine.search(query)
            except MedretError as error:
                raise MedretError(f"{source} line {line}: {error}") from error
        raise


def _plain(answer: Answer) -> dict[str, Any]:
    return {"plan": answer.plan.reason, "notes": list(answer.notes), "hits": [hit.to_dict() for hit in answer.hits]}
