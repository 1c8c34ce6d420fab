"""Two archives of vectors to measure search on, written as shards with an index's encoder beside them.

python benchmarks/archive_vectors.py WORK [--set clip|openi] [--rows 601000] [--openi SHARDS] [--dtype float32|float16]

Made once; `WORK/SET-ROWS-DTYPE` holds `shards`, `encoder` (random weights: nothing is encoded here) and `queries.npz`. The other
scripts make it where it is missing. Its geometry is printed: compare it with real encoders' before believing a recall.

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

Held out of what is stored: 1,000 image queries (of openi: real films, whole studies apart) and 1,000 text queries. Other texts,
2,000 of clip and what is left of openi's, are stored as reports: they are what medret tunes itself on. Block b of a set is drawn
from (seed, b) alone.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.checkpoint import read_fingerprint, save_checkpoint
from encoders.dual import build_encoder
from index.corpora.record import Record
from index.manifest import ModalityShards, ShardsManifest
from index.shards import ShardRow, ShardTable, ShardWriter, open_shards

Vectors = npt.NDArray[np.float32]

ROWS, QUERIES, REPORTS, BLOCK = 601_000, 1_000, 2_000, 8_192
CLUSTERS, NEIGHBOURS = 3_000, 10


@dataclass(frozen=True)
class Archive:
    """A folder of vectors to search, and who asks.

    Attributes:
        queries: "image" and "text" to (Q, D) float32, unit L2 norm per row; none of them is stored.
    """

    folder: Path
    name: str
    queries: dict[str, Vectors]

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def encoder(self) -> Path:
        return self.folder / "encoder"

    def table(self) -> ShardTable:
        """Return the stored images, memory-mapped."""
        return open_shards(self.shards).table("images")

    def vectors(self) -> Vectors:
        """Return the stored images as one (N, D) float32 array in memory: what peers are given."""
        blocks = self.table().blocks("joint")
        whole = np.empty((sum(map(len, blocks)), blocks[0].shape[1]), np.float32)
        np.concatenate(blocks, out=whole, casting="same_kind")
        return whole


class ClipLike:
    """Vectors with the geometry that the module's docstring describes.

    Args:
        dimension: D.
        seed: Of the directions, the clusters and all that is drawn.
    """

    def __init__(self, dimension: int = 512, seed: int = 0):
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

    def __init__(self, films: Vectors, rows: int, seed: int = 0):
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


def asked_archive(given: argparse.Namespace) -> Archive:
    """Return the archive that a script's options (`archive_options`) name."""
    rows = given.rows or (20_000 if given.quick else ROWS)
    return make_archive(given.work, given.set, rows, openi=given.openi, queries=200 if given.quick else QUERIES)


def make_archive(
    work: Path,
    name: str,
    rows: int = ROWS,
    *,
    openi: Path | None = None,
    dtype: str = "float32",
    block: int = BLOCK,
    queries: int = QUERIES,
) -> Archive:
    """Open `work`/NAME-ROWS-DTYPE, or make it first.

    Args:
        name: "clip" or "openi".
        openi: Shards of Open-i, made by `medret encode`; needed for the set "openi" where it is not made yet.
        block: Rows a shard.
        queries: Of each kind; fewer where openi's films or reports do not suffice.
    """
    folder = work / f"{name}-{rows}-{dtype}"
    if not (folder / "queries.npz").is_file():
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        if name == "clip":
            source: Any = ClipLike()
            asked = {"image": source.images(queries, 1 << 30), "text": source.texts(queries, 1 << 30)}
            told = source.texts(REPORTS, (1 << 30) + 1)
        else:
            if openi is None:
                raise SystemExit("the set openi needs --openi SHARDS, made by: medret encode OPENI --out SHARDS")
            source, asked, told = _openi(openi, rows, queries)
        blocks = (source.images(count, number) for number, (_, count) in enumerate(spans(rows, block)))
        _write(folder, rows, blocks, told, dtype, block)
        np.savez(folder / "queries.npz", image=asked["image"], text=asked["text"])  # last: it makes the folder whole
    asked = dict(np.load(folder / "queries.npz", allow_pickle=False))
    return Archive(folder, f"{name}-{rows}", asked)


