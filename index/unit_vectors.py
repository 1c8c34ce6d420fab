"""Stored vectors by row number, each known to have norm 1: what is damaged is not served."""

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from index.shards import ShardTable

_NORM_ERROR = 1e-2  # beyond float16 rounding: then the shard is damaged


def fetch_units(table: ShardTable, vector: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the (R, D) float32 vectors of R rows: a copy.

    Args:
        table: Where they are.
        vector: "joint" or "features".
        rows: (R,) row numbers.

    Raises:
        MedretError: If one has not norm 1.
    """
    vectors = table.vectors(vector, rows)
    norms = np.einsum("ij,ij->i", vectors, vectors)
    wrong = ~(np.abs(norms - 1) < 2 * _NORM_ERROR)  # NaN too
    if wrong.any():
        row = int(rows[wrong][0])
        raise MedretError(
            f"the {vector} vector of row {row} of the {table.modality} has norm {norms[wrong][0] ** 0.5:.3g}, "
            "expected 1: the shard is damaged. Run medret verify"
        )
    return vectors
