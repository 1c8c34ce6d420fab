"""An index folder: the manifest, the encoder, and where the shards are. Built, opened, and checked to belong together.

The flat kind holds nothing of its own: it searches the vectors in the shards.
"""

import os
from pathlib import Path

from encoders.atomic import private_folder
from encoders.checkpoint import copy_checkpoint, find_checkpoint, read_fingerprint
from encoders.errors import MedretError
from index.kinds import find_kind, load_faiss
from index.manifest import INDEX_MANIFEST, SHARDS_MANIFEST, IndexEntry, IndexManifest, ShardsPart, load_index_manifest, sha256_file
from index.shards import Shards, open_shards
from index.vector_index import VectorIndex


class OpenedIndex:
    """An index folder, opened and checked.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
        encoder_folder: The checkpoint of its encoder.
        shards: The vectors and metadata it searches.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, shards: Shards):
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.encoder_folder = folder / "encoder"
        self._indexes: dict[tuple[str, str], VectorIndex] = {}

    def index(self, modality: str, vector: str = "joint") -> VectorIndex:
        """Return the index of a modality ("images", "reports", "sentences") by a vector ("joint", "features").

        Raises:
            MedretError: If the folder has none; it names what to do.
        """
        entry = next((entry for entry in self.manifest.indexes if (entry.modality, entry.vector) == (modality, vector)), None)
        if entry is None:
            self.shards.table(modality).dimension(vector)  # says what the shards lack
            raise MedretError(f"{self.folder}: has no index of {modality} by {vector} vectors. Run medret build-index again")
        if (modality, vector) not in self._indexes:
            find_kind(entry.kind)
            self._indexes[modality, vector] = VectorIndex(self.shards.table(modality), vector)
        return self._indexes[modality, vector]


def build_index(shards_folder: Path, out: Path, encoder_folder: Path, kind: str = "flat") -> IndexManifest:
    """Make an index folder: one index per modality and vector, the encoder, and a pointer to the shards.

    Args:
        shards_folder: Made by `encode_corpus`; every checksum is verified. It may lie inside `out` (as `out`/shards).
        out: The index folder; an index that is already there is replaced.
        encoder_folder: The checkpoint that made the shards (or a training run that holds it); copied, by hard link where
            the file system allows, to `out`/encoder.
        kind: One of KINDS.

    Raises:
        MedretError: If the encoder is not the one of the shards, a shard is damaged, or `out` holds other things.
    """
    find_kind(kind)
    load_faiss()
    shards = open_shards(shards_folder, verify=True)
    checkpoint = find_checkpoint(encoder_folder)
    _check_encoder(shards, read_fingerprint(checkpoint), checkpoint)
    _check_out(out, shards.manifest.encoder)
    private_folder(out)
    copy_checkpoint(checkpoint, out / "encoder")
    manifest = IndexManifest(
        encoder=shards.manifest.encoder,
        parts=(
            ShardsPart(folder=os.path.relpath(shards_folder.resolve(), out.resolve()), sha256=sha256_file(shards_folder / SHARDS_MANIFEST)),
        ),
        indexes=tuple(
            IndexEntry(modality=modality, vector=vector, kind=kind, rows=entry.rows, dimension=dimension)
            for modality, entry in shards.manifest.modalities.items()
            for vector, dimension in entry.dimensions.items()
        ),
    )
    manifest.save(out)
    return manifest


def open_index(folder: Path, verify: bool = False) -> OpenedIndex:
    """Open an index folder and check that its encoder, its shards and itself belong together.

    Args:
        folder: Made by `build_index`.
        verify: Compare every shard with its checksum, instead of its size alone.

    Raises:
        MedretError: If anything is missing, damaged, or of another encoder.
    """
    manifest = load_index_manifest(folder)
    place = Path(os.path.normpath(folder.resolve() / manifest.parts[0].folder))
    if not (place / SHARDS_MANIFEST).is_file():
        raise MedretError(f"{folder}: its shards are not at {place}. Move both folders together, or run medret build-index again")
    if sha256_file(place / SHARDS_MANIFEST) != manifest.parts[0].sha256:
        raise MedretError(
            f"{folder}: the shards at {place} are not those it was built from. Run: medret build-index {place} --out {folder}"
        )
    shards = open_shards(place, verify)
    _check_encoder(shards, read_fingerprint(folder / "encoder"), folder / "encoder")
    return OpenedIndex(folder, manifest, shards)


def _check_encoder(shards: Shards, fingerprint: str, checkpoint: Path) -> None:
    if fingerprint != shards.manifest.encoder:
        raise MedretError(
            f"{shards.folder}: vectors of encoder {shards.manifest.encoder}, but {checkpoint} is encoder {fingerprint}. "
            f"Name the encoder that made them, or encode again: medret encode CORPUS --encoder {checkpoint} --out NEW"
        )


def _check_out(out: Path, fingerprint: str) -> None:
    """Refuse a folder that holds other things: `out`/encoder would be replaced."""
    if not out.exists() or (out / INDEX_MANIFEST).is_file():
        return
    if not out.is_dir():
        raise MedretError(f"{out}: is a file, expected a folder for the index. Choose another --out")
    others = [entry.name for entry in out.iterdir() if entry.name not in ("encoder", "shards") and not entry.name.startswith(".")]
    if others:
        raise MedretError(f"{out}: is no index and not empty (it holds {sorted(others)[0]}). Choose another --out")
    if (out / "encoder").exists() and read_fingerprint(out / "encoder") != fingerprint:
        raise MedretError(f"{out}: is no index, and its encoder/ is not encoder {fingerprint}. Remove it, or choose another --out")
