"""The training loop: steps, validations, checkpoints, early stopping, resuming."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.atomic import whole_file
from encoders.checkpoint import save_checkpoint
from encoders.dual import DualEncoder
from encoders.errors import MedretError
from train.augment import AugmentConfig, augment, draw_augmentation
from train.batches import (
    AUGMENTATION,
    DROPOUT,
    ORDER,
    VALIDATION,
    choose_texts,
    draw_texts,
    epoch_batches,
    read_ahead,
    seeded,
    seeded_torch,
)
from train.config import TrainConfig, dump_config
from train.curves import draw_curves, metric_names, write_metrics
from train.interruption import signals_noted
from train.objectives.convirt import ConvirtConfig, convirt_loss
from train.pairs import PairSet, TrainingData
from train.parameters import autocast_dtype, build_optimizer, prepare_encoder, set_rate
from train.schedule import build_schedule
from train.state import RunState, open_run, restore_tensors, save_state

Validate = Callable[[DualEncoder], Mapping[str, float]]
Progress = Callable[[int, int, float], None]
Stopped = Literal["finished", "early", "interrupted"]
PICTURE_EVERY = 30.0  # seconds: drawing takes as long as some steps of a small encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to.

    Attributes:
        best: The checkpoint with the best validation, or None if the run was interrupted before the first.
        last: The checkpoint of the last step.
        stopped: "finished" all steps, stopped "early" for want of progress, or "interrupted" by a signal.
        steps: Steps taken in all.
        metric: The column that chose the best checkpoint.
        best_row: The best validation's row of metrics.csv.
        notes: What a user should know of the data.
    """

    best: Path | None
    last: Path
    stopped: Stopped
    steps: int
    metric: str
    best_row: Mapping[str, float]
    notes: tuple[str, ...]


