"""A corpus through an encoder into shards: may be killed at any moment and run again, without loss or repetition.

A plan (encoder, records, options) is written first; a run with another plan is refused. Records are cut into chunks of a fixed
number of rows, one shard each; several processes take turns. A shard counts once its commit file is there, which is written
after the shard itself; the manifest, written last by whoever finds all commits, makes the folder whole. Batches never cross a
chunk, so a resumed run, or one of many processes, writes the bytes of a single uninterrupted one.
"""

import resource
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders.atomic import private_folder, recover_replaced
from encoders.checkpoint import copy_checkpoint, fingerprint
from encoders.dual import DualEncoder
from encoders.errors import MedretError
from encoders.execution import compile_encoder, constant_weights
from encoders.json_object import write_json
from encoders.precision import TRIED, agreement, has_bfloat16
from index.cache import PRIVATE_CACHE
from index.corpora.readers import Corpus
from index.corpora.record import Tally
from index.encode_options import TEXT_UNITS, EncodeOptions
from index.encode_run import EncodeRun, Progress, dimensions, evaluating, filled, shard_rows
from index.encode_summary import EncodeSummary
from index.manifest import PRIVATE_COLUMNS, PRIVATE_PATHS, SHARDS_MANIFEST, ModalityShards, ShardsManifest, load_shards_manifest
from index.pseudonyms import Pseudonymiser
from index.resume import Commit, begin, check_place, encoding, planning, read_plan, write_csv
from index.rows import CorpusRows, RowPart, base_folder, read_rows
from index.squares import decode_squares

__all__ = ["FAILURES", "TEXT_UNITS", "EncodeOptions", "Progress", "encode_corpus"]

FAILURES = "failures.csv"
_PROBES = 16  # films, and texts, that bfloat16 is tried on


