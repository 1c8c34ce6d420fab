import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import decode_image, read_image

gdcm = pytest.importorskip("gdcm")
pydicom = pytest.importorskip("pydicom")
from pydicom import Dataset, uid  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels.processing import apply_modality_lut, apply_windowing  # noqa: E402

NOISE = np.random.default_rng(7)
STORED = (np.add.outer(np.arange(64), np.arange(72)) * 28 + NOISE.integers(0, 300, (64, 72))).astype(np.uint16)  # 12 bits
GREY = (STORED >> 4).astype(np.uint8)


def dataset(array: np.ndarray, bits: int = 12, photometric: str = "MONOCHROME2", **tags) -> Dataset:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, uid.generate_uid()
    film.PatientName, film.PatientID = "Doe^Jane", "4711"
    film.Rows, film.Columns = array.shape[:2]
    film.SamplesPerPixel, film.PhotometricInterpretation = (3 if array.ndim == 3 else 1), photometric
    if array.ndim == 3:
        film.PlanarConfiguration = 0
    film.BitsAllocated, film.BitsStored, film.HighBit = array.itemsize * 8, bits, bits - 1
    film.PixelRepresentation = int(array.dtype.kind == "i")
    film.add_new("PixelData", "OW" if array.itemsize > 1 else "OB", array.tobytes())
    for keyword, value in tags.items():
        setattr(film, keyword, value)
    return film


def coded(film: Dataset, syntax: str = uid.ExplicitVRLittleEndian, **encoding) -> bytes:
    """A DICOM file in a transfer syntax, by pydicom's writer."""
    film.file_meta.TransferSyntaxUID = uid.UID(syntax)
    into = BytesIO()
    film.save_as(into, enforce_file_format=True, **encoding)
    return into.getvalue()


def recoded_by_gdcm(film: Dataset, syntax: str, folder: Path) -> bytes:
    path = folder / "film.dcm"
    path.write_bytes(coded(film))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    return path.read_bytes()


def in_syntax(film: Dataset, syntax: str, folder: Path) -> bytes:
    if syntax == uid.RLELossless:
        film.compress(syntax, encoding_plugin="pydicom")
    elif syntax == uid.JPEG2000Lossless:
        film.compress(syntax, encoding_plugin="pylibjpeg")
    elif syntax == uid.ImplicitVRLittleEndian:
        return coded(film, syntax, implicit_vr=True, little_endian=True)
    elif syntax == uid.ExplicitVRBigEndian:
        film.PixelData = np.frombuffer(film.PixelData, f"u{film.BitsAllocated // 8}").byteswap().tobytes()
        return coded(film, syntax, implicit_vr=False, little_endian=False)
    elif syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless):
        return recoded_by_gdcm(film, syntax, folder)
    return coded(film, syntax)


def stretched(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return np.rint((values - values.min()) * (255 / np.ptp(values))).astype(np.uint8)


LOSSLESS = [
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian),
    *(uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless),
]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_lossless_transfer_syntax_gives_back_what_was_written(syntax, bits, tmp_path):
    stored = GREY if bits == 8 else STORED << (bits - 12)
    data = in_syntax(dataset(stored, bits), syntax, tmp_path)

    np.testing.assert_array_equal(decode_image(data, "x"), GREY if bits == 8 else stretched(stored))


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit], ids=lambda syntax: syntax.name)
def test_a_jpeg_in_a_dicom_file_is_the_film_of_the_jpeg_alone(syntax):
    jpeg = BytesIO()
    Image.fromarray(GREY).save(jpeg, "JPEG", quality=85)
    film = dataset(GREY, 8)
    film.add_new("PixelData", "OB", encapsulate([jpeg.getvalue()]))

    np.testing.assert_array_equal(decode_image(coded(film, syntax), "x"), np.asarray(Image.open(jpeg)))


@pytest.mark.parametrize("syntax", [uid.JPEGLSNearLossless, uid.JPEG2000], ids=lambda syntax: syntax.name)
def test_lossless_streams_under_the_lossy_names_are_read_too(syntax, tmp_path):
    film = pydicom.dcmread(
        BytesIO(in_syntax(dataset(STORED), {uid.JPEG2000: uid.JPEG2000Lossless}.get(syntax, uid.JPEGLSLossless), tmp_path))
    )

    np.testing.assert_array_equal(decode_image(coded(film, syntax), "x"), stretched(STORED))


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_and_meta_is_read(implicit, tmp_path):
    path = tmp_path / "film"
    film = dataset(STORED)
    del film.file_meta
    film.save_as(path, enforce_file_format=False, implicit_vr=implicit, little_endian=True)
    data = path.read_bytes()
    bare = data[data.index(b"\x08\x00\x16\x00") :]

    np.testing.assert_array_equal(decode_image(bare, "x"), stretched(STORED))


