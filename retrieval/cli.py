"""The command line: parse, call one function, print."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from encoders.device import choose_device
from encoders.errors import MedretError
from retrieval.quantities import parse_bytes, parse_seconds
from retrieval.terminal import Progress, progress_bar

if TYPE_CHECKING:
    from index.corpora.readers import Corpus
    from index.encode import EncodeOptions, EncodeSummary
    from retrieval.engine import Answer, SearchEngine
    from retrieval.filters import Condition
    from retrieval.results import EvaluationResult
    from train.config import TrainConfig
    from train.data import ImageSet
    from train.sources import CorpusSource
    from train.trainer import TrainResult, Validate

app = typer.Typer(
    name="medret",
    help="Find chest radiographs and reports by meaning. For research: not a diagnostic device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Benchmark = Literal["label-precision", "report-recall", "chexpert-8x200"]
Format = Literal["table", "json", "html"]
Vector = Literal["joint", "features"]
CorpusPath = Annotated[
    Path, typer.Argument(help="A corpus folder (MIMIC-CXR-JPG, CheXpert, OpenI, DICOM, plain JPEG or PNG) or a table of images and texts.")
]
CorpusFormat = Annotated[
    str | None,
    typer.Option("--format", help="mimic-cxr-jpg, chexpert, openi, table, dicom or images; recognised from the folder when not given."),
]
Reports = Annotated[Path | None, typer.Option(help="Where MIMIC's reports lie, if not beside the images: a folder or the sectioned CSV.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="For tables: NAME=COLUMN, e.g. --column patient=subject; repeatable.")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="MIMIC: chexpert, negbio or test-set. CheXpert Plus: impression, findings or report.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU where there is one when not given.")]
Index = Annotated[Path, typer.Option("--index", envvar="MEDRET_INDEX", help="Folder made by 'medret build-index'.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only records of this split; repeatable.")]
Views = Annotated[
    list[str] | None, typer.Option("--view", help="Only images of this view (as the source spells it: PA, AP, Frontal ...); repeatable.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE[,VALUE]",
        help="Only records that say so of themselves, e.g. sex=F, age=40..60, study_date=2011-05.., 'Pleural Effusion=positive'; "
        "all where repeated.",
    ),
]
Vectors = Annotated[str, typer.Option(help="joint, features (the encoder's output before projection), or joint,features.")]
Units = Annotated[str, typer.Option("--text-unit", help="report, sentence, or report,sentence.")]
KeyFile = Annotated[Path | None, typer.Option(help="Replace patient, study and file ids by hashes keyed with this file.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images or texts in a forward pass.")]
DefaultEncoder = Annotated[
    Path | None, typer.Option("--encoder", help="A checkpoint or training run; MEDRET_ENCODER's, else medret's own, when not given.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode images; one a core when not given.")]
INDEX = Path("medret-index")
ENCODER = "MEDRET_ENCODER"  # in the environment: the checkpoint or run that stands for the default encoder
DEBUG = "MEDRET_DEBUG"  # set in the environment, it lets tracebacks through
_FLAGS = {"directions": "direction", "ks": "k", "splits": "split", "views": "view"}  # parameter to flag, where they differ


@dataclass(frozen=True, kw_only=True)
class CorpusFlags:
    """The options of every command that opens one corpus."""

    format: CorpusFormat = None
    reports: Reports = None
    column: Columns = None
    labels: Labels = None

    def corpus(self, path: Path) -> "Corpus":
        """Open the corpus, and say what it was taken for."""
        return _open_corpus(path, self.format, self.reports, self.column, self.labels)


@dataclass(frozen=True, kw_only=True)
class EncodeFlags(CorpusFlags):
    """The options of every command that encodes a corpus."""

    encoder: DefaultEncoder = None
    vectors: Vectors = "joint"
    text_unit: Units = "report"
    split: Splits = None
    pseudonymise: KeyFile = None
    dtype: Annotated[str, typer.Option(help="float32, or float16 for half the space.")] = "float32"
    batch_size: BatchSize = 32
    shard_size: Annotated[str, typer.Option(help="Of the vectors in a shard, about; a kill costs two shards at most.")] = "4MB"
    compute: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where the device has it and it leaves the vectors alone.")
    ] = "auto"
    compile: Annotated[bool, typer.Option("--compile", help="By torch.compile: a minute to begin, then faster.")] = False
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded images: taken from there, and put there first.")] = None
    cache_size: Annotated[int, typer.Option(min=1, help="Side of the squares in it, in pixels.")] = 512
    workers: Workers = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Encode images that could not be decoded and now can.")] = False
    max_failures: Annotated[str | None, typer.Option(help="Stop when more images cannot be decoded: a number, or 2%.")] = None
    device: Device = None

    def options(self, rank: int | None = 0, size: int | None = 1) -> "EncodeOptions":
        """Read the options that are texts; a process that is told neither rank nor size asks torchrun."""
        from index.encode import EncodeOptions
        from index.pseudonyms import read_key
        from retrieval.quantities import own_turn, parse_limit

        key = None if self.pseudonymise is None else read_key(self.pseudonymise)
        same = ("dtype", "batch_size", "compute", "compile", "cache", "cache_size", "workers", "retry_failed")
        try:
            turn = own_turn(rank, size, os.environ)
            return EncodeOptions(
                **{name: getattr(self, name) for name in same},
                vectors=tuple(self.vectors.split(",")),
                text_units=tuple(self.text_unit.split(",")),
                splits=tuple(self.split) if self.split else None,
                pseudonym_key=key,
                shard_bytes=parse_bytes(self.shard_size),
                max_failures=None if self.max_failures is None else parse_limit(self.max_failures),
                rank=turn[0],
                size=turn[1],
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class AddFlags(CorpusFlags):
    """The options of encoding that may differ from those of the records that an index holds."""

    encoder: Annotated[Path | None, typer.Option(help="Use this copy of the index's encoder; another encoder is refused.")] = None
    split: Splits = None
    pseudonymise: Annotated[Path | None, typer.Option(help="The key file that the index was pseudonymised with.")] = None
    batch_size: BatchSize = 32
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded images; the index's own when not given.")] = None
    workers: Workers = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Encode images that could not be decoded and now can.")] = False
    max_failures: Annotated[str | None, typer.Option(help="Stop when more images cannot be decoded: a number, or 2%.")] = None
    device: Device = None

    def options(self) -> dict[str, Any]:
        """Return what is asked, by the names of EncodeOptions."""
        from index.pseudonyms import read_key
        from retrieval.quantities import parse_limit

        chosen = {name: getattr(self, name) for name in ("batch_size", "workers", "retry_failed", "cache")}
        chosen["splits"] = tuple(self.split) if self.split else None
        chosen["pseudonym_key"] = None if self.pseudonymise is None else read_key(self.pseudonymise)
        try:
            return {**chosen, "max_failures": None if self.max_failures is None else parse_limit(self.max_failures)}
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def _spread(flags: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of `flags` as options of its own; it takes them as one argument of that name."""

    def spread(command: Callable[..., None]) -> Callable[..., None]:
        names = [field.name for field in fields(flags)]

        @wraps(command)
        def run(**given: Any) -> None:
            command(flags=flags(**{name: given.pop(name) for name in names}), **given)

        own = [parameter for parameter in signature(command).parameters.values() if parameter.name != "flags"]
        added = [parameter for parameter in signature(flags).parameters.values() if parameter.name in names]
        parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own + added]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return spread


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet, or be empty.")],
    patients: Annotated[int, typer.Option(min=1, max=2_500_000, help="How many patients to draw.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same corpus, byte for byte.")] = 0,
    combinations: Annotated[
        int | None, typer.Option(min=1, max=42, help="How many sets of findings occur, with no device and no doubt; else any.")
    ] = None,
) -> None:
    """Write a synthetic corpus: radiograph-like phantoms with reports, in the MIMIC-CXR-JPG layout."""
    from index.corpora.phantom import write_phantoms

    with progress_bar("drawing", "patient") as progress:
        summary = write_phantoms(out, patients, seed, progress=lambda done: progress(done, patients), combinations=combinations)
    print(f"{out}: {summary.patients} patients, {summary.studies} studies, {summary.images} images, {summary.reports} reports")
    print("positive images: " + ", ".join(f"{finding} {count}" for finding, count in summary.findings.items() if count))
    print(f"Synthetic: nothing here was seen in a patient. Next: medret corpus {out}")


