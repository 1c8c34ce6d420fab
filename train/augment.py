"""ConVIRT's image augmentation as batched tensor operations on the training device."""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How much a film is changed; every range is sampled uniformly, film by film.

    The defaults change nothing. A flip teaches that left is right: it stays off where reports name sides.
    """

    crop: Range = (1.0, 1.0)  # share of the film's area kept by a square crop
    flip_probability: float = 0.0
    rotation: float = 0.0  # degrees, either way
    translation: float = 0.0  # share of the side, either way, in x and in y
    scale: Range = (1.0, 1.0)
    brightness: Range = (1.0, 1.0)  # factor
    contrast: Range = (1.0, 1.0)  # factor
    blur_sigma: Range = (0.0, 0.0)  # pixels of the result

    def __post_init__(self) -> None:
        for name in ("crop", "scale", "brightness", "contrast", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is {low} to {high}, expected 0 or more, in rising order")
        if not 0 < self.crop[0] <= self.crop[1] <= 1 or self.scale[0] == 0:
            raise ValueError(f"crop is {self.crop} and scale {self.scale}, expected above 0 (crop: at most 1)")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability is {self.flip_probability}, expected 0 to 1")
        if not 0 <= self.rotation <= 180 or not 0 <= self.translation <= 1:
            raise ValueError(f"rotation is {self.rotation} and translation {self.translation}, expected 0 to 180 and 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentDraw:
    """What happens to each film of one batch; every field is (B,) float32 or bool, on one device.

    Attributes:
        crop_side: Share of the side that the square crop keeps.
        crop_x, crop_y: Centre of the crop, -1 (left, top) to 1 in units of half the film's side.
        flip: Mirrored left to right.
        angle: Radians, clockwise as seen.
        shift_x, shift_y: Share of the side, to the right and down.
        scale: Above 1 enlarges.
        brightness, contrast: Factors.
        sigma: Of the Gaussian blur, pixels of the result.
    """

    crop_side: Tensor
    crop_x: Tensor
    crop_y: Tensor
    flip: Tensor
    angle: Tensor
    shift_x: Tensor
    shift_y: Tensor
    scale: Tensor
    brightness: Tensor
    contrast: Tensor
    sigma: Tensor

    def to(self, device: torch.device) -> "AugmentDraw":
        """The same draw on another device."""
        return AugmentDraw(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def rows(self, rows: slice) -> "AugmentDraw":
        """What happens to some films of the batch."""
        return AugmentDraw(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_augmentation(config: AugmentConfig, batch: int, generator: torch.Generator) -> AugmentDraw:
    """Draw what happens to each of `batch` films; the same generator state gives the same draw on any device."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator)

    side = uniform(*config.crop).sqrt()
    turn = math.radians(config.rotation)
    return AugmentDraw(
        crop_side=side,
        crop_x=uniform(-1, 1) * (1 - side),
        crop_y=uniform(-1, 1) * (1 - side),
        flip=torch.rand(batch, generator=generator) < config.flip_probability,
        angle=uniform(-turn, turn),
        shift_x=uniform(-config.translation, config.translation),
        shift_y=uniform(-config.translation, config.translation),
        scale=uniform(*config.scale),
        brightness=uniform(*config.brightness),
        contrast=uniform(*config.contrast),
        sigma=uniform(*config.blur_sigma),
    )


def augment(films: Tensor, draw: AugmentDraw, size: int) -> Tensor:
    """Crop, flip, turn/shift/scale, change brightness, then contrast, and blur, in ConVIRT's order.

    The geometry is one bilinear resampling to the final size: what lies outside the crop is black, as
    it would be after cropping first. Values stay within 0 to 255 after each change of tone.

    Args:
        films: (B, S, S) uint8 or float32, grey levels 0..255.
        draw: Of `draw_augmentation`, for B films, on the films' device.
        size: Side of the result, pixels.

    Returns:
        (B, size, size) float32, grey levels 0..255, on the films' device.

    Raises:
        ValueError: If films are not squares, or not as many as drawn for.

    Source: ConVIRT, arXiv:2010.00747, section 3.3; crop ratio read as a share of the area, the tone
    operations defined as in Pillow's ImageEnhance.
    """
    if films.ndim != 3 or films.shape[1] != films.shape[2] or len(films) != len(draw.scale):
        raise ValueError(f"films are {tuple(films.shape)}, expected ({len(draw.scale)}, S, S)")
    moved = _resample(films.float(), draw, size)
    bright = (moved * draw.brightness[:, None, None]).clamp(0, 255)
    mean = bright.mean(dim=(1, 2), keepdim=True)
    toned = (mean + (bright - mean) * draw.contrast[:, None, None]).clamp(0, 255)
    return blur(toned, draw.sigma)


def _resample(films: Tensor, draw: AugmentDraw, size: int) -> Tensor:
    """Sample the films (B, S, S) where each pixel of the result (B, size, size) comes from."""
    line = (torch.arange(size, device=films.device) * 2 + 1) / size - 1  # pixel centres, -1 to 1
    x = line[None, None, :] - 2 * draw.shift_x[:, None, None]  # (B, 1, size)
    y = line[None, :, None] - 2 * draw.shift_y[:, None, None]  # (B, size, 1)
    cos = (draw.angle.cos() / draw.scale)[:, None, None]
    sin = (draw.angle.sin() / draw.scale)[:, None, None]
    turned_x = cos * x + sin * y  # (B, size, size), -1 to 1 within the crop
    turned_y = cos * y - sin * x
    inside = (turned_x.abs() <= 1) & (turned_y.abs() <= 1)
    mirrored = torch.where(draw.flip, -1.0, 1.0)[:, None, None] * turned_x
    side = draw.crop_side[:, None, None]
    grid = torch.stack([draw.crop_x[:, None, None] + side * mirrored, draw.crop_y[:, None, None] + side * turned_y], dim=3)
    # "border" so that the film's outermost half pixel is not mixed with black; the mask makes the rest black
    sampled = F.grid_sample(films[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
    return sampled * inside


def blur(films: Tensor, sigma: Tensor) -> Tensor:
    """Blur each film with its own Gaussian; borders are reflected.

    Args:
        films: (B, H, W) float32.
        sigma: (B,) float32, pixels, 0 leaves the film as it is; the kernel is cut at 3 of it.

    Returns:
        (B, H, W) float32.
    """
    widest = float(sigma.max()) if len(sigma) else 0.0
    radius = min(math.ceil(3 * widest), min(films.shape[1:]) - 1)
    if radius == 0:
        return films
    offset = torch.arange(-radius, radius + 1, device=films.device, dtype=films.dtype)  # (K,)
    width = sigma.clamp(min=1e-3)[:, None]
    kernel = torch.exp(-0.5 * (offset / width) ** 2)  # (B, K)
    kernel = kernel * (offset.abs() <= (3 * width).ceil())  # else a film's result would depend on its neighbours' sigma
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    batch = len(films)
    padded = F.pad(films[None], (radius, radius, radius, radius), mode="reflect")  # (1, B, H + 2r, W + 2r)
    across = F.conv2d(padded, kernel[:, None, None, :], groups=batch)
    return F.conv2d(across, kernel[:, None, :, None], groups=batch)[0]
