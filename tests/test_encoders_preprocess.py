import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import DECODING, read_film, read_image
from encoders.preprocess import Fitted, Preprocessing

FITS = st.sampled_from(["pad", "crop", "squash"])
RESAMPLINGS = st.sampled_from(["bilinear", "bicubic"])


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(1, 64), fit=FITS, resampling=RESAMPLINGS)
def test_a_constant_film_of_any_shape_becomes_a_square_of_its_level_and_of_padding(height, width, size, fit, resampling):
    square = Preprocessing(size=size, fit=fit, resampling=resampling).square(np.full((height, width), 255, np.uint8))

    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    filled = size * max(1, round(size * min(height, width) / max(height, width))) if fit == "pad" else size * size
    assert np.count_nonzero(square == 255) == filled
    assert np.count_nonzero(square == 0) == size * size - filled


@given(size=st.integers(1, 40), fit=FITS, resampling=RESAMPLINGS, seed=st.integers(0, 99))
def test_a_square_of_the_right_size_is_left_alone(size, fit, resampling, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)

    np.testing.assert_array_equal(Preprocessing(size=size, fit=fit, resampling=resampling).square(pixels), pixels)


def test_padding_is_black_and_even_and_comes_after_the_resize():
    film = np.full((40, 80), 200, np.uint8)

    expected = np.zeros((20, 20), np.uint8)
    expected[5:15] = 200  # no grey seam, as padding before the resize would give
    np.testing.assert_array_equal(Preprocessing(size=20, fit="pad").square(film), expected)
    np.testing.assert_array_equal(Preprocessing(size=20, fit="pad").square(film.T), expected.T)


def test_crop_keeps_the_middle_of_the_longer_side():
    film = np.repeat(np.arange(60, dtype=np.uint8)[:, None], 20, axis=1)

    np.testing.assert_array_equal(Preprocessing(size=20, fit="crop").square(film), film[20:40])
    np.testing.assert_array_equal(Preprocessing(size=20, fit="crop").square(film.T), film[20:40].T)


def test_crop_agrees_with_resizing_the_shorter_side_and_cutting_the_middle_out():
    film = np.random.default_rng(0).integers(0, 256, (120, 90), np.uint8)
    whole = np.asarray(Image.fromarray(film).resize((30, 40), Image.Resampling.BILINEAR)).astype(int)

    cropped = Preprocessing(size=30, fit="crop", resampling="bilinear").square(film)

    np.testing.assert_allclose(cropped[1:-1], whole[6:-6], atol=1)  # the outermost rows may not look over the edge


def test_squash_scales_each_side_on_its_own():
    film = np.repeat(np.repeat(np.array([[10, 20], [30, 40]], np.uint8), 50, axis=0), 10, axis=1)

    square = Preprocessing(size=8, fit="squash").square(film)

    np.testing.assert_array_equal(square[::7, ::7], [[10, 20], [30, 40]])


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
def test_shrinking_is_antialiased(resampling):
    """A checkerboard finer than the new pixels averages to grey; picking samples would leave black and white."""
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)

    square = Preprocessing(size=32, resampling=resampling).square(board)

    np.testing.assert_allclose(square.astype(int), 127.5, atol=2)


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
def test_resampling_agrees_with_torch(resampling):
    film = np.random.default_rng(1).integers(0, 256, (96, 96), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(film)[None, None].float(), size=(40, 40), mode=resampling, antialias=True, align_corners=False
    )

    square = Preprocessing(size=40, resampling=resampling).square(film)

    np.testing.assert_allclose(square, expected[0, 0].clamp(0, 255).numpy(), atol=1.01)


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    further=st.integers(0, 60),
    fit=st.sampled_from(["pad", "crop", "squash"]),
    resampling=st.sampled_from(["bilinear", "bicubic"]),
)
def test_a_film_lies_in_a_shrunken_square_where_it_lies_in_a_direct_one(width, height, size, further, fit, resampling):
    """An even film shows its edges alone, and an even shade has no detail to lose to a second resize."""
    way = Preprocessing(size=size, fit=fit, resampling=resampling)
    film = np.full((height, width), 200, np.uint8)

    shrunken = way.shrink(Fitted(way.square(film, size + further), width, height))

    np.testing.assert_array_equal(shrunken, way.square(film))


def test_a_cache_may_hold_larger_squares():
    assert Preprocessing(size=224).square(np.zeros((50, 30), np.uint8), 256).shape == (256, 256)


