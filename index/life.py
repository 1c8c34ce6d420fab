"""Records that come to an index after it was built."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoders.atomic import private_folder
from encoders.errors import MedretError
from index.cache import cache_of
from index.corpora.record import Tally
from index.corpora.report import report_text
from index.folder import OpenedIndex, draft_entries, open_index, open_parts, read_removed
from index.generation import Progress, build_files, grow_files, link_files, measure_entries, write_generation
from index.index_manifest import IndexEntry, IndexManifest, StoredFile, load_index_manifest
from index.pseudonyms import Pseudonymiser
from index.publish import next_parts, publish, store_part, unfinished_parts, writing
from index.removal import check_key, key_check
from index.resume import OtherRunError
from index.shards import Shards, check_ids, check_vectors, open_shards

if TYPE_CHECKING:
    from encoders.dual import DualEncoder
    from index.corpora.readers import Corpus
    from index.encode_options import EncodeOptions
    from index.encode_summary import EncodeSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSummary:
    """What was added: the new shards folder, and the index as it is now."""

    encoded: "EncodeSummary"
    manifest: IndexManifest


def add_options(opened: OpenedIndex, **chosen: Any) -> "EncodeOptions":
    """Return options to encode new records as those of an index were encoded.

    Args:
        opened: The index.
        chosen: What may differ, where it is not None: splits, batch_size, workers, pseudonym_key, max_failures, cache.

    Raises:
        MedretError: If the index is pseudonymised and no key is given, or another, or it is not and one is given.
    """
    from index.encode_options import EncodeOptions

    part = opened.shards.parts[0]
    made = part.manifest
    check_key(opened, chosen.get("pseudonym_key"))
    texts = [unit for unit, modality in (("report", "reports"), ("sentence", "sentences")) if modality in opened.shards.modalities]
    computed = {made.compute.get(side, "float32") for side in ("images", "texts")}
    how, _, size = made.compute.get("pixels", "direct").partition(" ")
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if how == "squares":
        chosen = {"cache": cache_of(part.folder, made.corpus), **chosen, "cache_size": int(size)}
    return EncodeOptions(
        vectors=tuple(opened.shards.table(opened.shards.modalities[0]).dimensions),
        text_units=tuple(texts) or ("report",),
        text_sections=made.text_sections,
        dtype=made.dtype,
        compute=computed.pop() if len(computed) == 1 else "auto",
        compile=made.compute.get("execution") == "compiled",
        **chosen,
    )


def add_corpus(
    folder: Path, corpus: "Corpus", encoder: "DualEncoder", options: "EncodeOptions", progress: Any = None, stages: Progress | None = None
) -> AddSummary:
    """Encode a corpus into a new shards folder inside an index folder, and have the index find its records too.

    May be killed at any moment and run again; until it is done the index stays as it was. Records may be removed meanwhile.

    Args:
        folder: The index folder.
        corpus: Read twice: once for its ids.
        encoder: The index's own, on the device that shall compute.
        options: As `add_options` returns them.
        progress: Of the encoding, as in `encode_corpus`.
        stages: Called with what of the index is done, how many, and of how many.

    Raises:
        MedretError: If the encoder is another one, an id is in the index already, an add of another corpus was not
            finished, another process is writing, or the corpus cannot be encoded.
    """
    from encoders.checkpoint import fingerprint
    from index.encode import encode_corpus

    opened = open_index(folder)
    if (mark := fingerprint(encoder)) != opened.manifest.encoder:
        raise MedretError(f"{folder}: is of encoder {opened.manifest.encoder}, not {mark}. Add with the index's own encoder")
    _check_new(folder, opened.shards, _ids_of(corpus, options))
    with writing(folder):
        manifest = load_index_manifest(folder)
        place = private_folder([*unfinished_parts(folder, manifest), *next_parts(folder, manifest)][0])
    try:
        encoded = encode_corpus(corpus, encoder, place, checkpoint=opened.encoder_folder, options=options, progress=progress)
    except OtherRunError as error:
        raise MedretError(
            f"{place}: an add was not finished, and this one is another ({error.difference}). "
            "Run that one again first, or remove that folder"
        ) from error
    with writing(folder):
        return AddSummary(encoded=encoded, manifest=_take_in(folder, place, stages))


def add_shards(folder: Path, place: Path, stages: Progress | None = None) -> IndexManifest:
    """Have an index find the records of a further shards folder, wherever it lies; the folder stays where it is.

    Args:
        folder: The index folder.
        place: The shards folder, of the same encoder, pseudonymised alike, with the same vectors.
        stages: Called with what of the index is done, how many, and of how many.

    Raises:
        MedretError: If the shards do not fit, an id is in the index already, or another process is writing.
    """
    with writing(folder):
        return _take_in(folder, place, stages)


def _take_in(folder: Path, place: Path, progress: Progress | None) -> IndexManifest:
    """Publish an index that has the shards at `place` as its last part. Call it as the only writer."""
    manifest = load_index_manifest(folder)
    old = open_parts(folder, manifest)
    added = open_shards(place, verify=True)
    _check_part(folder, old, added)
    tables = [added.table(modality) for modality in added.modalities]
    for table in tables:
        check_vectors(table)
        check_ids(place, table)
    _check_new(folder, old, ((table.modality, id) for table in tables for id in table.ids()))
    removed = read_removed(folder, manifest)
    new = Shards([*old.parts, *added.parts], removed)
    number = manifest.generation + 1
    held = {(entry.modality, entry.vector): entry for entry in manifest.indexes}
    entries = draft_entries(new, manifest.indexes[0].kind, {key: entry.kind for key, entry in held.items()})
    draft = replace(
        manifest,
        generation=number,
        parts=(*manifest.parts, store_part(folder, added.parts[0])),
        indexes=tuple(_as_fitted(entry, held.get((entry.modality, entry.vector))) for entry in entries),
    )

    def make(entry: IndexEntry, beside: Path) -> Sequence[StoredFile]:
        before = held.get((entry.modality, entry.vector))
        if before is None or before.fitted != entry.fitted:
            return build_files(new, number, entry, beside)
        if before.rows == entry.rows:
            return link_files(folder, number, before, beside)
        return grow_files(folder, old, new, number, before, beside)

    made = write_generation(folder, draft, removed, make, progress)
    made = measure_entries(folder, made, new, folder / made.encoder_folder, progress)
    publish(folder, made)
    return made


def _as_fitted(entry: IndexEntry, before: IndexEntry | None) -> IndexEntry:
    """Keep what a first stage was fitted to, unless the rows are more than twice as many now: then it is built again."""
    if before is None or entry.rows > 2 * before.fitted:
        return entry
    return replace(entry, fitted=before.fitted)


def _check_part(folder: Path, old: Shards, added: Shards) -> None:
    (part,) = added.parts
    if part.manifest.encoder != old.manifest.encoder:
        raise MedretError(
            f"{part.folder}: vectors of encoder {part.manifest.encoder}, but {folder} is of encoder {old.manifest.encoder}. "
            "Encode the corpus with the index's own encoder"
        )
    if part.manifest.pseudonymised != old.manifest.pseudonymised:
        words = {True: "pseudonymised", False: "not pseudonymised"}
        raise MedretError(
            f"{part.folder}: is {words[part.manifest.pseudonymised]}, but {folder} is {words[old.manifest.pseudonymised]}. "
            "Encode it as the index was"
        )
    if len({check for check in (key_check(part), key_check(old.parts[0])) if check}) > 1:  # who is removed would stay under another name
        raise MedretError(f"{part.folder}: was pseudonymised with another key than {folder}. Encode the corpus with the key of the index")
    if part.folder.resolve() in [other.folder.resolve() for other in old.parts]:
        raise MedretError(f"{part.folder}: is in {folder} already")
    wanted = old.table(old.modalities[0]).dimensions
    for modality in added.modalities:
        if (found := added.table(modality).dimensions) != (
            expected := old.table(modality).dimensions if modality in old.modalities else found
        ):
            raise MedretError(f"{part.folder}: {modality} have vectors {dict(found)}, expected {dict(expected)} as in {folder}")
        if set(found) != set(wanted):
            raise MedretError(f"{part.folder}: {modality} have {', '.join(found)} vectors, expected {', '.join(wanted)} as in {folder}")


def _check_new(folder: Path, held: Shards, coming: Iterator[tuple[str, str]]) -> None:
    """Refuse ids that are in the index."""
    known = {modality: set(table.ids(table.live_rows)) for modality in held.modalities for table in [held.table(modality)]}
    for modality, id in coming:
        if id in known.get(modality, ()):
            raise MedretError(
                f"{folder}: record {id} is in the index already ({modality}). Add only what is new, or remove it first: "
                f"medret remove --index {folder} --id ID"
            )


def _ids_of(corpus: "Corpus", options: "EncodeOptions") -> Iterator[tuple[str, str]]:
    """Yield the modality and the id of each image and each report that the corpus will give."""
    names = None if options.pseudonym_key is None else Pseudonymiser(options.pseudonym_key)
    for record in corpus.records(Tally()):
        if options.splits is not None and record.split not in options.splits:
            continue
        named = record if names is None else names.record(record)
        if record.image is not None:
            yield "images", named.id
        if report_text(record.sections, options.text_sections):
            yield "reports", named.study_id or named.id
