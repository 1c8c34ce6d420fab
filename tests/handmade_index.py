"""An engine over given records and vectors, for tests: what an index holds, without encoding anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from shard_folders import save_manifest, unit

from index.corpora.record import Record
from index.folder import OpenedIndex
from index.index_manifest import IndexEntry, IndexManifest, ShardsPart
from index.manifest import ModalityShards
from index.shards import ShardRow, ShardWriter, open_shards
from retrieval.engine import SearchEngine


def make_engine(
    folder: Path,
    parts: Mapping[str, tuple[Sequence[ShardRow], Mapping[str, np.ndarray]]],
    *,
    findings: Sequence[str] = (),
    encoder_folder: Path | None = None,
    encoder: str = "0" * 16,
    root: str | None = None,
    pseudonymised: bool = False,
) -> SearchEngine:
    """Write `parts` (modality to rows and named vectors) as shards of at most 50 rows, and open an engine over them."""
    folder.mkdir(parents=True, exist_ok=True)
    modalities, entries = {}, []
    for modality, (rows, vectors) in parts.items():
        dimensions = {name: values.shape[1] for name, values in vectors.items()}
        writer = ShardWriter(folder, modality, dimensions, findings)
        shards = [
            writer.write(number, rows[start : start + 50], {name: unit(values[start : start + 50]) for name, values in vectors.items()})
            for number, start in enumerate(range(0, len(rows), 50))
        ]
        modalities[modality] = ModalityShards(dimensions=dimensions, shards=tuple(shards))
        entries += [
            IndexEntry(modality=modality, vector=name, kind="flat", rows=len(rows), dimension=size) for name, size in dimensions.items()
        ]
    save_manifest(folder, modalities, encoder=encoder, findings=findings, pseudonymised=pseudonymised, corpus={"root": root})
    manifest = IndexManifest(encoder=encoder, parts=(ShardsPart(folder=".", sha256=""),), indexes=tuple(entries))
    return SearchEngine(OpenedIndex(folder, manifest, open_shards(folder)), encoder_folder or folder / "encoder")


def image_rows(records: Sequence[Record]) -> list[ShardRow]:
    return [ShardRow(record, path=None if record.image is None else str(record.image)) for record in records]
