"""Compaction: an index written anew without the bytes of what was removed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.atomic import private_folder, whole_folder
from encoders.checkpoint import copy_checkpoint
from encoders.errors import MedretError
from encoders.json_object import write_json
from index.cache import PRIVATE_CACHE, cache_of
from index.cache_file import forget
from index.corpora.csvfile import read_csv
from index.folder import draft_entries, open_parts, read_removed
from index.generation import Progress, build_files, measure_entries, write_generation
from index.index_manifest import IndexManifest, load_index_manifest
from index.manifest import PRIVATE_COLUMNS, PRIVATE_PATHS, SHARDS_PLAN, ModalityShards, ShardsManifest
from index.publish import PARTS, check_stored, generation_folder, generations, next_parts, publish, store_part, unfinished_parts, writing
from index.removal import KEY_CHECK, key_check
from index.resume import write_csv
from index.shard_table import Piece
from index.shards import Part, Shards, copy_live, open_shards

Live = Mapping[str, npt.NDArray[np.bool_]]  # modality to (rows of a part,) bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactSummary:
    """What was left out.

    Attributes:
        removed: Modality to how many records.
        squares: Decoded images that went from caches.
        outside: Shards folders outside the index folder that still hold the removed records.
        unfinished: Shards folders inside of encodings that were not finished; they may hold records of the same patients.
        manifest: Of the index as it is now.
    """

    removed: Mapping[str, int]
    squares: int
    outside: tuple[Path, ...]
    unfinished: tuple[Path, ...]
    manifest: IndexManifest


def compact_index(folder: Path, progress: Progress | None = None, *, rebuild: bool = False) -> CompactSummary | None:
    """Write an index anew without what was removed from it, and delete all files that held it.

    Shards folders without removed records stay as they are, unless they lie inside the index folder and list images that could
    not be decoded: of those it is not known whose they are. Of others a copy without them is written inside the index folder,
    as are the first stages of all. Folders outside the index folder are left alone. A reader that has the index open may have
    to open it again.

    Args:
        folder: The index folder.
        progress: Called with what is done, how many, and of how many.
        rebuild: Make the first stages, and what encodes without torch, anew even where nothing was removed: damaged ones are mended.

    Returns:
        What was left out; None where nothing was to be done: nothing was removed and every file is whole.

    Raises:
        MedretError: If every record was removed, a shard is damaged (or a first stage, where nothing was removed), the disk is
            full, or another process is writing.
    """
    with writing(folder):
        manifest = load_index_manifest(folder)
        old = open_parts(folder, manifest, verify=True)
        removed = read_removed(folder, manifest)
        if not removed and not rebuild:
            for stored in manifest.files:
                check_stored(folder, stored, whole=True)
            return None
        kept = [(part, live) for part, live in zip(old.parts, _live_of_parts(old, removed), strict=True)]
        if not any(live.any() for _, lives in kept for live in lives.values()):
            raise MedretError(f"{folder}: every record was removed. Remove the folder itself")
        squares = sum(_forget(old, part, lives) for part, lives in kept)
        places = next_parts(folder, manifest, len(kept))
        replace(manifest, obsolete=tuple(f"{PARTS}/{place.name}" for place in places)).save(folder)  # gone if this is killed
        renewed = [_renew(folder, place, part, lives, bool(removed)) for place, (part, lives) in zip(places, kept, strict=True)]
        new = Shards([part for part in renewed if part is not None])
        replaced = [part for part, after in zip(old.parts, renewed, strict=True) if after is not part]
        inside = [part.folder.relative_to(folder.resolve()) for part in replaced if _is_inside(folder, part)]
        kinds = {(entry.modality, entry.vector): entry.kind for entry in manifest.indexes}
        number = manifest.generation + 1
        draft = replace(
            manifest,
            generation=number,
            parts=tuple(store_part(folder, part) for part in new.parts),
            indexes=draft_entries(new, manifest.indexes[0].kind, kinds),
            text_encoder=None,  # tried again, on this machine
            image_encoder=None,
            obsolete=tuple(str(place) for place in [*inside, *(generation_folder(Path(), before) for before in generations(folder))]),
        )
        made = write_generation(folder, draft, {}, partial(build_files, new, number), progress)
        made = measure_entries(folder, made, new, folder / made.encoder_folder, progress)
        publish(folder, made, forget=True)
    return CompactSummary(
        removed={modality: len(rows) for modality, rows in removed.items()},
        squares=squares,
        outside=tuple(part.folder for part in replaced if not _is_inside(folder, part)),
        unfinished=tuple(unfinished_parts(folder, made)),
        manifest=replace(made, obsolete=()),
    )


def _live_of_parts(shards: Shards, removed: Mapping[str, npt.NDArray[np.int64]]) -> list[dict[str, npt.NDArray[np.bool_]]]:
    """Return which rows of each part are not removed."""
    lives: list[dict[str, npt.NDArray[np.bool_]]] = [{} for _ in shards.parts]
    for modality in shards.modalities:
        live = np.ones(shards.table(modality).rows, np.bool_)
        live[removed.get(modality, np.empty(0, np.int64))] = False
        start = 0
        for part, own in zip(shards.parts, lives, strict=True):
            if (entry := part.manifest.modalities.get(modality)) is not None:
                own[modality] = live[start : start + entry.rows]
                start += entry.rows
    return lives


def _forget(shards: Shards, part: Part, lives: Live) -> int:
    """Remove the images that go from the cache they came from, before the ids are forgotten; return how many."""
    cache = cache_of(part.folder, part.manifest.corpus)
    if cache is None or "images" not in lives or lives["images"].all():
        return 0
    ids = Shards([part]).table("images").ids(np.flatnonzero(~lives["images"]))
    gone = set(ids) - set(_live_ids(shards))
    return forget(cache, gone | {row["real_id"] for row in _private_rows(part) if row["id"] in gone})


def _live_ids(shards: Shards) -> list[str]:
    table = shards.table("images")
    return table.ids(table.live_rows)


def _private_rows(part: Part) -> Iterator[dict[str, str]]:
    """Yield what a pseudonymised folder keeps of each image, if it does; an older one has no real ids, nor had its cache."""
    if (part.folder / PRIVATE_PATHS).is_file():
        yield from ({"real_id": row["id"], **row} for row in read_csv(part.folder / PRIVATE_PATHS, PRIVATE_COLUMNS[:2]))


def _renew(folder: Path, place: Path, part: Part, lives: Live, removed: bool) -> Part | None:
    """Return the part itself where it holds nothing of what was removed, else a copy of what is left, or None where nothing is."""
    if all(live.all() for live in lives.values()) and not (removed and _is_inside(folder, part) and _lists_failures(part)):
        return part
    if not any(live.any() for live in lives.values()):
        return None
    with whole_folder(place) as beside:
        _copy_part(part, lives, beside)
    (renewed,) = open_shards(place).parts
    return renewed


def _copy_part(part: Part, lives: Live, target: Path) -> None:
    """Write a shards folder with the live rows only, and of the files beside it what says nothing of others.

    The plan, the commits and the table of failures do not come along: they name records, and of an image that failed it is
    not known whose it is.
    """
    modalities = {}
    for modality, entry in part.manifest.modalities.items():
        shards = copy_live(Piece(part.folder, entry), lives[modality], target, modality)
        if shards:
            modalities[modality] = ModalityShards(dimensions=entry.dimensions, shards=shards)
    check = key_check(part)
    corpus = dict(part.manifest.corpus) | ({} if check is None else {KEY_CHECK: check})
    renewed: ShardsManifest = replace(part.manifest, modalities=modalities, corpus=corpus)
    renewed.save(target)
    if (part.folder / "encoder").is_dir():
        copy_checkpoint(part.folder / "encoder", target / "encoder")
    if "images" in modalities and (part.folder / PRIVATE_PATHS).is_file():
        private_folder((target / PRIVATE_PATHS).parent)
        ids = set(Shards([part]).table("images").ids(np.flatnonzero(lives["images"])))
        left = ([row[column] for column in PRIVATE_COLUMNS] for row in _private_rows(part) if row["id"] in ids)
        write_csv(target / PRIVATE_PATHS, PRIVATE_COLUMNS, left)
        if (cache := cache_of(part.folder, part.manifest.corpus)) is not None:
            write_json(target / PRIVATE_CACHE, {"cache": str(cache)})


def _lists_failures(part: Part) -> bool:
    """Whether tables in the folder name images that have no row; beside the plan, or gone with it."""
    return part.manifest.counts.get("failures", 0) > 0 and (part.folder / SHARDS_PLAN).is_file()


def _is_inside(folder: Path, part: Part) -> bool:
    return part.folder.is_relative_to(folder.resolve())
