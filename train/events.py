"""The run as TensorBoard shows it: the loss of every step, and the figures of every validation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from encoders.errors import MedretError


class EventWriter:
    """Writes scalars into a folder that `tensorboard --logdir` reads."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def step(self, step: int, loss: float) -> None:
        """Note the training loss of a step, nats."""
        self._writer.add_scalar("step/loss", loss, step)

    def validation(self, row: Mapping[str, float]) -> None:
        """Note a row of metrics.csv."""
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._writer.add_scalar(f"validation/{name.replace(' ', '_')}", value, int(row["step"]))
        self._writer.flush()


@contextmanager
def event_writer(folder: Path | None, step: int) -> Iterator[EventWriter | None]:
    """Yield a writer into `folder`, closed at the end; None where there is no folder.

    Args:
        folder: Made if missing, readable by its owner alone.
        step: Of the run; what lies there of later steps was written by a run that was killed, and is hidden.
    """
    if folder is None:
        yield None
        return
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    from encoders.atomic import private_folder

    with SummaryWriter(str(private_folder(folder)), purge_step=step + 1) as writer:  # type: ignore[no-untyped-call]
        for file in folder.iterdir():
            file.chmod(0o600)
        yield EventWriter(writer)


def require_tensorboard() -> None:
    """Say before any work that the package which writes events is missing.

    Raises:
        MedretError: If it is.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MedretError(
            "tensorboard is true, but the package tensorboard is not installed. "
            "Install it (pip install 'medret[tensorboard]'), or leave the setting out"
        ) from error
