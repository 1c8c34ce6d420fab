"""Which images and texts meet in a batch: a function of the seed and the step alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.prompts import prompts_for
from index.corpora.uncertainty import apply_policy
from train.config import TrainConfig
from train.data import ImageSet, TrainingData
from train.epochs import RowStream, epoch_batches, even_size, share_batch
from train.pool import TextPool
from train.seeds import DRAWS, FURTHER, ORDER, PROMPTS, SENTENCES, VALIDATION, WORDS, seeded
from train.texts import choose_texts, draw_texts, drop_words, prompt_texts

Loaded = TypeVar("Loaded")
_NO_STUDY = -1  # of a text made from labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step learns from: N images, M texts, and after the texts P names of findings as prompts to be learned.

    Attributes:
        step: Counted from 0.
        rows: (N,) int64, into the ImageSet.
        texts: M texts; for ConVIRT those of one draw after the other, each in the order of the rows.
        prompts: P findings; their columns come after those of the texts.
        image_labels: (N, K) float32, 0 or 1.
        text_labels: (M + P, K) float32, 0 or 1.
        partners: (N, M + P) bool: image and text come from one study.
    """

    step: int
    rows: NDArray[np.int64]
    texts: tuple[str, ...]
    image_labels: NDArray[np.float32]
    text_labels: NDArray[np.float32]
    partners: NDArray[np.bool_]
    prompts: tuple[str, ...] = ()


class _Texts(NamedTuple):
    """The text side of a batch: M texts, labels (M, K) float32, studies (M,) int64."""

    texts: list[str]
    labels: NDArray[np.float32]
    studies: NDArray[np.int64]


class _Images:
    """Images with their labels as the policy has them."""

    def __init__(self, images: ImageSet, data: TrainingData, config: TrainConfig) -> None:
        self.set, self.findings, self.config = images, data.findings, config
        self.labels = apply_policy(images.states, data.findings, config.uncertain)  # (N, K)
        self.spoken = np.array([bool(sentences) for sentences in images.sentences], dtype=bool)  # (N,) has a report
        self.prompts = data.findings if config.prompts == "continuous" else ()

    def reports(self, rows: NDArray[np.int64]) -> list[tuple[str, ...]]:
        return [self.set.sentences[row] for row in rows.tolist()]

    def own_texts(self, rows: NDArray[np.int64], sentences: np.random.Generator, prompts: np.random.Generator) -> _Texts:
        """Of each row a text of its report; without one, a text made of its labels, unless prompts are learned.

        A held-out image may have neither: what it shows may be in no image that is learned from. It brings none.
        """
        made = self.labels[rows].any(axis=1) & (not self.prompts)
        rows = rows[self.spoken[rows] | made]
        spoken = self.spoken[rows]
        texts = np.empty(len(rows), dtype=object)
        texts[spoken] = choose_texts(self.reports(rows[spoken]), self.config.text_sample, sentences)
        texts[~spoken] = prompt_texts(self.labels[rows[~spoken]], self.findings, prompts)
        return _Texts(texts.tolist(), self.labels[rows], np.where(spoken, self.set.studies[rows], _NO_STUDY))

    def batch(self, step: int, rows: NDArray[np.int64], side: _Texts) -> Batch:
        """The batch of these images and texts, with the prompts to be learned as further columns."""
        count = len(self.prompts)
        studies = np.concatenate([side.studies, np.full(count, _NO_STUDY)])
        return Batch(
            step=step,
            rows=rows,
            texts=tuple(side.texts),
            prompts=self.prompts,
            image_labels=self.labels[rows],
            text_labels=np.concatenate([side.labels, np.eye(count, len(self.findings), dtype=np.float32)]),
            partners=self.set.studies[rows][:, None] == studies,
        )


class _Drawable(NamedTuple):
    """What MedCLIP's texts are drawn from: sentences, labels (T, K) and studies (T,) of T reports and prompts, and how."""

    sentences: Sequence[tuple[str, ...]]
    labels: NDArray[np.float32]
    studies: NDArray[np.int64]
    pool: TextPool


