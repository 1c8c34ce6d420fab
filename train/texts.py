"""The text that a report, or a set of labels, brings to a step."""

from collections.abc import Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from index.corpora.prompts import prompts_for

TEXT_UNITS = ("sentence", "sentences", "report")
NEGATIONS = frozenset(
    {"no", "not", "without", "nor", "neither", "none", "never", "cannot", "absent", "negative", "free", "resolved"}
    | {"normal", "clear", "unremarkable"}
)


def choose_texts(reports: Sequence[Sequence[str]], unit: str, rng: np.random.Generator) -> list[str]:
    """The text each report brings to this step.

    Args:
        reports: The sentences of each report, at least one.
        unit: "sentence": one of them, each as likely, as ConVIRT has it; "sentences": one to all of them, each
            number as likely, in their order; "report": all.
        rng: Chooses.
    """
    if unit not in TEXT_UNITS:
        raise ValueError(f"unit is {unit!r}, expected one of {', '.join(TEXT_UNITS)}")
    if unit == "report":
        return [" ".join(sentences) for sentences in reports]
    if unit == "sentence":
        places = rng.integers(0, [len(sentences) for sentences in reports]).tolist()
        return [sentences[place] for sentences, place in zip(reports, places, strict=True)]
    texts = []
    for sentences in reports:
        count = int(rng.integers(1, len(sentences) + 1))
        chosen = sorted(rng.choice(len(sentences), count, replace=False).tolist())
        texts.append(" ".join(sentences[place] for place in chosen))
    return texts


def draw_texts(
    reports: Sequence[Sequence[str]],
    unit: str,
    draws: int,
    word_dropout: float,
    sentences: np.random.Generator,
    words: np.random.Generator,
) -> list[str]:
    """The texts of one training step: `draws` of each report, first one of all, then the next of all.

    Args:
        reports: As `choose_texts`.
        unit: As `choose_texts`.
        draws: 1 or more.
        word_dropout: As `drop_words`.
        sentences: Chooses the sentences.
        words: Chooses the words left out.
    """
    return drop_words(choose_texts([*reports] * draws, unit, sentences), word_dropout, words)


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
    split = [text.split() for text in texts]
    dropped = rng.random(sum(map(len, split))) < share  # of all words of all texts, in their order
    stays = (~dropped).tolist()
    flat = [word for words in split for word in words]
    for place in np.flatnonzero(dropped).tolist():
        stays[place] = flat[place].strip(".,;:").lower() in NEGATIONS
    shortened, start = [], 0
    for words in split:
        kept = compress(words, stays[start : start + len(words)])
        shortened.append(" ".join(kept) or " ".join(words))
        start += len(words)
    return shortened


def prompt_texts(labels: NDArray[np.float32], findings: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A text for each label set: a sentence that asks for each positive finding, one of several, in a random order.

    Args:
        labels: (N, K) 0 or 1, at least one 1 in a row.
        findings: The K names.
        rng: Chooses the sentences and the order.

    Raises:
        ValueError: If a row has no positive finding.
    """
    if not labels.any(axis=1).all():
        raise ValueError("a label set without a positive finding has no text")
    sentences = [prompts_for(finding) for finding in findings]
    order = np.argsort(rng.random(labels.shape), axis=1).tolist()  # (N, K)
    chosen = rng.integers(0, [len(some) for some in sentences], labels.shape).tolist()  # (N, K)
    positive = (labels > 0).tolist()
    return [" ".join(sentences[place][chosen[row][place]] for place in order[row] if positive[row][place]) for row in range(len(positive))]