def test_monochrome1_is_inverted_whatever_its_depth():
    np.testing.assert_array_equal(decode_image(coded(dataset(GREY, 8, "MONOCHROME1")), "x"), 255 - GREY)
    np.testing.assert_array_equal(decode_image(coded(dataset(STORED, 12, "MONOCHROME1")), "x"), 255 - stretched(STORED))


def test_bits_above_those_stored_are_ignored():
    polluted = STORED | (NOISE.integers(0, 16, STORED.shape).astype(np.uint16) << 12)  # overlays hid there once

    np.testing.assert_array_equal(decode_image(coded(dataset(polluted, 12)), "x"), stretched(STORED))


def test_signed_values_are_stretched_like_unsigned_ones():
    signed = (STORED.astype(np.int16) - 2000).astype(np.int16)

    np.testing.assert_array_equal(decode_image(coded(dataset(signed, 12)), "x"), stretched(STORED))


@pytest.mark.parametrize(("photometric", "level"), [("MONOCHROME2", 0), ("MONOCHROME1", 255)])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 9000, "WindowWidth": 10}])
def test_a_constant_film_gives_a_constant_image(photometric, level, window):
    film = dataset(np.full((9, 11), 1234, np.uint16), 12, photometric, **window)

    np.testing.assert_array_equal(decode_image(coded(film), "x"), np.full((9, 11), level))


