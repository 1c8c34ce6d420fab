"""Activations of networks in NumPy, float32."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def gelu(values: Values) -> Values:
    """x Phi(x), with erf to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
    x = np.abs(values) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * x)
    series = np.float32(1.061405429) * t
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(term)) * t
    tail = series * np.exp(-x * x) / 2  # 1 - Phi(|x|)
    gated: Values = values * np.where(values < 0, tail, 1 - tail)
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
