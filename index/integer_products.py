"""Products of int8 codes, exact, at the speed of the machine's integer instructions where it has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from index.compaction import MOST

_EXACT_COLUMNS = 1024  # 1024 x 127 x 127 < 2^24: float32 sums of so many products of codes are exact


def integer_products(queries: torch.Tensor, codes: torch.Tensor, out: torch.Tensor) -> None:
    """Write the inner products of int8 codes.

    Args:
        queries: (Q, p) int8 in [-127, 127].
        codes: (n, p) int8 in [-127, 127], contiguous.
        out: (Q, n) int32, contiguous; overwritten.
    """
    if not has_integer_products():
        _float_products(queries, codes, out)
    elif len(queries) == 1:
        torch._int_mm(codes, queries.T, out=out.view(-1, 1))
    else:
        torch._int_mm(queries, codes.T, out=out)


def _float_products(queries: torch.Tensor, codes: torch.Tensor, out: torch.Tensor) -> None:
    out.zero_()
    for start in range(0, codes.shape[1], _EXACT_COLUMNS):
        columns = slice(start, start + _EXACT_COLUMNS)
        out += (queries[:, columns].float() @ codes[:, columns].float().T).to(torch.int32)


@cache
def has_integer_products() -> bool:
    """Whether torch multiplies int8 codes correctly here; else float32 products are taken, which are as exact and slower.

    On a CPU without VNNI, sums of two products may saturate at 16 bits: so extreme codes are multiplied and compared.
    """
    random = np.random.default_rng(0)
    for count, rows, columns in ((1, 96, 64), (1, 70, 96), (3, 130, 128), (17, 257, 512)):
        signs = random.choice(np.array([-MOST, MOST], np.int8), (rows + count, columns))
        signs[: rows // 2] = MOST
        signs[-1] = -MOST
        codes, queries = np.ascontiguousarray(signs[:rows]), np.ascontiguousarray(signs[rows:])
        expected = queries.astype(np.int64) @ codes.astype(np.int64).T
        try:
            out = torch._int_mm(torch.from_numpy(queries), torch.from_numpy(codes).T)
            turned = torch._int_mm(torch.from_numpy(codes), torch.from_numpy(queries).T)
        except (RuntimeError, AttributeError):
            return False
        if not (np.array_equal(out.numpy(), expected) and np.array_equal(turned.numpy().T, expected)):
            return False
    return True


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with `count` threads in this Python thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
