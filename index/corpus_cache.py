"""The images of a whole corpus, decoded once for every encoder to come."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from encoders.atomic import private_folder
from encoders.preprocess import Preprocessing
from index.cache import build_image_cache
from index.cache_file import ImageCache
from index.corpora.readers import Corpus
from index.corpora.record import Record, Tally
from index.rows import RowPart, read_rows


class RowFilms:
    """The records of image rows by their real ids, which caches know them by, to be gone through as often as needed."""

    def __init__(self, part: RowPart) -> None:
        self._part = part

    def __iter__(self) -> Iterator[Record]:
        return (replace(row.record, id=row.real_id or row.record.id) for row in self._part)


def cache_corpus(
    corpus: Corpus,
    preprocessing: Preprocessing,
    folder: Path,
    size: int,
    *,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Decode the images of a corpus into a cache, or go on where an earlier run was stopped.

    Args:
        corpus: Read once.
        preprocessing: Says how a film becomes a square; its own size does not matter.
        folder: Of the cache; made for its owner alone.
        size: Side of the squares, in pixels.
        splits: Those to take, or None for all.
        workers: Threads that decode; one a core by default.
        progress: Called with images done and images in all.

    Raises:
        MedretError: If the corpus has no images, or as build_image_cache.
    """
    private_folder(folder)
    with read_rows(corpus, Tally(), folder, text_units=(), text_sections=(), splits=splits, key=None) as rows:
        return build_image_cache(RowFilms(rows.parts["images"]), preprocessing, folder, size, progress, workers)
