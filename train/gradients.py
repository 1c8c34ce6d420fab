"""Gradients of a whole batch's loss, of which each process encodes a share, a chunk at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from train.distributed import SOLO, Group

Encode = Callable[[], Tensor]
Seed = Callable[[str, int], None]


def backward_in_chunks(
    images: Sequence[Encode],
    texts: Sequence[Encode],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    group: Group = SOLO,
    first_rows: tuple[int, int] = (0, 0),
    totals: tuple[int, int] | None = None,
    seed: Seed | None = None,
) -> Tensor:
    """Add the gradients of a batch's loss to the parameters, with no more than a chunk's activations in memory.

    All chunks are encoded without a graph; the loss of all vectors, and its gradient by each of them, cost
    little; then each chunk is encoded again, with a graph, and its vectors' gradient goes back through it.
    A side that is one chunk is encoded once. The gradients are those of the whole batch as long as a row's
    vector does not depend on its chunk: not so with BatchNorm on the statistics of the batch, which are then
    the chunk's (and are noted twice by its running averages).

    In a group every process has the loss of the joined batch. Afterwards the caller sums the encoder's
    gradients over the group; those of the loss's own parameters are whole on each process already.

    Args:
        images: Each encodes one chunk of this process's rows, in order: () -> (b, D) float32 or float64, unit
            L2 norm; under autocast, if any, of its own. None of them, if this process has no rows. A chunk
            that nothing learns from is computed once if it is wrapped in functools.cache.
        texts: The same for the other side, of as many rows as there are.
        loss: (N, D) and (M, D), those of all processes in order, -> (); the same on each process.
        group: The processes that share the batch.
        first_rows: The places of this process's first image and text in the joined batch.
        totals: N and M; needed in a group.
        seed: Called before every evaluation of a chunk with "image" or "text" and the place of the chunk's
            first row in the joined batch: sets the random state, so that the second evaluation repeats the
            first one's dropout, however many processes share the chunks.

    Returns:
        () the loss, detached.

    Raises:
        ValueError: If there are no rows, or the rows of all processes are not as many as the totals say.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv:2101.06983.
    """
    sides = [_Side(name, chunks, first, seed) for name, chunks, first in zip(("image", "text"), (images, texts), first_rows, strict=True)]
    for side in sides:
        side.encode()
    joined = _join(sides, group, totals)
    value = loss(*joined)
    value.backward()  # type: ignore[no-untyped-call]
    for side, vectors in zip(sides, joined, strict=True):
        if vectors.grad is not None:
            side.backward(vectors.grad[side.first : side.first + side.rows])
    return value.detach()


class _Side:
    """This process's chunks of one side, and their vectors of the first evaluation."""

    def __init__(self, name: str, chunks: Sequence[Encode], first: int, seed: Seed | None) -> None:
        self.name, self.chunks, self.first, self.seed = name, chunks, first, seed
        self.vectors: list[Tensor] = []

    @property
    def rows(self) -> int:
        return sum(map(len, self.vectors))

    def encode(self) -> None:
        """Without graphs, unless a single chunk can keep its own until it is needed."""
        with torch.set_grad_enabled(len(self.chunks) == 1):
            for chunk in self.chunks:
                self.vectors.append(self.evaluate(chunk, self.first + self.rows))
        torch.clear_autocast_cache()  # of weights cast without a graph: older versions of torch would take them again

    def evaluate(self, chunk: Encode, row: int) -> Tensor:
        if self.seed is not None:
            self.seed(self.name, row)
        return chunk()

    def backward(self, gradient: Tensor) -> None:
        """Send the gradient (n, D) by this side's vectors back to the parameters, one chunk after the other."""
        row = 0
        for chunk, first in zip(self.chunks, self.vectors, strict=True):
            vectors = first if len(self.chunks) == 1 else self.evaluate(chunk, self.first + row)
            if vectors.requires_grad:
                vectors.backward(gradient[row : row + len(vectors)])  # type: ignore[no-untyped-call]
            del vectors  # and with it the graph, before the next one is made
            row += len(first)


def _join(sides: Sequence[_Side], group: Group, totals: tuple[int, int] | None) -> list[Tensor]:
    """The vectors of all processes, (N, D) and (M, D), as leaves that take a gradient."""
    own = [torch.cat([vectors.detach() for vectors in side.vectors]) if side.vectors else None for side in sides]
    sample = next((vectors for vectors in own if vectors is not None), torch.empty(0, 0))
    shares = [number for side in sides for number in (side.first, side.rows)]
    told = group.tell(sample.shape[1], int(sample.dtype == torch.float64), *shares)
    width, double, *_ = map(max, zip(*told, strict=True))
    empty = torch.empty(0, width, dtype=torch.float64 if double else torch.float32, device=group.device)  # of a process without rows
    joined = []
    for place, (side, vectors) in enumerate(zip(sides, own, strict=True)):
        total = _total(side.name, [(numbers[2 + 2 * place], numbers[3 + 2 * place]) for numbers in told], totals and totals[place])
        joined.append(group.gather(empty if vectors is None else vectors, side.first, total).requires_grad_())
    return joined


def _total(name: str, shares: Sequence[tuple[int, int]], expected: int | None) -> int:
    """The rows of all processes, given the first row and the number of rows of each."""
    total = 0
    for first, rows in shares:
        if rows and first != total:
            raise ValueError(f"{name} rows begin at {first}, expected at {total}, where those of the process before end")
        total += rows
    if not total or total != (total if expected is None else expected):
        raise ValueError(f"{total} {name} rows were encoded, expected {expected or 'some'}")
    return total
