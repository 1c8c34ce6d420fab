import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from train.augment import AugmentConfig, AugmentDraw, augment, blur, draw_augmentation

SIDE = 64
PUBLISHED = AugmentConfig(
    crop=(0.6, 1.0),
    flip_probability=0.5,
    rotation=20,
    translation=0.1,
    scale=(0.95, 1.05),
    brightness=(0.6, 1.4),
    contrast=(0.6, 1.4),
    blur_sigma=(0.1, 3.0),
)


def smooth_film(seed: int = 0, side: int = SIDE) -> Image.Image:
    """Grey blobs, float ("F"), so that neither rounding nor sharp edges blur a comparison."""
    noise = np.random.default_rng(seed).uniform(0, 255, (8, 8)).astype(np.float32)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def tensor(*films: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(film, dtype=np.float32)) for film in films])


def drawn(batch: int = 1, **changes: float | bool) -> AugmentDraw:
    """A draw that changes nothing but what is named."""
    still = draw_augmentation(AugmentConfig(), batch, torch.Generator())
    return replace(still, **{name: torch.full((batch,), value) for name, value in changes.items()})


def difference(ours: torch.Tensor, theirs: Image.Image) -> np.ndarray:
    return np.abs(ours[0].numpy() - np.array(theirs, dtype=np.float32))


def test_settings_that_change_nothing_return_the_film():
    film = tensor(smooth_film()).round().clamp(0, 255)

    torch.testing.assert_close(augment(film, drawn(), SIDE), film, atol=1e-3, rtol=0)


@pytest.mark.parametrize("degrees", [-20.0, 7.0, 20.0])
def test_turning_and_shifting_equal_pillows_rotate(degrees):
    """Pillow turns the other way round, and wants the shift in pixels."""
    film = smooth_film(1)
    ours = augment(tensor(film).clamp(0, 255), drawn(angle=math.radians(degrees), shift_x=6 / SIDE, shift_y=-3 / SIDE), SIDE)
    clamped = Image.fromarray(np.clip(np.array(film), 0, 255))
    theirs = clamped.rotate(-degrees, Image.Resampling.BILINEAR, translate=(6, -3))

    # at the border of the black corners a pixel may fall on the other side by rounding
    assert np.quantile(difference(ours, theirs), 0.995) < 0.05


@pytest.mark.parametrize("scale", [0.95, 1.05])
def test_scaling_about_the_centre_equals_pillows_affine(scale):
    film = Image.fromarray(np.clip(np.array(smooth_film(2)), 0, 255))
    offset = SIDE / 2 * (1 - 1 / scale)
    theirs = film.transform((SIDE, SIDE), Image.Transform.AFFINE, (1 / scale, 0, offset, 0, 1 / scale, offset), Image.Resampling.BILINEAR)

    assert np.quantile(difference(augment(tensor(film), drawn(scale=scale), SIDE), theirs), 0.995) < 0.05


def test_cropping_equals_pillows_extent():
    film = Image.fromarray(np.clip(np.array(smooth_film(3)), 0, 255))
    side, x, y = 0.8, 0.15, -0.2
    left, top = (1 + x - side) * SIDE / 2, (1 + y - side) * SIDE / 2
    box = (left, top, left + side * SIDE, top + side * SIDE)
    theirs = film.transform((48, 48), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)

    assert difference(augment(tensor(film), drawn(crop_side=side, crop_x=x, crop_y=y), 48), theirs).max() < 0.05


def test_one_resampling_equals_cropping_then_flipping_then_turning_up_to_interpolation():
    film = Image.fromarray(np.clip(np.array(smooth_film(4)), 0, 255))
    side, x, y, degrees, scale = 0.85, -0.1, 0.12, 15.0, 1.04
    left, top = (1 + x - side) * SIDE / 2, (1 + y - side) * SIDE / 2
    box = (left, top, left + side * SIDE, top + side * SIDE)
    cropped = ImageOps.mirror(film.transform((SIDE, SIDE), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))
    cos, sin, half = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale, SIDE / 2
    shift_x, shift_y = half + 4, half - 2
    matrix = (cos, sin, half - cos * shift_x - sin * shift_y, -sin, cos, half + sin * shift_x - cos * shift_y)
    theirs = cropped.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    draw = drawn(
        crop_side=side, crop_x=x, crop_y=y, flip=True, angle=math.radians(degrees), scale=scale, shift_x=4 / SIDE, shift_y=-2 / SIDE
    )

    apart = difference(augment(tensor(film), draw, SIDE), theirs)
    assert np.median(apart) < 0.3
    assert np.quantile(apart, 0.98) < 2
    assert np.array(theirs)[0, 0] == 0 == augment(tensor(film), draw, SIDE)[0, 0, 0]  # black outside of the crop


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_brightness_and_contrast_equal_pillows_up_to_rounding(factor):
    film = smooth_film(5).convert("L")

    brighter = augment(tensor(film), drawn(brightness=factor), SIDE)
    starker = augment(tensor(film), drawn(contrast=factor), SIDE)

    assert difference(brighter, ImageEnhance.Brightness(film).enhance(factor)).max() <= 1.01
    assert difference(starker, ImageEnhance.Contrast(film).enhance(factor)).max() <= 1.51  # Pillow rounds the mean