class BatchPlanner:
    """The batches of a run: any step's can be had at any time, and two planners of the same data and settings agree.

    The images of a batch are shared among the corpora by weight, the largest remainders rounded up, at least one of
    each. Each corpus runs through its own epochs in its own random orders; an epoch of the mix is a pass over its first
    corpus with images. Of a mix a batch has exactly these shares, or all studies of a corpus with fewer; the rows that
    an epoch leaves over come in another. The texts depend on the objective:

    - convirt: `texts_per_image` draws of each image's report.
    - medclip: as many texts as images, drawn independently of them: a corpus by weight, then one of its reports, each as
      likely. A corpus without reports brings prompts for the findings that its images are positive for. An image without
      a positive label could be compared with none of them, so it brings its own report in its place. With `text_draw` =
      "alike" there is a text for each image that shares a finding with it, of whatever study and corpus.
    - umcl: each image's report, or, where it has none, prompts for its findings; with continuous prompts these are further
      columns instead. Reports without an image enter as further texts by weight, at most as many as there are images.

    A batch can be asked for in one thread while another asks how many epochs there were.
    """

    def __init__(self, data: TrainingData, config: TrainConfig) -> None:
        """Plan batches.

        Raises:
            MedretError: If the batch is too small for a row of each corpus.
        """
        self._data, self._config, self._lock = data, config, Lock()
        self._images = _Images(data.train, data, config)
        self._text_labels = apply_policy(data.texts.states, data.findings, config.uncertain)  # (T, K)
        self._streams = self._image_streams()
        self._further = self._further_streams() if config.objective == "umcl" else []
        self._texts = self._drawable() if config.objective == "medclip" else None
        self.steps_per_epoch = self._streams[0].per_epoch

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0.

        Raises:
            MedretError: If no image has anything in common with any text: no loss could be had.
        """
        with self._lock:
            rows = np.concatenate([stream.batch(step) for stream in self._streams])
            further = [row for stream in self._further for row in stream.batch(step).tolist()]
        side = {"convirt": self._paired, "medclip": self._drawn, "umcl": self._joined}[self._config.objective](step, rows, further)
        batch = self._images.batch(step, rows, side)
        if not _is_related(batch, self._config):
            raise MedretError(_unrelated(batch))
        return batch

    def epoch_of(self, step: int) -> float:
        """How many epochs are over when `step` steps are; whole at the end of each."""
        with self._lock:
            return self._streams[0].epochs(step)

    def _image_streams(self) -> list[RowStream]:
        images, seed = self._data.train, self._config.seed
        present = [number for number, corpus in enumerate(self._data.corpora) if corpus.images]
        quotas = _shared(self._config.batch_size, [self._data.weights[number] for number in present])
        streams = []
        for number, quota in zip(present, quotas, strict=True):
            rows = np.flatnonzero(images.sources == number)
            studies = images.studies[rows]
            size = even_size(studies, quota) if len(present) == 1 else quota
            streams.append(RowStream(rows, studies, size, partial(_epoch_order, seed, ORDER, number)))
        return streams

    def _further_streams(self) -> list[RowStream]:
        """Reports without an image, in batches as large as their weight has it."""
        texts, seed, images = self._data.texts, self._config.seed, sum(stream.size for stream in self._streams)
        alone = ~np.isin(texts.studies, self._data.train.studies)  # (T,)
        rows = {number: np.flatnonzero(alone & (texts.sources == number)) for number in np.unique(texts.sources[alone]).tolist()}
        if not rows:
            return []
        weights = []
        for number, some in rows.items():
            corpus = self._data.corpora[number]
            weights.append(corpus.weight * len(some) / corpus.images if corpus.images else corpus.weight)
        of_images = sum(corpus.weight for corpus in self._data.corpora if corpus.images)
        quotas = _shared(min(images, max(round(images * sum(weights) / of_images), len(rows))), weights)
        return [
            RowStream(some, texts.studies[some], quota, partial(_epoch_order, seed, FURTHER, number))
            for (number, some), quota in zip(rows.items(), quotas, strict=True)
        ]

    def _drawable(self) -> _Drawable:
        """What MedCLIP draws its texts from: reports, and prompts of a corpus that has none."""
        texts, images, findings = self._data.texts, self._data.train, self._data.findings
        sentences, labels, studies, rows = list(texts.sentences), [self._text_labels], [texts.studies], []
        for number in range(len(self._data.corpora)):
            own = np.flatnonzero(texts.sources == number)
            if not len(own):
                positive = np.flatnonzero(self._images.labels[images.sources == number].any(axis=0))
                prompts = [(prompt, place) for place in positive.tolist() for prompt in prompts_for(findings[place])]
                own = np.arange(len(sentences), len(sentences) + len(prompts))
                sentences += [(prompt,) for prompt, _ in prompts]
                labels.append(np.eye(len(findings), dtype=np.float32)[[place for _, place in prompts]])
                studies.append(np.full(len(prompts), _NO_STUDY))
            rows.append(own)
        joined = np.concatenate(labels)
        return _Drawable(sentences, joined, np.concatenate(studies), TextPool(joined, rows, self._data.weights))

    def _paired(self, step: int, rows: NDArray[np.int64], further: list[int]) -> _Texts:
        config, draws = self._config, self._config.texts_per_image
        generators = seeded(config.seed, SENTENCES, step), seeded(config.seed, WORDS, step)
        texts = draw_texts(self._images.reports(rows), config.text_sample, draws, config.word_dropout, *generators)
        return _Texts(texts, np.tile(self._images.labels[rows], (draws, 1)), np.tile(self._data.train.studies[rows], draws))

    def _drawn(self, step: int, rows: NDArray[np.int64], further: list[int]) -> _Texts:
        assert self._texts is not None
        config, images, rng = self._config, self._images, seeded(self._config.seed, DRAWS, step)
        drawn = self._texts.pool.draw(len(rows), rng)  # (N,)
        if config.text_draw == "alike":
            alike = self._texts.pool.draw_alike(images.labels[rows], rng)
            drawn = np.where(alike < 0, drawn, alike)
        kept = images.spoken[rows] & (images.labels[rows].max(axis=1, initial=0) == 0)  # (N,) brings its own report
        pairs = zip(rows.tolist(), drawn.tolist(), kept.tolist(), strict=True)
        reports = [images.set.sentences[row] if own else self._texts.sentences[place] for row, place, own in pairs]
        generators = seeded(config.seed, SENTENCES, step), seeded(config.seed, WORDS, step)
        return _Texts(
            draw_texts(reports, config.text_sample, 1, config.word_dropout, *generators),
            np.where(np.expand_dims(kept, 1), images.labels[rows], self._texts.labels[drawn]),
            np.where(kept, images.set.studies[rows], self._texts.studies[drawn]),
        )

    def _joined(self, step: int, rows: NDArray[np.int64], further: list[int]) -> _Texts:
        config, texts = self._config, self._data.texts
        sentences = seeded(config.seed, SENTENCES, step)
        own = self._images.own_texts(rows, sentences, seeded(config.seed, PROMPTS, step))
        more = choose_texts([texts.sentences[row] for row in further], config.text_sample, sentences)
        return _Texts(
            drop_words([*own.texts, *more], config.word_dropout, seeded(config.seed, WORDS, step)),
            np.concatenate([own.labels, self._text_labels[further]]),
            np.concatenate([own.studies, texts.studies[further]]),
        )


def validation_batches(data: TrainingData, config: TrainConfig) -> list[Batch]:
    """The same batches of held-out images each time, each image with a text of its own report or its labels; no word is left out.

    Rows are those of `data.validate`, over all corpora in one random order; no study occurs twice in a batch. A batch of which
    no loss could be had is left out.

    Raises:
        MedretError: If none is left.
    """
    images, seed = _Images(data.validate, data, config), config.seed
    batches = []
    for number, rows in enumerate(epoch_batches(data.validate.studies, config.batch_size, seeded(seed, VALIDATION))):
        side = images.own_texts(rows, seeded(seed, VALIDATION, number), seeded(seed, PROMPTS, number, 1))
        batches.append(images.batch(number, rows, side))
    related = [batch for batch in batches if _is_related(batch, config)]
    if not related:
        raise MedretError(f"validation, {_unrelated(batches[0])}")
    return related


def read_ahead(load: Callable[[int], Loaded], steps: Iterable[int]) -> Iterator[Loaded]:
    """What `load` makes of each step, in their order, the next being made in a thread while this one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        asked = (reader.submit(load, step) for step in steps)
        for present, _ in pairwise(chain(asked, [Future[Loaded]()])):  # by when a pair is there, its second is being made
            yield present.result()


def _shared(batch_size: int, weights: Sequence[float]) -> list[int]:
    try:
        return share_batch(batch_size, weights)
    except ValueError as error:
        raise MedretError(f"{error}. Raise batch_size, or leave corpora out") from error


def _epoch_order(seed: int, purpose: int, corpus: int, epoch: int) -> np.random.Generator:
    return seeded(seed, purpose, epoch, *([corpus] if corpus else []))  # of the first corpus as of a run on it alone


def _is_related(batch: Batch, config: TrainConfig) -> bool:
    """Whether any image and text are alike, for the objective."""
    images, texts = batch.image_labels, batch.text_labels
    if config.objective == "umcl" and config.relation == "equal":
        sets = {labels.tobytes() for labels in images[images.any(axis=1)]}
        alike = any(labels.tobytes() in sets for labels in texts)
    else:
        alike = bool((images.any(axis=0) & texts.any(axis=0)).any())
    return alike or bool(batch.partners.any())


def _unrelated(batch: Batch) -> str:
    images, texts = batch.partners.shape
    return (
        f"step {batch.step + 1}: none of {images} images shares a label with any of {texts} texts, nor has its own report "
        "among them, expected at least one. Raise batch_size, use more findings, or add a corpus with reports of the same labels"
    )
