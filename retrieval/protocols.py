"""What `medret evaluate` can measure: each benchmark's function and its directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from retrieval.benchmarks import LABEL_DIRECTIONS, PUBLISHED_DIRECTIONS, RECALL_DIRECTIONS
from retrieval.evaluation import evaluate_label_precision, evaluate_report_recall
from retrieval.linear_probe import PROBE_DIRECTIONS, evaluate_linear_probe
from retrieval.outside_runs import evaluate_trec
from retrieval.published_benchmarks import DRAWN, FIVE_DIRECTIONS, evaluate_chexpert_8x200, evaluate_five_by_200
from retrieval.results import EvaluationResult
from retrieval.zero_shot import ZERO_SHOT_DIRECTIONS, evaluate_zero_shot


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        measure: What measures it.
        directions: What it can measure.
        lists: Whether it is measured on lists: "needed", "possible" or "none".
        drawn: Parameters of what is drawn where no list is given; beside a list they mean nothing.
    """

    measure: Callable[..., EvaluationResult]
    directions: tuple[str, ...]
    lists: str = "none"
    drawn: tuple[str, ...] = ()


BENCHMARKS: Mapping[str, Benchmark] = {
    "label-precision": Benchmark(evaluate_label_precision, LABEL_DIRECTIONS),
    "report-recall": Benchmark(evaluate_report_recall, RECALL_DIRECTIONS),
    "chexpert-8x200": Benchmark(evaluate_chexpert_8x200, PUBLISHED_DIRECTIONS, "needed"),
    "chexpert-5x200": Benchmark(partial(evaluate_five_by_200, benchmark="chexpert-5x200"), FIVE_DIRECTIONS, "possible", DRAWN),
    "mimic-5x200": Benchmark(partial(evaluate_five_by_200, benchmark="mimic-5x200"), FIVE_DIRECTIONS, "possible", DRAWN),
    "zero-shot": Benchmark(evaluate_zero_shot, ZERO_SHOT_DIRECTIONS),
    "linear-probe": Benchmark(evaluate_linear_probe, PROBE_DIRECTIONS),
    "trec": Benchmark(evaluate_trec, ()),  # of two files, without an index
}
