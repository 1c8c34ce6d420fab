"""Which pairs meet in a batch, and which sentence each of them brings: all of it a function of the seed."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TEXT_UNITS = ("sentence", "sentences", "report")
NEGATIONS = frozenset(
    {"no", "not", "without", "nor", "neither", "none", "never", "cannot", "absent", "negative", "free", "resolved"}
    | {"normal", "clear", "unremarkable"}
)
# One stream of random numbers per purpose, so that a change to one leaves the others as they were
ORDER, SENTENCES, AUGMENTATION, DROPOUT, VALIDATION, WORDS = range(6)


def seeded(seed: int, *where: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the place (purpose, epoch, step) alone: a run can resume anywhere."""
    return np.random.default_rng([seed, *where])


def seeded_torch(seed: int, *where: int) -> torch.Generator:
    """As `seeded`, for torch, on the CPU."""
    return torch.Generator().manual_seed(int(seeded(seed, *where).integers(2**63)))


def epoch_batches(studies: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Cut a random order of all rows into batches of one size, in which no study occurs twice.

    Two images of a study share their report: in one batch each would be pushed from the other's text,
    which is its own. A row whose study is already there waits for the next batch. Every row occurs at
    most once. To waste nothing of a small corpus the batches are of equal size, at most `batch_size` and
    at most the number of studies; left over are fewer rows than batches, and rows of a study with more
    images than there are batches.

    Args:
        studies: (N,) the study of each row.
        batch_size: Rows of a batch, at most.
        rng: Gives the order.

    Returns:
        Row numbers, (B,) each.

    Raises:
        ValueError: If there are fewer than two studies: a batch needs a pair to push away.
    """
    rows = len(studies)
    largest = min(batch_size, len(np.unique(studies)))
    if largest < 2:
        raise ValueError(f"batches of {largest} pairs from {rows} rows, expected two studies and a batch size of 2 or more")
    size = rows // -(-rows // largest)
    stream = iter(rng.permutation(rows).tolist())
    waiting: dict[int, deque[int]] = {}
    batches = []
    while len(batch := _next_batch(stream, waiting, studies, max(size, 2))) == max(size, 2):
        batches.append(np.array(batch, dtype=np.int64))
    return batches


def _next_batch(stream: Iterator[int], waiting: dict[int, deque[int]], studies: NDArray[np.int64], size: int) -> list[int]:
    batch = []
    taken = set()
    for study in list(islice(waiting, size)):  # those that have waited longest
        batch.append(waiting[study].popleft())
        taken.add(study)
        if not waiting[study]:
            del waiting[study]
    while len(batch) < size and (row := next(stream, None)) is not None:
        study = int(studies[row])
        if study in taken:
            waiting.setdefault(study, deque()).append(row)
        else:
            batch.append(row)
            taken.add(study)
    return batch


def choose_texts(reports: Sequence[Sequence[str]], unit: str, rng: np.random.Generator) -> list[str]:
    """The text each pair brings to this step.

    Args:
        reports: The sentences of each report, at least one.
        unit: "sentence": one of them, each as likely, as ConVIRT has it; "sentences": one to all of them, each
            number as likely, in their order; "report": all.
        rng: Chooses.
    """
    if unit not in TEXT_UNITS:
        raise ValueError(f"unit is {unit!r}, expected one of {', '.join(TEXT_UNITS)}")
    texts = []
    for sentences in reports:
        count = {"sentence": 1, "report": len(sentences)}.get(unit) or int(rng.integers(1, len(sentences) + 1))
        chosen = sorted(rng.choice(len(sentences), count, replace=False).tolist())
        texts.append(" ".join(sentences[place] for place in chosen))
    return texts


def draw_texts(reports: Sequence[Sequence[str]], unit: str, draws: int, word_dropout: float, seed: int, step: int) -> list[str]:
    """The texts of one training step: `draws` of each report, first one of all, then the next of all; as drawn by the seed and the step."""
    texts = choose_texts([*reports] * draws, unit, seeded(seed, SENTENCES, step))
    return drop_words(texts, word_dropout, seeded(seed, WORDS, step))


def drop_words(texts: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """Leave out random words of each text, but none that says no.

    Reports name the size and the side with every finding that is there and with none that is not, so that an
    encoder learned from few of them takes "Pleural effusion." for its absence. Without a word now and then it
    cannot lean on them.

    Args:
        texts: Words between spaces.
        share: Probability, 0 to below 1, with which a word is left out; at least one word stays.
        rng: Chooses.
    """
    if not share:
        return list(texts)
    shortened = []
    for text in texts:
        words = text.split()
        dropped = rng.random(len(words)) < share
        kept = [word for word, drop in zip(words, dropped, strict=True) if not drop or word.strip(".,;:").lower() in NEGATIONS]
        shortened.append(" ".join(kept or words))
    return shortened


def read_ahead(
    films: NDArray[np.uint8], batches: Sequence[NDArray[np.int64]], *, pinned: bool = False
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Each batch with its films (B, S, S), the next one being read while this one is used."""

    def read(rows: NDArray[np.int64]) -> Tensor:
        taken = torch.from_numpy(films[rows])
        return taken.pin_memory() if pinned else taken

    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, batches[0]) if len(batches) else None
        for place, rows in enumerate(batches):
            assert upcoming is not None
            present = upcoming.result()
            upcoming = reader.submit(read, batches[place + 1]) if place + 1 < len(batches) else None
            yield rows, present
