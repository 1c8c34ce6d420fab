"""Activations of networks in NumPy, float32."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def gelu(values: Values) -> Values:
    """x Phi(x), with erf to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
    size = np.abs(values)
    x = size * np.float32(0.5**0.5)
    t = np.reciprocal(1 + np.float32(0.3275911) * x)
    tail = np.float32(1.061405429) * t
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += np.float32(term)
        tail *= t
    x *= x
    tail *= np.exp(np.negative(x, out=x), out=x)  # 2 - 2 Phi(|x|)
    size *= tail
    size *= np.float32(0.5)
    gated: Values = np.subtract(np.maximum(values, np.float32(0)), size, out=size)  # below the larger of x and 0 by the tail
    return gated


def gelu_tanh(values: Values) -> Values:
    """As gelu, with Phi by a hyperbolic tangent."""
    inner = np.float32((2 / np.pi) ** 0.5) * (values + np.float32(0.044715) * values**3)
    gated: Values = np.float32(0.5) * values * (1 + np.tanh(inner))
    return gated


def silu(values: Values) -> Values:
    """x / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # exp(-x) is infinite where the result is 0
        gated: Values = values / (1 + np.exp(-values))
    return gated
