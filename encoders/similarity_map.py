"""Where in a film its similarity to a query comes from."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.dual import DualEncoder

_CELLS = (4, 8)  # pixels of a cell in the two maps that are read, on a square as the network takes it
_SHIFT = 6  # pixels to each corner: one and a half of the larger cells apart, so that their grid is laid out twice as finely
_SMOOTHING = 1 / 32  # standard deviation of the last blur, of the square's side


def similarity_map(encoder: DualEncoder, film: Tensor, direction: Tensor, vector: str = "joint") -> Tensor:
    """Say of each pixel of a film how much what the network saw around there moves the film's vector in a direction.

    LayerCAM at two depths: at each place of a network's map, the sum over channels of activation times gradient of the
    score, as far as it is positive; activations count from their median over the film, since zero means nothing where no
    ReLU made it. The network's last maps are left alone: their cells have seen the whole film, and on
    phantoms with known findings the last points at them less than half as often (benchmarks/RESULTS.md). The film is
    shifted towards each corner and the four maps are averaged, as a cell is coarse beside a finding.

    It shows what this encoder reacted to and not what a reader would look at: it is no segmentation, says nothing of
    what lowers the score, and is scaled by its own maximum, so that a weak answer has a peak as bright as a sure one.

    Args:
        encoder: In evaluation mode; its weights and their gradients are left as they are. Any number of threads at once.
        film: (S, S) uint8, as the encoder's preprocessing makes it.
        direction: (D,) float32, of any length, in the space that `vector` names: a query, or better its difference to what
            is said of a normal film. The film's score is its product with the film's unit vector.
        vector: "joint" or "features".

    Returns:
        (S, S) float32 on the CPU, from 0; 1 is the maximum, and all is 0 where nothing raises the score.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021, doi:10.1109/TIP.2021.3089943.
    """
    shifts = [(down, right) for down in (-_SHIFT, _SHIFT) for right in (-_SHIFT, _SHIFT)]
    shifted = torch.stack([_shift(film.float(), *shift) for shift in shifts])  # (4, S, S)
    with torch.inference_mode(False), torch.enable_grad(), _stage_outputs(encoder) as outputs:
        encoded = getattr(encoder.encode_images(shifted.clone().requires_grad_()), vector)
        score = encoded @ direction.to(encoded.device, encoded.dtype).clone()
        chosen = _choose(outputs, len(film))
        gradients = torch.autograd.grad(score.sum(), chosen, allow_unused=True)
    total = torch.zeros(len(film), len(film))
    for output, gradient in zip(chosen, gradients, strict=True):
        if gradient is None:  # a layer that the pooled vector does not depend on
            continue
        cells = _cells(output.detach())  # (4, C, H, W)
        ground = cells.flatten(2).median(dim=2).values[..., None, None]  # (4, C, 1, 1)
        raised = ((cells - ground) * _cells(gradient)).clamp(min=0).sum(dim=1)  # (4, H, W)
        large = F.interpolate(raised[:, None].float().cpu(), size=film.shape, mode="bilinear", align_corners=False)[:, 0]  # (4, S, S)
        total += _scaled(torch.stack([_shift(one, -down, -right) for one, (down, right) in zip(large, shifts, strict=True)]).mean(dim=0))
    return _scaled(_smooth(total))


@contextmanager
def _stage_outputs(encoder: DualEncoder) -> Iterator[list[Tensor]]:
    """What each stage of the image network gives out, in order, while this thread runs it."""
    outputs: list[Tensor] = []
    thread = threading.get_ident()

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            outputs.append(output if isinstance(output, Tensor) else output[0])

    hooks = [stage[-1].register_forward_hook(keep) for stage in encoder.image.stages()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _choose(outputs: list[Tensor], size: int) -> list[Tensor]:
    """For each size of a cell the last output that is so fine, else the last of the finest; the network's last one only if alone."""
    sides = [_cells(output).shape[-1] for output in outputs[:-1] or outputs]
    fine = [max(place for place, side in enumerate(sides) if side >= min(size // cell, max(sides))) for cell in _CELLS]
    return [outputs[place] for place in sorted(set(fine))]


def _cells(output: Tensor) -> Tensor:
    """(B, C, H, W) as it is; of a transformer (B, H·W, C), with or without a first token, to (B, C, H, W)."""
    if output.ndim == 4:
        return output
    side = isqrt(output.shape[1])
    return output[:, output.shape[1] - side * side :].transpose(1, 2).reshape(len(output), -1, side, side)


def _shift(values: Tensor, down: int, right: int) -> Tensor:
    """Values (S, S) as seen from a place so far down and right; edges are repeated."""
    steps = torch.arange(len(values), device=values.device)
    return values[(steps + down).clamp(0, len(values) - 1)][:, (steps + right).clamp(0, len(values) - 1)]


def _smooth(values: Tensor) -> Tensor:
    steps = torch.arange(len(values), dtype=torch.float32)
    blur = torch.exp(-0.5 * ((steps[:, None] - steps) / (len(values) * _SMOOTHING)) ** 2)
    blur = blur / blur.sum(dim=1, keepdim=True)
    return blur @ values @ blur.T


def _scaled(values: Tensor) -> Tensor:
    highest = values.max()
    return values / highest if highest > 0 else torch.zeros_like(values)
