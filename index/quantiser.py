"""The quantiser: vectors by their main directions, as int8 codes, for a first stage that need not be exact."""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.atomic import whole_file
from encoders.errors import MedretError

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

MOST = 127  # codes lie in [-127, 127]
_LEFT_OUT = 0.03  # share of the variance that may be left out
_STEP, _LEAST = 32, 64  # the compacted length is a multiple of, and at least
_SAMPLE = 40_000
_AT_ONCE = 8192  # rows


@dataclass(frozen=True, slots=True)
class Quantiser:
    """Subtracts the mean from stored vectors, turns them into their main directions and keeps the first p of these.

    The mean is never subtracted from a query: <q, x - mean> differs from <q, x> by the same number for every x, so that the
    order is kept. Subtracting it from both would change the order.

    Attributes:
        mean: (D,) float32, of the stored vectors.
        rotation: (D, p) float32, orthonormal columns: the main directions by falling variance, or a mixture of them.
        scale: Codes of stored vectors are the compacted values times this.
    """

    mean: Vectors
    rotation: Vectors
    scale: float

    @property
    def dimension(self) -> int:
        """Length p of compacted vectors."""
        return int(self.rotation.shape[1])

    def project(self, vectors: npt.NDArray[Any]) -> Vectors:
        """Return (n, D) stored vectors, float32 or float16, as (n, p) float32."""
        compacted: Vectors = np.asarray(vectors, np.float32) @ self.rotation
        compacted -= self.mean @ self.rotation
        return compacted

    def project_queries(self, queries: Vectors) -> Vectors:
        """Return (Q, D) queries as (Q, p) float32."""
        projected: Vectors = queries @ self.rotation
        return projected

    def quantise(self, vectors: npt.NDArray[Any]) -> Codes:
        """Return (n, D) stored vectors as (n, p) codes; all have one scale, so that integer products rank them."""
        compacted = self.project(vectors)
        compacted *= self.scale
        return _codes(compacted)

    def quantise_queries(self, queries: Vectors) -> Codes:
        """Return (Q, D) queries as (Q, p) codes, each by its own scale, which does not change its ranking."""
        projected = self.project_queries(queries)
        largest = np.abs(projected).max(axis=1, keepdims=True)
        projected *= np.float32(MOST) / np.where(largest > 1e-30, largest, np.float32(1))
        return _codes(projected)

    def save(self, path: Path) -> None:
        """Write a .npz file, whole or not at all."""
        with whole_file(path) as part, part.open("wb") as file:
            np.savez(file, mean=self.mean, rotation=self.rotation, scale=np.float64(self.scale))


def fit_quantiser(blocks: Iterable[npt.NDArray[Any]], rows: int, *, mixed: bool = False) -> Quantiser:
    """Return the quantiser of a collection: the same for the same rows, however they are cut into blocks.

    Args:
        blocks: (n, D) float32 or float16 arrays, `rows` rows in all, above 0.
        rows: Of all blocks; at most 40,000 of them, spread evenly, are looked at.
        mixed: Whether the directions kept are turned at random among themselves, so that all vary alike. Codes of one scale then
            use their range in each of them, and not in the first few alone: an exact-grade scan needs a quarter of the candidates.
    """
    sample = take_sample(blocks, rows, _SAMPLE)
    mean = sample.mean(axis=0, dtype=np.float64)
    covariance = _covariance(sample, mean)
    variances, directions = np.linalg.eigh(covariance)
    rotation = np.ascontiguousarray(directions[:, ::-1][:, : _kept(variances[::-1])], dtype=np.float32)
    if mixed:
        turned = np.linalg.qr(np.random.default_rng(0).standard_normal((rotation.shape[1],) * 2))[0]
        rotation = (rotation @ turned).astype(np.float32)
    # One scale, from the largest value: clipping the outermost 0.01 % of values costs 1.4 % of text neighbours, as the best rows
    # of a query are those that lie far out. Unit vectors bound what one outlier can spoil.
    first = Quantiser(mean.astype(np.float32), rotation, 1.0)
    largest = max(float(np.abs(first.project(sample[start : start + _AT_ONCE])).max()) for start in range(0, len(sample), _AT_ONCE))
    return Quantiser(first.mean, rotation, MOST / largest if largest > 0 else 1.0)


def take_sample(blocks: Iterable[npt.NDArray[Any]], rows: int, most: int) -> Vectors:
    """Return at most `most` of `rows` rows as float32, spread evenly over all blocks."""
    wanted = np.arange(rows) if rows <= most else np.arange(most) * rows // most
    parts, start = [], 0
    for block in blocks:
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + len(block))] - start
        parts.append(np.asarray(block[inside], np.float32))
        start += len(block)
    return np.concatenate(parts)


def load_quantiser(path: Path, dimension: int) -> Quantiser:
    """Read what `Quantiser.save` wrote.

    Raises:
        MedretError: If the file is missing or damaged, or is for vectors of another length than `dimension`.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean, rotation, scale = stored["mean"], stored["rotation"], float(stored["scale"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MedretError(f"{path}: the index file cannot be read ({error}). Run medret build-index again") from error
    if mean.shape != (dimension,) or rotation.ndim != 2 or len(rotation) != dimension or rotation.shape[1] > dimension:
        raise MedretError(f"{path}: made for vectors of length {mean.shape}, found {dimension}. Run medret build-index again")
    return Quantiser(mean.astype(np.float32), rotation.astype(np.float32), scale)


def _covariance(sample: Vectors, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = np.zeros((len(mean), len(mean)))
    for start in range(0, len(sample), _AT_ONCE):
        centred = sample[start : start + _AT_ONCE] - mean
        total += centred.T @ centred
    return total / len(sample)


def _kept(variances: npt.NDArray[np.float64]) -> int:
    """Return how many directions to keep of variances that fall: all but 3 % of their sum."""
    dimension = len(variances)
    shares = np.cumsum(variances) / max(float(variances.sum()), np.finfo(np.float64).tiny)
    enough = int(np.searchsorted(shares, 1 - _LEFT_OUT)) + 1
    return min(max(-(-enough // _STEP) * _STEP, _LEAST), dimension)


def _codes(values: Vectors) -> Codes:
    np.rint(values, out=values)
    np.clip(values, -MOST, MOST, out=values)
    return values.astype(np.int8)
