"""Runs of other systems, scored as our own are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from retrieval.figures import direction_result
from retrieval.measures import COMPLETE, MEASURES, Measure, chance_first_ranks, chance_measures, measure_rankings
from retrieval.metrics import Denominator
from retrieval.results import EvaluationResult, PerQuery
from retrieval.saved_runs import (
    CANDIDATES,
    QRELS,
    QUERIES,
    RESULT,
    RUN,
    SavedDirection,
    SavedRun,
    describe_answers,
    describe_queries,
    read_directions,
    read_queries,
)
from retrieval.trec import JudgedRun, Qrels, Run, judge_run, read_qrels, read_run, token


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beside:
    """What a saved evaluation keeps beside its judgements."""

    protocol: Mapping[str, Any]
    queries: list[dict[str, Any]]
    candidates: frozenset[str]

    @property
    def scores_own(self) -> bool:
        """Whether its figures ask, as report-recall does, how high the first relevant answer stands."""
        return any(name.startswith("R@") for name in self.queries[0]["scores"])


def evaluate_trec(
    run: Path,
    qrels: Path,
    *,
    ks: Sequence[int] | None = None,
    measures: Sequence[Measure] = MEASURES,
    denominator: Denominator | None = None,
) -> EvaluationResult:
    """Score a run in TREC's format.

    A query without a relevant document is left out and counted; one that the run does not answer scores nothing, and is counted too.
    Where the judgements lie in the folder of a saved evaluation, findings, patients, cut-offs, the average and the denominator are
    that evaluation's, and a document that was no candidate is refused; elsewhere each query stands for itself, and a document that
    no line names is not relevant. Grades above 1 are 1, where trec_eval's nDCG gains more by them.

    Args:
        run: The file of the run; ranks beyond its last count as not relevant, as for trec_eval.
        qrels: The file of the judgements.
        ks: Cut-offs; the saved evaluation's, else 5, 10 and 50.
        measures: Some of MEASURES.
        denominator: Of P@k; the saved evaluation's, else "k".

    Raises:
        MedretError: If a file is damaged, or ids of the run are not those of the judgements.
    """
    answers, judgements, beside = read_run(run), read_qrels(qrels), _beside(qrels)
    known = frozenset(judgements.documents) if beside is None else beside.candidates
    strange = [name for name in answers.documents if name not in known]
    if beside is not None and strange:
        raise MedretError(
            f"{run}: {len(strange)} of its {len(answers.documents)} documents are no candidates, the first is {strange[0]}; "
            f"expected ids of {_sibling(qrels, CANDIDATES)}"
        )
    if len(strange) == len(answers.documents):
        raise MedretError(f"{run}: none of its {len(strange)} documents is in {qrels}; expected ids as the judgements have them")
    told = {} if beside is None else beside.protocol
    cuts = tuple(ks or told.get("k", (5, 10, 50)))
    share = denominator or told.get("denominator", "k")
    judged = judge_run(answers, judgements)
    answerable = judgements.relevant > 0
    silent = int(np.count_nonzero(answerable & (judged.ranked < 0).all(axis=1)))
    lacking = int(np.count_nonzero(~answerable))
    each = _per_query(answers, judgements, judged, beside, cuts, measures, share)
    protocol = {
        "direction": told.get("direction", "run"),
        "run": answers.name,
        "qrels": judgements.name,
        "k": list(cuts),
        "denominator": share,
        "relevance": "a grade from 1" + (", higher ones counting no more, in nDCG either" if judgements.grades.max() > 1 else ""),
        "average": told.get("average", "findings" if each.names else "queries"),
        "scored_0_since_not_in_the_run": silent,
        "left_out": {"queries without a relevant candidate": lacking} if lacking else {},
    }
    candidates = len(judgements.documents) if beside is None else len(beside.candidates)
    return EvaluationResult(benchmark="trec", directions={str(protocol["direction"]): direction_result(each, protocol, candidates)})


def load_outside(run: Path, qrels: Path, *, complete: bool = False) -> SavedRun:
    """Score a run in TREC's format as `evaluate_trec` does, for a comparison with others.

    A run that ends early has a lower mAP and MRR than its system, so these are compared among such runs alone.

    Its direction is that of the saved evaluation whose judgements they are, else the name of the file of judgements.
    """
    measures = MEASURES if complete else tuple(name for name in MEASURES if name not in COMPLETE)
    result = evaluate_trec(run, qrels, measures=measures)
    (scored,) = result.directions.values()
    assert scored.per_query is not None
    name = qrels.name.removesuffix(QRELS).removesuffix(qrels.suffix)
    held = SavedDirection(protocol=scored.protocol, candidates=scored.candidates, queries=scored.per_query)
    return SavedRun(name=run.name.removesuffix(RUN).removesuffix(run.suffix), directions={name: held})


def _per_query(
    run: Run,
    qrels: Qrels,
    judged: JudgedRun,
    beside: _Beside | None,
    ks: Sequence[int],
    measures: Sequence[Measure],
    denominator: Denominator,
) -> PerQuery:
    kept = np.flatnonzero(qrels.relevant > 0)
    rows, hits, relevant = judged.ranked[kept], judged.relevance[kept], qrels.relevant[kept]
    ids = [qrels.queries[query] for query in kept]
    described = _described(ids, qrels, relevant, beside)
    chance = chance_measures(relevant, described["reachable"], measures, ks, denominator)
    if beside is None:  # what was never judged may have been a candidate, so a random order is not known
        chance = {name: np.full(len(kept), math.nan) for name in chance}
    scores: dict[str, NDArray[np.float64]] = measure_rankings(hits, relevant, measures, ks, denominator)
    if beside is not None and beside.scores_own:
        scores |= {f"R@{k}": np.where(hits[:, :k].any(axis=1), 1.0, 0.0) for k in ks}
        chance |= {name: each for name, each in chance_first_ranks(relevant, described["reachable"], ks).items() if name in scores}
    return PerQuery(
        **described,
        **describe_answers(run.documents, rows, hits),
        scores=scores,
        chance=chance,
    )


def _described(ids: Sequence[str], qrels: Qrels, relevant: NDArray[np.int64], beside: _Beside | None) -> dict[str, Any]:
    """Who asks: as saved beside the judgements, else each query by itself and for no finding."""
    if beside is None:
        strange = [{"id": id, "finding": None, "view": None, "unit": place} for place, id in enumerate(ids)]
        saved = [
            one | {"relevant": count, "candidates": len(qrels.documents)} for one, count in zip(strange, relevant.tolist(), strict=True)
        ]
        return describe_queries(saved, "") | {"unit": "queries", "find": "documents"}
    known = {token(one["id"]): one for one in beside.queries}
    if missing := [id for id in ids if id not in known]:
        raise MedretError(f"{qrels.name}: {len(missing)} of its queries are not in the {QUERIES} file beside it, the first is {missing[0]}")
    saved = [known[id] for id in ids]
    if fewer := [one["id"] for one, count in zip(saved, relevant.tolist(), strict=True) if one["relevant"] != count]:
        raise MedretError(
            f"{qrels.name}: names other relevant candidates than there were for {len(fewer)} queries, the first is {fewer[0]}: there "
            "were too many to write, or it was changed since. Save an evaluation of fewer queries, or move what was changed elsewhere"
        )
    return describe_queries(saved, beside.protocol["direction"])


def _beside(qrels: Path) -> _Beside | None:
    """What a saved evaluation keeps beside these judgements; None where they are none of one."""
    places = [_sibling(qrels, QUERIES), _sibling(qrels, CANDIDATES), qrels.parent / RESULT]
    if not qrels.name.endswith(QRELS) or not all(place.is_file() for place in places):
        return None
    name = qrels.name.removesuffix(QRELS)
    protocol = next((one["protocol"] for direction, one in read_directions(qrels.parent).items() if token(direction) == name), None)
    if protocol is None:
        return None
    return _Beside(
        protocol=protocol, queries=read_queries(places[0]), candidates=frozenset(places[1].read_text(encoding="utf-8").splitlines())
    )


def _sibling(qrels: Path, ending: str) -> Path:
    return qrels.with_name(qrels.name.removesuffix(QRELS) + ending)
