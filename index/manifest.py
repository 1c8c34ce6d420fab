"""What made a folder of shards: JSON, checked whenever the folder is opened."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from encoders.errors import MedretError
from encoders.json_object import read_json, write_json

SHARDS_MANIFEST = "manifest.json"
SHARDS_PLAN = "plan.json"
PRIVATE_PATHS = Path("private") / "paths.csv"  # in a pseudonymised shards folder: where each image really is
PRIVATE_COLUMNS = ("id", "path", "real_id")  # of it; the last is missing in folders of older versions
MODALITIES = ("images", "reports", "sentences")
VECTORS = {"joint": "embedding", "features": "features"}  # what the user names: what the Arrow column is called
SHARDS_VERSION = 1

T = TypeVar("T")


def program_version() -> str:
    """Return the name and version of this program."""
    from importlib.metadata import PackageNotFoundError, version  # it reads mails, as far as imports go: not for a query

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
    return parse_manifest(path, "medret-shards", SHARDS_VERSION, _shards_manifest)


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


def parse_manifest(
    path: Path,
    form: str,
    version: int,
    build: Callable[[dict[str, Any]], T],
    mend: Callable[[Path, dict[str, Any]], str | None] | None = None,
    again: str = "Make the folder again.",
) -> T:
    """Read a manifest of a form and version and build what it says.

    Args:
        path: The JSON file.
        form: What its "format" has to be.
        version: What its "version" has to be.
        build: Turns the content into the manifest; what it cannot is damaged.
        mend: Says what to do about another version, where there is something better than the program that wrote it.
        again: What to do about a damaged one.

    Raises:
        MedretError: If the file is damaged, or of another form or version.
    """
    content = read_json(path)
    if content.get("format") != form:
        raise MedretError(f"{path}: is no {form} manifest (format {content.get('format')!r}). Name another folder, or make it again.")
    if content.get("version") != version:
        advice = mend and mend(path.parent, content)
        raise MedretError(
            f"{path}: {form} version {content.get('version')!r}, written by {content.get('created_by')}; this medret reads "
            f"version {version}. {advice or 'Install the medret that wrote it, or make the folder again.'}"
        )
    try:
        return build(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MedretError(f"{path}: the manifest is damaged ({type(error).__name__}: {error}). {again}") from error


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
