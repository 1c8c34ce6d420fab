"""The processes that train one encoder together: who encodes which rows, and what they tell each other."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from encoders.device import choose_device
from encoders.errors import MedretError

PATIENCE = timedelta(hours=12)  # a process may wait that long while rank 0 decodes a corpus or validates
BUCKET = 2**25  # bytes of gradients sent at once
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Group:
    """Some processes, each with the whole encoder and a share of every batch. One alone sends nothing.

    All of them must call the same methods in the same order. Numbers and decisions go through gloo on the
    host, so that they neither wait for a GPU nor keep it busy; vectors and gradients by NCCL on CUDA.

    Attributes:
        rank: Which of them this one is, from 0.
        size: How many there are.
        device: Where this one's tensors are.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gather(self, rows: Tensor, first: int, total: int) -> Tensor:
        """The rows of all processes, in order, on each of them; no gradient flows through.

        Args:
            rows: (n, D), this process's own, n may be 0; the same D and dtype everywhere.
            first: Where they begin among all.
            total: N, of all processes.

        Returns:
            (N, D), exactly the rows that were given, and zeros where nobody gave one.

        Raises:
            ValueError: If the rows reach beyond the total.
        """
        if first < 0 or first + len(rows) > total:
            raise ValueError(f"rows {first} to {first + len(rows)} of {total}, expected them to lie within")
        joined = rows.new_zeros(total, *rows.shape[1:])  # (N, D); a sum with zeros is exact, and shares may be uneven
        joined[first : first + len(rows)] = rows.detach()
        if self.size > 1:
            self._ask(lambda: dist.all_reduce(joined))
        return joined

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes.

        A parameter that has a gradient on some processes only counts as 0 on the others; one that has none
        anywhere keeps none, so that an optimizer leaves it alone.

        Args:
            parameters: The same everywhere, in the same order; frozen ones are passed over.
        """
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        if self.size == 1 or not learned:
            return
        present = self.tell(*(int(parameter.grad is not None) for parameter in learned))
        for place, parameter in enumerate(learned):
            if parameter.grad is None and any(numbers[place] for numbers in present):
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self._ask(lambda flat=flat: dist.all_reduce(flat))  # type: ignore[misc]
            for gradient, part in zip(bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def tell(self, *numbers: int) -> list[tuple[int, ...]]:
        """What each process told, by rank: as many whole numbers from everyone."""
        if self.size == 1:
            return [numbers]
        told = [torch.empty(len(numbers), dtype=torch.int64) for _ in range(self.size)]
        self._ask(lambda: dist.all_gather(told, torch.tensor(numbers, dtype=torch.int64)))
        return [tuple(row.tolist()) for row in told]

    def any(self, flag: bool) -> bool:
        """Whether one of them says so: a decision that all must take alike."""
        return any(number for (number,) in self.tell(int(flag)))

    def share(self, value: Any) -> Any:
        """Rank 0's value, of what JSON holds, on every process; what the others give is not looked at."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == 0 else b""
        (length,) = self.tell(len(text))[0]
        letters = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.rank == 0 else torch.empty(length, dtype=torch.uint8)
        self._ask(lambda: dist.broadcast(letters, src=0))
        return json.loads(letters.numpy().tobytes())

    def wait(self) -> None:
        """Go on when all have come here."""
        self.tell(0)

    def _ask(self, collective: Callable[[], Answer]) -> Answer:
        try:
            return collective()
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise MedretError(
                f"process {self.rank} of {self.size}: the others do not answer ({first}), expected all to run until the end. "
                "One of them has stopped: its own message says why."
            ) from error


SOLO = Group()


@contextmanager
def join_group(device: str | None = None) -> Iterator[Group]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun, be alone.

    Args:
        device: "cpu", or "cuda" for one GPU per process of this machine, or None to choose.

    Yields:
        The group, with this process's device.

    Raises:
        MedretError: If torch cannot use the device, several processes were given one GPU, or the others cannot be reached.
    """
    size = int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1  # a cluster may set the first without torchrun
    if size == 1:
        yield Group(device=torch.device(choose_device(device)))
        return
    rank, own = int(os.environ["RANK"]), _own_device(device, size)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise MedretError(
            f"process {rank} of {size} cannot reach the others ({first}), expected them at MASTER_ADDR and MASTER_PORT. "
            "Start training by torchrun."
        ) from error
    yield Group(rank, size, own)
    # Not after a fault: the others may be in the midst of a message, and torchrun ends them
    dist.destroy_process_group()


def share_rows(total: int, chunk_size: int, rank: int, size: int) -> range:
    """The rows of a batch that one of several processes encodes: contiguous, in whole chunks, shares as equal as chunks allow.

    Args:
        total: Rows of the batch.
        chunk_size: Rows encoded at once; 0: every process encodes its share at once.
        rank: Which process, from 0.
        size: How many there are.

    Returns:
        Its rows; empty if there are fewer chunks than processes.
    """
    rows = chunk_size or max(1, -(-total // size))
    chunks = -(-total // rows)
    first, last = (min(rows * (chunks * place // size), total) for place in (rank, rank + 1))
    return range(first, last)


def _own_device(device: str | None, size: int) -> torch.device:
    chosen = torch.device(choose_device(device))
    if chosen.type != "cuda":
        return chosen
    if chosen.index is not None:
        raise MedretError(f"--device {device}: one GPU for {size} processes, expected one each. Say --device cuda.")
    return torch.device(choose_device(f"cuda:{os.environ['LOCAL_RANK']}"))


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and at most BUCKET bytes; a larger one by itself."""
    bucket: list[Tensor] = []
    taken = 0
    for gradient in gradients:
        size = gradient.numel() * gradient.element_size()
        if bucket and (taken + size > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, taken = [], 0
        bucket.append(gradient)
        taken += size
    if bucket:
        yield bucket
