"""An index folder: the manifest, the encoder, the first stages, and where the shards are. Built, opened, checked to belong together."""

import os
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.atomic import private_folder
from encoders.checkpoint import copy_checkpoint, find_checkpoint, read_fingerprint
from encoders.errors import MedretError
from index.generation import Progress, build_files, load_entry, measure_entries, write_generation
from index.index_manifest import INDEX_MANIFEST, IndexEntry, IndexManifest, ShardsPart, find_index_manifest, load_index_manifest
from index.kinds import find_kind, load_faiss
from index.late_stage import LateStage, is_worth_waiting
from index.manifest import SHARDS_MANIFEST, sha256_file
from index.publish import PARTS, check_stored, generations, hold, probe_part, publish, store_encoder, store_part, writing
from index.shards import Part, Shards, check_ids, check_vectors, open_shards
from index.stages import FirstStage
from index.vector_index import VectorIndex

Rows = npt.NDArray[np.int64]


class OpenedIndex:
    """An index folder, opened and checked. It goes on as it was opened, whatever is added or removed meanwhile.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
        encoder_folder: The checkpoint of its encoder.
        shards: The vectors and metadata it searches.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, shards: Shards) -> None:
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.encoder_folder = folder / manifest.encoder_folder
        self._indexes: dict[tuple[str, str], VectorIndex] = {}
        self._loading = threading.Lock()

    def index(self, modality: str, vector: str = "joint") -> VectorIndex:
        """Return the index of a modality ("images", "reports", "sentences") by a vector ("joint", "features").

        Its first stage is read when it is first asked for; any number of threads may ask.

        Raises:
            MedretError: If the folder has none, or its first stage is damaged; it names what to do.
        """
        entry = next((entry for entry in self.manifest.indexes if (entry.modality, entry.vector) == (modality, vector)), None)
        if entry is None:
            self.shards.table(modality).dimension(vector)  # says what the shards lack
            raise MedretError(f"{self.folder}: has no index of {modality} by {vector} vectors. Run medret build-index again")
        with self._loading:
            if (modality, vector) not in self._indexes:
                self._indexes[modality, vector] = self._load(entry)
            return self._indexes[modality, vector]

    def _load(self, entry: IndexEntry) -> VectorIndex:
        table, kind = self.shards.table(entry.modality), find_kind(entry.kind)
        if is_worth_waiting(kind, entry.rows, entry.dimension):
            stage: FirstStage | None = LateStage(kind, entry.rows, lambda: self._load_stage(entry))
        else:
            stage = self._load_stage(entry) if entry.files else None
        return VectorIndex(table, entry.vector, stage, entry.certificates, entry.scales)

    def _load_stage(self, entry: IndexEntry) -> FirstStage:
        try:
            stage = load_entry(self.folder, entry, self.shards)
        except MedretError as error:
            if load_index_manifest(self.folder).generation == self.manifest.generation:
                raise
            raise MedretError(f"{self.folder}: was compacted or built again since it was opened. Open it again") from error
        assert stage is not None
        return stage


def build_index(
    shards_folder: Path, out: Path, encoder_folder: Path, kind: str = "flat", *, recall: float = 0.99, progress: Progress | None = None
) -> IndexManifest:
    """Make an index folder: one index per modality and vector, the encoder, and a pointer to the shards.

    Args:
        shards_folder: Made by `encode_corpus`; every checksum, every vector and every id is verified. It may lie inside `out`.
        out: The index folder; an index that is already there is replaced in one step when all is done.
        encoder_folder: The checkpoint that made the shards (or a training run that holds it); copied, by hard link where
            the file system allows.
        kind: One of KINDS, or a FAISS factory string.
        recall: What approximate search has to reach; it is measured, and the outcome stored.
        progress: Called with what is done, how many, and of how many.

    Raises:
        MedretError: If the encoder is not the one of the shards, a shard is damaged, two records have the same id, `out` holds
            other things or another writer, or the index there has records that would be lost or come back.
    """
    find_kind(kind)
    load_faiss()
    shards = open_shards(shards_folder, verify=True)
    checkpoint = find_checkpoint(encoder_folder)
    _check_encoder(shards.parts[0], read_fingerprint(checkpoint), checkpoint)
    _check_out(out, shards.manifest.encoder)
    for modality in shards.modalities:
        check_vectors(shards.table(modality))
        check_ids(shards_folder, shards.table(modality))
    private_folder(out)
    with writing(out, new=True):
        before = find_index_manifest(out)
        part = store_part(out, shards.parts[0])
        if before is not None:
            _check_replaceable(out, before, part)
        number = max([before.generation if before else 0, *generations(out)]) + 1
        place = _place_encoder(out, checkpoint, before, number)
        draft = IndexManifest(
            encoder=shards.manifest.encoder,
            parts=(part,),
            indexes=draft_entries(shards, kind),
            generation=number,
            recall=recall,
            encoder_folder=place,
            encoder_files=store_encoder(out, place),
            obsolete=() if before is None or before.encoder_folder == place else (before.encoder_folder,),
        )
        made = write_generation(out, draft, {}, partial(build_files, shards, number), progress)
        made = measure_entries(out, made, shards, out / place, progress)
        publish(out, made)
    return made


def open_index(folder: Path, verify: bool = False) -> OpenedIndex:
    """Open an index folder and check that its encoder, its shards and itself belong together.

    Args:
        folder: Made by `build_index`.
        verify: Compare every shard and every file with its checksum, instead of its size and a few blocks.

    Raises:
        MedretError: If anything is missing, damaged, or of another encoder.
    """
    while True:
        manifest = load_index_manifest(folder)
        try:
            return _open(folder, manifest, verify)
        except (MedretError, OSError):  # a file may go between a look and the next
            if load_index_manifest(folder).generation == manifest.generation:
                raise  # else a writer published meanwhile, and what is missing was out of use


def draft_entries(shards: Shards, kind: str, known: Mapping[tuple[str, str], str] | None = None) -> tuple[IndexEntry, ...]:
    """List the indexes that shards give, without files.

    Args:
        shards: What is to be searched.
        kind: Of each index.
        known: Modality and vector to the kind of an index that is to stay as it is.
    """
    kinds = dict(known or {})
    return tuple(
        IndexEntry(
            modality=modality,
            vector=vector,
            kind=kinds.get((modality, vector), kind),
            rows=table.rows,
            dimension=dimension,
            fitted=table.rows,
        )
        for modality in shards.modalities
        for table in [shards.table(modality)]
        for vector, dimension in table.dimensions.items()
    )


def open_parts(folder: Path, manifest: IndexManifest, verify: bool = False) -> Shards:
    """Open the shards of an index, without its first stages.

    Raises:
        MedretError: If they are missing, damaged, or of another encoder.
    """
    parts = [_open_part(folder, manifest, part, verify) for part in manifest.parts]
    return Shards(parts, read_removed(folder, manifest))


def read_removed(folder: Path, manifest: IndexManifest) -> dict[str, Rows]:
    """Read which rows of each modality are removed: int64, ascending.

    Raises:
        MedretError: If a list is missing or damaged.
    """
    removed = {}
    for modality, stored in manifest.removed.items():
        check_stored(folder, stored, whole=True)
        removed[modality] = np.load(folder / stored.file, allow_pickle=False).astype(np.int64)
    return removed


def _open(folder: Path, manifest: IndexManifest, verify: bool) -> OpenedIndex:
    held = hold(folder, manifest.generation)
    try:
        for stored in manifest.files:
            check_stored(folder, stored, verify)
        shards = open_parts(folder, manifest, verify)
        encoder = folder / manifest.encoder_folder
        if read_fingerprint(encoder) != manifest.encoder:
            raise MedretError(
                f"{folder}: vectors of encoder {manifest.encoder}, but {encoder} is encoder {read_fingerprint(encoder)}. "
                "Put its own encoder back, or build the index again"
            )
        opened = OpenedIndex(folder, manifest, shards)
    except BaseException:
        os.close(held)
        raise
    weakref.finalize(opened, os.close, held)
    return opened


def find_part(folder: Path, part: ShardsPart) -> Path:
    """Return where a part of an index is.

    Raises:
        MedretError: If it is not there.
    """
    place = Path(os.path.normpath(folder.resolve() / part.folder))
    if not (place / SHARDS_MANIFEST).is_file():
        raise MedretError(f"{folder}: its shards are not at {place}. Move both folders together, or run medret build-index again")
    return place


def _open_part(folder: Path, manifest: IndexManifest, part: ShardsPart, verify: bool) -> Part:
    place = find_part(folder, part)
    if sha256_file(place / SHARDS_MANIFEST) != part.sha256:
        raise MedretError(
            f"{folder}: the shards at {place} are not those it was built from. Run: medret build-index {place} --out {folder}"
        )
    (opened,) = open_shards(place, verify).parts
    if opened.manifest.encoder != manifest.encoder:
        raise MedretError(f"{place}: vectors of encoder {opened.manifest.encoder}, but the index is of encoder {manifest.encoder}")
    if probe_part(opened) != part.probe:
        raise MedretError(f"{place}: a shard is damaged or in another's place. Copy the shards again: medret verify {place} names it")
    return opened


def _check_encoder(part: Part, fingerprint: str, checkpoint: Path) -> None:
    if fingerprint != part.manifest.encoder:
        raise MedretError(
            f"{part.folder}: vectors of encoder {part.manifest.encoder}, but {checkpoint} is encoder {fingerprint}. "
            f"Name the encoder that made them, or encode again: medret encode CORPUS --encoder {checkpoint} --out NEW"
        )


def _check_replaceable(out: Path, before: IndexManifest, part: ShardsPart) -> None:
    """Refuse to build over an index whose added records would be lost, or whose removed records would come back."""
    own = [old.folder for old in before.parts if old.folder != part.folder and old.folder.startswith(f"{PARTS}/")]
    if own:
        raise MedretError(f"{out}: holds records in {own[0]} that a new index would lose. Choose another --out, or remove {out} first")
    if before.removed and any(old.folder == part.folder for old in before.parts):
        raise MedretError(
            f"{out}: records were removed from it that a new index would bring back. Run: medret compact --index {out}, "
            "or choose another --out"
        )


def _place_encoder(out: Path, checkpoint: Path, before: IndexManifest | None, generation: int) -> str:
    """Copy the encoder to where no published index has another one; return the place, relative to `out`."""
    if before is None:
        copy_checkpoint(checkpoint, out / "encoder")
        return "encoder"
    held = out / before.encoder_folder
    if held.is_dir() and _digests(held) == _digests(checkpoint):
        return before.encoder_folder
    copy_checkpoint(checkpoint, out / f"encoder-{generation:05d}")
    return f"encoder-{generation:05d}"


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir() if file.is_file()}


def _check_out(out: Path, fingerprint: str) -> None:
    """Refuse a folder that holds other things: `out`/encoder would be replaced."""
    if not out.exists() or (out / INDEX_MANIFEST).is_file():
        return
    if not out.is_dir():
        raise MedretError(f"{out}: is a file, expected a folder for the index. Choose another --out")
    own = {"encoder", "shards", *(f"g{number:05d}" for number in generations(out))}
    others = [entry.name for entry in out.iterdir() if entry.name not in own and not entry.name.startswith(".")]
    if others:
        raise MedretError(f"{out}: is no index and not empty (it holds {sorted(others)[0]}). Choose another --out")
    if (out / "encoder").exists() and read_fingerprint(out / "encoder") != fingerprint:
        raise MedretError(f"{out}: is no index, and its encoder/ is not encoder {fingerprint}. Remove it, or choose another --out")
