"""The learned temperature of CLIP, within bounds."""

import math

import torch
from torch import Tensor, nn

SCALES = (1.0, 100.0)  # 1 / temperature


class LearnedTemperature(nn.Module):
    """A temperature as a parameter: the logarithm of its inverse, which multiplies the similarities.

    Attributes:
        log_scale: () float32, log(1 / temperature).

    Source: CLIP, Radford et al., ICML 2021, arXiv:2103.00020; MedCLIP's code begins at 0.07 and holds log_scale in
    0 to 4.6052.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        """Begin at a temperature, 0.01 to 1.

        Raises:
            ValueError: If temperature is out of range.
        """
        super().__init__()
        if not 1 / SCALES[1] <= temperature <= 1 / SCALES[0]:
            raise ValueError(f"temperature is {temperature}, expected {1 / SCALES[1]} to {1 / SCALES[0]} where it is learned")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self) -> Tensor:
        """Return the temperature, () float32, with its gradient."""
        return (-self.log_scale).exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the scale back into 1 to 100; to be called after each step of the optimizer."""
        self.log_scale.clamp_(math.log(SCALES[0]), math.log(SCALES[1]))
