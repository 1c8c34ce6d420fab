"""What a mix of corpora has to learn from: images, reports and labels, and who is held out."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from encoders.errors import MedretError
from index.corpora.prompts import prompts_for
from index.corpora.readers import Corpus
from index.corpora.record import FINDINGS, NULL_LABEL, LabelState, Record
from index.corpora.report import report_text, split_sentences
from index.corpora.uncertainty import apply_policy

HELD_OUT = 0.1  # share of the patients, where the corpus has no validation split
_TOKEN = re.compile(r"\w+|[^\w\s]")
_FRONTAL = frozenset({"PA", "AP", "FRONTAL"})


@dataclass(frozen=True, slots=True)
class Source:
    """A corpus to learn from, and its part in the mix.

    Attributes:
        corpus: Of `open_corpus`.
        weight: Parts of a batch that come from it; 0: as many as it has images and texts without one.
    """

    corpus: Corpus
    weight: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise MedretError(f"{self.corpus.root}: its weight is {self.weight}, expected 0 or more. 0 takes a corpus by its size.")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image, or a report without one, and the sentences of its study's report; () for a labelled image without report."""

    record: Record
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSamples:
    """What one corpus brings.

    Attributes:
        corpus_format: As the reader names it.
        weight: Of the Source.
        train, validate: Images, in the order of the corpus; no patient is in both if it has no validation split.
        texts: Reports without an image, to train with.
        left_out: Reason to number of records.
        notes: What a user should know of how the samples came about.
    """

    corpus_format: str
    weight: float
    train: list[Sample] = field(default_factory=list)
    validate: list[Sample] = field(default_factory=list)
    texts: list[Sample] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The usable records of a mix of corpora.

    Attributes:
        findings: The labels used, in the order of FINDINGS.
        sources: One of each corpus, in the order given.
    """

    findings: tuple[str, ...]
    sources: tuple[SourceSamples, ...]

    def training_texts(self) -> list[str]:
        """The texts to learn a vocabulary from: one report per study of the training split, and prompts where images have none."""
        texts: list[str] = []
        for source in self.sources:
            texts += {study_key(sample.record): " ".join(sample.sentences) for sample in source.train if sample.sentences}.values()
            texts += [" ".join(sample.sentences) for sample in source.texts]
        if any(not sample.sentences for source in self.sources for sample in source.train):
            texts += [prompt for finding in self.findings for prompt in prompts_for(finding)]
        return texts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What a record must be to be of use."""

    objective: str
    views: str
    min_tokens: int
    findings: tuple[str, ...]
    uncertain: str

    @property
    def images(self) -> str:
        """What an image must have, in words."""
        return "an image and a report" if self.objective == "convirt" else "an image and a report or a positive label"

    def sample(self, record: Record) -> tuple[Sample | None, str]:
        """The record as a sample, or why it is none."""
        if record.image is None and self.objective == "convirt":
            return None, "no image"
        if record.image is not None and self.views == "frontal" and (record.view or "").upper().split(" ")[0] not in _FRONTAL:
            return None, "not a frontal view"
        text = report_text(record.sections)
        if len(_TOKEN.findall(text)) >= self.min_tokens:
            sentences = tuple(sentence for sentence in split_sentences(text) if len(_TOKEN.findall(sentence)) >= self.min_tokens)
            return Sample(record, sentences or (text,)), ""
        if record.image is None or self.objective == "convirt":
            return None, f"report empty or under {self.min_tokens} tokens"
        if _is_positive(tuple(record.labels.get(finding, NULL_LABEL) for finding in self.findings), self.findings, self.uncertain):
            return Sample(record, ()), ""
        return None, f"no report of {self.min_tokens} tokens and no positive label"


def collect_samples(
    sources: Sequence[Source],
    *,
    objective: str = "convirt",
    views: str = "all",
    min_tokens: int = 3,
    seed: int = 0,
    findings: tuple[str, ...] = (),
    uncertain: str = "zeros",
) -> Samples:
    """Read each corpus once and keep what the objective can learn from.

    ConVIRT learns from images with a report; MedCLIP and UMCL also from images with a positive label, and from reports
    without an image. All images of a study are paired with its report, as ConVIRT does. Records of the test split are
    never used. Of a corpus without a validation split a tenth of the patients, chosen by a seeded hash, is held out.

    Args:
        sources: The mix.
        objective: "convirt", "medclip" or "umcl".
        views: "all", or "frontal" for AP and PA films alone; of a corpus that names no view, all films.
        min_tokens: Reports and sentences with fewer words and punctuation marks are left out.
        seed: Chooses the patients held out.
        findings: The labels used; () for all of FINDINGS that some training record may be positive for.
        uncertain: The policy for uncertain labels.

    Raises:
        MedretError: If no corpus labels one of the findings, or of a corpus fewer than two studies are left to learn
            from, or to validate on; a corpus of reports alone needs only one, but some corpus must have images.
    """
    _check_findings(sources, findings)
    use = _Use(objective=objective, views=views, min_tokens=min_tokens, findings=findings or FINDINGS, uncertain=uncertain)
    collected = tuple(_collect(source, use, seed) for source in sources)
    if not any(source.train for source in collected):
        roots = ", ".join(str(source.corpus.root) for source in sources)
        raise MedretError(f"{roots}: reports alone, expected a corpus with images among them. Add one.")
    return Samples(findings=findings or _findings_seen(collected), sources=collected)


