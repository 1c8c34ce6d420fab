"""Vectors drawn with the geometry of real encoders', block by block; block b of a set is drawn from (seed, b) alone.

clip    512-d vectors as CLIP-like encoders spread them. An image is its set's mean direction + one of 3,000 clusters (of unequal
        sizes) + its own deviation. Clusters and deviations have a spectrum that decays as 1/k up to the 64th direction and as k^-2.5
        beyond: 96 % of the variance lies in 128 directions, and there is no last one. A text lies across a gap: its own mean
        direction, at a cosine of 0.2 to the images', half of an image's directions (what reports tell), and a spread of its own
        that no image has. So texts are out of distribution for an index of images. Nearest image of an image: cosine 0.87; of a
        text: 0.45, which is what chest X-ray encoders show.
openi   the vectors that an encoder gave Open-i's films, tiled up to the wanted number: a film drawn at random, plus noise. The
        noise is Gaussian with the covariance of the differences between near neighbours (so it spreads where films do), and of
        such a size that the median cosine of a stored row and its nearest other row is what it was among the real films (for
        601,000 rows about the size of these differences): with less, copies would lie nearer to one another than any two films
        do. Texts are the vectors of real reports, none tiled. The shipped encoder keeps 98 % of its films' variance in 8
        directions, so this set is an easy one for whatever compacts vectors.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

CLUSTERS, NEIGHBOURS = 3_000, 10


class ClipLike:
    """Vectors with the geometry that the module's docstring describes.

    Args:
        dimension: D.
        seed: Of the directions, the clusters and all that is drawn.
    """

    def __init__(self, dimension: int = 512, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dimension, self.seed = dimension, seed
        place = np.arange(1, dimension + 1)
        bend = min(64, dimension)
        self.spread = np.where(place <= bend, place**-0.5, bend**-0.5 * (place / bend) ** -1.25).astype(np.float32)  # (D,)
        self.basis, self.own_basis = (np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32).T for _ in range(2))
        self.centres = rng.standard_normal((CLUSTERS, dimension)).astype(np.float32) * self.spread  # (C, D)
        self.shares = rng.dirichlet(np.full(CLUSTERS, 0.5))
        self.told = rng.random(dimension).astype(np.float32) < 0.5  # directions that texts tell of
        mean, other = np.linalg.qr(rng.standard_normal((dimension, 2)))[0].T.astype(np.float32)
        self.image_mean, self.text_mean = 1.7 * mean, 1.7 * (0.2 * mean + 0.98 * other)

    def images(self, rows: int, block: int) -> Vectors:
        """Draw block `block`: (rows, D) float32 of norm 1."""
        rng = np.random.default_rng((self.seed, 1, block))
        return unit(self._meanings(rng, rows, 0.7) @ self.basis + self.image_mean)

    def texts(self, rows: int, block: int) -> Vectors:
        """Draw (rows, D) float32 of norm 1 from across the gap."""
        rng = np.random.default_rng((self.seed, 2, block))
        told = self._meanings(rng, rows, 0.3) * self.told
        own = 0.8 * rng.standard_normal((rows, self.dimension), dtype=np.float32) * self.spread
        return unit(told @ self.basis + own @ self.own_basis + self.text_mean)

    def _meanings(self, rng: np.random.Generator, rows: int, deviation: float) -> Vectors:
        clusters = rng.choice(CLUSTERS, rows, p=self.shares)
        return self.centres[clusters] + deviation * rng.standard_normal((rows, self.dimension), dtype=np.float32) * self.spread


class Tiled:
    """Real vectors, tiled with noise that keeps their nearest-neighbour geometry; see the module's docstring.

    Args:
        films: (F, D) float32 of norm 1.
        rows: How many there will be: the noise depends on it.
    """

    def __init__(self, films: Vectors, rows: int, seed: int = 0) -> None:
        self.films, self.seed = films, seed
        products = films @ films.T
        np.fill_diagonal(products, -1)
        self.aim = float(np.median(products.max(axis=1)))
        near = np.argpartition(-products, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]  # (F, 10)
        differences = (films[near] - films[:, None]).reshape(-1, films.shape[1])
        values, directions = np.linalg.eigh(differences.T @ differences / len(differences))
        self.root = (directions * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)  # (D, D)
        self.size = self._fit(rows)

    def images(self, rows: int, block: int, size: float | None = None) -> Vectors:
        """Draw block `block`: (rows, D) float32 of norm 1."""
        rng = np.random.default_rng((self.seed, 1, block))
        films = self.films[rng.integers(len(self.films), size=rows)]
        noise = rng.standard_normal((rows, self.films.shape[1]), dtype=np.float32) @ self.root
        return unit(films + np.float32(self.size if size is None else size) * noise)

    def _fit(self, rows: int) -> float:
        """Halve the interval until the first 256 rows' nearest others are as near as among the films."""
        low, high = 0.0, 4.0
        for _ in range(7):
            size = (low + high) / 2
            probes = self.images(min(rows, 65_536), 0, size)[:256]
            nearest = np.full(len(probes), -1, np.float32)
            for block, (_, count) in enumerate(spans(rows, 65_536)):
                products = probes @ self.images(count, block, size).T
                if block == 0:
                    np.fill_diagonal(products, -1)
                nearest = np.maximum(nearest, products.max(axis=1))
            low, high = (size, high) if float(np.median(nearest)) > self.aim else (low, size)
        return (low + high) / 2


def unit(vectors: Vectors) -> Vectors:
    """Bring rows to norm 1, in place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def spans(rows: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of each block."""
    for start in range(0, rows, block):
        yield start, min(block, rows - start)
