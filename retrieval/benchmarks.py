"""The benchmarks: which queries are put to which candidates, and what counts as relevant."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.chexpert_fields import chexpert_id
from index.corpora.prompts import prompts_for
from index.corpora.record import LabelState
from retrieval.columns import spelled_findings
from retrieval.engine import SearchEngine
from retrieval.filters import EVERYTHING, Selection
from retrieval.owners import study_names
from retrieval.published_lists import PublishedLists, list_labels, missing_images
from retrieval.qrels import STATES, LabelRelevance, Rule, UncertainPolicy, number_texts, read_relevance
from retrieval.tasks import LabelTask, PairTask

if TYPE_CHECKING:
    from index.shards import ShardTable

PUBLISHED_DIRECTIONS = ("image-image", "text-image", "image-text")
LABEL_DIRECTIONS = ("text-image", "image-image", "image-report")
RECALL_DIRECTIONS = ("image-report", "report-image")


def published_task(engine: SearchEngine, lists: PublishedLists, direction: str, vector: str) -> LabelTask:
    """Set up one direction of chexpert-8x200: the listed queries, candidates and labels, as they are.

    Args:
        engine: An index that holds at least the listed images.
        lists: The published lists.
        direction: "image-image" or "text-image"; for "image-text" see `text_tasks`.
        vector: "features" for image-image as published, "joint" for text-image.

    Raises:
        MedretError: If a listed image is not in the index, or the index has no such vectors.
        ValueError: If the direction is not known, or texts are to be compared with features of images.
    """
    if direction not in PUBLISHED_DIRECTIONS[:2]:
        raise ValueError(f"direction is {direction!r}, expected one of {PUBLISHED_DIRECTIONS[:2]}")
    if direction == "text-image" and vector == "features":
        raise ValueError("text-image with 'features' vectors: images and texts share the 'joint' ones only")
    table = engine.table("images")
    table.dimension(vector)  # before any work: names the vectors that are missing
    by_image = direction == "image-image"
    candidates = lists.image_candidates if by_image else lists.text_candidates
    queries = lists.image_queries if by_image else lists.text_queries
    asking = [chexpert_id(path) for _, path in queries] if by_image else []
    found = listed_rows(engine, [*asking, *(candidate.id for candidate in candidates)])
    labels = list_labels(candidates, found[len(asking) :], table.rows, lists.classes)
    allowed = np.zeros(table.rows, dtype=np.bool_)
    allowed[found[len(asking) :]] = True
    return LabelTask(
        direction=direction,
        find="images",
        vector=vector,
        relevance=read_relevance(labels, lists.classes),
        allowed=allowed,
        texts=() if by_image else tuple(text for _, text in queries),
        rows=found[: len(asking)] if by_image else None,
        items=np.arange(len(queries)),
        classes=np.array([lists.classes.index(name) for name, _ in queries], dtype=np.int64),
    )


def listed_rows(engine: SearchEngine, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the (N,) int64 row of each of N listed images; one that is not in the index is a MedretError, never passed over."""
    known = _live_ids(engine.table("images"))
    missing = [id for id in ids if id not in known]
    if missing:
        where = "the index" if not engine.opened.shards.manifest.pseudonymised else "the index (its ids are pseudonyms)"
        raise MedretError(missing_images(where, missing, len(ids)))
    return np.array([known[id] for id in ids], dtype=np.int64)