@app.command()
def corpus(
    path: CorpusPath,
    format: CorpusFormat = None,
    reports: Reports = None,
    column: Columns = None,
    labels: Labels = None,
    check_images: Annotated[bool, typer.Option("--check-images", help="Decode every image and name those at fault.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a corpus holds, and every fault found in it."""
    from index.corpora.summary import render_summary, summarise_corpus

    opened = _open_corpus(path, format, reports, column, labels)
    with progress_bar("checking", "image") as progress:
        summary = summarise_corpus(opened, check_images=check_images, progress=progress)
    print(json.dumps(summary.to_dict(), indent=2) if as_json else render_summary(summary))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: best/, last/, metrics.csv, curves.png, config.toml.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Corpora to learn from: folders or tables. None where the file of --config names them."),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(min=0, help="A corpus's part of every batch; one for each PATH, in their order. By their sizes when not given."),
    ] = None,
    objective: Annotated[str | None, typer.Option(help="convirt, medclip or umcl.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin from this checkpoint or run, with its tokenizer and preprocessing.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of settings, or a ready one: convirt-published, medclip-published, umcl-published.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image encoder: a preset (tiny, resnet50, ...) or a Hugging Face folder.")] = None,
    image_weights: Annotated[str | None, typer.Option(help="Weights of a preset that takes them (efficientnet-lite0: imagenet).")] = None,
    text: Annotated[str | None, typer.Option(help="Text encoder: tiny, bert-base or a Hugging Face folder of the BERT family.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images of the first corpus.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images in a step.")] = None,
    chunk_size: Annotated[int | None, typer.Option(min=0, help="Images or texts encoded at once, where the batch exceeds memory.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order, sentences and augmentation.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: KEY=VALUE as in TOML; repeatable.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept; OUT/cache when not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, with its settings and corpora.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in OUT and start again.")] = False,
    device: Device = None,
    format: CorpusFormat = None,
    reports: Reports = None,
    column: Columns = None,
    labels: Labels = None,
) -> None:
    """Learn an encoder from the images, reports and labels of one corpus or several.

    On several GPUs: torchrun --nproc-per-node 8 --no-python medret train ... Every process takes a share of each batch.
    """
    from train.config import load_config, parse_settings

    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with the run in OUT and --overwrite deletes it: give one of them")
    if resume and config is None and (out / "config.toml").is_file():
        config = out / "config.toml"  # the settings it began with
    named = {"objective": objective, "start": start and str(start), "image": image, "image_weights": image_weights, "text": text}
    numbers = {"epochs": epochs, "batch_size": batch_size, "chunk_size": chunk_size, "seed": seed}
    flags = {key: value for key, value in {**named, **numbers}.items() if value is not None}
    settings = load_config(config, **{**parse_settings(setting or []), **flags})
    told = {"format": format, "reports": reports and str(reports), "columns": _columns(column), "labels": labels}
    sources = _choose_sources(paths or [], weight or [], {key: value for key, value in told.items() if value}, config, resume)
    result = _train(sources, settings, out, device, cache_folder=cache, resume=resume, overwrite=overwrite)
    if result.stopped == "interrupted":
        raise typer.Exit(130)


@app.command()
@_spread(EncodeFlags)
def encode(
    path: CorpusPath,
    out: Annotated[Path, typer.Option(help="Shards folder; run again to go on where a run was stopped.")],
    flags: EncodeFlags,
    rank: Annotated[int | None, typer.Option(help="Which of --size processes this one is, from 0; torchrun's when not given.")] = None,
    size: Annotated[int | None, typer.Option(help="How many processes share the work, each started with its --rank.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Encode the images and reports of a corpus into Arrow shards."""
    from retrieval.tables import render_encoding

    summary = _encode(flags.corpus(path), flags.encoder or _default_encoder(), out, flags.options(rank, size), flags.device)
    print(json.dumps(summary.to_dict(), indent=2) if as_json else render_encoding(summary))


@app.command()
@_spread(CorpusFlags)
def cache(
    path: CorpusPath,
    out: Annotated[Path, typer.Option(help="Folder of the cache, for 'medret encode --cache' and 'medret train --cache'.")],
    flags: CorpusFlags,
    encoder: DefaultEncoder = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the squares that films are kept as, in pixels.")] = 512,
    split: Splits = None,
    workers: Workers = None,
) -> None:
    """Decode the images of a corpus once, for every encoder that fits films into squares as this one does."""
    from encoders.checkpoint import find_checkpoint, read_preprocessing
    from index.corpus_cache import cache_corpus

    preprocessing = read_preprocessing(find_checkpoint(encoder or _default_encoder()))
    with progress_bar("decoding", "image") as progress:
        held = cache_corpus(flags.corpus(path), preprocessing, out, size, splits=split, workers=workers, progress=progress)
    print(f"{out}: {len(held.ids):,} images of {size} x {size} pixels")
    if held.failures:
        _note(f"{len(held.failures)} images cannot be decoded; the first: {next(iter(held.failures.values()))}")


@app.command("build-index")
@_spread(EncodeFlags)
def build_index(
    source: Annotated[Path, typer.Argument(help="A corpus, or a shards folder made by 'medret encode'.")],
    flags: EncodeFlags,
    out: Annotated[Path, typer.Option(envvar="MEDRET_INDEX", help="Index folder.")] = INDEX,
    kind: Annotated[
        str,
        typer.Option(
            help="auto chooses; flat (exact), scan, ivf-scan, ivf-flat, ivf-rabitq, hnsw, or any FAISS factory string: all but flat "
            "propose candidates that the full vectors then rank."
        ),
    ] = "auto",
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="What approximate search has to find, measured against exact search.")
    ] = 0.99,
    memory: Annotated[str | None, typer.Option(help="With auto: what a search may need, e.g. 2GB; the machine's when not given.")] = None,
    latency: Annotated[str | None, typer.Option(help="With auto: what a query may take, e.g. 5ms.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Build even what is predicted to take over an hour.")] = False,
) -> None:
    """Build an index from shards, or from a corpus (which is encoded first, into OUT/shards)."""
    from index.folder import build_index as build
    from index.kinds import find_kind
    from index.manifest import holds_shards
    from retrieval.index_tables import contract_notes, index_folder_lines
    from retrieval.tables import render_encoding

    if kind != "auto":
        if memory or latency:
            raise typer.BadParameter("--memory and --latency choose a kind: they go with --kind auto")
        find_kind(kind)  # before hours of encoding
    limits = _quantity("--memory", memory, parse_bytes), _quantity("--latency", latency, parse_seconds)
    shards = source
    if not holds_shards(source):
        shards = out / "shards"
        encoder = flags.encoder or _default_encoder()
        print(render_encoding(_encode(flags.corpus(source), encoder, shards, flags.options(), flags.device)))
    chosen = _choose_kind(shards, kind, recall, *limits, yes)
    with progress_bar("indexing", "index") as progress:
        told = partial(_swapped, progress)
        manifest = build(shards, out, flags.encoder or shards / "encoder", chosen, recall=recall, progress=told)
    for entry in manifest.indexes:
        for note in contract_notes(entry, recall):
            _note(note)
    print(index_folder_lines(out, manifest.indexes, recall))


@app.command()
def info(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", envvar="MEDRET_INDEX", help="Folder made by 'medret build-index'.")] = INDEX,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an index holds, and what its searches were measured to find and to take."""
    from index.folder import open_index
    from retrieval.index_tables import describe_index, render_info

    held = describe_index(open_index(index_dir))
    print(json.dumps(held, indent=2) if as_json else render_info(held))


@app.command()
@_spread(AddFlags)
def add(
    source: Annotated[Path, typer.Argument(help="A corpus of new records, or a shards folder of them made by the index's encoder.")],
    flags: AddFlags,
    index_dir: Index = INDEX,
) -> None:
    """Add records to an index; run again to go on where a run was stopped."""
    from encoders.checkpoint import find_checkpoint, load_checkpoint
    from index.folder import open_index
    from index.life import add_corpus, add_options, add_shards
    from index.manifest import holds_shards
    from retrieval.tables import encoding_notes, encoding_progress, render_encoding, render_index

    if holds_shards(source):
        with progress_bar("indexing", "index") as progress:
            manifest = add_shards(index_dir, source, lambda what, done, total: progress(done, total, what))
        print(render_index(index_dir, manifest))
        return
    opened = open_index(index_dir)
    options = add_options(opened, **flags.options())
    place = opened.encoder_folder if flags.encoder is None else find_checkpoint(flags.encoder)
    encoder = load_checkpoint(place, choose_device(flags.device))
    with progress_bar("encoding", "row") as rows, progress_bar("indexing", "index") as stages:
        added = add_corpus(
            index_dir,
            flags.corpus(source),
            encoder,
            options,
            progress=lambda *told: rows(*encoding_progress(*told)),
            stages=lambda what, done, total: stages(done, total, what),
        )
    for note in encoding_notes(added.encoded, encoder.config.max_tokens, pseudonymised=options.pseudonym_key is not None):
        _note(note)
    print(render_encoding(added.encoded))
    print(render_index(index_dir, added.manifest))


@app.command()
def remove(
    index_dir: Index = INDEX,
    id: Annotated[list[str] | None, typer.Option("--id", help="An image, a report or a sentence, as hits name it; repeatable.")] = None,
    patient: Annotated[list[str] | None, typer.Option("--patient", help="All that is of this patient; repeatable.")] = None,
    study: Annotated[list[str] | None, typer.Option("--study", help="All that is of this study; repeatable.")] = None,
    pseudonymise: Annotated[
        Path | None, typer.Option(help="The ids are the real ones: find them with the key file that the index was pseudonymised with.")
    ] = None,
) -> None:
    """Remove records from every answer at once; 'medret compact' then erases them from the files."""
    from index.pseudonyms import read_key
    from index.removal import remove_records

    if not (id or patient or study):
        raise typer.BadParameter("name what to remove: --id, --patient or --study")
    key = None if pseudonymise is None else read_key(pseudonymise)
    summary = remove_records(index_dir, ids=id or [], patients=patient or [], studies=study or [], key=key)
    print(f"{index_dir}: removed {_counts(summary.removed)}. To erase them from the files: medret compact --index {index_dir}")


@app.command()
def compact(index_dir: Index = INDEX) -> None:
    """Erase removed records from an index: shards, first stages, side tables and caches are written anew without them."""
    from index.compact import compact_index
    from retrieval.tables import render_index

    with progress_bar("indexing", "index") as progress:
        summary = compact_index(index_dir, lambda what, done, total: progress(done, total, what))
    for folder in summary.outside:
        _note(f"{folder}: lies outside the index and still holds the removed records; delete it where nothing else needs it")
    for folder in summary.unfinished:
        _note(f"{folder}: an add that was not finished; it may hold records of the same patients. Finish it, or delete it")
    squares = f" and {summary.squares:,} decoded images" if summary.squares else ""
    print(f"{index_dir}: erased {_counts(summary.removed)}{squares}")
    print(render_index(index_dir, summary.manifest))


@app.command()
def verify(
    shards: Annotated[Path | None, typer.Argument(help="A shards folder; the index when not given.")] = None,
    index_dir: Index = INDEX,
) -> None:
    """Compare every file of an index, its shards and encoder included, with its checksum; name each that is damaged."""
    from index.verify import verify_index, verify_shards

    verified = verify_index(index_dir) if shards is None else verify_shards(shards)
    if verified.faults:
        for fault in verified.faults:
            print(f"medret: {fault}", file=sys.stderr)
        raise typer.Exit(1)
    held = ", ".join(f"{count:,} {name}" for name, count in verified.records.items())
    print(f"{verified.folder}: whole: {held}; {verified.files:,} files, {verified.bytes:,} bytes, every checksum right")


@app.command()
def query(
    text: Annotated[str | None, typer.Option("--text", help="A finding or a report, in plain words.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="A label that the encoder has learned a prompt for.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A film: JPEG, PNG or DICOM.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="A record of the index.")] = None,
    find: Annotated[Literal["images", "reports", "sentences"], typer.Option(help="What to look for.")] = "images",
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    index_dir: Index = INDEX,
    split: Splits = None,
    view: Views = None,
    only: Only = None,
    exclude_same_patient: Annotated[
        bool | None,
        typer.Option("--exclude-same-patient/--include-same-patient", help="On where the query is a record of the corpus."),
    ] = None,
    vector: Annotated[Vector, typer.Option(help="features: the encoder's output before projection.")] = "joint",
    format: Annotated[Format, typer.Option(help="How to print them.")] = "table",
    with_ids: Annotated[bool, typer.Option("--with-ids", help="HTML: name patients, records and paths.")] = False,
    encoder: Annotated[Path | None, typer.Option(help="Use this copy of the index's encoder; another encoder is refused.")] = None,
    device: Device = None,
) -> None:
    """Print the k records that answer a text, a label, an image or a record best."""
    if sum(given is not None for given in (text, label, image, id)) != 1:
        raise typer.BadParameter("give one of --text, --label, --image and --id")
    from retrieval.engine import Query, SearchEngine
    from retrieval.tables import answer_notes

    search_device = device if device is not None and device.startswith("cuda") else None  # as named: for one query a GPU seldom pays
    engine = SearchEngine.load(index_dir, encoder, choose_device(device), search_device)
    asked = Query(
        text=text,
        label=label,
        image=image,
        id=id,
        find=find,
        k=k,
        splits=tuple(split) if split else None,
        views=tuple(view) if view else None,
        only=_conditions(only),
        exclude_same_patient=exclude_same_patient,
        vector=vector,
    )
    answer = engine.search(asked)
    for note in answer_notes(answer):
        _note(note)
    _print_answer(engine, answer, format, with_ids)


@app.command()
def evaluate(
    benchmark: Annotated[Benchmark, typer.Argument(help="What to measure.")],
    lists: Annotated[Path | None, typer.Argument(help="chexpert-8x200: the folder of the published lists.")] = None,
    index_dir: Index = INDEX,
    direction: Annotated[list[str] | None, typer.Option("--direction", help="text-image, image-image, ...; all when not given.")] = None,
    split: Splits = None,
    view: Views = None,
    only: Only = None,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Cut-offs; repeatable.")] = None,
    by: Annotated[
        Literal["image", "study"] | None, typer.Option(help="Candidates: images (when not given), or each study by its best image.")
    ] = None,
    uncertain: Annotated[
        Literal["negative", "positive", "ignore"] | None, typer.Option(help="label-precision: what uncertain labels count as; negative.")
    ] = None,
    exclude_same_patient: Annotated[
        bool | None,
        typer.Option("--exclude-same-patient/--include-same-patient", help="For image queries; on, but off for chexpert-8x200."),
    ] = None,
    max_queries: Annotated[int | None, typer.Option(min=1, help="label-precision: image queries of each finding; 1000.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="label-precision: draws those queries; 0.")] = None,
    image_vector: Annotated[Vector | None, typer.Option(help="What image-image compares; chexpert-8x200: features, else joint.")] = None,
    image_root: Annotated[Path | None, typer.Option(help="chexpert-8x200: encode just the listed images, from here.")] = None,
    encoder: Annotated[Path | None, typer.Option(help="With --image-root: the encoder; else a check of the index's own.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write the result and examples as one HTML page.")] = None,
    with_ids: Annotated[bool, typer.Option("--with-ids", help="HTML: name patients, records and paths.")] = False,
    device: Device = None,
) -> None:
    """Score retrieval on a benchmark, with the level of chance beside each figure."""
    from retrieval.engine import SearchEngine
    from retrieval.tables import render_result

    if (lists is None) == (benchmark == "chexpert-8x200"):
        raise typer.BadParameter("chexpert-8x200 needs the folder of its lists: medret evaluate chexpert-8x200 LISTS; the others take none")
    given: dict[str, Any] = {"directions": direction, "ks": k, "splits": split, "views": view, "by": by, "uncertain": uncertain}
    given |= {"exclude_same_patient": exclude_same_patient, "max_queries": max_queries, "seed": seed, "image_vector": image_vector}
    given["only"] = _conditions(only)
    measure = _measure(benchmark, lists, given)
    _check_places(json_out, html_out)
    with _listed_index(lists, image_root, encoder, device) as listed:
        engine = SearchEngine.load(listed or index_dir, encoder, choose_device(device))
        result = measure(engine)
        content = result.to_dict()
        print(render_result(content))
        if json_out is not None:
            _write(json_out, json.dumps(content, indent=2) + "\n")
        if html_out is not None:
            from retrieval.report import render_evaluation

            _write(html_out, render_evaluation(engine, content, with_ids=with_ids))


@app.command()
def doctor() -> None:
    """Say what is installed, and what is wrong with it."""
    from retrieval.doctor import examine, render_checks

    checks = list(examine(_named_encoder()))
    print(render_checks(checks))
    if any(check.fatal for check in checks):
        raise MedretError("this installation cannot work; the lines marked ! say what to do")


def _open_corpus(path: Path, format: str | None, reports: Path | None, column: list[str] | None, labels: str | None) -> "Corpus":
    from index.corpora.readers import open_corpus

    opened = open_corpus(path, format, reports=reports, columns=_columns(column), labels=labels)
    if opened.recognised:
        _note(f"{path}: read as {opened.format}")
    return opened


def _conditions(only: list[str] | None) -> "tuple[Condition, ...]":
    from retrieval.filters import parse_condition

    try:
        return tuple(parse_condition(text) for text in only or ())
    except ValueError as error:
        raise typer.BadParameter(f"--only {error}") from error


def _choose_kind(shards: Path, kind: str, recall: float, memory: float | None, latency: float | None, yes: bool) -> str:
    """The kind of index to build; says on stderr what each would cost and why this one."""
    from index.cost import resolve_kind
    from index.manifest import load_shards_manifest
    from retrieval.index_tables import render_predictions

    held = load_shards_manifest(shards).modalities.values()
    rows, dimension = max(((one.rows, size) for one in held for size in one.dimensions.values()), key=lambda pair: pair[0] * pair[1])
    choice = resolve_kind(kind, rows, dimension, recall, memory, latency, yes)
    if choice.predictions:
        _note(f"predicted for {rows:,} x {dimension} vectors on this machine:")
        print(render_predictions(choice.predictions), file=sys.stderr)
    if choice.reason:
        _note(choice.reason)
    return choice.kind


def _swapped(progress: Progress, what: str, done: int, total: int) -> None:
    progress(done, total, what)


def _quantity(flag: str, text: str | None, parse: Callable[[str], float]) -> float | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{flag}: {error}") from error


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    if unclear := next((pair for pair in pairs if "=" not in pair), None):
        raise typer.BadParameter(f"--column {unclear}: expected NAME=COLUMN, e.g. --column patient=subject")
    return {name.strip(): column for name, column in (pair.split("=", 1) for pair in pairs)}


def _choose_sources(
    paths: list[Path], weights: list[float], told: dict[str, Any], config: Path | None, resume: bool
) -> "list[CorpusSource]":
    """The corpora named on the command line, or else by the settings' file; a run that goes on knows its own."""
    from train.sources import CorpusSource, load_sources

    if weights and len(weights) != len(paths):
        raise typer.BadParameter(f"--weight is given {len(weights)} times for {len(paths)} corpora: give one for each PATH, or none")
    if told and len(paths) != 1:
        alone = "--format, --reports, --column and --labels tell of one PATH"
        raise typer.BadParameter(f"{alone}: name several corpora in the file of --config, a [[corpus]] table each")
    filed = list(load_sources(config)) if config else []
    given = [CorpusSource(path=str(path), weight=part, **told) for path, part in zip(paths, weights or [0.0] * len(paths), strict=True)]
    again = resume and not weights and not told and [source.path for source in filed] == [str(path.absolute()) for path in paths]
    if not (chosen := filed if again or not given else given):
        raise typer.BadParameter("no corpus: name one or several, or have the file of --config name them, a [[corpus]] table each")
    if filed and chosen is given:
        _note(f"{config}: its [[corpus]] tables are left aside, the command line names the corpora")
    return chosen


def _train(sources: "list[CorpusSource]", settings: "TrainConfig", out: Path, device: str | None, **options: Any) -> "TrainResult":
    """Train, alone or as one of torchrun's processes; the first of them speaks."""
    from retrieval.tables import render_metrics
    from train.distributed import join_group
    from train.run import train_corpora
    from train.samples import Source

    with join_group(device) as group, progress_bar("decoding", "image") as decoding, progress_bar("training", "step") as steps:
        first = group.rank == 0
        opened = [Source(source.open(), source.weight) for source in sources]
        for source in opened:
            if first and source.corpus.recognised:
                _note(f"{source.corpus.root}: read as {source.corpus.format}")
        result = train_corpora(
            opened,
            settings,
            out,
            validator=partial(_validator, settings.learn == "prompts"),
            group=group,
            decoding=decoding if first else None,
            progress=(lambda done, total, loss: steps(done, total, f"loss {loss:.3f}")) if first else None,
            report=(lambda row: steps.say(render_metrics(row))) if first else None,
            **options,
        )
    if first:
        for note in result.notes:
            _note(note)
        best = f"; best by {result.metric}: {render_metrics(result.best_row)}" if result.best_row else ""
        print(f"{result.stopped} after {result.steps} steps, {result.waiting:.1%} of the time waiting for data{best}")
        if result.stopped == "interrupted":
            print(f"go on with: medret train --out {out} --resume", file=sys.stderr)
        else:
            print(f"encoder: {result.best or result.last}; curves: {out / 'curves.png'}")
    return result


def _validator(labels_alone: bool, images: "ImageSet") -> "Validate":
    """What measures an encoder on held-out images: by their labels alone where only prompts change."""
    from retrieval.validation import paired_validator, record_labels

    texts = ["" if labels_alone else " ".join(sentences) for sentences in images.sentences]
    return paired_validator(images.films, texts, record_labels(images.records))


def _named_encoder() -> Path | None:
    named = os.environ.get(ENCODER)
    return Path(named) if named else None


def _default_encoder() -> Path:
    """The encoder of a corpus for which none was named; says on stderr which it is and where its limits are written down."""
    from encoders.checkpoint import default_checkpoint, read_fingerprint

    named = _named_encoder()
    folder = default_checkpoint(named)
    card = folder / "MODEL_CARD.md"
    limits = f"; what it can and cannot do: {card}" if card.is_file() else ""
    _note(f"no --encoder given: {ENCODER if named else 'the default encoder'} {read_fingerprint(folder)}, for research only{limits}")
    return folder


def _encode(corpus: "Corpus", encoder: Path, out: Path, options: "EncodeOptions", device: str | None) -> "EncodeSummary":
    """Encode, and say on stderr what is to be known of it."""
    from encoders.checkpoint import find_checkpoint, load_checkpoint
    from index.encode import encode_corpus
    from retrieval.tables import encoding_notes, encoding_progress

    checkpoint = find_checkpoint(encoder)
    if device is None and options.size > 1 and "LOCAL_RANK" in os.environ and choose_device() == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    loaded = load_checkpoint(checkpoint, choose_device(device))
    with progress_bar("encoding", "row") as progress:
        summary = encode_corpus(
            corpus, loaded, out, checkpoint=checkpoint, options=options, progress=lambda *told: progress(*encoding_progress(*told))
        )
    for note in encoding_notes(summary, loaded.config.max_tokens, pseudonymised=options.pseudonym_key is not None):
        _note(note)
    return summary


@contextmanager
def _listed_index(lists: Path | None, image_root: Path | None, encoder: Path | None, device: str | None) -> Iterator[Path | None]:
    """An index of just the images of the published lists, gone afterwards; None where one exists already."""
    if image_root is None:
        yield None
        return
    if lists is None or encoder is None:
        raise typer.BadParameter("--image-root goes with chexpert-8x200 and --encoder")
    from index.encode import EncodeOptions
    from index.folder import build_index as build
    from retrieval.published_lists import listed_corpus, load_published_lists

    corpus = listed_corpus(load_published_lists(lists), image_root)
    with tempfile.TemporaryDirectory(prefix="medret-") as folder:
        out = Path(folder) / "index"
        _encode(corpus, encoder, out / "shards", EncodeOptions(vectors=("joint", "features")), device)
        build(out / "shards", out, encoder)
        yield out


def _measure(benchmark: Benchmark, lists: Path | None, given: dict[str, Any]) -> "Callable[[SearchEngine], EvaluationResult]":
    """The benchmark with the options that were given; one that it does not have is wrong usage, not ignored."""
    from retrieval.evaluation import BENCHMARKS

    measure, directions = BENCHMARKS[benchmark]
    options = {name: value for name, value in given.items() if value not in (None, [], ())}
    if foreign := sorted(options.keys() - signature(measure).parameters.keys()):
        raise typer.BadParameter(f"{benchmark} has no option --{_FLAGS.get(foreign[0], foreign[0]).replace('_', '-')}")
    if unknown := [name for name in options.get("directions", []) if name not in directions]:
        raise typer.BadParameter(f"--direction {unknown[0]}: {benchmark} has {', '.join(directions)}")
    if lists is not None:
        options["lists"] = lists
    return partial(measure, **options)


def _print_answer(engine: "SearchEngine", answer: "Answer", format: Format, with_ids: bool) -> None:
    if format == "json":
        print(json.dumps([hit.to_dict() for hit in answer.hits], indent=2, ensure_ascii=False))
    elif format == "html":
        from retrieval.report import render_answers

        print(render_answers(engine, [answer], with_ids=with_ids))
    else:
        from retrieval.tables import render_answer

        print(render_answer(answer))


def _counts(removed: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in removed.items() if count) or "nothing"


def _check_places(*paths: Path | None) -> None:
    """Say before the work, not after it, that a result cannot be written."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise MedretError(f"{path}: the folder {path.parent} does not exist. Make it, or name another file")
        if path is not None and path.is_dir():
            raise MedretError(f"{path}: is a folder, expected a file to write")


def _write(path: Path, text: str) -> None:
    from encoders.atomic import whole_file

    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def main() -> None:
    """Run the command line; a fault the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except MedretError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'medret'}: {error.strerror or error}. Check the path, its permissions and the free space.")
    except Exception as error:
        if DEBUG in os.environ:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]  # the message may quote data: it is left out
        _fail(f"internal error: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}. Set {DEBUG}=1 for the whole trace")


def _fail(message: str) -> None:
    print(f"medret: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
