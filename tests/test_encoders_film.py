import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from encoders.errors import MedretError
from encoders.film import check_size, coded_format, film_doubts, grey_of_colour, stretched

LEVELS = np.linspace(-1, 1, 128)


def phantom_chest() -> np.ndarray:
    """Air around a body, two dark lungs beside a bright spine, a bright abdomen: (128, 128) uint8."""
    x, y = np.meshgrid(LEVELS, LEVELS)
    film = np.where((np.abs(x) < 0.8) & (y > -0.9), 170.0, 10.0)
    film[((np.abs(x) - 0.4) / 0.28) ** 2 + ((y + 0.1) / 0.55) ** 2 < 1] = 60
    film[np.abs(x) < 0.1] = 210
    return film.astype(np.uint8)


def test_a_chest_between_dark_air_raises_no_doubts():
    assert film_doubts(phantom_chest()) == []


def test_an_inverted_chest_is_doubted_as_inverted():
    assert [doubt.split(" (")[0] for doubt in film_doubts(255 - phantom_chest())] == ["looks inverted"]


def test_a_constant_film_is_doubted_and_nothing_else_is_said_of_it():
    assert film_doubts(np.full((200, 100), 255, np.uint8)) == ["is constant (every pixel is 255)"]


def test_a_film_with_few_grey_levels_and_few_pixels_is_doubted_for_both():
    doubts = film_doubts(np.tile(np.array([7, 9], np.uint8), (8, 4)))

    assert doubts == ["is small (8 x 8 pixels)", "has hardly any contrast (grey levels 7 to 9)"]


@given(levels=arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 65535)))
def test_stretching_equals_the_formula_pixel_by_pixel(levels):
    low, span = int(levels.min()), max(int(np.ptp(levels)), 1)
    exact = (levels.astype(float) - low) * 255 / span

    assert np.abs(stretched(levels) - exact).max() <= 0.5 + 1e-9


def test_equal_channels_come_back_unchanged():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)

    np.testing.assert_array_equal(grey_of_colour(np.stack([levels] * 3, axis=-1), "x"), levels)


def test_a_small_coloured_marker_does_not_make_a_colour_picture_but_a_tenth_of_the_film_does():
    colour = np.full((100, 100, 3), 90, np.uint8)
    colour[:9, :11] = (255, 0, 0)  # 99 of 10,000 pixels

    assert grey_of_colour(colour, "x")[50, 50] == 90
    colour[:10] = (255, 0, 0)
    with pytest.raises(MedretError, match="x: no greyscale film: 10% of the pixels are coloured"):
        grey_of_colour(colour, "x")


def test_a_picture_without_pixels_and_a_bomb_are_refused():
    check_size(8000, 10000, "x")
    for size in ((0, 5), (8000, 10001), (-1, -1)):
        with pytest.raises(MedretError, match=r"^x: the image is "):
            check_size(*size, "x")


@given(data=st.binary(max_size=200), magic=st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\x4f\xff\x51"]))
def test_no_bytes_whatever_make_the_header_readers_fail(data, magic):
    assert coded_format(magic + data) is None or len(coded_format(magic + data)) == 4
