"""What made a folder of shards or an index: JSON, checked whenever the folder is opened."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from encoders.errors import MedretError
from encoders.json_object import read_json, write_json

SHARDS_MANIFEST = "manifest.json"
SHARDS_PLAN = "plan.json"
INDEX_MANIFEST = "index.json"
PRIVATE_PATHS = Path("private") / "paths.csv"  # in a pseudonymised shards folder: where each image really is
MODALITIES = ("images", "reports", "sentences")
VECTORS = {"joint": "embedding", "features": "features"}  # what the user names: what the Arrow column is called
SHARDS_VERSION, INDEX_VERSION = 1, 2

T = TypeVar("T")


def program_version() -> str:
    """Return the name and version of this program."""
    try:
        return f"medret {version('medret')}"
    except PackageNotFoundError:
        return "medret, not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One committed shard: its file name in the folder, and what it must hold."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityShards:
    """The shards of one modality, in row order.

    Attributes:
        dimensions: Vector name ("joint", "features") to its length.
        shards: In row order; row numbers run on from one shard to the next.
    """

    dimensions: Mapping[str, int]
    shards: tuple[ShardFile, ...]

    @property
    def rows(self) -> int:
        """Rows of all shards together."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsManifest:
    """What a shards folder holds and what made it.

    Attributes:
        encoder: Fingerprint of the encoder.
        preprocessing: The encoder's preprocessing as a dictionary, for the reader; the fingerprint covers it.
        dtype: "float32" or "float16", of the stored vectors.
        compute: What computed them ("device", "dtype"): recorded, not part of the fingerprint.
        corpus: "format" and "root" (absolute path that image paths are relative to, or None where pseudonymised).
        findings: The fields of the label struct, in order.
        text_sections: Report sections that were joined into the text, in order.
        splits: The splits that were encoded, or None for all.
        counts: "failures" (images without a vector), "texts_cut" (beyond the encoder's length), "without_text" (studies, or
            records without a study, that have no text in these sections), "left_out" (rows of the corpus that became no record).
        modalities: Only those that have rows.
    """

    encoder: str
    preprocessing: Mapping[str, Any]
    dtype: str
    compute: Mapping[str, str]
    corpus: Mapping[str, str | None]
    findings: tuple[str, ...]
    text_sections: tuple[str, ...]
    splits: tuple[str, ...] | None
    pseudonymised: bool
    counts: Mapping[str, int]
    modalities: Mapping[str, ModalityShards]
    created_by: str = field(default_factory=program_version)

    def save(self, folder: Path) -> None:
        """Write `folder`/manifest.json, whole or not at all."""
        write_json(folder / SHARDS_MANIFEST, {"format": "medret-shards", "version": SHARDS_VERSION, **asdict(self)})


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
    obsolete: tuple[str, ...] = ()
    created_by: str = field(default_factory=program_version)

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The files of its generation: first stages and removed rows."""
        return tuple(file for entry in self.indexes for file in entry.files) + tuple(self.removed.values())

    def save(self, folder: Path) -> None:
        """Write `folder`/index.json, whole or not at all."""
        write_json(folder / INDEX_MANIFEST, {"format": "medret-index", "version": INDEX_VERSION, **asdict(self)})


def holds_shards(folder: Path) -> bool:
    """Whether `folder` is a shards folder, finished or begun."""
    return (folder / SHARDS_MANIFEST).is_file() or (folder / SHARDS_PLAN).is_file()


def load_shards_manifest(folder: Path) -> ShardsManifest:
    """Read and check a shards folder's manifest.

    Raises:
        MedretError: If the folder is none, its encoding is not finished, or the manifest is damaged or of another version.
    """
    path = folder / SHARDS_MANIFEST
    if not path.is_file():
        if (folder / SHARDS_PLAN).is_file():
            raise MedretError(f"{folder}: encoding was not finished ({SHARDS_MANIFEST} is missing). Run the same 'medret encode' again.")
        raise MedretError(f"{folder}: is no shards folder ({SHARDS_MANIFEST} is missing). Make one: medret encode CORPUS --out {folder}")
    return _parse(path, "medret-shards", SHARDS_VERSION, _shards_manifest)


def load_index_manifest(folder: Path) -> IndexManifest:
    """Read and check an index folder's manifest.

    Raises:
        MedretError: If the folder is none, or the manifest is damaged or of another version.
    """
    path = folder / INDEX_MANIFEST
    if not path.is_file():
        raise MedretError(f"{folder}: is no index ({INDEX_MANIFEST} is missing). Make one: medret build-index SOURCE --out {folder}")
    return _parse(path, "medret-index", INDEX_VERSION, _index_manifest)


def find_index_manifest(folder: Path) -> IndexManifest | None:
    """Read an index folder's manifest; None where there is none, or one of version 1: all that was in there is in its shards.

    Raises:
        MedretError: If the manifest is damaged or of a later version.
    """
    path = folder / INDEX_MANIFEST
    if not path.is_file() or read_json(path).get("version") == 1:
        return None
    return load_index_manifest(folder)


def check_files(folder: Path, shards: ModalityShards, verify: bool) -> None:
    """Check that each shard file is there with its size and, with `verify`, its checksum.

    Raises:
        MedretError: Naming the first file that is missing, cut or changed.
    """
    mend = "Copy it again from its source, or encode again into a new folder."
    for shard in shards.shards:
        path = folder / shard.file
        if not path.is_file():
            raise MedretError(f"{path}: the shard is missing, though {SHARDS_MANIFEST} names it. {mend}")
        size = path.stat().st_size
        if size != shard.bytes:
            raise MedretError(f"{path}: the shard is damaged: {size} bytes, expected {shard.bytes}. {mend}")
        if verify and sha256_file(path) != shard.sha256:
            raise MedretError(f"{path}: the shard is damaged: its SHA-256 is not the one in {SHARDS_MANIFEST}. {mend}")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MedretError(f"{path}: cannot be read ({error.strerror or error}). Check the file and its permissions.") from error


def _parse(path: Path, form: str, version: int, build: Callable[[dict[str, Any]], T]) -> T:
    content = read_json(path)
    if content.get("format") != form:
        raise MedretError(f"{path}: is no {form} manifest (format {content.get('format')!r}). Name another folder, or make it again.")
    if content.get("version") != version:
        raise MedretError(
            f"{path}: {form} version {content.get('version')!r}, written by {content.get('created_by')}; this medret reads "
            f"version {version}. {_mend_version(path.parent, form, content)}"
        )
    try:
        return build(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MedretError(f"{path}: the manifest is damaged ({type(error).__name__}: {error}). Make the folder again.") from error


def _shards_manifest(content: dict[str, Any]) -> ShardsManifest:
    modalities = {}
    for name, entry in content["modalities"].items():
        if name not in MODALITIES or not set(entry["dimensions"]) <= set(VECTORS):
            raise ValueError(f"modality {name} with vectors {list(entry['dimensions'])}")
        shards = tuple(
            ShardFile(file=Path(shard["file"]).name, rows=int(shard["rows"]), bytes=int(shard["bytes"]), sha256=str(shard["sha256"]))
            for shard in entry["shards"]
        )
        modalities[name] = ModalityShards(dimensions={k: int(v) for k, v in entry["dimensions"].items()}, shards=shards)
    return ShardsManifest(
        encoder=str(content["encoder"]),
        preprocessing=dict(content["preprocessing"]),
        dtype=str(content["dtype"]),
        compute=dict(content["compute"]),
        corpus=dict(content["corpus"]),
        findings=tuple(content["findings"]),
        text_sections=tuple(content["text_sections"]),
        splits=None if content["splits"] is None else tuple(content["splits"]),
        pseudonymised=bool(content["pseudonymised"]),
        counts={k: int(v) for k, v in content["counts"].items()},
        modalities=modalities,
        created_by=str(content["created_by"]),
    )


def _mend_version(folder: Path, form: str, content: Mapping[str, Any]) -> str:
    if form == "medret-index" and content.get("version") == 1 and isinstance(content.get("shards"), str):
        shards = os.path.normpath(folder / content["shards"])
        return f"Build it again from its shards, nothing is encoded anew: medret build-index {shards} --out {folder}"
    return "Install the medret that wrote it, or make the folder again."


def _index_manifest(content: dict[str, Any]) -> IndexManifest:
    return IndexManifest(
        encoder=str(content["encoder"]),
        parts=tuple(_plain(ShardsPart, part) for part in content["parts"]),
        indexes=tuple(_index_entry(entry) for entry in content["indexes"]),
        generation=int(content["generation"]),
        removed={modality: _stored_file(file) for modality, file in content["removed"].items()},
        recall=float(content["recall"]),
        encoder_folder=_inside(content["encoder_folder"]),
        obsolete=tuple(_inside(folder) for folder in content["obsolete"]),
        created_by=str(content["created_by"]),
    )


def _index_entry(content: Mapping[str, Any]) -> IndexEntry:
    files = tuple(_stored_file(file) for file in content["files"])
    certificates = tuple(_plain(Certificate, made) for made in content["certificates"])
    return _plain(IndexEntry, content, files=files, certificates=certificates)


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
