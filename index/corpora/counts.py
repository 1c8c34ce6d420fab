"""The running counts of one pass over a corpus, and the faults that only several records together show."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from index.corpora.record import Record, Tally
from index.corpora.report import report_text

NOT_GIVEN = "not given"


@dataclass(slots=True)
class CorpusCount:
    """The running counts of one pass over a corpus."""

    ids: set[str] = field(default_factory=set)
    images: int = 0
    sectioned: dict[str, frozenset[str]] = field(default_factory=dict)  # study to its sections that were counted
    combinations: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)  # each kept once: studies are many
    reported: set[str] = field(default_factory=set)  # studies whose report was counted
    reports: int = 0
    patient_of: dict[str, str | None] = field(default_factory=dict)
    split_of: dict[str, str | None] = field(default_factory=dict)
    at_fault: set[tuple[str, str]] = field(default_factory=set)  # (reason, patient or study), each told once
    having: Counter[str] = field(default_factory=Counter)
    lacking: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    records: int = 0
    views: Counter[str] = field(default_factory=Counter)
    split_images: Counter[str] = field(default_factory=Counter)
    split_members: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    sections: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, tally: Tally) -> None:
        """Count a record, and tell the tally what is wrong with it."""
        self.records += 1
        if record.id in self.ids:
            tally.fault("id given twice", record.id)
        self.ids.add(record.id)
        if record.image is not None:
            self.images += 1
            self.views[record.view or NOT_GIVEN] += 1
        self._count_report(record)
        self._count_known(record)
        self._count_split(record)
        for finding, state in record.labels.items():
            self.labels[finding][state.name.lower()] += 1
        self._compare(self.split_of, record.patient_id, record.split, "patient in two splits", tally)
        self._compare(self.patient_of, record.study_id, record.patient_id, "study of two patients", tally)

    def note_partial(self, tally: Tally) -> None:
        """Tell the tally of records without a study or patient, where the corpus names them elsewhere."""
        for what in ("study", "patient"):
            if self.having[what]:
                for id in self.lacking[what]:
                    tally.fault(f"record without a {what}", id)

    def _count_report(self, record: Record) -> None:
        """Count a study's report, and each of its sections, once, whichever of its records has it."""
        named = frozenset(name for name, text in record.sections.items() if text.strip())
        has_text = bool(report_text(record.sections))
        if record.study_id is not None:
            counted = self.sectioned.get(record.study_id, frozenset())
            both = counted | named
            self.sectioned[record.study_id] = self.combinations.setdefault(both, both)
            named -= counted
            has_text = has_text and record.study_id not in self.reported
            if has_text:
                self.reported.add(record.study_id)
        self.sections.update(named)
        self.reports += has_text

    def _count_known(self, record: Record) -> None:
        known = {
            "patient": record.patient_id,
            "study": record.study_id,
            "date": record.study_date,
            "age": record.age,
            "sex": record.sex,
        }
        self.having.update(what for what, value in known.items() if value is not None)
        for what in ("study", "patient"):
            if known[what] is None:
                self.lacking[what].append(record.id)

    def _count_split(self, record: Record) -> None:
        split = record.split or NOT_GIVEN
        self.split_images[split] += record.image is not None
        members = self.split_members[split]
        for what, id in (("studies", record.study_id), ("patients", record.patient_id)):
            if id is not None:
                members[what].add(id)

    def _compare(self, seen: dict[str, str | None], id: str | None, value: str | None, fault: str, tally: Tally) -> None:
        if id is None:
            return
        if seen.setdefault(id, value) is None:
            seen[id] = value
        elif value is not None and seen[id] != value and (fault, id) not in self.at_fault:
            self.at_fault.add((fault, id))
            tally.fault(fault, id)