def label_task(
    engine: SearchEngine,
    direction: str,
    *,
    vector: str = "joint",
    selection: Selection = EVERYTHING,
    asking: Selection | None = None,
    findings: Sequence[str] | None = None,
    uncertain: UncertainPolicy = "negative",
    max_queries: int | None = None,
    seed: int = 0,
    prompts: Mapping[str, Sequence[str]] | None = None,
    rule: Rule = "finding",
) -> LabelTask:
    """Set up one direction of label-precision.

    Texts ask with the built-in prompts of each finding; images ask for each finding that they are positive for, or, by another rule
    than "finding", once for all of these. By the rule "exact" an image asks whose labels are known for every finding.

    Args:
        engine: The index to be scored.
        direction: One of LABEL_DIRECTIONS.
        vector: "joint" or, for image-image, "features".
        selection: The records that are candidates; of reports, which have no view, see `Selection.of_texts`.
        asking: The images that ask; by default the candidates' own selection.
        findings: Those to ask for; all that the index has labels for by default.
        uncertain: What an uncertain label counts as; queries are always images labelled positive. By the rule "exact" this holds
            for the labels of the image that asks, too.
        max_queries: Image queries of each finding, drawn without replacement; None takes all.
        seed: Of that draw.
        prompts: Finding to texts, instead of the built-in ones.
        rule: Which candidates answer an image, one of `RULES`.

    Raises:
        MedretError: If nothing in the selection is labelled, no finding has a positive candidate, no image can ask, or texts are to
            ask by another rule than "finding".
        ValueError: If the direction is not known, or texts are to be compared with features of images.
    """
    if direction not in LABEL_DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, expected one of {LABEL_DIRECTIONS}")
    if vector == "features" and direction != "image-image":
        raise ValueError(f"{direction} with 'features' vectors: images and texts share the 'joint' ones only")
    if direction == "text-image" and rule != "finding":
        raise MedretError(f"--relevance {rule} compares the findings of two records, and in text-image a text asks. Take finding")
    find = "reports" if direction == "image-report" else "images"
    names = spelled_findings(engine.table(find), findings)
    candidates = selection if find == "images" else selection.of_texts()
    allowed, relevance, left_out = _labelled(engine.table(find), names, uncertain, candidates)
    askable = _askable(relevance, allowed, left_out)
    if direction == "text-image":
        asks = _text_queries(names, askable, prompts or {})
    else:
        images = engine.table("images")
        may_ask = (asking or selection).rows(images)
        told = None if rule == "finding" else read_relevance(images.labels(names), names, uncertain if rule == "exact" else "negative")
        if told is not None and rule == "exact":
            may_ask &= _known(told, may_ask, left_out)
        asks = _image_queries(images, names, askable, may_ask, max_queries, seed)
        if told is not None:  # once for all that it shows
            rows = asks["rows"]
            asks |= {"items": np.arange(len(rows)), "classes": np.full(len(rows), -1), "several": told.positive[rows]}
    return LabelTask(
        direction=direction,
        find=find,
        vector=vector,
        relevance=relevance,
        allowed=allowed,
        rule=rule,
        left_out=left_out,
        **asks,
    )


def _labelled(
    table: "ShardTable", names: tuple[str, ...], uncertain: UncertainPolicy, selection: Selection
) -> tuple[NDArray[np.bool_], LabelRelevance, dict[str, int]]:
    if not names:
        raise MedretError(f"the {table.modality} of this index have no labels, so label-precision cannot be computed; use report-recall")
    chosen = selection.rows(table)
    if not chosen.any():
        raise MedretError(f"the selection holds none of the {table.modality} of this index; select other records")
    labels = table.labels(names)
    labelled = np.isin(labels, STATES).any(axis=1)
    unlabelled = int(np.count_nonzero(chosen & ~labelled))
    left_out = {f"{table.modality} without any label": unlabelled} if unlabelled else {}
    if not (chosen & labelled).any():
        raise MedretError(
            f"none of the {int(chosen.sum())} selected {table.modality} has a label; select other records or use report-recall"
        )
    return chosen & labelled, read_relevance(labels, names, uncertain), left_out


def _askable(relevance: LabelRelevance, allowed: NDArray[np.bool_], left_out: dict[str, int]) -> list[int]:
    """The places of the findings with a positive candidate; the others are named in `left_out`."""
    counts = [int(np.count_nonzero(relevance.positive[allowed] & relevance.judged[allowed] & bit)) for bit in relevance.bits]
    without = [name for name, count in zip(relevance.findings, counts, strict=True) if not count]
    if without:
        left_out[f"findings without a positive candidate ({', '.join(without)})"] = len(without)
    if len(without) == len(relevance.findings):
        raise MedretError(f"no candidate is positive for any of {', '.join(without)}; select other records or findings")
    return [place for place, count in enumerate(counts) if count]


