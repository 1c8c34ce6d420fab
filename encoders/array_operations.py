"""The operations of image networks in NumPy, under the names and with the arguments that torch has for them (torch.ops.aten).

Only what the image families need in evaluation mode is here. Arrays are float32 of shape (N, C, H, W), (N, T, F) and the like; an
argument that asks for what is not computed raises UncoveredError, as does recording an operation that is missing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.activations import gelu
from encoders.errors import UncoveredError

Array = NDArray[Any]
_TYPES = {"torch.uint8": np.uint8, "torch.float32": np.float32}
Sides = Sequence[int]  # of the two image axes: down, right


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Sides = (1, 1),
    padding: Sides = (0, 0),
    dilation: Sides = (1, 1),
    groups: int = 1,
) -> Array:
    """(N, C, H, W) by (O, C / groups, h, w) into (N, O, H', W')."""
    _require(list(dilation) in ([1], [1, 1]), "a dilated convolution")
    x = _padded(x, _both(padding), 0)
    if groups == 1:
        made = _whole_convolution(x, weight, _both(stride))
    else:
        _require(groups == x.shape[1] == len(weight), "a convolution in groups of several channels")
        made = _channel_convolution(x, weight, _both(stride))
    return made if bias is None else made + bias[:, None, None]


def _whole_convolution(x: Array, weight: Array, stride: Sides) -> Array:
    """Each window of all channels times each filter, as one product of matrices."""
    windows = _windows(x, weight.shape[2:], stride)  # (N, C, H', W', h, w)
    height, width = windows.shape[2:4]
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(len(x), -1, height * width)  # (N, C h w, H' W')
    return (weight.reshape(len(weight), -1) @ columns).reshape(len(x), len(weight), height, width)


def _channel_convolution(x: Array, weight: Array, stride: Sides) -> Array:
    """Each channel with its own filter: a sum over the places of the filter, which needs no product of matrices."""
    windows = _windows(x, weight.shape[2:], stride)
    made = np.zeros(windows.shape[:4], np.float32)
    part = np.empty_like(made)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            made += np.multiply(windows[..., row, column], weight[:, 0, row, column, None, None], out=part)
    return made


def batch_norm(
    x: Array, weight: Array, bias: Array, mean: Array, variance: Array, training: bool, momentum: float, eps: float, cudnn: bool = True
) -> Array:
    """(N, C, H, W) by the running mean and variance (C,)."""
    _require(not training, "batch norm by the batch")
    scale = weight / np.sqrt(variance + np.float32(eps))
    made = x * scale[:, None, None]
    made += (bias - mean * scale)[:, None, None]
    return made


def layer_norm(
    x: Array, shape: Sides, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5, cudnn: bool = True
) -> Array:
    """Over the last axis."""
    _require(len(shape) == 1, "layer norm over several axes")
    centred = x - x.mean(axis=-1, keepdims=True)
    centred /= np.sqrt(np.einsum("...i,...i->...", centred, centred)[..., None] / np.float32(shape[0]) + np.float32(eps))
    scaled: Array = centred if weight is None else centred * weight
    return scaled if bias is None else scaled + bias


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """(..., F) by (O, F) into (..., O)."""
    made: Array = (x.reshape(-1, x.shape[-1]) @ weight.T).reshape(*x.shape[:-1], len(weight))  # as one product: many small ones are slow
    return made if bias is None else made + bias


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> Array:
    """(..., T, F) each; what is added to the scores is (..., T, T)."""
    _require(not dropout_p and not is_causal and (mask is None or mask.dtype == np.float32), "attention that drops, or in one direction")
    scores = (query * np.float32(query.shape[-1] ** -0.5 if scale is None else scale)) @ key.swapaxes(-1, -2)
    if mask is not None:
        scores += mask
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: Array = scores @ value
    return mixed


def max_pool2d(x: Array, kernel: Sides, stride: Sides = (), padding: Sides = (0, 0), dilation: Sides = (1, 1), ceil: bool = False) -> Array:
    """(N, C, H, W) into the largest of each window."""
    _require(not ceil and list(dilation) in ([1], [1, 1]), "pooling with dilation or ceil_mode")
    windows = _windows(_padded(x, _both(padding), -np.inf), _both(kernel), _both(stride or kernel))
    places = [windows[..., row, column] for row in range(windows.shape[4]) for column in range(windows.shape[5])]
    largest: Array = np.maximum.reduce(places)
    return largest


def adaptive_avg_pool2d(x: Array, size: Sides) -> Array:
    """(N, C, H, W) into (N, C, 1, 1)."""
    _require(list(_both(size)) == [1, 1], "pooling to more than one place")
    return mean(x, (2, 3), True)


def adaptive_avg_pool1d(x: Array, size: Sides) -> Array:
    """(N, C, T) into (N, C, 1)."""
    _require(list(size) == [1], "pooling to more than one place")
    return mean(x, (2,), True)


def mean(x: Array, axes: Sides, keepdim: bool = False) -> Array:
    """Over some axes."""
    averaged: Array = x.mean(axis=tuple(axes), keepdims=keepdim)
    return averaged


def linalg_vector_norm(x: Array, order: float = 2, axes: Sides | None = None, keepdim: bool = False) -> Array:
    """The Euclidean one."""
    _require(order == 2 and axes is not None, "another norm than that of vectors")
    norms: Array = np.sqrt(np.square(x).sum(axis=tuple(axes or ()), keepdims=keepdim))
    return norms


def pad(x: Array, sides: Sides, mode: str = "constant", value: float | None = None) -> Array:
    """By sides of the last axis, then of the one before, and so on."""
    _require(mode == "constant", f"padding by {mode}")
    if not any(sides):
        return x
    _require(min(sides) >= 0, "cutting by padding")
    each = [(0, 0)] * (x.ndim - len(sides) // 2) + [(sides[at], sides[at + 1]) for at in range(len(sides) - 2, -1, -2)]
    return np.pad(x, each, constant_values=value or 0)


def flatten(x: Array, first: int = 0, last: int = -1) -> Array:
    """Axes `first` to `last`, that one included, into one."""
    first, last = first % x.ndim, last % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


def slice_(x: Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    """Part of an axis."""
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]


def expand(x: Array, shape: Sides, implicit: bool = False) -> Array:
    """To a shape in which -1 says as it is."""
    kept = (1,) * (len(shape) - x.ndim) + x.shape
    return np.broadcast_to(x, [have if want == -1 else want for have, want in zip(kept, shape, strict=True)])


def index(x: Array, places: Sequence[Array | None]) -> Array:
    """By arrays of numbers, each along its axis."""
    return x[tuple(slice(None) if place is None else place for place in places)]


def relu6(x: Array) -> Array:
    """Into 0 to 6."""
    return np.clip(x, np.float32(0), np.float32(6))


def _gelu(x: Array, approximate: str = "none") -> Array:
    _require(approximate == "none", "an approximate gelu")
    return gelu(x)


def _add(x: Array, y: Array | float, alpha: float = 1) -> Array:
    _require(alpha == 1, "a weighted sum")
    return x + _single(y)


def _to(x: Array, dtype: str, *_: Any, **device: Any) -> Array:
    _require(dtype in _TYPES, f"numbers of {dtype}")
    return x.astype(_TYPES[dtype], copy=False)


OPERATIONS: dict[str, Callable[..., Array]] = {
    "adaptive_avg_pool1d": adaptive_avg_pool1d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "add": _add,
    "batch_norm": batch_norm,
    "cat": lambda parts, axis=0: np.concatenate(parts, axis),
    "clamp_min": lambda x, least: np.maximum(x, _single(least)),
    "contiguous": lambda x, memory_format=None: x,
    "conv2d": conv2d,
    "div": lambda x, y: x / _single(y),
    "dropout": lambda x, p, train: x,
    "expand": expand,
    "expand_as": lambda x, other: np.broadcast_to(x, other.shape),
    "flatten": flatten,
    "gelu": _gelu,
    "index": index,
    "layer_norm": layer_norm,
    "linalg_vector_norm": linalg_vector_norm,
    "linear": linear,
    "max_pool2d": max_pool2d,
    "mean": mean,
    "mul": lambda x, y: x * _single(y),
    "pad": pad,
    "permute": lambda x, axes: x.transpose(axes),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "relu6": relu6,
    "reshape": lambda x, shape: x.reshape(shape),
    "roll": lambda x, shifts, axes: np.roll(x, tuple(shifts), tuple(axes)),
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "select": lambda x, axis, at: np.take(x, at, axis),
    "slice": slice_,
    "sub": lambda x, y: x - _single(y),
    "tanh": np.tanh,
    "to": _to,
    "transpose": lambda x, one, other: x.swapaxes(one, other),
    "unsqueeze": lambda x, axis: np.expand_dims(x, axis),
    "view": lambda x, shape: x.reshape(shape),
}


def _both(sides: Sides) -> tuple[int, int]:
    return (sides[0], sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _windows(x: Array, shape: Sides, stride: Sides) -> Array:
    """A view (N, C, H', W', h, w) of all windows of a shape."""
    return np.lib.stride_tricks.sliding_window_view(x, tuple(shape), axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


def _padded(x: Array, by: Sides, value: float) -> Array:
    return pad(x, (by[1], by[1], by[0], by[0]), value=value)


def _single(value: Array | float) -> Array | np.float32:
    """A number in single precision, which must not widen an array."""
    return value if isinstance(value, np.ndarray) else np.float32(value)


def _require(covered: bool, what: str) -> None:
    if not covered:
        raise UncoveredError(f"its image network has {what}, which is not computed in NumPy")
