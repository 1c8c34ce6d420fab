import os
import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import decode_image, missing_decoders, read_image

RAMP = np.arange(60 * 80, dtype=np.uint32).reshape(60, 80)
GREY = (RAMP % 256).astype(np.uint8)


def saved(image: Image.Image, shape: str, **options) -> bytes:
    into = BytesIO()
    image.save(into, shape, **options)
    return into.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and that holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_an_8_bit_png_comes_out_as_it_was_written(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(saved(Image.fromarray(GREY), "PNG"))

    film = read_image(path)

    assert film.dtype == np.uint8
    np.testing.assert_array_equal(film, GREY)


def test_the_content_decides_and_not_the_suffix(tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(saved(Image.fromarray(GREY), "PNG"))

    np.testing.assert_array_equal(read_image(path), GREY)


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 30, "progressive": True}])
def test_a_jpeg_comes_out_as_pillow_decodes_it(options):
    data = saved(Image.fromarray(GREY), "JPEG", **options)

    np.testing.assert_array_equal(decode_image(data, "x"), np.asarray(Image.open(BytesIO(data))))


def test_a_16_bit_png_is_stretched_from_its_smallest_to_its_largest_level():
    levels = (RAMP + 1000).astype(np.uint16)  # 1000 to 5799 of 65535
    film = decode_image(saved(Image.fromarray(levels), "PNG"), "x")

    np.testing.assert_array_equal(film, np.rint(RAMP * (255 / 4799)))


def test_a_constant_16_bit_png_is_black():
    assert not decode_image(saved(Image.fromarray(np.full((5, 7), 4000, np.uint16)), "PNG"), "x").any()


@pytest.mark.parametrize("shape", ["PNG", "JPEG"])
def test_a_colour_file_with_equal_channels_is_a_film(shape):
    data = saved(Image.fromarray(GREY).convert("RGB"), shape, **({"quality": 100, "subsampling": 2} if shape == "JPEG" else {}))
    expected = np.asarray(Image.open(BytesIO(data)))

    np.testing.assert_allclose(decode_image(data, "x").astype(int), expected[..., 1], atol=1)
    assert np.ptp(expected, axis=-1).max() <= 1


@pytest.mark.parametrize(("shape", "mode"), [("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "CMYK")])
def test_a_true_colour_picture_is_refused(shape, mode):
    colour = np.zeros((40, 40, 3), np.uint8)
    colour[:, :20] = (200, 30, 30)
    colour[:, 20:] = (30, 30, 200)

    with pytest.raises(MedretError, match=r"^x: no greyscale film: \d+% of the pixels are coloured"):
        decode_image(saved(Image.fromarray(colour).convert(mode), shape), "x")


def test_a_palette_of_greys_is_looked_up():
    image = Image.fromarray((GREY % 4).astype(np.uint8), "L").convert("P")
    image.putpalette([value for level in (200, 10, 90, 0) for value in (level, level, level)])

    np.testing.assert_array_equal(decode_image(saved(image, "PNG"), "x"), np.array([200, 10, 90, 0])[GREY % 4])


def test_transparent_pixels_are_black_and_opaque_ones_as_they_are():
    alpha = np.where(np.arange(80) < 40, 0, 255).astype(np.uint8) * np.ones((60, 1), np.uint8)
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])

    np.testing.assert_array_equal(decode_image(saved(image, "PNG"), "x"), np.where(alpha > 0, GREY, 0))


def test_a_grey_cmyk_jpeg_is_a_film():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    data = saved(ramp.convert("RGB").convert("CMYK"), "JPEG", quality=100)

    np.testing.assert_allclose(decode_image(data, "x").astype(int), np.asarray(ramp), atol=4)


def test_a_bilevel_png_has_black_and_white():
    dots = GREY > 100

    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(dots), "PNG"), "x"), np.where(dots, 255, 0))


@pytest.mark.parametrize(
    ("orientation", "turned"), [(1, GREY), (2, GREY[:, ::-1]), (3, GREY[::-1, ::-1]), (6, np.rot90(GREY, -1)), (8, np.rot90(GREY))]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(orientation, turned, dtype):
    exif = Image.Exif()
    exif[0x0112] = orientation

    film = decode_image(saved(Image.fromarray(GREY.astype(dtype)), "PNG", exif=exif), "x")

    np.testing.assert_array_equal(film, turned)


@pytest.mark.parametrize("shape", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_picture_is_refused(shape, kept):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    data = saved(Image.fromarray(noise), shape)

    with pytest.raises(MedretError, match=r"^x: [^\n]*Copy it again") as refused:
        decode_image(data[: int(len(data) * kept)], "x")
    assert "\n" not in str(refused.value)


def test_a_png_with_a_flipped_byte_is_refused():
    data = bytearray(saved(Image.fromarray(GREY), "PNG"))
    data[len(data) // 2] ^= 0xFF

    with pytest.raises(MedretError, match="the PNG cannot be decoded"):
        decode_image(bytes(data), "x")


@pytest.mark.parametrize("size", [(9_000, 9_000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("error")
def test_a_picture_that_claims_too_many_pixels_is_refused_without_being_decoded(size):
    with pytest.raises(MedretError, match=f"x: the image is {size[0]} x {size[1]} pixels, expected at most 80 megapixels"):
        decode_image(png_claiming(*size), "x")


@pytest.mark.filterwarnings("error")
def test_a_jpeg_that_claims_too_many_pixels_is_refused_without_being_decoded():
    data = bytearray(saved(Image.fromarray(GREY), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)

    with pytest.raises(MedretError, match="60000 x 60000 pixels, expected at most 80 megapixels"):
        decode_image(bytes(data), "x")


def test_an_empty_file_is_refused_by_name(tmp_path):
    (tmp_path / "empty.jpg").touch()

    with pytest.raises(MedretError, match=r"empty\.jpg: the image file is empty"):
        read_image(tmp_path / "empty.jpg")


@pytest.mark.parametrize("data", [b"hello, world", b"GIF89a" + bytes(50), b"\x00" * 300, b"\x08\x00", b"\x02\x00" + bytes(400)])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(MedretError, match=r"^x: "):
        decode_image(data, "x")


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(MedretError, match="none: the image does not exist"):
        read_image(tmp_path / "none")
    for name in (".", "pipe"):
        with pytest.raises(MedretError, match="is a folder or a device"):
            read_image(tmp_path / name)


def test_a_message_names_the_id_and_not_the_path_where_an_id_is_given(tmp_path):
    path = tmp_path / "Doe^Jane.png"
    path.write_bytes(b"x")

    for wrong in (path, tmp_path / "Doe^Jane"):
        with pytest.raises(MedretError, match=r"^film 7: ") as refused:
            read_image(wrong, "film 7")
        assert "Doe" not in str(refused.value)


def test_missing_decoders_are_named_as_pip_calls_them(monkeypatch):
    assert missing_decoders() == []
    monkeypatch.setitem(sys.modules, "gdcm", None)  # what Python does for a module that cannot be imported
    assert missing_decoders() == ["python-gdcm"]
