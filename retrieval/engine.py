"""From a question to ranked records: the one search path of the command line, the page and the evaluations."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.device import choose_device
from encoders.errors import MedretError
from index.planner import SearchPlan, exact_plan
from retrieval.answering import answer_queries
from retrieval.answers import Answer, Hit, Query, Ranking
from retrieval.candidates import Candidates
from retrieval.early_texts import fold
from retrieval.encoding import encode_labels
from retrieval.query_films import QueryFilms
from retrieval.query_texts import QueryTexts, check_encoder
from retrieval.shelf import Shelf
from retrieval.terms import Term

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from encoders.image_half import ImageHalf
    from index.folder import OpenedIndex
    from index.gpu import Gpu
    from index.score_scale import ScoreScale
    from index.shards import ShardTable
    from index.vector_index import VectorIndex

AT_ONCE = 64  # queries
_log = logging.getLogger(__name__)

__all__ = ["Answer", "Hit", "Query", "Ranking", "SearchEngine", "Term"]


class SearchEngine:
    """An index and its encoder, asked any number of times, from any number of threads.

    The encoder is loaded when a text or an image is first asked for: a stored record needs none.
    """

    def __init__(self, opened: "OpenedIndex", encoder_folder: Path, device: str | None = None, search_device: str | None = None) -> None:
        self.opened = opened
        self.encoder_folder = encoder_folder
        self.device = device
        self.shelf = Shelf(opened.shards)
        self.texts = QueryTexts(opened, lambda: self.encoder)
        self._films = QueryFilms(opened, lambda: self.films)
        self._encoder: DualEncoder | None = None
        self._image_half: ImageHalf | None = None
        self._loading = threading.Lock()
        self._gpu = None if search_device is None else _open_gpu(search_device)
        self._on_gpu: dict[tuple[str, str], VectorIndex] = {}
        self.candidates = Candidates(lambda texts, vector: self.encode_texts(texts, vector))

    @classmethod
    def load(
        cls,
        index_dir: Path | str,
        encoder: Path | str | None = None,
        device: str | None = None,
        search_device: str | None = None,
    ) -> "SearchEngine":
        """Open the index in `index_dir`.

        Args:
            index_dir: Folder made by 'medret build-index'.
            encoder: A checkpoint (or training run) to use instead of the index's own copy; it must be the same
                encoder.
            device: Where texts and images are encoded; None takes a GPU where there is one.
            search_device: "cuda", "cuda:1" ...: a GPU that searches too; None for the CPU. Moving an index of 601,000 x 512 there
                takes longer than one search of it here, so it pays for an engine that is asked often.

        Raises:
            MedretError: If the folder is no whole index, the encoder is another one, or FAISS cannot use that GPU.
        """
        from index.folder import open_index

        opened = open_index(Path(index_dir))
        _log.info("opened %s", index_dir)
        folder = opened.encoder_folder
        if encoder is not None:
            folder = _same_encoder(Path(encoder), opened)
        return cls(opened, folder, device, search_device)

    @property
    def encoder(self) -> "DualEncoder":
        """The encoder, loaded on first use; loading checks its fingerprint."""
        with self._loading:
            if self._encoder is None:
                from encoders.checkpoint import load_checkpoint

                self._encoder = load_checkpoint(self.encoder_folder, choose_device(self.device))
                _log.info("loaded the encoder by torch, from %s", self.encoder_folder)
            return self._encoder

    @property
    def films(self) -> "DualEncoder | ImageHalf":
        """What encodes films by torch: the encoder where it is loaded, else its image half alone, which is there sooner."""
        if self._encoder is not None or not self.opened.manifest.encoder_files:
            return self.encoder
        with self._loading:
            if self._image_half is None:
                from encoders.image_half import load_image_half

                check_encoder(self.opened)
                self._image_half = load_image_half(self.opened.encoder_folder).to(choose_device(self.device))
                _log.info("loaded the encoder's image half by torch, from %s", self.opened.encoder_folder)
            return self._image_half

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder that made the index."""
        return self.opened.manifest.encoder

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the index holds: some of "images", "reports" and "sentences", in this order."""
        return self.opened.shards.modalities

    def table(self, modality: str) -> "ShardTable":
        """Return the records of a modality; MedretError where the index holds none."""
        return self.opened.shards.table(modality)

    def stored_vectors(self, modality: str, rows: NDArray[np.int64], vector: str = "joint") -> NDArray[np.float32]:
        """Return the (R, D) float32 vectors of rows of the index; MedretError where it has no such vectors."""
        return self.table(modality).vectors(vector, rows)

    def search(self, query: Query | str, **options: Any) -> Answer:
        """Answer one query.

        Args:
            query: What to ask; a text is short for Query(text=...).
            options: Beside a text, the other fields of `Query`: search("edema", find="reports", k=5).

        Raises:
            MedretError: If a text is blank, a label has no learned prompt, an image cannot be read, a record is not in the index,
                the terms cancel each other, or the index does not hold what is to be found.
        """
        if isinstance(query, str):
            query = Query(text=query, **options)
        elif options:
            raise TypeError(f"search() takes {', '.join(options)} beside a text only; a Query has them as fields")
        (answer,) = answer_queries(self, [query])
        return answer

    def search_all(self, queries: Iterable[Query | str]) -> Iterator[Answer]:
        """Answer many queries in their order, as `search` does: texts and films are encoded, and rows compared, 64 at a time.

        Raises:
            MedretError: As `search`; answers to the 64 queries around are not given.
        """
        waiting = (Query(text=query) if isinstance(query, str) else query for query in queries)
        while batch := list(islice(waiting, AT_ONCE)):
            yield from answer_queries(self, batch)

    def prepare(self, find: str, vector: str = "joint") -> None:
        """Open what a first search of a modality reads, so that this is done while something else is computed.

        Raises:
            MedretError: If a file is damaged, or the modality has no such vectors.
        """
        if find in self.modalities:  # else who asks is told what there is
            self.opened.index(find, vector).read_ahead()

    def scale(self, find: str, vector: str, asker: str) -> "ScoreScale | None":
        """Return how the scores of random pairs of an "image", "text" or "phrase" and what is searched spread; None where not measured."""
        return self.opened.index(find, vector).scale(asker)

    def rank(
        self,
        vectors: NDArray[np.float32],
        find: str,
        k: int,
        vector: str = "joint",
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude: Sequence[NDArray[np.int64]] | None = None,
        plan: SearchPlan | None = None,
    ) -> Ranking:
        """Rank the rows of a modality for each of Q query vectors: what `search` and every evaluation call.

        Without a plan the ranking is exact whatever the kind of the index: a figure of an evaluation tells of the encoder, and
        must not depend on how an index was built.

        Args:
            vectors: (Q, D) float32, unit L2 norm per row.
            find: "images", "reports" or "sentences".
            k: How many rows, from 1.
            vector: "joint" or "features".
            allowed: (rows,) bool, the rows that may be answered; None allows all.
            exclude: Q arrays of rows that the query must not be answered with.
            plan: How to search, as the index planned it.

        Raises:
            MedretError: If the index has no such vectors.
        """
        searched = self.index(find, vector)
        plan = plan or exact_plan(searched.kind.name, searched.rows)
        found = searched.search(vectors, k, allowed=allowed, excluded=exclude, plan=plan)
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        scores = np.full((len(vectors), k), np.nan, dtype=np.float32)
        for query, (best, values) in enumerate(found):
            rows[query, : len(best)] = best
            scores[query, : len(best)] = values
        return Ranking(rows, scores)

    def encode_texts(self, texts: Sequence[str], vector: str = "joint", batch_size: int = 64) -> NDArray[np.float32]:
        """Encode texts into (len(texts), D) float32 unit vectors.

        Raises:
            MedretError: If a text is blank.
        """
        folded = fold(texts)
        if not all(folded):
            raise MedretError("the query text is empty; give a finding or a report in plain words")
        return self.texts.encode(folded, vector, batch_size)

    def encode_labels(self, names: Sequence[str], vector: str = "joint") -> NDArray[np.float32]:
        """Encode labels through the encoder's continuous prompts into (len(names), D) float32 unit vectors.

        Raises:
            MedretError: If the encoder has no prompts, or none for one of the labels.
        """
        if self.encoder.prompts is None:
            raise MedretError(
                f"{self.encoder_folder}: this encoder has no learned prompts for labels. Ask with --text, or learn some: medret train "
                "CORPUS --objective umcl --start ENCODER --set prompts=continuous --set learn=prompts --out RUN; ask with --encoder RUN"
            )
        return encode_labels(self.encoder, names, vector)

    def encode_images(self, paths: Sequence[Path], vector: str = "joint") -> NDArray[np.float32]:
        """Encode films, at least one, into (len(paths), D) float32 unit vectors, by the path that the corpus took.

        Raises:
            MedretError: If a file is no readable greyscale film.
        """
        return self._films.encode([Path(path) for path in paths], vector)

    def cut_texts(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is longer than the encoder reads."""
        return self.texts.is_cut(texts)

    @property
    def max_tokens(self) -> int:
        """How much of a text the encoder reads."""
        return self.texts.max_tokens

    def image_path(self, id: str) -> Path | None:
        """Return the file of an image of the index, where it is known, also where hits do not name it."""
        return self.shelf.image_path(id)

    def index(self, modality: str, vector: str = "joint") -> "VectorIndex":
        """Return what searches a modality by a vector, on the CPU or the GPU; MedretError where there is none."""
        found = self.opened.index(modality, vector)
        if self._gpu is None:
            return found
        from index.gpu import move_to_gpu

        with self._loading:
            if (modality, vector) not in self._on_gpu:
                self._on_gpu[modality, vector] = move_to_gpu(found, self._gpu)
            return self._on_gpu[modality, vector]


def _open_gpu(device: str) -> "Gpu":
    from index.gpu import Gpu

    return Gpu(device)


def _same_encoder(path: Path, opened: "OpenedIndex") -> Path:
    """Find the checkpoint at `path`, refusing any encoder but the index's own."""
    from encoders.checkpoint import find_checkpoint, read_fingerprint

    folder = find_checkpoint(path)
    found, expected = read_fingerprint(folder), opened.manifest.encoder
    if found != expected:
        raise MedretError(
            f"{folder}: is encoder {found}, but the index was made by encoder {expected}. Leave out --encoder to use the index's own, "
            f"or build the index again: medret build-index CORPUS --encoder {folder}"
        )
    return folder
