"""The arithmetic that an encoder runs in: float32, or bfloat16 products where the device is made for them."""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.nn import functional as F

from encoders.dual import Encoded

PRECISIONS = ("float32", "bfloat16")
AGREEMENT = 0.9999  # cosine to float32 that bfloat16, taken unasked, shall keep
TRIED = 0.99995  # that it has to keep on the few that are tried: the lowest of many lies further off

_CPU = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is what Arm calls it


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own, not by emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or platform.system() != "Linux":
        return False
    try:
        return not _INSTRUCTIONS.isdisjoint(_CPU.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Run products and convolutions in this precision; weights and unit vectors stay float32. No gradients flow.

    Raises:
        ValueError: If there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def agreement(encode: Callable[[], Encoded], device: torch.device, compiled: bool = False) -> float:
    """The lowest cosine between the vectors that bfloat16 and float32 give; 1 means that nothing is lost.

    Rounding to 8 bits costs a plain network (ResNet, BERT) 1e-5 and less, one that filters every channel on its own
    (EfficientNet) up to 7e-3: so it is measured, on what is to be encoded.

    Args:
        encode: Encodes some films or texts.
        device: Where it does.
        compiled: Whether it was compiled: bfloat16 is tried as such, float32 eagerly, or it would be compiled for that too.
    """
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext(), computing(device, "float32"):
        exact = encode()
    with computing(device, "bfloat16"):
        rounded = encode()
    cosines = [F.cosine_similarity(one.double(), other.double(), dim=-1) for one, other in zip(exact, rounded, strict=True)]
    return min(float(part.min()) for part in cosines)