def _known(told: LabelRelevance, may_ask: NDArray[np.bool_], left_out: dict[str, int]) -> NDArray[np.bool_]:
    """The images whose labels are known for every finding, (rows,) bool; those that ask for some and are not are counted in `left_out`."""
    known: NDArray[np.bool_] = told.judged == np.bitwise_or.reduce(told.bits)
    if silent := int(np.count_nonzero(may_ask & ~known & (told.positive != 0))):
        left_out["images that do not ask, since not every finding is known of them"] = silent
    return known


def _text_queries(names: tuple[str, ...], askable: Sequence[int], prompts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Every prompt of every finding, as the attributes of a LabelTask that tell who asks."""
    each = [(text, place) for place in askable for text in prompts.get(names[place]) or prompts_for(names[place])]
    classes = np.array([place for _, place in each], dtype=np.int64)
    return {"texts": tuple(text for text, _ in each), "items": np.arange(len(each)), "classes": classes}


def _image_queries(
    table: "ShardTable", names: tuple[str, ...], askable: Sequence[int], may_ask: NDArray[np.bool_], most: int | None, seed: int
) -> dict[str, Any]:
    """The images that ask, for each finding that they are positive for, likewise."""
    positive = table.labels(names) == LabelState.POSITIVE
    positive &= may_ask[:, None]
    drawn = []
    for place in askable:
        rows = np.flatnonzero(positive[:, place])
        if most is not None and len(rows) > most:
            rows = np.sort(np.random.default_rng([seed, place]).choice(rows, most, replace=False))
        drawn.append(rows)
    classes = np.repeat(np.array(askable, dtype=np.int64), [len(rows) for rows in drawn])
    rows, items = np.unique(np.concatenate(drawn).astype(np.int64), return_inverse=True)
    if not len(rows):
        raise MedretError("no selected image is positive for a finding, so no image can ask; select other records or findings")
    return {"rows": rows, "items": items.astype(np.int64), "classes": classes}


def pair_task(engine: SearchEngine, selection: Selection = EVERYTHING, once: bool = True) -> PairTask:
    """Set up report-recall: every selected image with its study's report, every distinct text once (or each report by itself).

    Raises:
        MedretError: If the index has no reports, or no selected image has one.
    """
    images, reports = engine.table("images"), engine.table("reports")
    chosen = np.flatnonzero(selection.rows(images))
    numbers = number_texts(list(reports.column("text")))
    if not once:
        numbers = np.where(numbers >= 0, np.arange(reports.rows), -1)
    if reports.live is not None:
        numbers[~reports.live] = -1  # a removed report lends its text to no other
    report_rows = own_reports(images, reports, chosen)
    has = (report_rows >= 0) & (numbers[report_rows] >= 0)
    if not has.any():
        raise MedretError(f"none of the {len(chosen)} selected images has a report; encode a corpus with reports, or select other records")
    kept, own = chosen[has], report_rows[has]
    distinct, image_text = np.unique(numbers[own], return_inverse=True)
    found, first = np.unique(numbers, return_index=True)  # the first report row of each number
    studies = images.codes("study_id")[kept].astype(np.int64)
    studies = np.where(studies >= 0, studies, studies.max() + 1 + np.arange(len(kept)))
    alone = int(np.count_nonzero(selection.of_texts().rows(reports))) - len(np.unique(own))
    counts = {"images without a report": len(chosen) - len(kept), "reports without a selected image": alone}
    left_out = {reason: count for reason, count in counts.items() if count > 0}
    return PairTask(
        images=kept,
        image_text=image_text.astype(np.int64),
        image_study=studies,
        texts=first[np.searchsorted(found, distinct)],
        left_out=left_out,
    )


def own_reports(images: "ShardTable", reports: "ShardTable", rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The report row of each image: the one whose id is the image's study, or the record itself without a study; or -1."""
    known = _live_ids(reports)
    return np.array([known.get(study, -1) for study in study_names(images, rows)], dtype=np.int64)


def _live_ids(table: "ShardTable") -> dict[str, int]:
    """The rows that are not removed, by id."""
    rows = table.live_rows
    return dict(zip(table.ids(rows), rows.tolist(), strict=True))
