"""What an index folder holds: JSON, checked whenever the folder is opened; and the one thing that a change of it replaces."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from encoders.errors import MedretError
from encoders.export import Export
from encoders.json_object import read_json, write_json
from index.manifest import holds_shards, parse_manifest, program_version
from index.score_scale import ScoreScale

INDEX_MANIFEST = "index.json"
INDEX_VERSION = 2

_CHECKSUM = "sha256"
_AGAIN = "Copy it again from a backup, or build a new index from the shards: medret build-index SHARDS --out NEW"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of an index: its path relative to the index folder, and what it must hold.

    Attributes:
        probe: Checksum of a few of its blocks: tells a file from another of its size without reading all of it.
    """

    file: str
    bytes: int
    sha256: str
    probe: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What approximate search was measured to find, against exact search over the vectors as stored.

    Attributes:
        asker: Who asks: "image" or "text".
        k: How many hits were compared.
        target: The recall that was asked for.
        recall: Mean over the held-out queries, with the ends of its 95 % interval in `low` and `high`.
        queries: How many held-out queries.
        drawn: Where the queries come from, for the reader.
        candidates: How many are taken from the first stage and scored in full.
        effort: nprobe, efSearch or none, as the kind says.
        p50_ms: Median latency of one query, in milliseconds; `p99_ms` the 99th percentile.
        met: Whether `low` reaches `target`.
    """

    asker: str
    k: int
    target: float
    recall: float
    low: float
    high: float
    queries: int
    drawn: str
    candidates: int
    effort: int | None
    p50_ms: float
    p99_ms: float
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One index: which vectors of which modality, how they are searched, how many there are (removed ones included).

    Attributes:
        fitted: How many rows there were when its first stage was fitted to them.
        scales: How its scores spread, for each kind of query; of an index that was made before this was noted, nothing.
    """

    modality: str
    vector: str
    kind: str
    rows: int
    dimension: int
    fitted: int = 0
    metric: str = "inner_product"
    files: tuple[StoredFile, ...] = ()  # of its first stage; none where the shards alone are searched
    certificates: tuple[Certificate, ...] = ()
    scales: tuple[ScoreScale, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsPart:
    """One shards folder of an index: its path relative to the index folder, and the checksum of its manifest.

    Attributes:
        probe: Checksum of a block of each shard: tells shards that changed places.
    """

    folder: str
    sha256: str
    probe: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexManifest:
    """What an index folder holds. Its file, index.json, is the one thing that a change of the index replaces.

    Attributes:
        encoder: Fingerprint of its encoder.
        parts: The shards folders, in row order: row numbers run on from one to the next.
        generation: Counts the changes; what belongs to one lies in its own folder (g00003/).
        removed: Modality to a file of the rows that nobody may find any more: int64, ascending.
        recall: The recall that approximate search has to reach.
        encoder_folder: Where the encoder is, relative to the index folder.
        encoder_files: What that folder holds; of an index that was made before these were noted, nothing.
        text_encoder: How its texts are encoded without torch, as it was tried; None where it was made before that was.
        image_encoder: The same of its films, with what was recorded for it.
        obsolete: Folders inside the index folder that this change put out of use, or that the next one is just writing; the next
            writer deletes what is left of them.
    """

    encoder: str
    parts: tuple[ShardsPart, ...]
    indexes: tuple[IndexEntry, ...]
    generation: int = 1
    removed: Mapping[str, StoredFile] = field(default_factory=dict)
    recall: float = 0.99
    encoder_folder: str = "encoder"
    encoder_files: tuple[StoredFile, ...] = ()
    text_encoder: Export | None = None
    image_encoder: Export | None = None
    obsolete: tuple[str, ...] = ()
    created_by: str = field(default_factory=program_version)

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The files of its generation: first stages and removed rows."""
        return tuple(file for entry in self.indexes for file in entry.files) + tuple(self.removed.values())

    def save(self, folder: Path) -> None:
        """Write `folder`/index.json, whole or not at all, with a checksum of itself."""
        content = {"format": "medret-index", "version": INDEX_VERSION, **asdict(self)}
        write_json(folder / INDEX_MANIFEST, {**content, _CHECKSUM: _checksum(content)})


def load_index_manifest(folder: Path) -> IndexManifest:
    """Read and check an index folder's manifest.

    Raises:
        MedretError: If the folder is none, or the manifest is damaged or of another version.
    """
    path = folder / INDEX_MANIFEST
    if not path.is_file():
        if holds_shards(folder):
            raise MedretError(f"{folder}: is a shards folder, expected an index. Make one of it: medret build-index {folder} --out INDEX")
        raise MedretError(f"{folder}: is no index ({INDEX_MANIFEST} is missing). Make one: medret build-index SOURCE --out {folder}")
    return parse_manifest(path, "medret-index", INDEX_VERSION, _index_manifest, _build_again, _AGAIN)


def find_index_manifest(folder: Path) -> IndexManifest | None:
    """Read an index folder's manifest; None where there is none, or one of version 1: all that was in there is in its shards.

    Raises:
        MedretError: If the manifest is damaged or of a later version.
    """
    path = folder / INDEX_MANIFEST
    if not path.is_file() or _is_first_version(read_json(path)):
        return None
    return load_index_manifest(folder)


def _is_first_version(content: Mapping[str, Any]) -> bool:
    return content.get("version") == 1 and isinstance(content.get("shards"), str)


def _build_again(folder: Path, content: Mapping[str, Any]) -> str | None:
    if not _is_first_version(content):
        return None
    shards = os.path.normpath(folder / content["shards"])
    return f"Build it again from its shards, nothing is encoded anew: medret build-index {shards} --out {folder}"


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON content, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _index_manifest(content: dict[str, Any]) -> IndexManifest:
    stated = content.pop(_CHECKSUM, None)
    if stated != _checksum(content) and (stated is not None or "encoder_files" in content):  # neither was written at first
        raise ValueError("its checksum is another")
    return IndexManifest(
        encoder=str(content["encoder"]),
        parts=tuple(_plain(ShardsPart, part) for part in content["parts"]),
        indexes=tuple(_index_entry(entry) for entry in content["indexes"]),
        generation=int(content["generation"]),
        removed={modality: _stored_file(file) for modality, file in content["removed"].items()},
        recall=float(content["recall"]),
        encoder_folder=_inside(content["encoder_folder"]),
        encoder_files=tuple(_stored_file(file) for file in content.get("encoder_files", ())),
        text_encoder=_export(content.get("text_encoder")),
        image_encoder=_export(content.get("image_encoder")),
        obsolete=tuple(_inside(folder) for folder in content["obsolete"]),
        created_by=str(content["created_by"]),
    )


def _export(content: Mapping[str, Any] | None) -> Export | None:
    return None if content is None else _plain(Export, content)


def _index_entry(content: Mapping[str, Any]) -> IndexEntry:
    files = tuple(_stored_file(file) for file in content["files"])
    certificates = tuple(_certificate(made) for made in content["certificates"])
    scales = tuple(_plain(ScoreScale, made, quantiles=tuple(map(float, made["quantiles"]))) for made in content.get("scales", ()))
    return _plain(IndexEntry, content, files=files, certificates=certificates, scales=scales)


def _certificate(content: Mapping[str, Any]) -> Certificate:
    made = _plain(Certificate, content)
    if not made.low <= made.recall <= made.high or made.met != (made.low >= made.target):
        raise ValueError(f"a certificate of recall {made.recall}, {made.low} to {made.high}, met {made.met} for {made.target}")
    return made


def _stored_file(content: Mapping[str, Any]) -> StoredFile:
    return _plain(StoredFile, content, file=_inside(content["file"]))


def _plain(form: type[T], content: Mapping[str, Any], **built: Any) -> T:
    """Fill a dataclass from JSON, but for what is `built` already; a value of another type is refused."""
    for item in fields(form):  # type: ignore[arg-type]
        if item.name in content and item.name not in built:
            wanted: Any = int | float if item.type is float else item.type
            if not isinstance(content[item.name], wanted):
                raise TypeError(f"{item.name} is {content[item.name]!r}")
    return form(**{**content, **built})


def _inside(place: str) -> str:
    """Refuse a path that leads out of the index folder, or is the folder itself: what is named may be deleted."""
    if not Path(place).parts or Path(place).is_absolute() or ".." in Path(place).parts:
        raise ValueError(f"{place!r} is outside the folder")
    return place
