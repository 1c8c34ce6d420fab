"""All that a run needs to continue where it stopped: weights, optimizer, place in the data, what was measured."""

import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from encoders.atomic import private_folder, recover_replaced, whole_folder
from encoders.errors import MedretError
from encoders.huggingface import write_safetensors
from index.resume import locked
from train.config import TrainConfig
from train.distributed import SOLO, Group

FORMAT = 2
_MAY_DIFFER = {"workers", "tensorboard"}  # settings that change no result
_OPTIMIZER = "optimizer.safetensors"
_OF_A_RUN = ("best", "last", "state", "events", "metrics.csv", "curves.png", "config.toml")


@dataclass(slots=True, kw_only=True)
class RunState:
    """Where a run is; with the weights and the optimizer's state it determines all that follows.

    Attributes:
        config: The settings, as a mapping.
        data: Fingerprint of the training data.
        step: Steps taken; the next batch follows from it and the seed.
        loss_sum, loss_count: Of the training losses since the last validation.
        schedule: Of `Schedule.state`.
        rows: The validations so far, one mapping each.
        best_row: Which of them is the best, or -1.
        seconds: Spent so far, validations included.
        training, waited: Seconds of steps, and among them those in which the next batch was not there yet.
        finished: Nothing is left to do.
    """

    config: Mapping[str, Any]
    data: str
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    schedule: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    best_row: int = -1
    seconds: float = 0.0
    training: float = 0.0
    waited: float = 0.0
    finished: bool = False


@contextmanager
def open_run(out: Path, config: Mapping[str, Any], data: str, resume: bool, overwrite: bool, group: Group = SOLO) -> Iterator[RunState]:
    """Yield the state to begin with: fresh, or that of the run in `out` if it is to be resumed; nobody else can write there meanwhile.

    Args:
        out: The run's folder; made if missing.
        config: The settings, as a mapping.
        data: Fingerprint of the training data.
        resume: Continue the run that lies there, if one does.
        overwrite: Delete the run that lies there.
        group: Its first process looks and writes; the others are told.

    Raises:
        MedretError: If a run lies there and is neither to be resumed nor deleted, is still being written, or had other settings
            or data; if other things lie there.
    """
    if group.rank > 0:
        yield RunState(**group.share(None))
        return
    claim_folder(out, resume, overwrite)
    with locked(private_folder(out)):
        state = _begin(out, RunState(config=config, data=data), overwrite)
        group.share(asdict(state))
        yield state


def claim_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Mend what a kill left of a run in `out`; stop where one lies there and nothing was said of it, or other things do.

    Raises:
        MedretError: If so.
    """
    _refuse_other_things(out)
    if not _lying_in(out):
        return
    with locked(out):
        for name in _OF_A_RUN:
            recover_replaced(out / name)
    if resume or overwrite:
        return
    found = read_state(out / "state")
    where = f"step {found.step}, {'finished' if found.finished else 'not finished'}" if found else "before its first validation"
    raise MedretError(
        f"{out}: holds a training run ({where}). Continue it with --resume, delete it with --overwrite, or choose another --out"
    )


def save_state(folder: Path, state: RunState, model: nn.Module, optimizer: Optimizer) -> None:
    """Write the state as one folder of safetensors and JSON, which appears whole or not at all."""
    with whole_folder(folder) as beside:
        write_safetensors(_owned(model.state_dict()), beside / "weights.safetensors")
        write_safetensors(_owned(_optimizer_tensors(optimizer)), beside / _OPTIMIZER)
        (beside / "state.json").write_text(json.dumps({"format": FORMAT, **asdict(state)}, indent=1), encoding="utf-8")


def read_state(folder: Path) -> RunState | None:
    """The state lying in a folder, without its tensors; None where there is none.

    Raises:
        MedretError: If it cannot be read, or another version wrote it.
    """
    path = folder / "state.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.pop("format", None)
        if found == FORMAT:
            return RunState(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MedretError(f"{path}: is no state of a training run ({error}). Train into another folder.") from error
    raise MedretError(f"{path}: has format {found}, expected {FORMAT}. It comes from another version: train into another folder.")


def restore_tensors(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Put the stored weights and optimizer state into a model and an optimizer built by the same settings.

    Raises:
        MedretError: If the files are damaged or belong to another encoder.
    """
    try:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        stored = load_file(folder / _OPTIMIZER)
    except Exception as error:  # safetensors raises its own kinds, torch RuntimeError for keys and shapes
        reason = str(error).splitlines()[0]
        raise MedretError(f"{folder}: does not fit this encoder or is damaged ({reason}). Train into another folder.") from error
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = _laid_out_as(parameters[int(number)], tensor)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in its parameter's memory order: the fused Adam pairs the two by address, not by place."""
    if tensor.shape != parameter.shape:
        return tensor  # the count of steps
    return torch.empty_like(parameter, dtype=tensor.dtype, memory_format=torch.preserve_format).copy_(tensor)


def _begin(out: Path, fresh: RunState, overwrite: bool) -> RunState:
    if overwrite:
        for path in _lying_in(out):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return fresh
    found = read_state(out / "state")
    if found is None:
        return fresh
    if found.data != fresh.data:
        raise MedretError(f"{out}: the run learned from other data than the corpora hold now. Give the same corpora, or another --out")
    for name, value in json.loads(json.dumps(fresh.config)).items():
        before = found.config.get(name)
        if name not in _MAY_DIFFER and before != value:
            raise MedretError(
                f"{out}: the run has {name} = {before!r}, but {value!r} is asked for. Resume with --config {out / 'config.toml'}"
            )
    return found


def _lying_in(out: Path) -> list[Path]:
    return [out / name for name in _OF_A_RUN if (out / name).exists()]


def _refuse_other_things(out: Path) -> None:
    """Refuse a folder that was not made by training: a run's files would be mixed with others, or replace them."""
    if not out.exists() or (out / "state" / _OPTIMIZER).is_file():
        return
    if not out.is_dir():
        raise MedretError(f"{out}: is a file, expected a folder for the run. Choose another --out")
    begun = _names_all_settings(out / "config.toml")  # before its first validation, a run has little else
    own = {"cache", *(_OF_A_RUN if begun else ())}
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in own and not entry.name.startswith("."))
    if others:
        raise MedretError(f"{out}: is no training run and not empty (it holds {others[0]}). Choose another --out")


def _names_all_settings(path: Path) -> bool:
    """Whether a file names every setting, as training notes them; one that somebody wrote names a few."""
    try:
        named = tomllib.loads(path.read_text(encoding="utf-8")).keys()
        return named - {"corpus"} == {setting.name for setting in fields(TrainConfig)}
    except (OSError, ValueError):
        return False


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": torch.as_tensor(value) for number, values in state.items() for name, value in values.items()}


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors wants them."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
