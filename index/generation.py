"""The files of one generation of an index: first stages, removed rows, and what was measured of them."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from encoders.atomic import whole_file, whole_folder
from encoders.export import try_images, try_texts
from index.index_manifest import Certificate, IndexEntry, IndexManifest, StoredFile
from index.kinds import find_kind
from index.publish import check_stored, generation_folder, store_file
from index.score_scale import ASKERS, measure_scales
from index.shards import Shards
from index.stages import FirstStage, build_stage, load_stage
from index.vector_index import VectorIndex

if TYPE_CHECKING:
    from index.askers import Askers, Load

Rows = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
MakeStage = Callable[[IndexEntry, Path], Sequence[StoredFile]]

_PHRASES = 200  # that ask for a scale alone: a second to encode, and pairs enough
_MAPPED = ".codes.npy"  # read by memory map, block by block: checked by size and probe when opened, whole by verify


def write_generation(
    folder: Path, draft: IndexManifest, removed: Mapping[str, Rows], make: MakeStage, progress: Progress | None = None
) -> IndexManifest:
    """Write the folder of a generation, whole or not at all.

    Args:
        folder: The index folder.
        draft: The manifest without the files.
        removed: Modality to the rows that are removed, ascending.
        make: Writes the first stage of an entry into the folder it is given, and says which files.
        progress: Called with "first stages", how many are done, and how many there are.

    Returns:
        The manifest with the files; it is not published yet.
    """
    number = draft.generation
    entries: list[IndexEntry] = []
    with whole_folder(generation_folder(folder, number)) as beside:
        for entry in draft.indexes:
            entries.append(replace(entry, files=tuple(make(entry, beside))))
            if progress is not None:
                progress("first stages", len(entries), len(draft.indexes))
        gone = {modality: _store_rows(beside, number, modality, rows) for modality, rows in removed.items() if len(rows)}
    return replace(draft, indexes=tuple(entries), removed=gone)


def build_files(shards: Shards, generation: int, entry: IndexEntry, beside: Path) -> Sequence[StoredFile]:
    """Build the first stage of an entry from the shards into `beside`."""
    stage = build_stage(find_kind(entry.kind), shards.table(entry.modality), entry.vector)
    return () if stage is None else _save(stage, generation, entry, beside)


def grow_files(folder: Path, old: Shards, new: Shards, generation: int, entry: IndexEntry, beside: Path) -> Sequence[StoredFile]:
    """Write the first stage of an entry of an older generation with the rows that the last part of `new` adds."""
    stage = load_entry(folder, entry, old)
    if stage is None:
        return ()
    known = old.table(entry.modality).rows
    stage.add(_vectors_from(new, entry, known))
    return _save(stage, generation, entry, beside)


def link_files(folder: Path, generation: int, entry: IndexEntry, beside: Path) -> Sequence[StoredFile]:
    """Take the first stage of an entry over from an older generation as it is."""
    taken = []
    for stored in entry.files:
        source, target = folder / stored.file, beside / Path(stored.file).name
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copyfile(source, target)
        taken.append(replace(stored, file=str(generation_folder(Path(), generation) / target.name)))
    return taken


def load_entry(folder: Path, entry: IndexEntry, shards: Shards) -> FirstStage | None:
    """Read the first stage of an entry, after its files were checked; None where the shards alone are searched.

    Raises:
        MedretError: If a file is missing or damaged.
    """
    if not entry.files:
        return None
    for stored in entry.files:
        check_stored(folder, stored, whole=not stored.file.endswith(_MAPPED))
    place = (folder / entry.files[0].file).parent
    names = [Path(stored.file).name for stored in entry.files]
    return load_stage(find_kind(entry.kind), place, names, shards.table(entry.modality), entry.vector)


def measure_entries(
    folder: Path, manifest: IndexManifest, shards: Shards, encoder_folder: Path, progress: Progress | None = None
) -> IndexManifest:
    """Return the manifest of a written generation with what is measured.

    That is: how scores spread, what approximate indexes find, and whether texts and films can be encoded without torch.
    """
    from encoders.checkpoint import load_checkpoint  # imports torch
    from encoders.device import choose_device
    from index.askers import draw_phrases

    entries: list[IndexEntry] = []
    load = cache(lambda: load_checkpoint(encoder_folder, choose_device(None)))
    phrases = cache(lambda findings, vector: draw_phrases(findings, vector, load, _PHRASES))  # once for images and reports
    for entry in manifest.indexes:
        entries.append(_measure(folder, entry, shards, load, manifest.recall, phrases))
        if progress is not None:
            progress("measurements", len(entries), len(manifest.indexes))
    texts = manifest.text_encoder or try_texts(load().cpu(), encoder_folder)  # on the CPU, as without torch
    images = manifest.image_encoder or try_images(load().cpu(), encoder_folder)
    return replace(manifest, indexes=tuple(entries), text_encoder=texts, image_encoder=images)


def _measure(
    folder: Path, entry: IndexEntry, shards: Shards, load: "Load", target: float, phrases: Callable[[Sequence[str], str], "Askers"]
) -> IndexEntry:
    from index.askers import draw_askers, split_askers
    from index.contract import certify

    table, few = shards.table(entry.modality), {} if entry.files else {"count": ASKERS, "phrases": _PHRASES}
    askers = draw_askers(shards, entry.modality, entry.vector, load, **few)
    certificates: tuple[Certificate, ...] = ()
    if entry.files:
        searched = VectorIndex(table, entry.vector, load_entry(folder, entry, shards))
        certificates = certify(searched, split_askers(askers), target)
    if "text" in askers and askers["text"].drawn != "prompts":  # reports ask elsewhere than the few words that people type
        askers["phrase"] = phrases(table.findings, entry.vector)
    return replace(entry, scales=measure_scales(table, entry.vector, askers), certificates=certificates)


def _save(stage: FirstStage, generation: int, entry: IndexEntry, beside: Path) -> list[StoredFile]:
    return [store_file(beside / name, generation) for name in stage.save(beside, f"{entry.modality}-{entry.vector}")]


def _store_rows(beside: Path, generation: int, modality: str, rows: Rows) -> StoredFile:
    place = beside / f"{modality}.removed.npy"
    with whole_file(place) as part, part.open("wb") as file:
        np.save(file, rows.astype(np.int64))
    return store_file(place, generation)


def _vectors_from(shards: Shards, entry: IndexEntry, first: int) -> Iterable[npt.NDArray[np.float32]]:
    """The vectors of the rows from `first` on, block by block, float32."""
    start = 0
    for block in shards.table(entry.modality).blocks(entry.vector):
        if start + len(block) > first:
            yield np.asarray(block[max(first - start, 0) :], np.float32)
        start += len(block)
