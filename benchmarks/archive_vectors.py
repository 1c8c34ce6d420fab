"""Two archives of vectors to measure search on, written as shards with an index's encoder beside them.

python benchmarks/archive_vectors.py WORK [--set clip|openi] [--rows 601000] [--openi SHARDS] [--dtype float32|float16]

Made once; `WORK/SET-ROWS-DTYPE` holds `shards`, `encoder` (random weights: nothing is encoded here) and `queries.npz`. The other
scripts make it where it is missing. Its geometry is printed: compare it with real encoders' before believing a recall. How the two
sets, clip and openi, are drawn, and in what they are like real vectors: the head of drawn_vectors.py.

Held out of what is stored: 1,000 image queries (of openi: real films, whole studies apart) and 1,000 text queries. Other texts,
2,000 of clip and what is left of openi's, are stored as reports: they are what medret tunes itself on.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawn_vectors import ClipLike, Tiled, Vectors, spans

from encoders.checkpoint import read_fingerprint, save_checkpoint
from encoders.dual import build_encoder
from index.corpora.record import Record
from index.manifest import ModalityShards, ShardsManifest
from index.shards import ShardRow, ShardTable, ShardWriter, open_shards

ROWS, QUERIES, REPORTS, BLOCK = 601_000, 1_000, 2_000, 8_192


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
            source: ClipLike | Tiled = ClipLike()
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
