"""The training loop: steps, validations, checkpoints, early stopping, resuming."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from encoders.atomic import whole_file
from encoders.checkpoint import save_checkpoint
from encoders.dual import DualEncoder
from index.films import Films
from train.batches import Batch, BatchPlanner, read_ahead, validation_batches
from train.card import checkpoint_notes, data_notes, render_card
from train.config import TrainConfig, dump_config
from train.curves import draw_curves, metric_names, write_metrics
from train.data import TrainingData
from train.distributed import SOLO, Group
from train.events import EventWriter, event_writer
from train.interruption import signals_noted
from train.parameters import place_encoder, prepare_encoder
from train.schedule import build_schedule
from train.sources import CorpusSource, dump_sources
from train.state import RunState, open_run, restore_tensors, save_state
from train.step import Learner

Validate = Callable[[DualEncoder], Mapping[str, float]]
Progress = Callable[[int, int, float], None]
Report = Callable[[Mapping[str, float]], None]
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
        waiting: Share of the training time, 0 to 1, in which the next batch was not there yet.
        notes: What a user should know of the data.
    """

    best: Path | None
    last: Path
    stopped: Stopped
    steps: int
    metric: str
    best_row: Mapping[str, float]
    waiting: float
    notes: tuple[str, ...]


def train_encoder(
    encoder: DualEncoder,
    data: TrainingData,
    config: TrainConfig,
    out: Path,
    *,
    sources: Sequence[CorpusSource] = (),
    validate: Validate | None = None,
    group: Group = SOLO,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> TrainResult:
    """Train an encoder into the folder `out`: best/, last/, metrics.csv, curves.png, config.toml, state/.

    All random choices derive from the seed and the step, so a resumed run takes the steps that an
    uninterrupted one would have taken. SIGINT and SIGTERM end the run after the current step, saved;
    a second signal ends it at once. In a group every process calls this with the same arguments; the first
    one validates and writes.

    Args:
        encoder: Starts as it is; is changed.
        data: Of `load_training_data`.
        config: Settings; those of the encoder's making are only recorded.
        out: The run's folder, which all processes of a group see.
        sources: What the data came from, to be recorded.
        validate: Metrics of the encoder (in evaluation mode); the best checkpoint is the one whose first
            metric is highest. Without it, the one whose validation loss is lowest.
        group: Who trains together, and where.
        resume: Continue the run that lies in `out`; one that has finished is left as it is.
        overwrite: Delete the run that lies in `out`.
        progress: Told of every step: step, steps in all, loss (nats).
        report: Told of every validation's row.

    Raises:
        MedretError: If `out` holds other things, or a run and neither resume nor overwrite is set, the run to resume had
            other settings or data, a batch shows nothing to be alike, the loss is not finite, or the disk is full.
    """
    with open_run(out, asdict(config), data.fingerprint(), resume, overwrite, group) as state:
        run = _Run(encoder, data, config, out, group, state)
        run.validate, run.progress, run.report = validate, progress, report
        if state.step:
            run.restore()
        if state.finished:
            return run.result("finished" if state.step >= run.total else "early")
        if group.rank == 0:
            with whole_file(out / "config.toml") as beside:
                beside.write_text(dump_config(config) + dump_sources(sources), encoding="utf-8")
        on_gpu = [group.device] if group.device.type == "cuda" else []
        events = out / "events" if config.tensorboard and group.rank == 0 else None
        with torch.random.fork_rng(devices=on_gpu), signals_noted() as interrupted, event_writer(events, state.step) as run.events:
            return run.result(run.learn(interrupted))


class _Run:
    """One run: what changes from step to step is in the learner, the schedule and the state."""

    def __init__(self, encoder: DualEncoder, data: TrainingData, config: TrainConfig, out: Path, group: Group, state: RunState) -> None:
        self.data, self.config, self.out, self.group, self.state = data, config, out, group, state
        self.validate: Validate | None = None
        self.progress: Progress | None = None
        self.report: Report | None = None
        self.events: EventWriter | None = None
        prepare_encoder(encoder, config)
        place_encoder(encoder, config, group)
        self.learner = Learner(encoder, config, group)
        self.planner = BatchPlanner(data, config)
        limits = [limit for limit in (config.epochs * self.planner.steps_per_epoch, config.max_steps) if limit]
        self.total = min(limits)
        self.schedule = build_schedule(config.schedule, self.total, config.warmup_fraction, config.plateau_factor, config.plateau_patience)
        self.held_out = validation_batches(data, config)
        self.images = 0  # since the last validation, as are these seconds
        self.training, self.waited = 0.0, 0.0
        self.drawn = -math.inf  # when the curves were

    def restore(self) -> None:
        restore_tensors(self.out / "state", self.learner.model, self.learner.optimizer)
        self.schedule.restore(self.state.schedule)

    def learn(self, interrupted: Callable[[], bool]) -> Stopped:
        """Take steps and validate until nothing is left to do, patience is at its end or a signal came."""
        state, every = self.state, self.config.validate_every or self.planner.steps_per_epoch
        self.learner.begin()
        began = time.monotonic()
        for batch, films in read_ahead(self.read, range(state.step, self.total)):
            waited = time.monotonic() - began
            self.step(batch, films)
            self.spend(time.monotonic() - began, waited, len(batch.rows))
            if state.step >= self.total or state.step % every == 0:
                self.validation()
            if state.finished:
                break
            if self.group.any(interrupted()):
                self.save(stopping=True)
                return "interrupted"
            began = time.monotonic()
        return "finished" if state.step >= self.total else "early"

    def read(self, step: int) -> tuple[Batch, Tensor]:
        """A step's batch, and the films of this process's share of it, (n, S, S) uint8."""
        batch = self.planner.batch(step)
        share = self.learner.share(len(batch.rows))
        return batch, self.films(self.data.train.films, batch, slice(share.start, share.stop))

    def films(self, films: Films, batch: Batch, share: slice) -> Tensor:
        taken = torch.from_numpy(films[batch.rows[share]])
        return taken.pin_memory() if self.group.device.type == "cuda" else taken

    def step(self, batch: Batch, films: Tensor) -> None:
        state = self.state
        loss = self.learner.step(batch, films, self.schedule.factor(state.step))
        state.step += 1
        state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
        if self.events:
            self.events.step(state.step, loss)
        if self.progress:
            self.progress(state.step, self.total, loss)

    def spend(self, seconds: float, waited: float, images: int) -> None:
        self.images, self.training, self.waited = self.images + images, self.training + seconds, self.waited + waited
        state = self.state
        state.seconds, state.training, state.waited = state.seconds + seconds, state.training + seconds, state.waited + waited

    def validation(self) -> None:
        """Measure, note down, keep the encoder if it is the best, save all that is needed to go on."""
        state, objective, began = self.state, self.learner.objective, time.monotonic()
        measured = self.group.share(self.measure() if self.group.rank == 0 else None)  # and all take the same decisions
        self.schedule.observe(measured["validation_loss"])
        state.seconds += time.monotonic() - began
        row: dict[str, float] = {
            "step": state.step,
            "epoch": self.planner.epoch_of(state.step),
            "lr": max(float(group["lr"]) for group in self.learner.optimizer.param_groups),
            "train_loss": state.loss_sum / state.loss_count,
            **measured,
            **({"temperature": objective.temperature} if objective.learned else {}),
            "seconds": state.seconds,
            "images_per_second": self.images / max(self.training, 1e-9),
            "waiting": self.waited / max(self.training, 1e-9),
        }
        state.rows.append(row)
        state.loss_sum, state.loss_count, self.training, self.waited, self.images = 0.0, 0, 0.0, 0.0, 0
        if state.best_row < 0 or self.score(row) > self.score(state.rows[state.best_row]):
            state.best_row = len(state.rows) - 1
            self.checkpoint("best", row)
        state.finished = state.step >= self.total or self.out_of_patience()
        self.save(stopping=state.finished)
        if self.events:
            self.events.validation(row)
        if self.report:
            self.report(row)

    def measure(self) -> dict[str, float]:
        """The loss of the held-out images, without augmentation and dropout, and the metrics."""
        encoder = self.learner.encoder
        encoder.eval()
        losses = [self.learner.loss(batch, films) for batch, films in read_ahead(self.read_held_out, range(len(self.held_out)))]
        metrics = {name: float(value) for name, value in self.validate(encoder).items()} if self.validate else {}
        self.learner.begin()
        return {"validation_loss": sum(losses) / len(losses), **metrics}

    def read_held_out(self, number: int) -> tuple[Batch, Tensor]:
        batch = self.held_out[number]
        return batch, self.films(self.data.validate.films, batch, slice(None))

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
        self.checkpoint("last", state.rows[-1] if state.rows else {})
        if self.group.rank > 0:
            return
        save_state(self.out / "state", state, self.learner.model, self.learner.optimizer)
        if not state.rows:
            return
        write_metrics(state.rows, self.out / "metrics.csv")
        if stopping or time.monotonic() - self.drawn > PICTURE_EVERY:
            draw_curves(state.rows, self.out / "curves.png")
            self.drawn = time.monotonic()

    def checkpoint(self, name: str, row: Mapping[str, float]) -> None:
        """Write the encoder with notes and model card; `row` is what it was measured by."""
        if self.group.rank == 0:
            encoder, temperature = self.learner.encoder, self.learner.objective.temperature
            notes = checkpoint_notes(encoder, self.config, self.data, self.state.step, row, temperature)
            card = render_card(notes, chosen_by=self.chooser([row]) if name == "best" else None)
            save_checkpoint(encoder, self.out / name, {"training": notes}, files={"MODEL_CARD.md": card})

    def result(self, stopped: Stopped) -> TrainResult:
        state, best = self.state, self.state.best_row
        return TrainResult(
            best=self.out / "best" if best >= 0 else None,
            last=self.out / "last",
            stopped=stopped,
            steps=state.step,
            metric=self.chooser(state.rows),
            best_row=state.rows[best] if best >= 0 else {},
            waiting=state.waited / max(state.training, 1e-9),
            notes=data_notes(self.data),
        )