def geometry(archive: Archive, rows: int = 100_000) -> dict[str, Any]:
    """Return cosines and shares of variance that a recall depends on; nearest ones are among all rows."""
    blocks = archive.table().blocks("joint")
    taken = np.concatenate(blocks[: -(-rows // len(blocks[0]))]).astype(np.float32)[:rows]
    centred = taken[:20_000] - taken[:20_000].mean(axis=0)
    values = np.linalg.eigvalsh(centred.T @ centred)[::-1].cumsum()
    found: dict[str, Any] = {
        "rows": sum(map(len, blocks)),
        "dimension": taken.shape[1],
        "two random images": float((taken[:1000] @ taken[1000:2000].T).mean()),
        "variance in k directions": {str(k): float(values[k - 1] / values[-1]) for k in (8, 32, 64, 128, 256) if k <= len(values)},
    }
    for asker, queries in archive.queries.items():
        best = np.full(len(queries[:200]), -1, np.float32)
        for vectors in blocks:
            best = np.maximum(best, (queries[:200] @ vectors.astype(np.float32).T).max(axis=1))
        found[f"nearest image of {'an image' if asker == 'image' else 'a text'}"] = float(np.median(best))
    return found


def unit(vectors: Vectors) -> Vectors:
    """Bring rows to norm 1, in place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def spans(rows: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of each block."""
    for start in range(0, rows, block):
        yield start, min(block, rows - start)


def _openi(folder: Path, rows: int, queries: int) -> tuple[Tiled, dict[str, Vectors], Vectors]:
    """Return the films that are tiled, the queries, and the reports that are stored: whole studies are held out together."""
    shards = open_shards(folder)
    films, reports = (np.concatenate(shards.table(name).blocks("joint")).astype(np.float32) for name in ("images", "reports"))
    studies = shards.table("images").codes("study_id")
    chosen = np.random.default_rng(0).permutation(studies.max() + 1)
    order = np.argsort(np.argsort(chosen)[studies], kind="stable")  # films, studies in the drawn order
    held = order[: min(queries, len(films) // 4)]
    stored = order[~np.isin(studies[order], studies[held])]
    places = np.random.default_rng(1).permutation(len(reports))
    asked = min(queries, len(reports) // 2)
    return Tiled(films[stored], rows), {"image": films[held], "text": reports[places[:asked]]}, reports[places[asked:]]


def _write(folder: Path, rows: int, blocks: Iterator[Vectors], told: Vectors, dtype: str, block: int) -> None:
    def named(prefix: str, drawn: Iterator[Vectors]) -> Iterator[tuple[list[ShardRow], Vectors]]:
        start = 0
        for vectors in drawn:
            names = (f"{prefix}{row:09d}" for row in range(start, start + len(vectors)))
            yield [ShardRow(Record(id=name, patient_id=name, study_id=name, image=None), text="-") for name in names], vectors
            start += len(vectors)

    texts = (told[at : at + n] for at, n in spans(len(told), block))
    written = write_shards(folder, {"images": named("i", blocks), "reports": named("r", texts)}, told.shape[1], dtype=dtype)
    assert written["images"].rows == rows


def write_shards(
    folder: Path,
    parts: dict[str, Iterator[tuple[list[ShardRow], Vectors]]],
    dimension: int,
    findings: tuple[str, ...] = (),
    dtype: str = "float32",
) -> dict[str, ModalityShards]:
    """Write `folder`/encoder, with random weights, and `folder`/shards: by modality the rows and (N, D) vectors of each shard."""
    save_checkpoint(build_encoder(texts=["small left pleural effusion"], size=32, dimension=dimension, seed=0), folder / "encoder")
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    modalities = {}
    for modality, drawn in parts.items():
        writer = ShardWriter(folder / "shards", modality, {"joint": dimension}, findings, dtype)
        files = [writer.write(number, rows, {"joint": vectors}) for number, (rows, vectors) in enumerate(drawn)]
        modalities[modality] = ModalityShards(dimensions=writer.dimensions, shards=tuple(files))
    ShardsManifest(
        encoder=read_fingerprint(folder / "encoder"),
        preprocessing={},
        dtype=dtype,
        compute={},
        corpus={"format": "table", "root": None},
        findings=findings,
        text_sections=("findings",),
        splits=None,
        pseudonymised=False,
        counts={},
        modalities=modalities,
    ).save(folder / "shards")
    return modalities


def main() -> None:
    """Make an archive and print its geometry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", choices=("clip", "openi"), default="clip")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--openi", type=Path, help="shards of Open-i")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    given = parser.parse_args()
    print(json.dumps(geometry(make_archive(given.work, given.set, given.rows, openi=given.openi, dtype=given.dtype)), indent=1))


if __name__ == "__main__":
    main()