def test_normalising_subtracts_the_mean_and_divides_by_the_std_in_three_channels():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    preprocessing = Preprocessing(size=16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    tensor = preprocessing.normalise(levels)

    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        np.testing.assert_allclose(tensor[0, channel].flatten(), (np.arange(256) / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_the_scaling_of_efficientnet_lite_can_be_written_down():
    """(x - 127) / 128, as its weights were trained with."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)

    tensor = Preprocessing(size=16, mean=127 / 255, std=128 / 255).normalise(levels)

    np.testing.assert_allclose(tensor[0, 1].flatten(), (np.arange(256) - 127) / 128, atol=1e-6)


@given(batch=st.integers(0, 3), size=st.integers(1, 12), seed=st.integers(0, 99))
@settings(deadline=None)
def test_bytes_and_the_same_levels_as_floats_are_normalised_to_the_same_bits(batch, size, seed):
    levels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (batch, size, size), np.uint8))
    preprocessing = Preprocessing(size=size, mean=0.3, std=(0.1, 0.2, 0.3))

    assert torch.equal(preprocessing.normalise(levels), preprocessing.normalise(levels.float()))


def test_images_of_another_shape_or_kind_are_wrong_calls():
    preprocessing = Preprocessing(size=8)
    for images in (torch.zeros(8, 8), torch.zeros(1, 9, 9), torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"^images is "):
            preprocessing.normalise(images)
    for pixels in (np.zeros((8, 8)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"^pixels is "):
            preprocessing.square(pixels)


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(), Preprocessing(size=320, fit="crop", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), resampling="bilinear")],
)
def test_the_settings_survive_json_and_name_the_decoding_rule(preprocessing):
    text = json.dumps(preprocessing.to_dict())

    assert json.loads(text)["decoding"] == DECODING
    assert Preprocessing.from_dict(json.loads(text)) == preprocessing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decoding": "grey8-v0"}, "decoding is 'grey8-v0', expected"),
        ({"fit": "stretch"}, "expected one of pad, crop, squash"),
        ({"resampling": "nearest"}, "expected one of bilinear, bicubic"),
        ({"size": 0}, "size is 0"),
        ({"size": "224"}, "size is '224'"),
        ({"std": 0}, "std is 0, expected"),
        ({"std": [0.2, 0.2]}, "preprocessing: "),
        ({"mean": "x"}, "preprocessing: "),
        ({"mean": float("nan")}, "mean is nan"),
        ({"equalise": True}, "equalise missing or unknown, expected size, fit"),
    ],
)
def test_settings_of_another_version_or_out_of_range_are_refused(change, reason):
    with pytest.raises(MedretError, match=reason):
        Preprocessing.from_dict({**Preprocessing().to_dict(), **change})


def test_settings_with_a_missing_key_are_refused_rather_than_guessed():
    settings_ = Preprocessing().to_dict()
    del settings_["fit"]

    with pytest.raises(MedretError, match="fit missing or unknown"):
        Preprocessing.from_dict(settings_)


def test_workers_that_only_decode_and_square_load_no_torch():
    program = (
        "import sys, numpy, encoders.preprocess as p; p.Preprocessing().square(numpy.zeros((3, 4), 'u1')); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def radiograph(width: int, height: int) -> Image.Image:
    """A film of a detector's size: structures of every size, grain, and a marker with sharp edges."""
    random = np.random.default_rng(0)
    film = np.full((height, width), 128.0, np.float32)
    for cells in (3, 9, 27, 81, 243):  # as in real films, coarse structures have the contrast
        field = Image.fromarray(random.normal(0, 90 / cells**0.5, (cells, cells)).astype(np.float32))
        film += np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))
    film += random.normal(0, 6, film.shape)
    film[height // 9 : height // 9 + 60, width // 8 : width // 8 + 90] = 255
    return Image.fromarray(film.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Width and height to a JPEG of that size; the odd ones leave a rest at every reduction."""
    folder = tmp_path_factory.mktemp("films")
    sizes = [(2500, 3050), (2517, 1999), (1801, 1801)]
    for width, height in sizes:
        radiograph(width, height).save(folder / f"{width}.jpg", quality=95)
    return {size: folder / f"{size[0]}.jpg" for size in sizes}


@pytest.mark.parametrize("fit", ["pad", "crop", "squash"])
@pytest.mark.parametrize("size", [160, 224, 512])
def test_a_large_jpeg_is_decoded_smaller_within_half_a_grey_level_of_the_whole_film(films, fit, size):
    """Half of the grey level that is promised; a shift by a fraction of a pixel costs more."""
    way = Preprocessing(size=size, fit=fit)
    for (width, height), path in films.items():
        whole = way.square(read_image(path)).astype(int)
        near = way.read_square(path).astype(int)

        excess = (max(width, height) if fit == "pad" else min(width, height)) / size
        by = read_film(path, None, partial(way._reduction, size)).reduction
        assert by == max(step for step in (1, 2, 4, 8) if step == 1 or excess / step >= 2)
        assert np.abs(near - whole).mean() < 0.5
        for axis in (0, 1):
            shift = (np.gradient(whole, axis=axis) * (near - whole)).sum() / (np.gradient(whole, axis=axis) ** 2).sum()
            assert abs(shift) < 0.02  # pixels, by least squares


@pytest.mark.parametrize("change", ["colour", "turned", "png", "small"])
def test_every_other_film_is_decoded_whole(films, tmp_path, change):
    film = Image.open(films[1801, 1801])
    exif = Image.Exif()
    exif[0x0112] = 6 if change == "turned" else 1
    film = film.resize((440, 440)) if change == "small" else film.convert("RGB") if change == "colour" else film
    film.save(tmp_path / "film", "PNG" if change == "png" else "JPEG", exif=exif)

    np.testing.assert_array_equal(Preprocessing().read_square(tmp_path / "film"), Preprocessing().square(read_image(tmp_path / "film")))


def test_a_large_jpeg_that_was_cut_is_refused(films, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(films[2500, 3050].read_bytes()[:-100_000])

    with pytest.raises(MedretError, match=r"the JPEG cannot be decoded .*Copy it again"):
        Preprocessing().read_square(tmp_path / "cut.jpg")
