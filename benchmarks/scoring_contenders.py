"""One contender of scoring.py in a process of its own: builds the judgements, scores a run, and writes JSON with times and values."""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

K = 10
Figures = dict[str, float]


def medret(ranked: Any, query_masks: Any, candidate_masks: Any) -> Callable[[], Figures]:
    """Arrays all the way: there are no judgements to build, the masks are what an index holds."""
    from retrieval.measures import measure_rankings
    from retrieval.metrics import count_relevant, ranked_relevance

    def score() -> Figures:
        relevance = ranked_relevance(ranked, query_masks, candidate_masks)
        relevant = count_relevant(query_masks, candidate_masks)
        found = measure_rankings(relevance, relevant, ("P", "recall", "nDCG", "mAP", "MRR"), (K,))
        return {name: float(values.mean()) for name, values in found.items()}

    return score


def _dictionaries(ranked: Any, query_masks: Any, candidate_masks: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [f"d{row}" for row in range(len(candidate_masks))]
    relevant = {mask: np.flatnonzero(candidate_masks & mask).tolist() for mask in np.unique(query_masks)}
    qrels = {f"q{query}": {names[row]: 1 for row in relevant[mask]} for query, mask in enumerate(query_masks)}
    run = {f"q{query}": {names[row]: float(-rank) for rank, row in enumerate(rows)} for query, rows in enumerate(ranked.tolist())}
    return qrels, run


def pytrec_eval(*arrays: Any) -> Callable[[], Figures]:
    """The C code of trec_eval."""
    import pytrec_eval

    qrels, run = _dictionaries(*arrays)
    names = {f"P_{K}": f"P@{K}", f"recall_{K}": f"recall@{K}", f"ndcg_cut_{K}": f"nDCG@{K}", "map": "mAP", "recip_rank": "MRR"}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(names))

    def score() -> Figures:
        each = evaluator.evaluate(run)
        return {name: float(np.mean([one[outside] for one in each.values()])) for outside, name in names.items()}

    return score


def ir_measures(*arrays: Any) -> Callable[[], Figures]:
    """Its evaluator, made once for the judgements."""
    import ir_measures

    qrels, run = _dictionaries(*arrays)
    names = {f"P@{K}": f"P@{K}", f"R@{K}": f"recall@{K}", f"nDCG@{K}": f"nDCG@{K}", "AP": "mAP", "RR": "MRR"}
    evaluator = ir_measures.evaluator([ir_measures.parse_measure(name) for name in names], qrels)
    return lambda: {names[str(measure)]: float(value) for measure, value in evaluator.calc_aggregate(run).items()}


def ranx(*arrays: Any) -> Callable[[], Figures]:
    """Compiled by numba at the first call."""
    import ranx

    qrels, run = _dictionaries(*arrays)
    names = {f"precision@{K}": f"P@{K}", f"recall@{K}": f"recall@{K}", f"ndcg@{K}": f"nDCG@{K}", "map": "mAP", "mrr": "MRR"}
    judged, ranked = ranx.Qrels(qrels), ranx.Run(run)
    return lambda: {names[name]: float(value) for name, value in ranx.evaluate(judged, ranked, list(names)).items()}


CONTENDERS = {"medret": medret, "pytrec-eval-terrier": pytrec_eval, "ir-measures": ir_measures, "ranx": ranx}


def main() -> None:
    """Time the contender named first on the run named second, in processor time: other jobs of the machine do not count."""
    name, path = sys.argv[1:]
    with np.load(path) as held:
        arrays = [held[part] for part in ("ranked", "query_masks", "candidate_masks")]
    began = time.process_time()
    score = CONTENDERS[name](*arrays)
    built = time.process_time()
    values = score()
    first = time.process_time() - built
    times = []
    for _ in range(9 if first < 5 else 1):
        start = time.process_time()
        score()
        times.append(time.process_time() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"build": built - began, "first": first, "score": float(np.median(times)), "memory": memory}
    print(json.dumps({**figures, "values": values, "version": version(name)}))


if __name__ == "__main__":
    main()
