"""One self-contained HTML page: queries, ranked films and reports, where films are like the query, and figures beside chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from encoders.errors import MedretError
from index.corpora.prompts import prompts_for
from index.corpora.record import LabelState
from retrieval.engine import Answer, Hit, Query, SearchEngine
from retrieval.filters import Selection, parse_condition, parse_where
from retrieval.maps import FilmMap, beyond_normal, draw_map, says_normal
from retrieval.page_tables import evaluation_table
from retrieval.pages import note_without_ids, render_page
from retrieval.pictures import film_picture
from retrieval.results import result_directions
from retrieval.tables import answer_notes, percentile_figure
from retrieval.terms import Term

EXAMPLES = 5  # hits of each example query on an evaluation's page
ASKED = 4  # findings, at most, that an image asks for there
_NOTHING_BEYOND = "no similarity maps: to this encoder the question says what is said of a normal film, so there is nothing to point at"
_ONCE = {"study": "the best of each study", "patient": "the best of each patient", "duplicates": "of duplicates the best"}
_EXCERPT = 160  # characters of a report on each side of its best sentence, or from its beginning twice as many


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """An answer on the page; `finding` marks each hit by whether it is positive for it, `normal` tells why there are no maps."""

    answer: Answer
    finding: str | None = None
    maps: Mapping[str, FilmMap]
    normal: bool


def render_answers(engine: SearchEngine, answers: Sequence[Answer], *, with_ids: bool = False, maps: bool = True) -> str:
    """Render answers as one HTML page without outside references.

    Args:
        engine: What answered.
        answers: In the order of the page.
        with_ids: Name patients, studies, records and paths; otherwise none of them appears.
        maps: Lay over each film that was found where it is like the query: a second or so for each.

    Returns:
        The page. Films are embedded as JPEG of at most 420 pixels a side.
    """
    shown = [_shown(engine, answer, maps) for answer in answers]
    return _render("Answers", "", shown, [], engine, with_ids)


def render_evaluation(engine: SearchEngine, result: Mapping[str, Any], *, with_ids: bool = False, maps: bool = True) -> str:
    """Render an evaluation as one HTML page: its figures beside chance, and examples of what was ranked.

    Args:
        engine: What was evaluated.
        result: `EvaluationResult.to_dict()`; the examples keep to the protocol that each direction names.
        with_ids: Name patients, studies, records and paths; otherwise none of them appears.
        maps: Lay over each example's films where they are like the query.
    """
    found = result_directions(result)
    tables = [evaluation_table(str(result["benchmark"]), name, one, with_ids=with_ids) for name, one in found.items()]
    shown = [example for one in found.values() for example in _examples(engine, one["protocol"], list(one["per_class"]), maps)]
    lead = "Each figure beside what a random order would reach."
    return _render(f"medret evaluate {result['benchmark']}", lead, shown, tables, engine, with_ids)


def _examples(engine: SearchEngine, protocol: Mapping[str, Any], findings: Sequence[str], maps: bool) -> Iterator[_Shown]:
    """A question about each finding: its first built-in prompt; or for some findings, an image that is positive for it."""
    asking, _, found = protocol["direction"].partition("-")
    if f"{found}s" not in engine.modalities:
        return
    splits, views = (tuple(named) if isinstance(named := protocol.get(name), list) else None for name in ("splits", "views"))
    where = None if protocol.get("where") is None else parse_where(protocol["where"])
    only = tuple(parse_condition(text) for text in protocol.get("only", ()))
    selection = Selection(splits=splits, views=views, only=only, where=where)
    limits = selection.of_texts() if found == "report" else selection
    where_found = None if limits.where is None else str(limits.where)
    vector = protocol.get("vector", "joint")
    ask = partial(Query, find=f"{found}s", vector=vector, k=EXAMPLES, splits=splits, views=views, only=limits.only, where=where_found)
    if asking == "text":
        for finding in findings:
            yield _shown(engine, engine.search(ask(text=prompts_for(finding)[0])), maps, finding)
        return
    table = engine.table("images")
    allowed = selection.rows(table)
    for finding in [name for name in table.findings if name in findings and name != "No Finding"][:ASKED]:
        positive = np.flatnonzero(allowed & (table.labels([finding])[:, 0] == LabelState.POSITIVE))
        if len(positive):
            query = ask(id=table.ids(positive[:1])[0], exclude_same_patient=protocol.get("exclude_same_patient"))
            yield _shown(engine, engine.search(query), maps, finding)


def _shown(engine: SearchEngine, answer: Answer, maps: bool, finding: str | None = None) -> _Shown:
    """An answer with the map of each film that was found; none where the index stands without its encoder, which the page says."""
    bare = _Shown(answer=answer, finding=finding, maps={}, normal=False)
    films = {hit.id: hit.image_path for hit in answer.hits if hit.modality == "images" and hit.image_path is not None}
    if not maps or not films or answer.vector is None:
        return bare
    try:
        encoder = engine.encoder
    except MedretError:
        return bare
    direction, space = answer.vector, answer.query.vector
    if space == "joint":  # texts cannot be compared with films' features
        if says_normal(engine, direction):
            return replace(bare, normal=True)
        direction = beyond_normal(engine, direction)
    drawn = {id: draw_map(encoder, path, direction, space) for id, path in films.items()}
    return replace(bare, maps={id: one for id, one in drawn.items() if one is not None})


def _render(
    title: str, lead: str, shown: Sequence[_Shown], tables: Sequence[Mapping[str, Any]], engine: SearchEngine, with_ids: bool
) -> str:
    return render_page(
        "results.html.jinja",
        title=title,
        lead=lead,
        answers=[_answer(engine, one, with_ids) for one in shown],
        results=tables,
        has_maps=any(one.maps for one in shown),
        lacks_maps=any(not one.normal and hit.modality == "images" for one in shown for hit in one.answer.hits),
        encoder=engine.fingerprint,
        with_ids=with_ids,
    )


def _answer(engine: SearchEngine, shown: _Shown, with_ids: bool) -> dict[str, Any]:
    query = shown.answer.query
    terms = [_term(engine, term, len(query.terms) > 1, with_ids) for term in query.terms]
    about = f", of a film positive for {shown.finding}" if shown.finding and terms[0]["film"] else ""
    return {
        "terms": terms,
        "without": query.without,
        "summary": f"{' + '.join(term['kind'] for term in terms)} → {query.find}{about}{_limits(query, with_ids)}",
        "notes": [note if with_ids else note_without_ids(note, query) for note in answer_notes(shown.answer)]
        + [_NOTHING_BEYOND] * shown.normal,
        "hits": [_hit(hit, shown, with_ids) for hit in shown.answer.hits],
    }


def _limits(query: Query, with_ids: bool) -> str:
    """In which part of the index the query was asked, and what of it answers once; empty where all records may answer."""
    within = replace(query, without=()).within  # which stands beside the terms
    told = "" if within == "the index" else f", in {within if with_ids else note_without_ids(within, query)}"
    return told if query.collapse is None else f"{told}, {_ONCE[query.collapse]}"


def _term(engine: SearchEngine, term: Term, weighted: bool, with_ids: bool) -> dict[str, Any]:
    path = term.image if term.id is None else engine.image_path(term.id)
    return {
        "kind": "film" if path is not None else "record" if term.id is not None else term.kind,
        "words": term.text if term.text is not None else term.label,
        "film": film_picture(path),
        "weight": f"{term.weight:+g}" if weighted else None,
        "name": str(term.value) if with_ids and term.kind in ("id", "image") else None,
    }


def _hit(hit: Hit, shown: _Shown, with_ids: bool) -> dict[str, Any]:
    identity = [("record", hit.id), ("patient", hit.patient_id), ("study", hit.study_id), ("path", hit.path)]
    finding = shown.finding
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.3f}",
        "percentile": None if hit.percentile is None else percentile_figure(hit.percentile),
        "view": hit.view,
        "report": None if hit.text is None else _excerpt(hit.text, hit.sentence_span),
        "shows_image": hit.modality == "images",
        "image": film_picture(hit.image_path) if hit.modality == "images" else None,
        "map": shown.maps.get(hit.id),
        "chips": [{"finding": name, "state": state} for name, state in hit.labels.items() if state in ("positive", "uncertain")],
        "relevant": None if finding is None or finding not in hit.labels else hit.labels[finding] == "positive",
        "ids": [(key, value) for key, value in identity if value is not None] if with_ids else [],
    }


def _excerpt(text: str, span: tuple[int, int] | None) -> dict[str, str]:
    """A report around its best sentence (else its beginning), cut between words, and what it is cut from where it is cut."""
    start, stop = (0, 0) if span is None else span
    first, last = max(start - _EXCERPT, 0), min(stop + _EXCERPT * (2 if span is None else 1), len(text))
    before, after = text[first:start], text[stop:last]
    if first > 0:
        before = "… " + before.partition(" ")[2]
    if last < len(text):
        after = after.rpartition(" ")[0] + " …"
    return {"before": before, "marked": text[start:stop], "after": after, "whole": text if first > 0 or last < len(text) else ""}
