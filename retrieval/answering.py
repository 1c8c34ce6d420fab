"""From encoded questions to answers: planned, ranked together where they are alike, looked deeper into where too few are left."""

import logging
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.planner import SearchPlan, exact_plan
from retrieval.answers import Answer, Hit, Query, Ranking
from retrieval.candidates import Candidates
from retrieval.question import Encodes, Question, read_questions
from retrieval.search import Search, first_depth, wanted_depth
from retrieval.sentences import mark_sentences
from retrieval.shelf import Ranked

if TYPE_CHECKING:
    from index.vector_index import VectorIndex

_log = logging.getLogger(__name__)


class Searches(Encodes, Protocol):
    """What a search engine does for its answers."""

    candidates: Candidates

    def index(self, modality: str, vector: str, /) -> "VectorIndex": ...
    def rank(
        self,
        vectors: NDArray[np.float32],
        find: str,
        k: int,
        vector: str,
        /,
        *,
        allowed: NDArray[np.bool_] | None,
        exclude: Sequence[NDArray[np.int64]] | None,
        plan: SearchPlan | None,
    ) -> Ranking: ...


def answer_queries(engine: Searches, queries: Sequence[Query]) -> list[Answer]:
    """Answer queries together: what is alike is encoded and ranked in one go.

    Raises:
        MedretError: If one of them cannot be answered.
    """
    searches = [_begin(engine, question) for question in read_questions(engine, queries)]
    _log.info("encoded the terms of %d queries", len(queries))
    while pending := [search for search in searches if not search.done]:
        alike: dict[object, list[Search]] = {}
        for search in pending:
            query = search.question.query
            alike.setdefault((query.find, query.vector, id(search.allowed), search.depth, search.plan), []).append(search)
        for group in alike.values():
            _rank(engine, group)
    return [_finish(search, hits) for search, hits in zip(searches, _marked(engine, searches, _hits(engine, searches)), strict=True)]


def _begin(engine: Searches, question: Question) -> Search:
    query = question.query
    if query.find not in engine.modalities and query.find == "images":
        raise MedretError(f"the index holds no images, only {', '.join(engine.modalities)}. Ask for those: --find {engine.modalities[0]}")
    table = engine.table(query.find)
    allowed, absent = engine.candidates.of(query, table)
    question.notes.extend(absent)
    left_out = question.left_out(table)
    plan = _plan(engine, question, allowed)
    return Search(question=question, table=table, allowed=allowed, left_out=left_out, depth=first_depth(query, table.rows), plan=plan)


def _plan(engine: Searches, question: Question, allowed: NDArray[np.bool_] | None) -> SearchPlan:
    query = question.query
    allowed_rows = None if allowed is None else int(np.count_nonzero(allowed))
    plan = engine.index(query.find, query.vector).plan(wanted_depth(query), asker=question.asker, allowed_rows=allowed_rows)
    if question.composed and plan.how == "approximate":
        return _exactly(plan, "no certificate speaks for a composed query")
    return plan


def _rank(engine: Searches, searches: Sequence[Search]) -> None:
    one, query = searches[0], searches[0].question.query
    plan = one.plan
    if plan.how == "approximate" and one.depth > wanted_depth(query):
        plan = _exactly(plan, "more answers fall together than were foreseen")
    vectors = np.concatenate([search.question.vector for search in searches])
    own = [search.left_out for search in searches]
    ranking = engine.rank(vectors, query.find, one.depth, query.vector, allowed=one.allowed, exclude=own, plan=plan)
    _log.info("ranked %s for %d queries, %d deep: %s", query.find, len(searches), one.depth, plan.reason)
    for search, rows, scores in zip(searches, ranking.rows, ranking.scores, strict=True):
        search.plan = plan
        search.take(rows, scores)


def _exactly(plan: SearchPlan, because: str) -> SearchPlan:
    return exact_plan(plan.kind, plan.rows, plan.allowed_rows, because)


def _hits(engine: Searches, searches: Sequence[Search]) -> list[tuple[Hit, ...]]:
    found: dict[int, tuple[Hit, ...]] = {}
    for find in {search.question.query.find for search in searches}:
        own = [search for search in searches if search.question.query.find == find]
        ranked = [_ranked(engine, search) for search in own]
        found |= {id(search): hits for search, hits in zip(own, engine.shelf.hits(find, ranked), strict=True)}
    return [found[id(search)] for search in searches]


def _ranked(engine: Searches, search: Search) -> Ranked:
    question, query = search.question, search.question.query
    rows, scores = search.rows[query.offset :], search.scores[query.offset :]
    scale = None if question.composed else engine.scale(query.find, query.vector, question.measured_as)
    return Ranked(rows, scores, None if scale is None else scale.percentile(scores), query.offset + 1)


def _marked(engine: Searches, searches: Sequence[Search], hits: Sequence[tuple[Hit, ...]]) -> list[tuple[Hit, ...]]:
    """The hits, with their best sentences where these are wanted: one look-up for all that want them alike goes through columns once."""
    marked = list(hits)
    alike: dict[tuple[str, bool], list[int]] = {}
    for place, search in enumerate(searches):
        query = search.question.query
        if query.best_sentence or (query.best_sentence is None and query.find == "reports"):
            alike.setdefault((query.vector, query.best_sentence is not None), []).append(place)
    for (vector, encode), places in alike.items():
        asked = np.repeat([searches[place].question.vector[0] for place in places], [len(hits[place]) for place in places], axis=0)
        found = iter(mark_sentences(engine, asked, [hit for place in places for hit in hits[place]], vector, encode=encode))
        for place in places:
            marked[place] = tuple(islice(found, len(hits[place])))
    return marked


def _finish(search: Search, hits: tuple[Hit, ...]) -> Answer:
    question, query = search.question, search.question.query
    if shortage := search.shortage():
        question.notes.append(shortage)
    return Answer(
        query=query,
        hits=hits,
        plan=search.plan,
        notes=tuple(question.notes),
        asked=question.terms,
        vector=question.vector[0],
        rows=search.rows[query.offset :],
    )
