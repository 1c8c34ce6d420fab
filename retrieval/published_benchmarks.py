"""Benchmarks on published lists: ConVIRT's 8x200, and images against the reports of 5x200 studies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from retrieval.benchmarks import PUBLISHED_DIRECTIONS, listed_rows, own_reports, published_task
from retrieval.engine import SearchEngine
from retrieval.evaluation import read_selection, say_selection, score_labels, score_pairs
from retrieval.filters import Condition
from retrieval.five_by_200 import FIVE, FiveList, draw_five_list, load_five_list, save_five_list
from retrieval.measures import Measure
from retrieval.metrics import Denominator
from retrieval.published_lists import load_published_lists
from retrieval.qrels import Rule, number_texts
from retrieval.results import DirectionResult, EvaluationResult
from retrieval.tasks import PairTask
from retrieval.text_tasks import ceilings, given_text, published_text_task, seat_texts, text_task

FIVE_DIRECTIONS = ("image-report", "own-report")
DRAWN = ("splits", "views", "only", "where", "per_class", "seed", "list_out")  # what shapes a list that is drawn
_KS: Mapping[str, Sequence[int]] = {
    "image-text": (1, 5, 10),
    "chexpert-5x200": (5, 10, 100),
    "mimic-5x200": (1, 5, 10),
    "own-report": (1, 5, 10),
}  # as published

_SHOWS: Mapping[Rule, str] = {
    "finding": "the report's study shows the image's finding",
    "any": "the report's study shares one of the five findings with the image",
    "exact": "the report's study shows the same of the five findings as the image",
}

OwnReport = Literal["counted", "excluded"]
IdenticalTexts = Literal["each", "once"]


def evaluate_chexpert_8x200(
    engine: SearchEngine,
    lists: Path,
    *,
    directions: Sequence[str] = PUBLISHED_DIRECTIONS,
    ks: Sequence[int] | None = None,
    image_vector: str = "features",
    exclude_same_patient: bool = False,
    denominator: Denominator = "k",
    measures: Sequence[Measure] = ("P",),
) -> EvaluationResult:
    """Score ConVIRT's retrieval benchmark: P@k, averaged over the queries; chance is 12.5 %.

    Args:
        engine: An index that holds at least the 1,680 listed images.
        lists: The folder of the published lists.
        directions: Some of "image-image", "text-image" and "image-text" (EGMA's: every candidate image asks for the 5 of 40 texts
            of its class, so that P@10 cannot exceed 0.5); the first is the primary one.
        ks: Cut-offs; as published where None: 5, 10, 50 and 100, of image-text 1, 5 and 10.
        image_vector: What image-image compares: "features" (before projection, as published) or "joint".
        exclude_same_patient: Leave out the candidates of an image query's patient; published: no.
        denominator: "k" as published, or "min(k, relevant)".
        measures: What to compute of the rankings; published: P@k.

    Raises:
        MedretError: If a list is damaged, a listed image is not in the index, or the index lacks the vectors.

    Source: Zhang et al., MLHC 2022, arXiv:2010.00747, section 4.2 (k = 5, 10, 100) and Table 2 (5, 10, 50); image-text: EGMA,
        NeurIPS 2024.
    """
    published = load_published_lists(lists)
    results = {}
    for direction in directions:
        cuts: Sequence[int] = ks or _KS.get(direction, (5, 10, 50, 100))
        said = {"lists": f"SHA-256 {published.digest}", "average": "queries"}
        protocol = {"relevance": "the published label of the query's class is 1", **said}
        if direction == "image-text":
            asked, task = published_text_task(engine, published)
            protocol = {"candidates": "the listed texts", "relevance": "a text of the image's published class", **said}
            protocol |= {"ceiling": ceilings(task, cuts)} if denominator == "k" else {}
            results[direction] = score_labels(asked, task, cuts, "image", False, denominator, protocol, measures)
        else:
            task = published_task(engine, published, direction, image_vector if direction == "image-image" else "joint")
            results[direction] = score_labels(engine, task, cuts, "image", exclude_same_patient, denominator, protocol, measures)
    return EvaluationResult(benchmark="chexpert-8x200", directions=results)


def evaluate_five_by_200(
    engine: SearchEngine,
    lists: Path | None = None,
    *,
    benchmark: str,
    directions: Sequence[str] = FIVE_DIRECTIONS,
    ks: Sequence[int] | None = None,
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    only: Sequence[Condition] = (),
    where: str | None = None,
    per_class: int = 200,
    seed: int = 0,
    list_out: Path | None = None,
    own_report: OwnReport = "counted",
    same_text: IdenticalTexts = "each",
    relevance: Rule = "finding",
    denominator: Denominator = "k",
    measures: Sequence[Measure] = ("P",),
) -> EvaluationResult:
    """Score listed images against the reports of all listed studies.

    "image-report": a report answers an image if its study shows the same of the five findings (P@k, chance 20 %). "own-report":
    only the image's own report answers it, or any of the same text where identical ones are one candidate (R@k).

    Args:
        engine: An index that holds the listed images.
        lists: A CSV list, see `load_five_list`; without one, images are drawn from the index by `five_by_200.RULE`.
        benchmark: "chexpert-5x200" or "mimic-5x200".
        directions: Some of FIVE_DIRECTIONS; the first is the primary one.
        ks: Cut-offs; as published where None: 5, 10 and 100 for CheXpert, 1, 5 and 10 for MIMIC and for the own report.
        splits: Images are drawn from these splits alone; all by default.
        views: Images are drawn from these views alone; frontal ones by default.
        only: Images are drawn from those that meet these conditions.
        where: Images are drawn from those that this expression is true of.
        per_class: How many images of each finding are drawn.
        seed: Of the draw.
        list_out: Where to write the list that was drawn, ids and findings alone.
        own_report: Of image-report: the image's own report is a candidate as any other ("counted", as published), or left out.
        same_text: Identical texts are a candidate "each", as published, or one candidate that answers for all of them ("once").
        relevance: Of image-report. An image shows one of the five, so the rules differ only where studies of several findings share
            one text: it answers all of them, or by "exact" none.
        denominator: Of P@k: "k", or "min(k, relevant)".
        measures: What to compute of the rankings of image-report; published: P@k.

    Raises:
        MedretError: If the list does not fit the index, a study has no text, or too few images can be drawn.

    Source: GLoRIA, ICCV 2021 (chexpert-5x200); BenchX, NeurIPS 2024 (mimic-5x200); CXR-CLIP, MICCAI 2023 (own-report).
    """
    selection = read_selection(splits, views, only, where)
    images = engine.table("images")
    if lists is None:
        listed = draw_five_list(images, _own_report_rows(engine) >= 0, selection, per_class, seed)
        if list_out is not None:
            save_five_list(listed, list_out)
    else:
        listed = load_five_list(lists, benchmark)
    rows = listed_rows(engine, [image.id for image in listed.images])
    studies = _Studies(engine, listed, rows, once=same_text == "once")
    selected = say_selection(selection) | ({"views": "frontal"} if selection.views is None else {})
    said = {**listed.origin, **(selected if lists is None else {}), "texts": studies.origin}
    said |= {"identical_texts": "one candidate" if same_text == "once" else "a candidate each"}
    results: dict[str, DirectionResult] = {}
    for direction in directions:
        if direction == "own-report":
            own = {"direction": direction, "own": "the text of the image's study", **said}
            results[direction] = score_pairs(studies.engine, studies.pairs(), "image-report", ks or _KS[direction], "image", own)
            continue
        cuts = ks or _KS[benchmark]
        struck = tuple(studies.own[:, None]) if own_report == "excluded" else None
        task = text_task(studies.engine, direction, rows, studies.classes, FIVE, struck, relevance)
        protocol = {"relevance": _SHOWS[relevance], "own_report": own_report, **said, "average": "queries"}
        results[direction] = score_labels(studies.engine, task, cuts, "image", False, denominator, protocol, measures)
    return EvaluationResult(benchmark=benchmark, directions=results)


class _Studies:
    """The texts of the listed studies as reports of an engine.

    Attributes:
        engine: It ranks them.
        origin: Where the texts come from.
        classes: (N,) int64, each image's finding as a place in FIVE.
        own: (N,) int64, the row of each image's own text.
    """

    def __init__(self, engine: SearchEngine, listed: FiveList, rows: NDArray[np.int64], once: bool) -> None:
        given = [image.text for image in listed.images if image.text is not None]
        self.origin = "the list's" if given else "the index's reports"
        texts = given or _index_texts(engine, rows)
        self.classes = np.array([FIVE.index(image.finding) for image in listed.images], dtype=np.int64)
        numbers = number_texts(texts) if once else np.arange(len(texts))
        _, kept, self.own = np.unique(numbers, return_index=True, return_inverse=True)
        self.rows = rows
        shown = [{FIVE[number] for number in self.classes[self.own == text]} for text in range(len(kept))]
        seated = [given_text(listed.images[place].id, texts[place], some, FIVE) for place, some in zip(kept.tolist(), shown, strict=True)]
        self.engine = seat_texts(engine, seated, FIVE)

    def pairs(self) -> PairTask:
        """Every image with its own text."""
        every = np.arange(len(np.unique(self.own)))
        return PairTask(images=self.rows, image_text=self.own, image_study=np.arange(len(self.rows)), texts=every, left_out={})


def _own_report_rows(engine: SearchEngine) -> NDArray[np.int64]:
    """The report row of each image of the index, or -1."""
    images, reports = engine.table("images"), engine.table("reports")
    return own_reports(images, reports, np.arange(images.rows))


def _index_texts(engine: SearchEngine, rows: NDArray[np.int64]) -> list[str]:
    """The report of each image's study, as the index holds it."""
    if "reports" not in engine.modalities:
        raise MedretError("neither the list nor the index has reports. Give the list a column 'Report Impression' with each study's text")
    found = _own_report_rows(engine)[rows]
    if (found < 0).any():
        ids = engine.table("images").ids(rows[found < 0][:10])
        raise MedretError(
            f"{int(np.count_nonzero(found < 0))} listed images have no report in the index: {', '.join(ids)}. Take them off the list"
        )
    texts = engine.table("reports").column("text")
    return [str(texts[row]) for row in found]
