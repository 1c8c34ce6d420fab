"""Who the phantoms are: patients, their anatomy, their studies and what is wrong with them in each."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np

from index.corpora.phantom_anatomy import Anatomy, Pose, draw_anatomy, draw_pose

SIZES = ("small", "moderate", "large")
SEVERITIES = ("mild", "moderate", "severe")
ZONES = ("upper", "mid", "lower")
DRAWN = ("Pleural Effusion", "Cardiomegaly", "Pneumothorax", "Lung Opacity", "Edema", "Atelectasis")  # beside Support Devices
MAX_COMBINATIONS = 42  # of no more than three of them
MAX_PATIENTS = 2_500_000  # four study numbers each, out of the ten million that MIMIC-CXR's numbering holds

_STUDIES = (0.30, 0.45, 0.25)  # chances of 1, 2 and 3 studies
_COUNTS = (0.28, 0.51, 0.18, 0.03)  # chances of 0 to 3 drawn findings: about 0.15 a finding, 0.27 No Finding
_PACEMAKER, _CENTRAL_LINE = 0.08, 0.09  # of patients (for good), of their studies
_DOUBT, _FALSE_ALARM = 0.06, 0.07  # a finding drawn faint and called possible; one called possible that is not there
_SPLITS = ("train", "train", "test", "train", "validate", "train", "train", "test", "train", "train")  # by patient, in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomFinding:
    """One finding of a study: where it is, how large, and how sure the report is of it.

    Attributes:
        name: One of index.corpora.record.FINDINGS.
        side: The PATIENT's side: "left" (the picture's right), "right", "bilateral", or "" where there is none.
        zone: "upper", "mid", "lower", "perihilar" or "".
        size: One of SIZES or SEVERITIES, or "".
        kind: Of a device: "pacemaker", "internal jugular" or "subclavian"; else "".
        strength: 1.0 is drawn in full, below 1 faint, 0.0 not at all.
        certain: False where the report only calls it possible (label -1.0).
        variation: Moves place, angle and extent a little; -1 to 1.
    """

    name: str
    side: str = ""
    zone: str = ""
    size: str = ""
    kind: str = ""
    strength: float = 1.0
    certain: bool = True
    variation: float = 0.0

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that are drawn: two for a bilateral finding, ("",) for one without a side."""
        return ("right", "left") if self.side == "bilateral" else (self.side,)

    @property
    def scale(self) -> tuple[str, ...]:
        """The words for its sizes; "moderate" is in both scales."""
        return SEVERITIES if self.name in ("Cardiomegaly", "Edema") else SIZES

    @property
    def grade(self) -> int:
        """0, 1 or 2 for small or mild, moderate, large or severe."""
        return self.scale.index(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomImage:
    """One film: its name and how it was taken."""

    dicom_id: str
    pose: Pose
    recumbent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomStudy:
    """One examination: a day, findings and one or two frontal films."""

    study_id: int
    number: int  # 0 is the patient's first
    day: date
    clock: float  # HHMMSS.fff as one number, as MIMIC-CXR writes it
    findings: tuple[PhantomFinding, ...]
    kept: frozenset[str]  # names of findings that the study before had in the same place
    images: tuple[PhantomImage, ...]
    seed: int  # of the report's wording


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomPatient:
    """One patient with all studies."""

    subject_id: int
    split: str
    anatomy: Anatomy
    studies: tuple[PhantomStudy, ...]


def draw_patient(seed: int, number: int, combinations: int | None = None) -> PhantomPatient:
    """Make up patient `number` (from 0) of the corpus `seed`: the same whatever the number of patients.

    Args:
        seed: 0 or more.
        number: 0 to MAX_PATIENTS - 1.
        combinations: How many sets of findings occur, 1 to MAX_COMBINATIONS, each as often as any other: none, then
            single findings, pairs and triples. All are certain, and nobody has a device. None: as patients have them.

    Raises:
        ValueError: If number, seed or combinations is out of range.
    """
    if not 0 <= number < MAX_PATIENTS or seed < 0:
        raise ValueError(f"patient {number} of seed {seed}: expected patient 0 to {MAX_PATIENTS - 1} and a seed of 0 or more")
    sets = None if combinations is None else _sets_of_findings(seed, combinations)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
    anatomy = draw_anatomy(rng)
    device = _draw_pacemaker(rng) if sets is None and rng.random() < _PACEMAKER else None
    count = int(rng.choice(3, p=_STUDIES)) + 1
    studies: list[PhantomStudy] = []
    for _ in range(count):
        studies.append(_draw_study(rng, seed, number, studies, device, alone=count == 1, sets=sets))
    return PhantomPatient(
        subject_id=_scattered(10_000_000, seed, number), split=_SPLITS[number % len(_SPLITS)], anatomy=anatomy, studies=tuple(studies)
    )


def _sets_of_findings(seed: int, count: int) -> list[tuple[str, ...]]:
    """The first `count` sets of none, one, two and three findings; which of a size come first is up to the seed."""
    if not 1 <= count <= MAX_COMBINATIONS:
        raise ValueError(f"{count} combinations of findings, expected 1 to {MAX_COMBINATIONS}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(MAX_PATIENTS + 1,)))
    sets: list[tuple[str, ...]] = []
    for size in range(4):
        of_size = list(itertools.combinations(DRAWN, size))
        sets += [of_size[place] for place in rng.permutation(len(of_size))]
    return sets[:count]


def _scattered(base: int, seed: int, number: int) -> int:
    """Eight digits from `base` on that look drawn at random; a bijection of `number`, so no two are the same."""
    return base + (number * 7_368_787 + seed * 1_299_709 + 4_321_987) % 10_000_000


def _draw_study(
    rng: np.random.Generator,
    seed: int,
    number: int,
    earlier: Sequence[PhantomStudy],
    device: PhantomFinding | None,
    alone: bool,
    sets: Sequence[tuple[str, ...]] | None,
) -> PhantomStudy:
    before = earlier[-1] if earlier else None
    day = date(2110, 1, 1) + timedelta(days=int(rng.integers(30_000))) if before is None else before.day
    findings, kept = _draw_findings(rng, before, _turn(seed, number + len(earlier)), sets)
    if sets is None and device is None and rng.random() < _CENTRAL_LINE:
        device = _draw_line(rng)
    views = ("PA", "AP") if alone or rng.random() < 0.35 else (("PA",) if rng.random() < 0.5 else ("AP",))
    return PhantomStudy(
        study_id=_scattered(50_000_000, seed, 4 * number + len(earlier)),
        number=len(earlier),
        day=day + timedelta(days=int(rng.integers(1, 400))),
        clock=int(rng.integers(24)) * 10_000 + int(rng.integers(60)) * 100 + round(float(rng.uniform(0, 59.999)), 3),
        findings=findings if device is None else (*findings, device),
        kept=kept,
        images=tuple(_draw_image(rng, view) for view in views),
        seed=int(rng.integers(2**31)),
    )


def _turn(seed: int, place: int) -> str:
    """Whose turn it is to be a study's first finding: each once in six patients, so that small corpora are balanced."""
    block, place = divmod(place, len(DRAWN))
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(MAX_PATIENTS, block))).permutation(len(DRAWN))
    return DRAWN[order[place]]


