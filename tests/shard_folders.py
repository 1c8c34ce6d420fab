"""Shards folders with given vectors, for tests: what `encode_corpus` writes, without an encoder."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from index.corpora.record import Record
from index.manifest import ModalityShards, ShardsManifest
from index.shards import ShardRow, ShardWriter


def write_images(folder: Path, vectors: np.ndarray, ids: list[str], cuts=(), dtype="float32", encoder="0" * 16) -> Path:
    """Write (N, D) unit vectors as image shards that end at the row numbers `cuts`."""
    return write_rows(folder, [ShardRow(Record(id=id, image=None)) for id in ids], vectors, cuts, dtype=dtype, encoder=encoder)


def write_rows(
    folder: Path,
    rows: list[ShardRow],
    vectors: np.ndarray,
    cuts=(),
    *,
    modality="images",
    findings=(),
    dtype="float32",
    encoder="0" * 16,
    root=None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, modality, {"joint": vectors.shape[1]}, findings, dtype)
    edges = [0, *cuts, len(rows)]
    shards = [
        writer.write(number, rows[start:stop], {"joint": vectors[start:stop]})
        for number, (start, stop) in enumerate(itertools.pairwise(edges))
    ]
    save_manifest(
        folder,
        {modality: ModalityShards(dimensions=writer.dimensions, shards=tuple(shards))},
        encoder=encoder,
        dtype=dtype,
        findings=findings,
        corpus={"root": root},
    )
    return folder


def save_manifest(
    folder: Path,
    modalities: Mapping[str, ModalityShards],
    *,
    encoder: str = "0" * 16,
    dtype: str = "float32",
    findings: Sequence[str] = (),
    pseudonymised: bool = False,
    corpus: Mapping[str, str | None] | None = None,
) -> None:
    """Write the manifest of shards that are there already; `corpus` is said of a table without a root."""
    ShardsManifest(
        encoder=encoder,
        preprocessing={},
        dtype=dtype,
        compute={},
        corpus={"format": "table", "root": None, **(corpus or {})},
        findings=tuple(findings),
        text_sections=("findings",),
        splits=None,
        pseudonymised=pseudonymised,
        counts={},
        modalities=dict(modalities),
    ).save(folder)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at norm 1, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
