"""Every checksum of an index or of a shards folder, compared; faults are listed, not raised."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from encoders.checkpoint import load_checkpoint, read_fingerprint
from encoders.errors import MedretError
from encoders.export import check_exports
from index.folder import find_part, open_parts, read_removed
from index.generation import load_entry
from index.index_manifest import IndexManifest, load_index_manifest
from index.manifest import SHARDS_MANIFEST, ModalityShards, check_files, load_shards_manifest
from index.publish import check_stored, mend
from index.shards import Shards, check_ids, check_vectors, open_shards


@dataclass(slots=True)
class Verified:
    """What was compared, and what is wrong.

    Attributes:
        folder: The index or shards folder.
        files: How many files were read whole.
        bytes: How many bytes they hold.
        records: Modality to how many can be found.
        faults: One line each.
    """

    folder: Path
    files: int = 0
    bytes: int = 0
    records: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def check(self) -> Iterator[None]:
        """Note a fault, and go on."""
        try:
            yield
        except MedretError as error:
            if (fault := " ".join(str(error).split())) not in self.faults:
                self.faults.append(fault)

    def count(self, path: Path) -> None:
        """Note that a file was read whole."""
        self.files += 1
        self.bytes += path.stat().st_size


def verify_shards(folder: Path) -> Verified:
    """Compare every shard of a folder with its checksum, and look at every vector and id."""
    verified = Verified(folder)
    with verified.check():
        _check_shards(verified, folder)
        if not verified.faults:
            _check_records(verified, open_shards(folder), indexed=False)
    return verified


def verify_index(folder: Path) -> Verified:
    """Compare every file of an index with its checksum, its shards and its encoder included; look at every vector and id."""
    verified = Verified(folder)
    with verified.check():
        manifest = load_index_manifest(folder)
        _check_encoder(verified, folder, manifest)
        for part in manifest.parts:
            with verified.check():
                _check_shards(verified, find_part(folder, part))
        for stored in manifest.files:
            with verified.check():
                check_stored(folder, stored, whole=True)
                verified.count(folder / stored.file)
        if not verified.faults:  # else what is to be read is what was named
            _check_together(verified, folder, manifest)
    return verified


def _check_together(verified: Verified, folder: Path, manifest: IndexManifest) -> None:
    """Check that shards, removed rows and first stages, each whole, belong together."""
    read_removed(folder, manifest)
    shards = open_parts(folder, manifest)
    _check_records(verified, shards, indexed=True)
    for entry in manifest.indexes:
        with verified.check():
            rows = shards.table(entry.modality).rows
            if rows != entry.rows:
                raise MedretError(f"{folder}: its index of {entry.modality} has {entry.rows} rows, the shards {rows}. {mend(folder)}")
            load_entry(folder, entry, shards)


def _check_encoder(verified: Verified, folder: Path, manifest: IndexManifest) -> None:
    encoder, mark = folder / manifest.encoder_folder, manifest.encoder
    for stored in manifest.encoder_files:
        with verified.check():
            check_stored(folder, stored, whole=True, advice="Copy it again from the encoder that the index was built with")
    if verified.faults:
        return
    with verified.check():
        loaded = load_checkpoint(encoder)  # compares the weights with the fingerprint that is stated
        if read_fingerprint(encoder) != mark:
            raise MedretError(f"{encoder}: is encoder {read_fingerprint(encoder)}, expected {mark}. Put the index's own encoder back")
        check_exports(loaded, encoder, manifest.text_encoder, manifest.image_encoder)
        for file in encoder.iterdir():
            verified.count(file)


def _check_shards(verified: Verified, folder: Path) -> None:
    manifest = load_shards_manifest(folder)
    verified.count(folder / SHARDS_MANIFEST)
    for entry in manifest.modalities.values():
        for shard in entry.shards:
            with verified.check():
                check_files(folder, ModalityShards(dimensions=entry.dimensions, shards=(shard,)), verify=True)
                verified.count(folder / shard.file)


def _check_records(verified: Verified, shards: Shards, *, indexed: bool) -> None:
    for modality in shards.modalities:
        with verified.check():
            table = shards.table(modality)
            verified.records[modality] = len(table.live_rows)
            check_vectors(table)
            check_ids(verified.folder, table, indexed)