def _draw_findings(
    rng: np.random.Generator, before: PhantomStudy | None, first: str, sets: Sequence[tuple[str, ...]] | None
) -> tuple[tuple[PhantomFinding, ...], frozenset[str]]:
    """The same findings as before, larger or smaller, in two of five follow-ups; else new ones, one of the sets if they are given."""
    if before is not None and rng.random() < 0.4:
        old = [finding for finding in before.findings if finding.name != "Support Devices" and finding.certain]
        again = tuple(_regrade(finding, rng) for finding in old)
        return again, frozenset(finding.name for finding, now in zip(old, again, strict=True) if now.size == finding.size)
    if sets is not None:
        return tuple(_draw_finding(rng, name) for name in sets[int(rng.integers(len(sets)))]), frozenset()
    others = rng.permutation([name for name in DRAWN if name != first])
    names = [first, *(str(name) for name in others)][: int(rng.choice(4, p=_COUNTS))]
    findings = [_draw_finding(rng, name) for name in names]
    findings = [_doubted(finding, rng) if rng.random() < _DOUBT else finding for finding in findings]
    spare = [name for name in DRAWN if name not in names]
    if rng.random() < _FALSE_ALARM:
        alarm = _draw_finding(rng, str(rng.choice(spare)))
        findings.append(replace(_doubted(alarm, rng), strength=0.0))
    return tuple(findings), frozenset()


def _draw_finding(rng: np.random.Generator, name: str) -> PhantomFinding:
    side = str(rng.choice(("left", "right")))
    size, severity = str(rng.choice(SIZES)), str(rng.choice(SEVERITIES))
    variation = float(rng.uniform(-1, 1))
    if name == "Cardiomegaly":
        return PhantomFinding(name=name, size=severity, variation=variation)
    if name == "Edema":
        return PhantomFinding(name=name, side="bilateral", zone="perihilar", size=severity, variation=variation)
    if name == "Pneumothorax":
        return PhantomFinding(name=name, side=side, zone="upper", size=size, variation=variation)
    if name == "Lung Opacity":
        return PhantomFinding(name=name, side=side, zone=str(rng.choice(ZONES)), size=size, variation=variation)
    side = "bilateral" if rng.random() < 0.25 else side
    zone = "mid" if name == "Atelectasis" and side != "bilateral" and rng.random() < 0.3 else "lower"
    return PhantomFinding(name=name, side=side, zone=zone, size=size, variation=variation)


def _doubted(finding: PhantomFinding, rng: np.random.Generator) -> PhantomFinding:
    return replace(finding, certain=False, size=finding.scale[0], strength=float(rng.uniform(0.25, 0.45)))


def _regrade(finding: PhantomFinding, rng: np.random.Generator) -> PhantomFinding:
    grade = min(max(finding.grade + int(rng.integers(-1, 2)), 0), 2)
    return replace(finding, size=finding.scale[grade])


def _draw_pacemaker(rng: np.random.Generator) -> PhantomFinding:
    side = "left" if rng.random() < 0.65 else "right"
    return PhantomFinding(name="Support Devices", side=side, zone="upper", kind="pacemaker", variation=float(rng.uniform(-1, 1)))


def _draw_line(rng: np.random.Generator) -> PhantomFinding:
    side = "right" if rng.random() < 0.6 else "left"
    kind = str(rng.choice(("internal jugular", "subclavian")))
    return PhantomFinding(name="Support Devices", side=side, zone="upper", kind=kind, variation=float(rng.uniform(-1, 1)))


def _draw_image(rng: np.random.Generator, view: str) -> PhantomImage:
    pose = draw_pose(rng, view)
    words = rng.integers(2**32, size=5, dtype=np.uint32)
    return PhantomImage(
        dicom_id="-".join(f"{int(word):08x}" for word in words), pose=pose, recumbent=view == "AP" and bool(rng.random() < 0.5)
    )