def encode_corpus(
    corpus: Corpus,
    encoder: DualEncoder,
    out: Path,
    *,
    checkpoint: Path | None = None,
    options: EncodeOptions | None = None,
    progress: Progress | None = None,
) -> EncodeSummary:
    """Encode a corpus into `out`, or go on where an earlier run with the same plan was stopped.

    A modality that the corpus does not have (a corpus without reports, or without images) is left out. Rows wait in a file
    without a name in `out`; some 200 bytes of memory a record are held.

    Args:
        corpus: Read once.
        encoder: On the device that shall compute. Where options say compile it is, for good, with its weights as constants.
        out: The shards folder; made for its owner alone.
        checkpoint: The folder that the encoder was loaded from; a copy is put beside the shards, as `out`/encoder.
        options: Defaults where None.
        progress: Called with modality, rows done, rows in all and images that failed.

    Raises:
        MedretError: If there is nothing to encode, no image can be decoded, more fail than may, ids are not unique, `out`
            holds another run or other things, another process is writing there, the disk is full, or a cache holds
            smaller squares than the encoder reads, or lies, with its real ids, in what shall be pseudonymised.
    """
    options = options or EncodeOptions()
    began = time.monotonic()
    if options.cache is not None:
        _check_cache(options.cache, options, encoder.config.preprocessing.size, out)
    check_place(out)
    private_folder(out)
    tally = Tally()
    settings = {name: getattr(options, name) for name in ("text_units", "text_sections", "splits")}
    if options.compile:
        compile_encoder(encoder)
    constant = constant_weights() if options.compile else nullcontext()
    with constant, encoding(out, options.rank, options.size), read_rows(corpus, tally, out, key=options.pseudonym_key, **settings) as rows:
        mark = fingerprint(encoder)
        with planning(out):
            plan = _plan(corpus, mark, encoder, rows, options, read_plan(out))
            begin(out, plan, options.rank, options.size)
            _put_beside(out, rows, checkpoint, options)
        made_by = {"encoder": mark, **_compute(encoder, options, plan)}
        run = EncodeRun(encoder, out, options, corpus.findings, made_by, progress or (lambda *told: None))
        _encode_all(run, rows, out)
        with planning(out):
            made = {modality: run.commits(modality, part) for modality, part in rows.parts.items()}
            manifest = _manifest(corpus, encoder, mark, options, made, plan, rows.without_text, tally.left_out.total())
            complete = all(commit is not None for part in made.values() for commit in part)
            if complete:
                manifest = _finish(out, manifest, made, rows, computed=bool(run.encoded.total()))
    held = {modality: entry.rows for modality, entry in manifest.modalities.items()}
    return EncodeSummary(
        folder=out,
        encoder=mark,
        images=held.get("images", 0),
        reports=held.get("reports", 0),
        sentences=held.get("sentences", 0),
        failures=manifest.counts["failures"],
        texts_cut=manifest.counts["texts_cut"],
        without_text=rows.without_text,
        left_out=dict(tally.left_out),
        shards=sum(len(part) for part in made.values()),
        resumed_shards=run.resumed,
        complete=complete,
        done={modality: count for modality, count in run.encoded.items() if count},
        compute=manifest.compute,
        seconds=time.monotonic() - began,
        rates={modality: count / run.seconds[modality] for modality, count in run.encoded.items() if count},
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _check_cache(cache: Path, options: EncodeOptions, wanted: int, out: Path) -> None:
    if options.pseudonym_key is not None and cache.resolve().is_relative_to(out.resolve()):
        raise MedretError(f"{cache}: a cache holds real ids, so it must not lie in pseudonymised shards. Name another --cache")
    if options.cache_size < wanted:
        raise MedretError(f"{cache}: squares of {options.cache_size} pixels, but the encoder reads {wanted}. Ask for --cache-size {wanted}")


def _plan(
    corpus: Corpus, mark: str, encoder: DualEncoder, rows: CorpusRows, options: EncodeOptions, before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return all that the bytes of the shards depend on; the batch size changes only rounding and may change after a kill."""
    if options.compute == "auto":
        compute = before["compute"] if before is not None and "compute" in before else _choose_precision(encoder, rows, options)
    else:
        compute = dict.fromkeys(("images", "texts"), options.compute)
    return {
        "format": "medret-plan",
        "encoder": mark,
        "corpus": corpus.format,
        "findings": list(corpus.findings),
        "vectors": list(options.vectors),
        "text_units": list(options.text_units),
        "text_sections": list(options.text_sections),
        "splits": None if options.splits is None else sorted(options.splits),
        "dtype": options.dtype,
        "compute": compute,
        "compile": options.compile,
        "pixels": options.pixels,
        "shard_rows": {modality: shard_rows(encoder, modality, options) for modality in rows.parts},
        "pseudonym_key": None if options.pseudonym_key is None else Pseudonymiser(options.pseudonym_key).check,
        "records": rows.digest,  # last: where an option differs, it is what to name
    }


def _choose_precision(encoder: DualEncoder, rows: CorpusRows, options: EncodeOptions) -> dict[str, str]:
    """Take bfloat16 on a device that has it, for each side whose vectors it leaves what they are; tried on rows of the corpus."""
    chosen = dict.fromkeys(("images", "texts"), "float32")
    if not has_bfloat16(encoder.device):
        return chosen
    preprocessing = encoder.config.preprocessing
    with evaluating(encoder):
        if "images" in rows.parts:
            films = decode_squares((row.record for row in _probe(rows.parts["images"])), preprocessing, preprocessing.size)
            squares = [square for _, square in films if not isinstance(square, str)]
            batch = torch.from_numpy(filled(np.stack(squares), options)) if squares else None
            if batch is not None and agreement(lambda: encoder.encode_images(batch), encoder.device, options.compile) > TRIED:
                chosen["images"] = "bfloat16"
        if part := rows.parts.get("reports") or rows.parts.get("sentences"):
            texts = filled([row.text or "" for row in _probe(part)], options)
            if agreement(lambda: encoder.encode_texts(texts), encoder.device, options.compile) > TRIED:
                chosen["texts"] = "bfloat16"
    return chosen


def _probe(part: RowPart) -> list[Any]:
    places = np.unique(np.linspace(0, part.rows - 1, _PROBES).round().astype(int)).tolist()
    return [row for place in places for row in part.take(place, place + 1)]


def _encode_all(run: EncodeRun, rows: CorpusRows, out: Path) -> None:
    """Encode every modality; where more images fail than may, their table is written, to be looked at."""
    try:
        for modality, part in rows.parts.items():
            run.encode(modality, part)
    except MedretError:
        if run.failed and not (out / SHARDS_MANIFEST).is_file():
            with planning(out):
                write_csv(out / FAILURES, ("id", "reason"), run.failed)
        raise


def _put_beside(out: Path, rows: CorpusRows, checkpoint: Path | None, options: EncodeOptions) -> None:
    """Write what goes with the shards: the encoder that makes them, and where the images of a pseudonymised corpus are."""
    recover_replaced(out / "encoder")
    if checkpoint is not None and not _is_copy(checkpoint, out / "encoder"):
        copy_checkpoint(checkpoint, out / "encoder")  # shards go nowhere without what made them
    if options.pseudonym_key is not None and "images" in rows.parts:
        private_folder((out / PRIVATE_PATHS).parent)
        private = ((row.record.id, str(row.record.image), row.real_id) for row in rows.parts["images"])
        write_csv(out / PRIVATE_PATHS, PRIVATE_COLUMNS, private)
        if options.cache is not None:
            write_json(out / PRIVATE_CACHE, {"cache": str(options.cache.absolute())})


def _is_copy(checkpoint: Path, folder: Path) -> bool:
    """Whether the folder holds this very checkpoint, prompts included."""
    one, other = (place / "encoder.json" for place in (checkpoint, folder))
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _finish(
    out: Path, manifest: ShardsManifest, made: Mapping[str, list[Commit | None]], rows: CorpusRows, *, computed: bool
) -> ShardsManifest:
    """Write the table of failures and the manifest."""
    for modality, part in made.items():
        if not manifest.modalities[modality].rows:
            first = next(failure for commit in part if commit is not None for failure in commit.failures)
            raise MedretError(f"{out}: none of {rows.parts[modality].rows} images can be decoded; the first: {first[1]}")
    failures = [failure for part in made.values() for commit in part if commit is not None for failure in commit.failures]
    write_csv(out / FAILURES, ("id", "reason"), failures)
    if not computed and (out / SHARDS_MANIFEST).is_file():  # then nothing was computed here: say what was
        before = load_shards_manifest(out)
        manifest = replace(manifest, compute=before.compute, created_by=before.created_by)
    manifest.save(out)
    return manifest


def _manifest(
    corpus: Corpus,
    encoder: DualEncoder,
    mark: str,
    options: EncodeOptions,
    made: Mapping[str, list[Commit | None]],
    plan: Mapping[str, Any],
    without_text: int,
    left_out: int,
) -> ShardsManifest:
    """Describe what is there."""
    whole = {modality: [commit for commit in part if commit is not None] for modality, part in made.items()}
    commits = [commit for part in whole.values() for commit in part]
    hidden = options.pseudonym_key is not None
    return ShardsManifest(
        encoder=mark,
        preprocessing=encoder.config.preprocessing.to_dict(),
        dtype=options.dtype,
        compute=_compute(encoder, options, plan),
        corpus={
            "format": corpus.format,
            "root": None if hidden else str(base_folder(corpus)),
            **({} if options.cache is None or hidden else {"cache": str(options.cache.absolute())}),
        },
        findings=tuple(corpus.findings),
        text_sections=options.text_sections,
        splits=options.splits,
        pseudonymised=hidden,
        counts={
            "failures": sum(len(commit.failures) for commit in commits),
            "texts_cut": sum(commit.cut for commit in commits),
            "without_text": without_text,
            "left_out": left_out,
        },
        modalities={
            modality: ModalityShards(dimensions=dimensions(encoder, modality, options), shards=tuple(commit.shard for commit in part))
            for modality, part in whole.items()
        },
    )


def _compute(encoder: DualEncoder, options: EncodeOptions, plan: Mapping[str, Any]) -> dict[str, str]:
    weights = str(next(encoder.parameters()).dtype).removeprefix("torch.")
    return {
        "device": encoder.device.type,
        "dtype": weights,
        "images": plan["compute"]["images"],
        "texts": plan["compute"]["texts"],
        "execution": "compiled" if options.compile else "eager",
        "pixels": options.pixels,
    }
