"""From a question to ranked records: the one search path of the command line, the page and the evaluations."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.device import choose_device
from encoders.errors import MedretError
from index.planner import SearchPlan, exact_plan
from retrieval.answers import Answer, Hit, Query, Ranking
from retrieval.encoding import encode_films, encode_labels, encode_texts
from retrieval.filters import EVERYTHING, Selection
from retrieval.shelf import Shelf

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from index.folder import OpenedIndex
    from index.gpu import Gpu
    from index.shards import ShardTable
    from index.vector_index import VectorIndex

_MASKS_KEPT = 16  # selections, a byte a row each

__all__ = ["Answer", "Hit", "Query", "Ranking", "SearchEngine"]


@dataclass(slots=True)
class _Asked:
    """A query as the index sees it."""

    vector: NDArray[np.float32]  # (1, D)
    kind: str  # "image" or "text"
    record: Mapping[str, Any] | None = None  # the record of the corpus that asks
    home: str | None = None  # the modality of that record
    row: int = -1  # its row there
    notes: list[str] = field(default_factory=list)


class SearchEngine:
    """An index and its encoder, asked any number of times, from any number of threads.

    The encoder is loaded when a text or an image is first asked for: a stored record needs none.
    """

    def __init__(self, opened: "OpenedIndex", encoder_folder: Path, device: str | None = None, search_device: str | None = None) -> None:
        self.opened = opened
        self.encoder_folder = encoder_folder
        self.device = device
        self._shelf = Shelf(opened.shards)
        self._encoder: DualEncoder | None = None
        self._loading = threading.Lock()
        self._gpu = None if search_device is None else _open_gpu(search_device)
        self._on_gpu: dict[tuple[str, str], VectorIndex] = {}
        self._masks: dict[tuple[str, Selection], NDArray[np.bool_]] = {}
        self._masking = threading.Lock()

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
            return self._encoder

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

    def search(self, query: Query) -> Answer:
        """Answer one query.

        Raises:
            MedretError: If the text is blank, the label has no learned prompt, the image cannot be read, the record
                is not in the index, or the index does not hold what is to be found.
        """
        asked = self._ask(query)
        if query.vector == "features" and (asked.kind == "image") != (query.find == "images"):
            raise MedretError(
                f"{asked.kind} query for {query.find}: 'features' vectors of images and texts cannot be compared; use the joint ones"
            )
        if query.find not in self.modalities and query.find == "images":
            raise MedretError(f"the index holds no images, only {', '.join(self.modalities)}. Ask for those: --find {self.modalities[0]}")
        table = self.table(query.find)
        allowed = self._allowed(query.selection, table)
        left_out = self._left_out(query, asked)
        allowed_rows = None if allowed is None else int(np.count_nonzero(allowed))
        plan = self._index(query.find, query.vector).plan(query.k, asker=asked.kind, allowed_rows=allowed_rows)
        most = min(query.k, table.rows)  # whoever asks for a billion answers gets all there are
        ranking = self.rank(asked.vector, query.find, most, query.vector, allowed=allowed, exclude=[left_out], plan=plan)
        found = int(np.count_nonzero(ranking.rows[0] >= 0))
        if found < query.k:
            where = "the index" if query.splits is None else f"split {', '.join(query.splits)}"
            where += "" if query.views is None or query.find != "images" else f" in view {', '.join(query.views)}"
            where += "" if not query.only else f" with {' and '.join(map(str, query.only))}"
            asked.notes.append(f"{found} answers instead of {query.k}: {where} holds {plan.allowed_rows} {query.find}")
        hits = self._shelf.hits(query.find, ranking.rows[0, :found], ranking.scores[0, :found])
        return Answer(query=query, hits=hits, plan=plan, notes=tuple(asked.notes))

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
        searched = self._index(find, vector)
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
        folded = [" ".join(text.split()) for text in texts]
        if not all(folded):
            raise MedretError("the query text is empty; give a finding or a report in plain words")
        return encode_texts(self.encoder, folded, vector, batch_size)

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

    def encode_image(self, path: Path, vector: str = "joint") -> NDArray[np.float32]:
        """Encode one film into (1, D) float32, by the path that the corpus took.

        Raises:
            MedretError: If the file is no readable greyscale film.
        """
        square = self.encoder.config.preprocessing.read_square(Path(path))
        return encode_films(self.encoder, square[None], vector)

    def image_path(self, id: str) -> Path | None:
        """Return the file of an image of the index, where it is known, also where hits do not name it."""
        return self._shelf.image_path(id)

    def _allowed(self, selection: Selection, table: "ShardTable") -> NDArray[np.bool_] | None:
        """The rows that may answer, kept for the next query with the same selection; None for all that are not removed."""
        if selection == EVERYTHING:
            return None
        key = (table.modality, selection)
        with self._masking:
            if key not in self._masks:
                mask = selection.rows(table)
                if len(self._masks) >= _MASKS_KEPT:
                    del self._masks[next(iter(self._masks))]
                self._masks[key] = mask
            return self._masks[key]

    def _index(self, modality: str, vector: str) -> "VectorIndex":
        found = self.opened.index(modality, vector)
        if self._gpu is None:
            return found
        from index.gpu import move_to_gpu

        with self._loading:
            if (modality, vector) not in self._on_gpu:
                self._on_gpu[modality, vector] = move_to_gpu(found, self._gpu)
            return self._on_gpu[modality, vector]

    def _ask(self, query: Query) -> _Asked:
        if query.id is not None:
            return self._ask_record(query.id, query.vector)
        if query.image is not None:
            return self._ask_image(query.image, query.vector)
        if query.label is not None:
            return _Asked(self.encode_labels([query.label], query.vector), "text")
        assert query.text is not None
        asked = _Asked(self.encode_texts([query.text], query.vector), "text")
        if self.encoder.count_cut([query.text]):
            asked.notes.append(f"the text is longer than the encoder reads ({self.encoder.config.max_tokens} tokens): its end was cut")
        return asked

    def _ask_record(self, id: str, vector: str) -> _Asked:
        for modality in self.modalities:
            table = self.table(modality)
            row = table.find(id)
            if row is not None:
                kind = "image" if modality == "images" else "text"
                rows = np.array([row], dtype=np.int64)
                stored = self.stored_vectors(modality, rows, vector)
                return _Asked(stored, kind, table.records(rows)[0], modality, row)
        raise MedretError(f"{id}: no such record in this index ({', '.join(self.modalities)}); give an id as the hits print it")

    def _ask_image(self, path: Path, vector: str) -> _Asked:
        asked = _Asked(self.encode_image(path, vector), "image")
        row = self._shelf.row_of_file(path) if "images" in self.modalities else None
        if row is not None:
            rows = np.array([row], dtype=np.int64)
            asked.home, asked.row, asked.record = "images", row, self.table("images").records(rows)[0]
        elif not self._shelf.knows_files:
            asked.notes.append("pseudonymised index without private/paths.csv: if this film is in it, its patient is not left out")
        return asked

    def _left_out(self, query: Query, asked: _Asked) -> NDArray[np.int64]:
        """The rows that must not answer: the record that asks, and its patient's; says so in the notes."""
        own = np.array([asked.row] if asked.home == query.find else [], dtype=np.int64)
        if asked.record is None:
            if query.exclude_same_patient:
                raise MedretError(
                    f"this {asked.kind} is no record of the index, so its patient is not known; ask without --exclude-same-patient"
                )
            return own
        if query.exclude_same_patient is False:
            return own
        column = "patient_id" if asked.record["patient_id"] is not None else "study_id"
        word = column.removesuffix("_id")
        if asked.record[column] is None:
            asked.notes.append("the record names no patient and no study, so only itself is left out")
            return own
        mates = self.table(query.find).rows_of(column, [asked.record[column]])
        asked.notes.append(f"left out as of the query's own {word}: {len(mates)} {query.find}")
        return np.union1d(own, mates)


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
