"""A whole training run: from a corpus to the folder with its best encoder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch

from encoders.checkpoint import load_checkpoint
from encoders.dual import DualEncoder, build_encoder
from encoders.preprocess import Fit
from index.corpora.readers import Corpus
from train.config import TrainConfig
from train.pairs import Pairs, PairSet, collect_pairs, load_training_data
from train.parameters import prepare_encoder
from train.state import refuse_overwriting
from train.trainer import Progress, TrainResult, Validate, train_encoder


def train_corpus(
    corpus: Corpus,
    config: TrainConfig,
    out: Path,
    *,
    validator: Callable[[PairSet], Validate] | None = None,
    cache_folder: Path | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    decoding: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Learn an encoder from the pairs of a corpus.

    Args:
        corpus: Of `open_corpus`.
        config: Settings.
        out: The run's folder.
        validator: Makes, from the held-out pairs, the function that measures an encoder.
        cache_folder: Where decoded films are kept; `out`/cache by default.
        device: Where to train.
        resume: Continue the run that lies in `out`.
        overwrite: Delete the run that lies in `out`.
        decoding: Told how many films are decoded, of how many.
        progress: Told of every step: step, steps in all, loss (nats).
        report: Told of every validation's row of metrics.csv.

    Raises:
        MedretError: As `collect_pairs`, `build_encoder`, `load_training_data` and `train_encoder`.
    """
    refuse_overwriting(out, resume, overwrite)  # before minutes of decoding
    pairs = collect_pairs(corpus, views=config.views, min_tokens=config.min_tokens, seed=config.seed)
    encoder = start_encoder(config, pairs, out / "last" if resume else None)
    prepare_encoder(encoder, config)  # a setting that does not fit is told before minutes of decoding
    data = load_training_data(
        pairs,
        encoder.config.preprocessing,
        cache_folder or out / "cache",
        cache_size=config.cache_size,
        workers=config.workers,
        progress=decoding,
    )
    return train_encoder(
        encoder,
        data,
        config,
        out,
        validate=validator(data.validate) if validator else None,
        device=device,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def start_encoder(config: TrainConfig, pairs: Pairs, last: Path | None = None) -> DualEncoder:
    """The encoder a run begins with: that of its last checkpoint if there is one, else a new one.

    Raises:
        MedretError: If a preset or folder is not usable, or the checkpoint is damaged.
    """
    if last is not None and last.is_dir():
        return load_checkpoint(last)  # with the vocabulary it learned
    return build_encoder(
        config.image,
        config.text,
        pairs.training_texts(),
        image_weights=config.image_weights or None,
        size=config.size or None,
        fit=cast(Fit, config.fit),  # TrainConfig has checked it
        dimension=config.dimension or None,
        head=config.head,
        text_pooling=config.text_pooling,
        max_tokens=config.max_tokens,
        vocabulary_size=config.vocabulary_size,
        seed=config.seed,
    )
