"""Products of int8 codes, exact, at the speed of the machine's integer instructions where it has them."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import numpy.typing as npt

from index.quantiser import MOST, Codes

_EXACT_COLUMNS = 1024  # 1024 x 127 x 127 < 2^24: float32 sums of so many products of codes are exact
_CODES_AT_ONCE = 1 << 19  # in float32: 2 MiB
_lone = itertools.count()  # single queries answered without torch


def integer_products(queries: Codes, codes: Codes, out: npt.NDArray[np.int32]) -> None:
    """Write the inner products of int8 codes: by torch, or by NumPy where it is not imported or cannot multiply integers.

    Args:
        queries: (Q, p) int8 in [-127, 127], contiguous.
        codes: (n, p) int8 in [-127, 127], contiguous and writable, as torch wants it.
        out: (Q, n) int32, contiguous; overwritten.
    """
    if "torch" not in sys.modules or not has_integer_products():
        _float_products(queries, codes, out)
        return
    import torch

    asked, stored, products = torch.from_numpy(queries), torch.from_numpy(codes), torch.from_numpy(out)
    if len(queries) == 1:
        torch._int_mm(stored, asked.T, out=products.view(-1, 1))
    else:
        torch._int_mm(asked, stored.T, out=products)


def is_worth_torch(queries: int) -> bool:
    """Whether products for so many queries are better computed by torch.

    Importing it takes as long as fifty searches by NumPy. So the first single query of a process that has not imported it yet,
    often its only one, goes without.
    """
    return queries > 1 or "torch" in sys.modules or next(_lone) > 0


def _float_products(queries: Codes, codes: Codes, out: npt.NDArray[np.int32]) -> None:
    asked = queries.astype(np.float32)
    at_once = max(_CODES_AT_ONCE // codes.shape[1], 1)
    for first in range(0, len(codes), at_once):
        rows = slice(first, first + at_once)
        stored = codes[rows].astype(np.float32)
        out[:, rows] = 0
        for start in range(0, codes.shape[1], _EXACT_COLUMNS):
            columns = slice(start, start + _EXACT_COLUMNS)
            out[:, rows] += (asked[:, columns] @ stored[:, columns].T).astype(np.int32)


@cache
def has_integer_products() -> bool:
    """Whether torch multiplies int8 codes correctly here; else float32 products are taken, which are as exact and slower.

    On a CPU without VNNI, sums of two products may saturate at 16 bits: so extreme codes are multiplied and compared.
    """
    import torch

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
def torch_threads(number: int) -> Iterator[None]:
    """Compute with `number` threads of torch in this Python thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
