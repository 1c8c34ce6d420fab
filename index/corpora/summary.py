"""What a corpus holds, and every fault found in it."""

import os
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.errors import MedretError
from encoders.pixels import film_doubts, read_image
from index.corpora.counts import NOT_GIVEN, CorpusCount
from index.corpora.readers import Corpus
from index.corpora.record import LabelState, Tally

NOT_LABELLED = "not_labelled"
STATES = (*(state.name.lower() for state in LabelState), NOT_LABELLED)

_UNDECODED = "image cannot be decoded"
_AT_ONCE = 1024  # images handed to the threads at a time
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault, or one reason why rows were left out: how often, with the first few ids (or messages)."""

    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    """What a corpus holds.

    Attributes:
        root, format, recognised: As in Corpus.
        records, images: Records, and those of them that name an image.
        studies, patients: Distinct ids.
        reports: Reports with text in their findings, impression or last paragraph: one for each study, or for each record
            without a study.
        with_patient, with_study, with_date, with_age, with_sex: Records that have it.
        views: View as the source spells it to images.
        splits: Split to {"images", "studies", "patients"}.
        labels: Finding to {state: records}; states as in LabelState (lower case), and "not_labelled".
        sections: Report section to reports that have it.
        left_out: Why rows became no record.
        faults: What is wrong with records.
        images_checked: Images that were there and tried, or None where that was not asked for.
    """

    root: str
    format: str
    recognised: bool
    records: int
    images: int
    studies: int
    patients: int
    reports: int
    with_patient: int
    with_study: int
    with_date: int
    with_age: int
    with_sex: int
    views: Mapping[str, int]
    splits: Mapping[str, Mapping[str, int]]
    labels: Mapping[str, Mapping[str, int]]
    sections: Mapping[str, int]
    left_out: tuple[Fault, ...]
    faults: tuple[Fault, ...]
    images_checked: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def summarise_corpus(corpus: Corpus, check_images: bool = False, progress: Callable[[int, int], None] | None = None) -> CorpusSummary:
    """Read a corpus once and count what is there and what is wrong.

    Faults looked for besides the reader's own: an image that is missing, an id given twice, a record without a study (or
    patient) among others that have one, a patient in two splits, a study of two patients; with `check_images` also an image
    that cannot be decoded or looks wrong.

    Args:
        corpus: From open_corpus.
        check_images: Decode every image, on all cores.
        progress: Called with images decoded and images in all.

    Raises:
        MedretError: If a file of the corpus cannot be read, or there is no record at all.
    """
    tally = Tally()
    count = CorpusCount()
    present: list[tuple[str, Path]] = []
    for record in corpus.records(tally):
        count.add(record, tally)
        if record.image is not None and not record.image.is_file():
            tally.fault("image missing", record.id)
        elif record.image is not None and check_images:
            present.append((record.id, record.image))
    count.note_partial(tally)
    if check_images:
        _check(present, tally, progress)
    return _summary(corpus, count, tally, len(present) if check_images else None)


def _summary(corpus: Corpus, count: CorpusCount, tally: Tally, images_checked: int | None) -> CorpusSummary:
    return CorpusSummary(
        root=str(corpus.root),
        format=corpus.format,
        recognised=corpus.recognised,
        records=count.records,
        images=count.images,
        studies=len(count.patient_of),
        patients=len(count.split_of),
        reports=count.reports,
        **{f"with_{what}": count.having[what] for what in ("patient", "study", "date", "age", "sex")},
        views=_ranked(count.views),
        splits=_splits(count),
        labels=_labels(count, corpus.findings),
        sections=_ranked(count.sections),
        left_out=_faults(tally.left_out, tally),
        faults=_faults(tally.faults, tally),
        images_checked=images_checked,
    )


def _splits(count: CorpusCount) -> dict[str, dict[str, int]]:
    members = count.split_members
    order = [name for name in ("train", "validate", "test", NOT_GIVEN) if name in members]
    return {
        name: {"images": count.split_images[name], **{what: len(members[name][what]) for what in ("studies", "patients")}}
        for name in [*order, *sorted(members.keys() - set(order))]
    }


def _labels(count: CorpusCount, findings: Sequence[str]) -> dict[str, dict[str, int]]:
    table = {}
    for finding in [*findings, *sorted(count.labels.keys() - set(findings))]:
        states = count.labels.get(finding, Counter())
        table[finding] = {state: states[state] for state in STATES[:-1]} | {NOT_LABELLED: count.records - states.total()}
    return table


def render_summary(summary: CorpusSummary) -> str:
    """Lay a summary out as plain text, at most 100 columns wide as far as names and ids allow."""
    how = "recognised" if summary.recognised else "as given"
    blocks = [f"{summary.root}\nformat: {summary.format} ({how})", _totals(summary)]
    if set(summary.splits) != {NOT_GIVEN}:
        rows = [[name, *(f"{value:,}" for value in counts.values())] for name, counts in summary.splits.items()]
        blocks.append(_aligned([["split", "images", "studies", "patients"], *rows]))
    if summary.views:
        blocks.append(_aligned([["view", "images"], *([name, f"{count:,}"] for name, count in summary.views.items())]))
    if summary.labels:
        rows = [[name, *(f"{states[state]:,}" for state in STATES)] for name, states in summary.labels.items()]
        blocks.append(_aligned([["finding (records)", *(state.replace("_", " ") for state in STATES)], *rows]))
    if summary.sections:
        blocks.append(_aligned([["report section", "reports"], *([name, f"{count:,}"] for name, count in summary.sections.items())]))
    blocks.append(_listing("rows left out", summary.left_out))
    blocks.append(_listing("faults", summary.faults))
    return "\n\n".join(blocks)


def _totals(summary: CorpusSummary) -> str:
    known = ", ".join(
        f"{what} {count:,}" for what, count in (("date", summary.with_date), ("age", summary.with_age), ("sex", summary.with_sex)) if count
    )
    rows = [["records", f"{summary.records:,}"]]
    rows += [[name, f"{getattr(summary, name):,}"] for name in ("images", "studies", "patients", "reports")]
    totals = _aligned(rows)
    checked = ""
    if summary.images_checked is not None:
        failed = sum(fault.count for fault in summary.faults if fault.reason == _UNDECODED)
        checked = f"\n{summary.images_checked:,} images checked: {summary.images_checked - failed:,} can be decoded"
    return totals + (f"\nrecords with {known}" if known else "") + checked


def _listing(title: str, findings: Sequence[Fault]) -> str:
    if not findings:
        return f"{title}: none"
    lines = [f"{title}:"]
    for finding in findings:
        more = ", ..." if finding.count > len(finding.examples) else ""
        head = f"{finding.count:>9,}  {finding.reason}"
        lines += textwrap.wrap(head, _WIDTH, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
        lines += textwrap.wrap(
            ", ".join(example for example in finding.examples if example) + more,
            _WIDTH,
            initial_indent=" " * 11,
            subsequent_indent=" " * 11,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, cut to 34 characters, the others to the right."""
    rows = [[row[0] if len(row[0]) <= 34 else row[0][:33] + "…", *row[1:]] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows
    )


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _faults(counts: Counter[str], tally: Tally) -> tuple[Fault, ...]:
    return tuple(
        Fault(reason=reason, count=count, examples=tuple(tally.examples.get(reason, ()))) for reason, count in _ranked(counts).items()
    )


def _check(images: Sequence[tuple[str, Path]], tally: Tally, progress: Callable[[int, int], None] | None) -> None:
    """Decode images on all cores; tell the tally of those at fault, in the order of the corpus."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), _AT_ONCE):
            some = images[start : start + _AT_ONCE]
            for done, ((id, _), outcome) in enumerate(zip(some, pool.map(_doubts, some), strict=True), start + 1):
                for reason, example in outcome:
                    tally.fault(reason, example or id)
                if progress is not None:
                    progress(done, len(images))


def _doubts(image: tuple[str, Path]) -> list[tuple[str, str]]:
    """Return (reason, message) for an image that cannot be decoded, (doubt, "") for each thing that looks wrong with it."""
    id, path = image
    try:
        pixels = read_image(path, id)
    except MedretError as error:
        return [(_UNDECODED, str(error))]
    return [(f"image {doubt.partition(' (')[0]}", "") for doubt in film_doubts(pixels)]
