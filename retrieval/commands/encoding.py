"""Corpora into shards of vectors, and the encoder that makes them."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoders.device import choose_device
from retrieval.commands.flags import EncodeFlags, spread
from retrieval.commands.notes import note
from retrieval.commands.options import AsJson, CorpusPath
from retrieval.terminal import progress_bar

if TYPE_CHECKING:
    from index.corpora.readers import Corpus
    from index.encode import EncodeOptions
    from index.encode_summary import EncodeSummary

ENCODER = "MEDRET_ENCODER"  # in the environment: the checkpoint or run that stands for the default encoder


@spread(EncodeFlags)
def encode(
    path: CorpusPath,
    out: Annotated[Path, typer.Option(help="Shards folder; run again to go on where a run was stopped.")],
    flags: EncodeFlags,
    rank: Annotated[int | None, typer.Option(help="Which of --size processes this one is, from 0; torchrun's when not given.")] = None,
    size: Annotated[int | None, typer.Option(help="How many processes share the work, each started with its --rank.")] = None,
    as_json: AsJson = False,
) -> None:
    """Encode the images and reports of a corpus into Arrow shards."""
    from retrieval.tables import render_encoding

    options = flags.options(rank, size)  # a wrong one is said before the corpus is read
    summary = encode_with_notes(flags.corpus(path), flags.encoder or default_encoder(), out, options, flags.device)
    print(json.dumps(summary.to_dict(), indent=2) if as_json else render_encoding(summary))


def encode_with_notes(corpus: "Corpus", encoder: Path, out: Path, options: "EncodeOptions", device: str | None) -> "EncodeSummary":
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
    for line in encoding_notes(summary, loaded.config.max_tokens, pseudonymised=options.pseudonym_key is not None):
        note(line)
    return summary


def default_encoder() -> Path:
    """The encoder of a corpus for which none was named; says on stderr which it is and where its limits are written down."""
    from encoders.checkpoint import default_checkpoint, read_fingerprint

    named = named_encoder()
    folder = default_checkpoint(named)
    card = folder / "MODEL_CARD.md"
    limits = f"; what it can and cannot do: {card}" if card.is_file() else ""
    note(f"no --encoder given: {ENCODER if named else 'the default encoder'} {read_fingerprint(folder)}, for research only{limits}")
    return folder


def named_encoder() -> Path | None:
    """The encoder that the environment puts in place of the default one."""
    named = os.environ.get(ENCODER)
    return Path(named) if named else None