def study_key(record: Record) -> str:
    """What tells the record's study from others of its corpus."""
    # some sources number the studies of each patient from 1
    return f"{record.patient_id}/{record.study_id}" if record.study_id else f"//{record.id}"


def count_studies(samples: Sequence[Sample]) -> int:
    """How many different studies the samples of one corpus come from."""
    return len({study_key(sample.record) for sample in samples})


def _check_findings(sources: Sequence[Source], findings: Sequence[str]) -> None:
    labelled = {finding for source in sources for finding in source.corpus.findings}
    if missing := [finding for finding in findings if finding not in labelled]:
        roots = ", ".join(str(source.corpus.root) for source in sources)
        known = ", ".join([*(name for name in FINDINGS if name in labelled), *sorted(labelled - set(FINDINGS))]) or "none"
        raise MedretError(f"{roots}: no label {', '.join(missing)} in any corpus. Labelled are: {known}. Change findings, or add a corpus.")


def _findings_seen(collected: Sequence[SourceSamples]) -> tuple[str, ...]:
    samples = [sample for source in collected for part in (source.train, source.texts) for sample in part]
    mappings = {id(sample.record.labels): sample.record.labels for sample in samples}.values()  # readers share equal ones
    possible = (LabelState.POSITIVE, LabelState.UNCERTAIN)
    seen = {finding for labels in mappings for finding, state in labels.items() if state in possible}
    return tuple(finding for finding in FINDINGS if finding in seen)


@lru_cache(maxsize=4096)
def _is_positive(states: tuple[int, ...], findings: tuple[str, ...], uncertain: str) -> bool:
    return bool(apply_policy(np.array([states], dtype=np.int8), findings, uncertain).any())


def _collect(source: Source, use: _Use, seed: int) -> SourceSamples:
    left_out: Counter[str] = Counter()
    notes: tuple[str, ...] = ()
    if use.views == "frontal" and not any(record.view for record in source.corpus.records()):
        use, notes = replace(use, views="all"), (f"{source.corpus.format}: names no views, so that all its films are used.",)
    train, validate = _splits(source.corpus, use, left_out)
    texts = [sample for sample in train if sample.record.image is None]
    unused = [sample for sample in validate if sample.record.image is None]
    train, validate = ([sample for sample in part if sample.record.image is not None] for part in (train, validate))
    if train or validate or not texts:
        _check(source.corpus, f"{use.images} to learn from", train, left_out)
        if count_studies(validate) < 2:
            held_out, note = _hold_out([*train, *validate], seed)
            notes += (note,)
            unused, texts = _part([*texts, *unused], held_out)
            validate, train = _part([*train, *validate], held_out)
            _check(source.corpus, f"{use.images} to learn from, after holding some out", train, left_out)
            _check(source.corpus, f"{use.images} to validate on", validate, left_out)
    left_out["report without an image, held out"] = len(unused)
    return SourceSamples(
        corpus_format=source.corpus.format,
        weight=source.weight,
        train=train,
        validate=validate,
        texts=texts,
        left_out={reason: count for reason, count in left_out.items() if count},
        notes=notes,
    )


def _splits(corpus: Corpus, use: _Use, left_out: Counter[str]) -> tuple[list[Sample], list[Sample]]:
    """The usable records to train with and to validate on."""
    splits: dict[str | None, list[Sample]] = {}
    for record in corpus.records():
        sample, reason = use.sample(record)
        if sample is None:
            left_out[reason] += 1
        else:
            splits.setdefault(record.split, []).append(sample)
    left_out["in the test split"] = len(splits.pop("test", []))
    named = "train" in splits or "validate" in splits
    left_out["in no split, where others are"] = len(splits.pop(None, [])) if named else 0
    return splits.get("train" if named else None, []), splits.get("validate", [])


def _hold_out(samples: Sequence[Sample], seed: int) -> tuple[set[str], str]:
    """The patients held out, those with the lowest hashes and at least two studies, and a note of it."""
    patients: dict[str, list[Sample]] = {}
    for sample in samples:
        patients.setdefault(_patient(sample.record), []).append(sample)
    by_hash = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    count = math.ceil(HELD_OUT * len(by_hash))
    while count < len(by_hash) and count_studies([sample for patient in by_hash[:count] for sample in patients[patient]]) < 2:
        count += 1
    images = sum(len(patients[patient]) for patient in by_hash[:count])
    note = f"The corpus has no validation split of two studies: {count} of {len(by_hash)} patients ({images} images) are held out."
    return set(by_hash[:count]), note


def _part(samples: Sequence[Sample], held_out: set[str]) -> tuple[list[Sample], list[Sample]]:
    """The samples of the patients held out, and the others."""
    inside = [sample for sample in samples if _patient(sample.record) in held_out]
    return inside, [sample for sample in samples if _patient(sample.record) not in held_out]


def _check(corpus: Corpus, needed: str, samples: Sequence[Sample], left_out: Counter[str]) -> None:
    if count_studies(samples) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common() if count) or "none left out"
        raise MedretError(
            f"{corpus.root}: {count_studies(samples)} studies with {needed}, expected at least 2 "
            f"(records left out: {reasons}). See what is there: medret corpus {corpus.root}"
        )


def _patient(record: Record) -> str:
    return record.patient_id or study_key(record)