WINDOWS = [
    {"WindowCenter": 2000, "WindowWidth": 1500},
    {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": [1800.5, 100], "WindowWidth": [2500.5, 50]},  # the first one counts
    {"WindowCenter": 900, "WindowWidth": 1},  # a threshold
    {"WindowCenter": 300, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": -1000},
    {"WindowCenter": -1500, "WindowWidth": 3000, "RescaleSlope": -1, "RescaleIntercept": 0},
]


@pytest.mark.parametrize("tags", WINDOWS, ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_rescale_and_window_agree_with_pydicom(tags, signed):
    stored = STORED.astype(np.int16) - 500 if signed else STORED
    film = dataset(stored, 13 if signed else 12, **tags)
    shown = apply_windowing(apply_modality_lut(stored, film), film)
    bits = (-(2**12), 2**12 - 1) if signed else (0, 2**12 - 1)
    black, white = (end * float(tags.get("RescaleSlope", 1)) + float(tags.get("RescaleIntercept", 0)) for end in bits)

    exact = (shown - min(black, white)) * 255 / abs(white - black)
    if black > white:  # pydicom scales to the range of the rescaled values, upside down for a negative slope
        exact = 255 - exact
    assert np.abs(decode_image(coded(film), "x") - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": -5, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 60000, "WindowWidth": 100},  # all of the film is black through it
        {"WindowCenter": 100},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
    ids=str,
)
def test_a_degenerate_window_is_left_aside_for_the_full_range(tags):
    np.testing.assert_array_equal(decode_image(coded(dataset(STORED, **tags)), "x"), stretched(STORED))


def lookup_table(entries: np.ndarray, bits: int, first: int = 0, raw: bool = False) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    if raw:
        table.add_new("LUTData", "OW", entries.astype(np.uint8 if bits == 8 else "<u2").tobytes())
    else:
        table.add_new("LUTData", "US", entries.tolist())
    return table


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_voi_lut_is_looked_up_and_wins_over_a_window(bits, raw, syntax, tmp_path):
    curve = np.rint((np.arange(4096) / 4095) ** 2 * (2**bits - 1)).astype(int)
    film = dataset(STORED, WindowCenter=5, WindowWidth=10)
    film.VOILUTSequence = [lookup_table(curve, bits, raw=raw), lookup_table(np.zeros(2, int), 8)]

    np.testing.assert_array_equal(decode_image(in_syntax(film, syntax, tmp_path), "x"), np.rint(curve[STORED] * (255 / (2**bits - 1))))


def test_values_outside_a_lookup_table_take_its_ends():
    film = dataset(STORED, VOILUTSequence=[lookup_table(np.arange(0, 1000, 10), 10, first=1000)])

    expected = np.clip(STORED.astype(int) - 1000, 0, 99) * 10
    np.testing.assert_array_equal(decode_image(coded(film), "x"), np.rint(expected * (255 / 1023)))


def test_a_modality_lut_comes_before_the_window():
    curve = np.arange(4096)[::-1].copy()
    film = dataset(STORED, ModalityLUTSequence=[lookup_table(curve, 12)], WindowCenter=2048, WindowWidth=4096)

    np.testing.assert_array_equal(decode_image(coded(film), "x"), np.rint(curve[STORED] * (255 / 4095)))


def test_a_lookup_table_cut_short_is_refused():
    film = dataset(STORED, VOILUTSequence=[lookup_table(np.arange(100), 10)])
    film.VOILUTSequence[0].LUTDescriptor = [4096, 0, 10]

    with pytest.raises(MedretError, match="a lookup table with 100 of 4096 entries"):
        decode_image(coded(film), "x")


@pytest.mark.parametrize("limit", [None, 4095])
def test_padding_does_not_count_for_the_range(limit):
    padded = STORED.copy()
    padded[:5], padded[5:9] = 4000, 4000 if limit is None else 4095
    film = dataset(padded, 12, "MONOCHROME1", PixelPaddingValue=4000, **({} if limit is None else {"PixelPaddingRangeLimit": limit}))

    decoded = decode_image(coded(film), "x")

    assert not decoded[:9].any()
    np.testing.assert_array_equal(decoded[9:], 255 - stretched(STORED[9:]))


@given(stored=st.lists(st.integers(0, 4095), min_size=1, max_size=30), center=st.integers(-100, 5000), width=st.integers(2, 5000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_brighter_value_never_comes_out_darker(stored, center, width):
    film = dataset(np.array([stored], np.uint16), WindowCenter=center, WindowWidth=width)
    decoded = decode_image(coded(film), "x")[0]

    order = np.argsort(stored, kind="stable")
    assert (np.diff(decoded[order].astype(int)) >= 0).all()


def test_the_same_film_as_png_and_as_dicom_is_the_same_image():
    png = BytesIO()
    Image.fromarray(STORED).save(png, "PNG")

    np.testing.assert_array_equal(decode_image(coded(dataset(STORED)), "x"), decode_image(png.getvalue(), "x"))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colour_dicom_with_equal_channels_is_a_film_and_true_colour_is_refused(photometric):
    grey = np.stack([GREY, *([np.full_like(GREY, 128)] * 2 if photometric == "YBR_FULL" else [GREY, GREY])], axis=-1)
    np.testing.assert_allclose(decode_image(coded(dataset(grey, 8, photometric)), "x").astype(int), GREY, atol=1)

    grey[..., 2] = 255
    with pytest.raises(MedretError, match="x: no greyscale film"):
        decode_image(coded(dataset(grey, 8, photometric)), "x")


def test_what_is_no_single_greyscale_film_is_refused_with_the_reason():
    no_pixels = dataset(STORED)
    del no_pixels.PixelData
    refused = {
        "has no pixel data": no_pixels,
        "has 3 frames, expected a single film": dataset(np.tile(STORED, (3, 1))[:64], NumberOfFrames=3),
        "no greyscale film: the DICOM has PALETTE COLOR": dataset(GREY, 8, "PALETTE COLOR"),
        "no greyscale film: the DICOM holds colours of more than 8 bits": dataset(np.stack([STORED] * 3, -1), 12, "RGB"),
        "values of more than 16 bits": dataset(STORED.astype(np.uint32) * 1000, 32),
        "RescaleSlope 0": dataset(STORED, RescaleSlope=0, RescaleIntercept=0),
        "the image is 72 x 0 pixels": dataset(STORED, Rows=0),
        "less than expected": dataset(STORED, Rows=65),
    }
    for reason, film in refused.items():
        with pytest.raises(MedretError, match=rf"^x: .*{reason}"):
            decode_image(coded(film), "x")


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.filterwarnings("error")
def test_a_truncated_dicom_file_is_refused_whatever_its_transfer_syntax(syntax, tmp_path):
    data = in_syntax(dataset(STORED), syntax, tmp_path)

    for kept in (0.02, 0.1, 0.5, 0.9):
        with pytest.raises(MedretError, match=r"^x: ") as refused:
            decode_image(data[: int(len(data) * kept)], "x")
        assert "\n" not in str(refused.value)
        assert "Doe" not in str(refused.value)


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless], ids=lambda syntax: syntax.name
)
def test_a_frame_cut_short_inside_a_whole_file_is_refused(syntax, tmp_path):
    film = pydicom.dcmread(BytesIO(in_syntax(dataset(STORED), syntax, tmp_path)))
    frame = pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1)
    film.PixelData = encapsulate([frame[: len(frame) // 2 * 2 // 4 * 2]])

    with pytest.raises(MedretError, match=r"^x: .*(cut short|cannot be decoded)"):
        decode_image(coded(film, syntax), "x")


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_8_bit_streams_in_16_bit_words_are_read_and_16_bit_streams_in_8_bit_words_refused(syntax, tmp_path):
    film = pydicom.dcmread(BytesIO(in_syntax(dataset(GREY, 8), syntax, tmp_path)))
    film.BitsAllocated = 16
    np.testing.assert_array_equal(decode_image(coded(film, syntax), "x"), GREY)

    film = pydicom.dcmread(BytesIO(in_syntax(dataset(STORED), syntax, tmp_path)))
    film.BitsAllocated = film.BitsStored = 8
    with pytest.raises(MedretError, match=r"x: the compressed pixels have 1 x 1[26] bits, unlike the DICOM header"):
        decode_image(coded(film, syntax), "x")


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless], ids=lambda syntax: syntax.name)
def test_a_damaged_jpeg_header_is_refused_where_gdcm_would_crash(syntax, tmp_path):
    film = pydicom.dcmread(BytesIO(in_syntax(dataset(STORED), syntax, tmp_path)))
    frame = bytearray(pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1))
    header = frame.index(b"\xff\xf7" if syntax == uid.JPEGLSLossless else b"\xff\xc3")
    after = header + 2 + int.from_bytes(frame[header + 2 : header + 4], "big")
    faults = [(header + 4, 78, "have 1 x 78 bits"), (header + 9, 3, "have 3 x 1"), (after, 0, "have a damaged JPEG header")]
    if syntax == uid.JPEGLosslessSV1:  # a restart marker in place of the Huffman table
        faults.append((after + 1, 0xD0, "have a damaged JPEG header"))
    for at, value, fault in faults:
        damaged = frame.copy()
        damaged[at] = value
        film.PixelData = encapsulate([bytes(damaged)])

        with pytest.raises(MedretError, match=f"x: the compressed pixels {fault}"):
            decode_image(coded(film, syntax), "x")


def test_bombs_are_refused_before_anything_is_decoded(monkeypatch):
    with pytest.raises(MedretError, match="60000 x 60000 pixels, expected at most 80 megapixels"):
        decode_image(coded(dataset(STORED, Rows=60000, Columns=60000)), "x")

    film = dataset(STORED)
    film.compress(uid.JPEG2000Lossless, encoding_plugin="pylibjpeg")
    frame = bytearray(pydicom.encaps.get_frame(film.PixelData, 0, number_of_frames=1))
    frame[8:16] = (60000).to_bytes(4, "big") * 2  # Xsiz, Ysiz
    film.PixelData = encapsulate([bytes(frame)])
    with pytest.raises(MedretError, match="hold 60000 x 60000, but the DICOM header says 72 x 64"):
        decode_image(coded(film, uid.JPEG2000Lossless), "x")

    monkeypatch.setattr("encoders.dicom_pixels.MAX_PIXELS", 1 << 16)  # or the test takes half a gigabyte
    zeros = dataset(STORED)
    zeros.add_new(0x00091001, "OB", bytes(2 * (1 << 16) + (1 << 26)))
    data = coded(zeros, uid.DeflatedExplicitVRLittleEndian)
    assert len(data) < 1 << 20
    with pytest.raises(MedretError, match="decompression bomb"):
        decode_image(data, "x")


def test_a_transfer_syntax_of_films_that_move_is_refused():
    film = dataset(STORED)
    film.add_new("PixelData", "OB", encapsulate([bytes(100)]))

    with pytest.raises(MedretError, match=r"x: the DICOM is compressed as MPEG2 .* which cannot be decoded"):
        decode_image(coded(film, uid.MPEG2MPML), "x")


def test_a_missing_decoder_is_named_with_how_to_install_it(monkeypatch, tmp_path):
    data = in_syntax(dataset(STORED), uid.JPEGLSLossless, tmp_path)
    monkeypatch.setitem(sys.modules, "gdcm", None)  # what Python does for a module that cannot be imported

    with pytest.raises(MedretError, match=r"JPEG-LS .* needs the package python-gdcm, which is not installed. .*medret\[dicom\]"):
        decode_image(data, "x")


def test_without_the_dicom_packages_pngs_are_read_and_dicom_is_refused(tmp_path):
    """In a Python of its own, where pydicom and the decoders cannot be imported from the start."""
    (tmp_path / "film.dcm").write_bytes(coded(dataset(GREY, 8)))
    Image.fromarray(GREY).save(tmp_path / "film.png")
    program = (
        "import sys; from pathlib import Path\n"
        "sys.modules.update(dict.fromkeys(['pydicom', 'gdcm', 'pylibjpeg', 'openjpeg', 'rle']))\n"
        "from encoders.pixels import missing_decoders, read_image\n"
        "print(read_image(Path('film.png')).shape, missing_decoders())\n"
        "read_image(Path('film.dcm'))\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )

    assert done.stdout.strip() == "(64, 72) ['pydicom', 'python-gdcm', 'pylibjpeg', 'pylibjpeg-openjpeg', 'pylibjpeg-rle']"
    assert "MedretError: film.dcm: DICOM needs the package pydicom, which is not installed" in done.stderr


def test_a_file_on_disk_is_read_like_its_bytes(tmp_path):
    (tmp_path / "film").write_bytes(coded(dataset(STORED)))

    np.testing.assert_array_equal(read_image(tmp_path / "film"), stretched(STORED))