def gaussian_by_loops(film: np.ndarray, sigma: float) -> np.ndarray:
    radius = math.ceil(3 * sigma)
    padded = np.pad(film, radius, mode="reflect")
    result = np.zeros_like(film)
    for row in range(film.shape[0]):
        for column in range(film.shape[1]):
            weights = total = 0.0
            for down in range(-radius, radius + 1):
                for right in range(-radius, radius + 1):
                    weight = math.exp(-(down**2 + right**2) / (2 * sigma**2))
                    weights += weight
                    total += weight * padded[row + radius + down, column + radius + right]
            result[row, column] = total / weights
    return result


def test_each_film_is_blurred_by_its_own_gaussian():
    films = np.random.default_rng(6).uniform(0, 255, (3, 14, 12))
    sigmas = [0.5, 1.7, 3.0]

    ours = blur(torch.from_numpy(films), torch.tensor(sigmas, dtype=torch.float64)).numpy()

    for film, sigma, result in zip(films, sigmas, ours, strict=True):
        np.testing.assert_allclose(result, gaussian_by_loops(film, min(sigma, 11 / 3)), atol=1e-6)


def test_a_sigma_of_0_leaves_a_film_as_it_is_beside_blurred_ones():
    films = torch.rand(2, 16, 16) * 255

    blurred = blur(films, torch.tensor([0.0, 2.0]))

    torch.testing.assert_close(blurred[0], films[0])
    assert (blurred[1] - films[1]).abs().max() > 1


def test_a_film_comes_out_the_same_alone_and_in_a_batch():
    films = torch.randint(0, 256, (5, 40, 40), dtype=torch.uint8)
    draw = draw_augmentation(PUBLISHED, 5, torch.Generator().manual_seed(7))

    together = augment(films, draw, 32)

    for number in range(5):
        own = AugmentDraw(**{field.name: getattr(draw, field.name)[number : number + 1] for field in fields(draw)})
        torch.testing.assert_close(augment(films[number : number + 1], own, 32)[0], together[number], atol=1e-3, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 6), size=st.integers(16, 40))
def test_augmented_films_have_the_asked_size_and_stay_grey_levels(seed, batch, size):
    generator = torch.Generator().manual_seed(seed)
    films = torch.randint(0, 256, (batch, 37, 37), dtype=torch.uint8)

    result = augment(films, draw_augmentation(PUBLISHED, batch, generator), size)

    assert result.shape == (batch, size, size)
    assert result.dtype == torch.float32
    assert 0 <= result.min() <= result.max() <= 255.01


def test_draws_fill_the_published_ranges_and_crops_stay_on_the_film():
    draw = draw_augmentation(PUBLISHED, 20_000, torch.Generator().manual_seed(8))

    for values, low, high in [
        (draw.crop_side**2, 0.6, 1.0),
        (draw.angle.rad2deg(), -20, 20),
        (draw.shift_x, -0.1, 0.1),
        (draw.shift_y, -0.1, 0.1),
        (draw.scale, 0.95, 1.05),
        (draw.brightness, 0.6, 1.4),
        (draw.contrast, 0.6, 1.4),
        (draw.sigma, 0.1, 3.0),
    ]:
        slack = 0.01 * (high - low)
        assert low - 1e-5 <= values.min() <= low + slack
        assert high - slack <= values.max() <= high + 1e-5
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    assert draw.flip.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (draw.crop_x.abs() + draw.crop_side).max() <= 1 + 1e-5
    assert (draw.crop_y.abs() + draw.crop_side).max() <= 1 + 1e-5


def test_the_same_generator_state_gives_the_same_draw():
    first = draw_augmentation(PUBLISHED, 4, torch.Generator().manual_seed(9))
    second = draw_augmentation(PUBLISHED, 4, torch.Generator().manual_seed(9))

    assert all(torch.equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))


def test_films_that_are_no_squares_or_too_many_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 8, 9\)"):
        augment(torch.zeros(1, 8, 9), drawn(), 8)
    with pytest.raises(ValueError, match=r"\(2, 8, 8\)"):
        augment(torch.zeros(2, 8, 8), drawn(), 8)


@pytest.mark.parametrize(
    "wrong", [{"crop": (0.0, 1.0)}, {"crop": (0.5, 1.2)}, {"scale": (1.1, 1.0)}, {"flip_probability": 2.0}, {"rotation": 200.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentConfig(**wrong)
