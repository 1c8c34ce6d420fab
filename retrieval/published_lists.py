"""The CheXpert 8x200 benchmark as its authors published it: lists of paths, classes and texts.

Source: ConVIRT, Zhang et al., MLHC 2022, arXiv:2010.00747, section 4.2; github.com/yuhaozhang/convirt.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.chexpert_fields import chexpert_id, parse_path, view_of
from index.corpora.csvfile import read_csv
from index.corpora.readers import Corpus
from index.corpora.record import FINDINGS, NULL_LABEL, LabelState, Record, Tally

EXPECTED = "expected the folder of the published lists: image-retrieval/ and text-retrieval/, each with candidate.csv and query.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row of candidate.csv: an image and the findings that its label columns hold as 1."""

    path: str
    id: str
    positive: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLists:
    """The four lists.

    Attributes:
        folder: Where they were read.
        classes: The classes that queries ask for, in CheXpert's order.
        image_candidates: What image queries rank.
        image_queries: (class, path) of each image query.
        text_candidates: What text queries rank.
        text_queries: (class, text) of each text query, verbatim.
        digest: Of the four files, to tell them from others.
    """

    folder: Path
    classes: tuple[str, ...]
    image_candidates: tuple[Candidate, ...]
    image_queries: tuple[tuple[str, str], ...]
    text_candidates: tuple[Candidate, ...]
    text_queries: tuple[tuple[str, str], ...]
    digest: str


def load_published_lists(folder: Path) -> PublishedLists:
    """Read the lists of ConVIRT's retrieval benchmark.

    Raises:
        MedretError: If a file or a column is missing, a label is neither 0 nor 1, a path is none of CheXpert's,
            or a query asks for a class without a label column.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MedretError(f"{folder}: no such folder, {EXPECTED}")
    candidates, queries = (
        [folder / name / file for name in ("image-retrieval", "text-retrieval")] for file in ("candidate.csv", "query.csv")
    )
    image_queries, text_queries = _queries(queries[0], "Path"), _queries(queries[1], "Text")
    asked = {name for name, _ in (*image_queries, *text_queries)}
    return PublishedLists(
        folder=folder,
        classes=tuple(finding for finding in FINDINGS if finding in asked),
        image_candidates=_candidates(candidates[0]),
        image_queries=image_queries,
        text_candidates=_candidates(candidates[1]),
        text_queries=text_queries,
        digest=hashlib.sha256(b"".join(path.read_bytes() for path in candidates + queries)).hexdigest()[:16],
    )


def _queries(path: Path, column: str) -> tuple[tuple[str, str], ...]:
    rows = tuple((row["Variable"].strip(), row[column].strip()) for row in read_csv(path, ("Variable", column)))
    _refuse_twice(path, [f"{text} ({name})" for name, text in rows])
    unknown = sorted({name for name, _ in rows} - set(FINDINGS))
    if not rows or unknown:
        found = f"the class {unknown[0]!r}, which is no CheXpert finding" if unknown else "no query"
        raise MedretError(f"{path}: {found}; {EXPECTED}")
    return rows


def _candidates(path: Path) -> tuple[Candidate, ...]:
    candidates = []
    for number, row in enumerate(read_csv(path, ("Path", *FINDINGS)), start=2):
        if not all(row[finding].strip() in ("0", "0.0", "1", "1.0") for finding in FINDINGS):
            raise MedretError(f"{path}, line {number}: a label is neither 0 nor 1; {EXPECTED}")
        positive = frozenset(finding for finding in FINDINGS if float(row[finding]) == 1)
        candidates.append(Candidate(path=row["Path"], id=chexpert_id(row["Path"]), positive=positive))
    _refuse_twice(path, [candidate.id for candidate in candidates])
    if not candidates:
        raise MedretError(f"{path}: no candidate; {EXPECTED}")
    return tuple(candidates)


def _refuse_twice(path: Path, listed: Sequence[str]) -> None:
    if twice := [one for one, count in Counter(listed).items() if count > 1]:
        raise MedretError(f"{path}: lists {twice[0]} more than once. List each once")


def list_labels(candidates: Sequence[Candidate], rows: NDArray[np.int64], size: int, classes: Sequence[str]) -> NDArray[np.int8]:
    """Spread the listed labels over the rows of an index.

    Args:
        candidates: N of them.
        rows: (N,) int64, the row of each.
        size: Rows of the index.
        classes: K findings.

    Returns:
        (size, K) int8: POSITIVE or NEGATIVE at the candidates, -128 elsewhere.
    """
    labels = np.full((size, len(classes)), NULL_LABEL, dtype=np.int8)
    for row, candidate in zip(rows, candidates, strict=True):
        labels[row] = [LabelState.POSITIVE if name in candidate.positive else LabelState.NEGATIVE for name in classes]
    return labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImages(Corpus):
    """The images that the lists name, as a corpus that can be encoded by itself."""

    files: tuple[tuple[str, Path], ...] = ()  # id and file of each image
    positives: dict[str, frozenset[str]] = field(default_factory=dict)  # of the candidates, by id

    def records(self, tally: Tally | None = None) -> Iterator[Record]:
        """Yield every listed image once, candidates with their listed labels, queries without."""
        for id, file in self.files:
            parsed = parse_path(id)
            assert parsed is not None  # chexpert_id made it
            labels = {}
            if id in self.positives:
                held = self.positives[id]
                labels = {name: LabelState.POSITIVE if name in held else LabelState.NEGATIVE for name in FINDINGS}
            yield Record(
                id=id,
                image=file,
                patient_id=parsed.patient,
                study_id=parsed.study,
                view=view_of(parsed, "", ""),
                split=parsed.split,
                labels=labels,
            )


def listed_corpus(lists: PublishedLists, image_root: Path) -> ListedImages:
    """Find the listed images under a folder, so that an index of just these can be built.

    Args:
        lists: The published lists.
        image_root: CheXpert-v1.0, CheXpert-v1.0-small or CheXpert Plus' images: the folder of "train", or one above.

    Raises:
        MedretError: If an image is missing; the first ten are named.
    """
    root = Path(image_root).absolute()
    if not root.is_dir():
        raise MedretError(f"{root}: no such folder, expected the CheXpert images (the folder that holds train/, or the one above)")
    candidates = (*lists.image_candidates, *lists.text_candidates)
    named = {candidate.id: candidate.path for candidate in candidates}
    named |= {chexpert_id(path): path for _, path in lists.image_queries}
    homes = [root, *sorted(child for child in root.iterdir() if child.is_dir() and (child / "train").is_dir())]
    files = {id: _find_image(homes, id, path) for id, path in named.items()}
    missing = [named[id] for id, file in files.items() if file is None]
    if missing:
        raise MedretError(missing_images(str(root), missing, len(named)))
    found = tuple((id, file) for id, file in files.items() if file is not None)
    positives = {candidate.id: candidate.positive for candidate in candidates}
    return ListedImages(format="chexpert-8x200", root=root, recognised=False, findings=FINDINGS, files=found, positives=positives)


def _find_image(homes: Sequence[Path], id: str, path: str) -> Path | None:
    suffixes = dict.fromkeys([Path(path).suffix, ".jpg", ".png", ".dcm"])
    tried = (home / f"{id}{suffix}" for home in homes for suffix in suffixes)
    return next((file for file in tried if file.is_file()), None)


def missing_images(where: str, missing: Sequence[str], listed: int) -> str:
    """Word the fault that listed images are missing: how many, and the first ten."""
    shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
    return f"{where}: {len(missing)} of the {listed} listed images are missing: {shown}. Encode them, or name a list of these images"
