"""The learning rate over a run: warm-up and cosine, or halving on a plateau."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A factor on the learning rate, told of every step and of every validation."""

    def factor(self, step: int) -> float:
        """The factor (0 to 1) for the step about to be taken, counted from 0."""
        ...

    def observe(self, validation_loss: float) -> None:
        """Take note of a validation."""
        ...

    def state(self) -> dict[str, float]:
        """What `restore` needs to continue after a break."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue where `state` was taken."""
        ...


@dataclass(slots=True)
class WarmupCosine:
    """Linear from 0 to 1 over the first steps, then half a cosine down to 0 at the last one.

    Attributes:
        steps: Length of the run.
        warmup_steps: Steps of the rise; the first of them already learns a little.

    Source: SGDR, Loshchilov and Hutter, arXiv:1608.03983, one period without restarts.
    """

    steps: int
    warmup_steps: int = 0

    def factor(self, step: int) -> float:
        """The factor (0 to 1) for the step about to be taken, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def observe(self, validation_loss: float) -> None:
        """The cosine does not look at validations."""

    def state(self) -> dict[str, float]:
        """Nothing: the step says all."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing to restore."""


@dataclass(slots=True)
class Plateau:
    """Multiplies the rate when the validation loss has not fallen for a number of validations.

    Attributes:
        shrink: What the rate is multiplied by.
        patience: Validations without a new lowest loss after which it is.
        warmup_steps: Steps of a linear rise at the start.

    Source: ConVIRT, arXiv:2010.00747, appendix: factor 0.5 after 5 evaluations.
    """

    shrink: float = 0.5
    patience: int = 5
    warmup_steps: int = 0
    scale: float = 1.0
    lowest: float = math.inf
    waited: int = 0

    def factor(self, step: int) -> float:
        """The factor (0 to 1) for the step about to be taken, counted from 0."""
        return self.scale * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def observe(self, validation_loss: float) -> None:
        """Count a validation; shrink the rate when it was one too many without progress."""
        if validation_loss < self.lowest:
            self.lowest, self.waited = validation_loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.scale, self.waited = self.scale * self.shrink, 0

    def state(self) -> dict[str, float]:
        """What `restore` needs to continue after a break."""
        return {"scale": self.scale, "lowest": self.lowest, "waited": self.waited}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue where `state` was taken."""
        self.scale, self.lowest, self.waited = state["scale"], state["lowest"], int(state["waited"])


def build_schedule(kind: str, steps: int, warmup_fraction: float, shrink: float, patience: int) -> Schedule:
    """The schedule called "cosine" or "plateau" for a run of `steps` steps.

    Args:
        kind: "cosine" or "plateau".
        steps: Length of the run, at least 1.
        warmup_fraction: Share of the steps in which the rate rises, 0 to below 1.
        shrink: Plateau only: what the rate is multiplied by.
        patience: Plateau only: validations without progress before it is.

    Raises:
        ValueError: If there is no such kind.
    """
    warmup_steps = int(steps * warmup_fraction)
    if kind == "cosine":
        return WarmupCosine(steps, warmup_steps)
    if kind == "plateau":
        return Plateau(shrink, patience, warmup_steps)
    raise ValueError(f"no schedule is called {kind!r}, expected 'cosine' or 'plateau'")