def train_encoder(
    encoder: DualEncoder,
    data: TrainingData,
    config: TrainConfig,
    out: Path,
    *,
    validate: Validate | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Train an encoder on pairs into the folder `out`: best/, last/, metrics.csv, curves.png, config.toml, state/.

    All random choices derive from the seed and the step, so a resumed run takes the steps that an
    uninterrupted one would have taken. SIGINT and SIGTERM end the run after the current step, saved;
    a second signal ends it at once.

    Args:
        encoder: Starts as it is; is changed.
        data: Of `load_training_data`.
        config: Settings; those of the encoder's making are only recorded.
        out: The run's folder.
        validate: Metrics of the encoder (in evaluation mode); the best checkpoint is the one whose first
            metric is highest. Without it, the one whose validation loss is lowest.
        device: Where to train.
        resume: Continue the run that lies in `out`; one that has finished is left as it is.
        overwrite: Delete the run that lies in `out`.
        progress: Told of every step: step, steps in all, loss (nats).
        report: Told of every validation's row.

    Raises:
        MedretError: If `out` holds other things, or a run and neither resume nor overwrite is set, the run to resume had
            other settings or data, the loss is not finite, or the disk is full.
    """
    state = open_run(out, asdict(config), data.fingerprint(), resume, overwrite)
    run = _Run(encoder, data, config, out, torch.device(device), state)
    run.validate, run.progress, run.report = validate, progress, report
    if state.step:
        run.restore()
    if state.finished:
        return run.result("finished" if state.step >= run.total else "early")
    with whole_file(out / "config.toml") as beside:
        beside.write_text(dump_config(config), encoding="utf-8")
    on_gpu = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu), signals_noted() as interrupted:
        return run.result(run.learn(interrupted))


class _Run:
    """One run: what changes from step to step is in the encoder, the optimizer, the schedule and the state."""

    def __init__(self, encoder: DualEncoder, data: TrainingData, config: TrainConfig, out: Path, device: torch.device, state: RunState):
        self.encoder, self.data, self.config, self.out, self.device, self.state = encoder.to(device), data, config, out, device, state
        self.validate: Validate | None = None
        self.progress: Progress | None = None
        self.report: Callable[[Mapping[str, float]], None] | None = None
        prepare_encoder(encoder, config)
        self.optimizer = build_optimizer(encoder, config)
        self.total = _steps_in_all(data.train, config)
        self.schedule = build_schedule(config.schedule, self.total, config.warmup_fraction, config.plateau_factor, config.plateau_patience)
        self.augmentation = AugmentConfig(**{name: getattr(config, name) for name in AugmentConfig.__slots__})
        self.objective = ConvirtConfig(temperature=config.temperature, image_to_text_weight=config.image_to_text_weight)
        self.training_seconds = 0.0  # since the last validation
        self.images = 0  # since the last validation
        self.drawn = -math.inf  # when the curves were

    def restore(self) -> None:
        restore_tensors(self.out / "state", self.encoder, self.optimizer)
        self.schedule.restore(self.state.schedule)

    def learn(self, interrupted: Callable[[], bool]) -> Stopped:
        """Take steps and validate until nothing is left to do, patience is at its end or a signal came."""
        state, config = self.state, self.config
        while not state.finished:
            batches = epoch_batches(self.data.train.studies, config.batch_size, seeded(config.seed, ORDER, state.epoch))
            self.encoder.train()
            for rows, films in read_ahead(self.data.train.films, batches[state.position :], pinned=self.device.type == "cuda"):
                self.step(rows, films)
                state.position += 1
                if state.position == len(batches):
                    state.epoch, state.position = state.epoch + 1, 0
                if self.validation_due():
                    self.validation(state.epoch + state.position / len(batches))
                if state.finished:
                    break
                if interrupted():
                    self.save(stopping=True)
                    return "interrupted"
        return "finished" if state.step >= self.total else "early"

    def validation_due(self) -> bool:
        state, every = self.state, self.config.validate_every
        return state.step >= self.total or (state.step % every == 0 if every else state.position == 0)

    def step(self, rows: NDArray[np.int64], films: Tensor) -> None:
        """Learn from one batch: rows (B,) and their films (B, S, S) uint8 on the CPU."""
        state, config, seed, began = self.state, self.config, self.config.seed, time.monotonic()
        rate = set_rate(self.optimizer, self.schedule.factor(state.step))
        draw = draw_augmentation(self.augmentation, len(rows), seeded_torch(seed, AUGMENTATION, state.step)).to(self.device)
        reports = [self.data.train.sentences[row] for row in rows]
        texts = draw_texts(reports, config.text_sample, config.texts_per_image, config.word_dropout, seed, state.step)
        torch.manual_seed(int(seeded(seed, DROPOUT, state.step).integers(2**63)))
        changed = augment(films.to(self.device, non_blocking=True), draw, self.encoder.config.preprocessing.size)
        loss = self.loss(changed, texts)
        value = loss.item()
        if not math.isfinite(value):
            raise MedretError(
                f"{self.out}: the loss of step {state.step + 1} is {value} at learning rate {rate:.3g}, expected a finite number. "
                "Lower learning_rate, or set gradient_clip or precision = 'fp32'"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), config.gradient_clip)
        self.optimizer.step()
        state.step += 1
        state.loss_sum, state.loss_count = state.loss_sum + value, state.loss_count + 1
        self.spend(time.monotonic() - began, len(rows))
        if self.progress:
            self.progress(state.step, self.total, value)

    def spend(self, seconds: float, images: int) -> None:
        self.training_seconds += seconds
        self.state.seconds += seconds
        self.images += images

    def loss(self, films: Tensor, texts: Sequence[str]) -> Tensor:
        """The objective on films (B, S, S) and texts: B of one draw after the other, the mean over the draws.

        Products are in bfloat16 where asked for, the loss in float32.
        """
        dtype = autocast_dtype(self.config.precision, self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            images = self.encoder.encode_images(films).joint.float()
            words = self.encoder.encode_texts(texts).joint.float()
        settings = self.objective
        losses = [
            convirt_loss(images, drawn, settings.temperature, settings.image_to_text_weight) for drawn in torch.split(words, len(images))
        ]
        return torch.stack(losses).mean()

    @torch.inference_mode()
    def validation_loss(self) -> float:
        """Mean loss of the held-out pairs, without augmentation, in the same batches and with the same sentences each time."""
        pairs, seed = self.data.validate, self.config.seed
        batches = epoch_batches(pairs.studies, self.config.batch_size, seeded(seed, VALIDATION))
        losses = []
        for number, (rows, films) in enumerate(read_ahead(pairs.films, batches, pinned=self.device.type == "cuda")):
            texts = choose_texts([pairs.sentences[row] for row in rows], self.config.text_sample, seeded(seed, VALIDATION, number))
            losses.append(self.loss(films.to(self.device), texts).item())
        return sum(losses) / len(losses)

    def validation(self, epochs: float) -> None:
        """Measure, note down, keep the encoder if it is the best, save all that is needed to go on."""
        state, began = self.state, time.monotonic()
        self.encoder.eval()
        loss = self.validation_loss()
        metrics = {name: float(value) for name, value in self.validate(self.encoder).items()} if self.validate else {}
        self.encoder.train()
        self.schedule.observe(loss)
        state.seconds += time.monotonic() - began
        row: dict[str, float] = {
            "step": state.step,
            "epoch": epochs,
            "lr": max(float(group["lr"]) for group in self.optimizer.param_groups),
            "train_loss": state.loss_sum / state.loss_count,
            "validation_loss": loss,
            **metrics,
            "seconds": state.seconds,
            "images_per_second": self.images / max(self.training_seconds, 1e-9),
        }
        state.rows.append(row)
        state.loss_sum, state.loss_count, self.training_seconds, self.images = 0.0, 0, 0.0, 0
        if state.best_row < 0 or self.score(row) > self.score(state.rows[state.best_row]):
            state.best_row = len(state.rows) - 1
            save_checkpoint(self.encoder, self.out / "best", self.notes(row))
        state.finished = state.step >= self.total or self.out_of_patience()
        self.save(stopping=state.finished)
        if self.report:
            self.report(row)

    def chooser(self, rows: Sequence[Mapping[str, float]]) -> str:
        """The column that chooses the best checkpoint."""
        names = metric_names(rows) if self.config.best_by == "retrieval" else []
        return names[0] if names else "validation_loss"

    def score(self, row: Mapping[str, float]) -> float:
        name = self.chooser([row])
        value = -row[name] if name == "validation_loss" else row[name]
        return value if math.isfinite(value) else -math.inf

    def out_of_patience(self) -> bool:
        rows, best = len(self.state.rows), self.state.best_row
        return 0 < self.config.patience <= rows - 1 - best

    def save(self, stopping: bool) -> None:
        """Write last/, the state, and then what is drawn from it."""
        state = self.state
        state.schedule = self.schedule.state()
        save_checkpoint(self.encoder, self.out / "last", self.notes(state.rows[-1] if state.rows else {}))
        save_state(self.out / "state", state, self.encoder, self.optimizer)
        if not state.rows:
            return
        write_metrics(state.rows, self.out / "metrics.csv")
        if stopping or time.monotonic() - self.drawn > PICTURE_EVERY:
            draw_curves(state.rows, self.out / "curves.png")
            self.drawn = time.monotonic()

    def notes(self, row: Mapping[str, float]) -> dict[str, Any]:
        """What the checkpoint says of its making; folders by their name alone."""
        named = {name: Path(getattr(self.config, name)).name for name in ("image", "image_weights", "text")}
        data = self.data
        corpus = {
            "format": data.corpus_format,
            "training_images": len(data.train),
            "training_studies": len(np.unique(data.train.studies)),
            "validation_images": len(data.validate),
            "left_out": data.left_out,
        }
        settings = {**asdict(self.config), **named}
        return {
            "training": {"step": self.state.step, "metrics": dict(row), "corpus": corpus, "notes": list(data.notes), "config": settings}
        }

    def result(self, stopped: Stopped) -> TrainResult:
        rows, best = self.state.rows, self.state.best_row
        return TrainResult(
            best=self.out / "best" if best >= 0 else None,
            last=self.out / "last",
            stopped=stopped,
            steps=self.state.step,
            metric=self.chooser(rows),
            best_row=rows[best] if best >= 0 else {},
            notes=self.data.notes,
        )


def _steps_in_all(pairs: PairSet, config: TrainConfig) -> int:
    of_an_epoch = len(epoch_batches(pairs.studies, config.batch_size, seeded(config.seed, ORDER, 0)))
    limits = [limit for limit in (config.epochs * of_an_epoch, config.max_steps) if limit]
    return min(limits)
