"""Cells: which inverted lists of Euclidean cells may hold the best rows of a query."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.atomic import whole_file
from encoders.errors import MedretError
from index.kinds import load_faiss

Vectors = npt.NDArray[np.float32]
Lists = npt.NDArray[np.int64]

# How far beyond its centre the best row of a cell lies, in radii. Between 0.45 and 0.75 images gain 0.003 of recall and texts lose as
# much at equal effort; at 0.9 texts lose 0.015 to 0.03.
_REACH = 0.6


class Cells:
    """The cells of k-means, in the order of what the best row of each may score.

    A cell's centre tells what its rows score on average. Its best row scores more, by the query's length times some part of the
    cell's radius. By centres alone wide cells come too late: recall 0.993 among 601,000 CLIP-like vectors then takes twice the lists.

    Args:
        centres: (L, d) float32.
        radii: (L,) float32, root mean square distance of a cell's vectors from its centre.
    """

    def __init__(self, centres: Vectors, radii: Vectors) -> None:
        self.radii = radii
        self._reach = np.float32(_REACH) * radii
        self._order = load_faiss().IndexFlatIP(centres.shape[1] + 1)
        self._order.add(np.column_stack([centres, self._reach]))

    def likeliest(self, queries: Vectors, count: int) -> tuple[Lists, Vectors]:
        """Return the (Q, count) lists to look through, best first, and the queries' inner products with their centres.

        Args:
            queries: (Q, d) float32, projected as the vectors were.
            count: From 1, at most L.
        """
        lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries))
        scores, lists = self._order.search(np.column_stack([queries, lengths]), count)
        return lists, scores - self._reach[lists] * lengths[:, None]

    def save(self, path: Path) -> None:
        """Write the radii as a .npz file, whole or not at all; the centres lie in the index of the lists."""
        with whole_file(path) as part, part.open("wb") as file:
            np.savez(file, radii=self.radii)


def measure_cells(centres: Vectors, sample: Vectors) -> Cells:
    """Return the cells of these centres with the radii that an (n, d) float32 sample shows; 0 for a cell that it leaves empty."""
    faiss = load_faiss()
    squares, nearest = (found[:, 0] for found in faiss.knn(sample, centres, 1, metric=faiss.METRIC_L2))
    counts = np.bincount(nearest, minlength=len(centres))
    sums = np.bincount(nearest, np.maximum(squares, 0), minlength=len(centres))
    return Cells(centres, np.sqrt(sums / np.maximum(counts, 1)).astype(np.float32))


def load_cells(path: Path, centres: Vectors) -> Cells:
    """Read what `Cells.save` wrote.

    Raises:
        MedretError: If the file is missing or damaged, or made for another number of lists.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            radii = stored["radii"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MedretError(f"{path}: the index file cannot be read ({error}). Run medret build-index again") from error
    if radii.shape != (len(centres),):
        raise MedretError(f"{path}: made for {radii.size} lists, found {len(centres)}. Run medret build-index again")
    return Cells(centres, radii)
