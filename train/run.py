"""A whole training run: from corpora to the folder with its best encoder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from encoders.checkpoint import find_checkpoint, load_checkpoint
from encoders.dual import DualEncoder, build_encoder
from encoders.errors import MedretError
from encoders.preprocess import Fit
from encoders.prompt import PromptConfig
from train.config import TrainConfig
from train.data import ImageSet, load_training_data
from train.distributed import SOLO, Group
from train.events import require_tensorboard
from train.parameters import prepare_encoder
from train.samples import Samples, Source, collect_samples
from train.sources import describe_source
from train.state import claim_folder, read_state
from train.trainer import Progress, Report, TrainResult, Validate, train_encoder


def train_corpora(
    sources: Sequence[Source],
    config: TrainConfig,
    out: Path,
    *,
    validator: Callable[[ImageSet], Validate] | None = None,
    cache_folder: Path | None = None,
    group: Group = SOLO,
    resume: bool = False,
    overwrite: bool = False,
    decoding: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> TrainResult:
    """Learn an encoder from a mix of corpora.

    Args:
        sources: The mix.
        config: Settings.
        out: The run's folder.
        validator: Makes, from the held-out images, the function that measures an encoder.
        cache_folder: Where decoded films are kept; `out`/cache by default.
        group: The processes that train together, each of which calls this with the same arguments.
        resume: Continue the run that lies in `out`.
        overwrite: Delete the run that lies in `out`.
        decoding: Told how many films are decoded, of how many.
        progress: Told of every step: step, steps in all, loss (nats).
        report: Told of every validation's row of metrics.csv.

    Raises:
        MedretError: As `collect_samples`, `start_encoder`, `load_training_data` and `train_encoder`.
    """
    if config.tensorboard:
        require_tensorboard()
    if group.rank == 0:
        claim_folder(out, resume, overwrite)  # before minutes of decoding
    group.wait()
    samples = collect_samples(
        sources,
        objective=config.objective,
        views=config.views,
        min_tokens=config.min_tokens,
        seed=config.seed,
        findings=config.findings,
        uncertain=config.uncertain,
    )
    begun = resume and read_state(out / "state")  # a run killed before its first state was whole begins anew, whatever lies in last/
    encoder = start_encoder(config, samples, out / "last" if begun else None)
    prepare_encoder(encoder, config)  # a setting that does not fit is told before minutes of decoding
    data = load_training_data(
        samples,
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
        sources=[describe_source(source.corpus, source.weight) for source in sources],
        validate=validator(data.validate) if validator else None,
        group=group,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def start_encoder(config: TrainConfig, samples: Samples, last: Path | None = None) -> DualEncoder:
    """The encoder a run begins with: that of its last checkpoint if there is one, else that of `start`, else a new one.

    Raises:
        MedretError: If a preset, folder or checkpoint is not usable, or the settings ask for another encoder than that of `start`.
    """
    if last is not None and last.is_dir():
        return load_checkpoint(last)  # with the vocabulary it learned, and its prompts
    encoder = _load_start(config) if config.start else _build(config, samples)
    if config.prompts == "continuous":
        _add_prompts(encoder, config, samples.findings)
    else:
        encoder.prompts = None  # those that `start` has were learned for an encoder that this run leaves behind
    return encoder


def _build(config: TrainConfig, samples: Samples) -> DualEncoder:
    return build_encoder(
        config.image,
        config.text,
        samples.training_texts(),
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


def _load_start(config: TrainConfig) -> DualEncoder:
    """The encoder of `start`; a setting that asks for another one than it is, and not by default, is refused."""
    folder = find_checkpoint(Path(config.start))
    encoder = load_checkpoint(folder)
    brought = encoder.config
    found = {
        "text_pooling": brought.text["pooling"],
        "dimension": brought.dimension,
        "head": brought.head,
        "size": brought.preprocessing.size,
        "fit": brought.preprocessing.fit,
        "max_tokens": brought.max_tokens,
    }
    default = TrainConfig()
    for name in ("image", "image_weights", "text", "vocabulary_size", *found):
        asked = getattr(config, name)
        if asked not in (getattr(default, name), found.get(name)):
            has = f"has {name} = {found[name]!r}" if name in found else "brings its own encoders, tokenizer and preprocessing"
            raise MedretError(
                f"{name} = {asked!r} is asked for, but the encoder to start from {has} ({folder}). "
                f"Leave {name} out (set it to {getattr(default, name)!r} if a file names it), or start"
            )
    return encoder


def _add_prompts(encoder: DualEncoder, config: TrainConfig, findings: Sequence[str]) -> None:
    """Give the labels continuous prompts; those that the encoder has of the same form are learned on."""
    if not findings:
        raise MedretError("prompts = 'continuous', but no corpus labels a finding, expected labels to learn prompts of. Add such a corpus")
    before = encoder.prompts
    wanted = PromptConfig(
        names=tuple(findings),
        length=config.prompt_length,
        context=config.prompt_context,
        position=config.prompt_position,
        words=config.prompt_words,
    )
    encoder.add_prompts(wanted, seed=config.seed)
    if before is not None and encoder.prompts is not None and before.config == encoder.prompts.config:
        encoder.prompts = before
