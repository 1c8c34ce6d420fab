import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("rle")
from pydicom import Dataset, uid  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate, get_frame  # noqa: E402
from pydicom.pixels.decoders.rle import _rle_decode_frame  # noqa: E402
from pydicom.pixels.utils import pixel_array  # noqa: E402

from encoders.dicom_pixels import _decode_frame  # noqa: E402
from encoders.errors import MedretError  # noqa: E402
from encoders.run_lengths import decode_run_lengths  # noqa: E402

NOISE = np.random.default_rng(3)


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Runs and noise in turns, over the whole range of the type."""
    limits = np.iinfo(dtype)
    noise = NOISE.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    return np.where(NOISE.random(shape[:2] + (1,) * (len(shape) - 2)) < 0.3, noise, limits.max // 3).astype(dtype)


def film(stored: np.ndarray) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = uid.SecondaryCaptureImageStorage, uid.generate_uid()
    made.Rows, made.Columns = stored.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = (3, "RGB") if stored.ndim == 3 else (1, "MONOCHROME2")
    made.PlanarConfiguration, made.PixelRepresentation = 0, int(stored.dtype.kind == "i")
    made.BitsAllocated = made.BitsStored = stored.itemsize * 8
    made.HighBit = made.BitsStored - 1
    made.PixelData = stored.tobytes() + bytes(stored.nbytes % 2)
    made.compress(uid.RLELossless, encoding_plugin="pydicom")
    return made


@pytest.mark.parametrize("shape", [(64, 72), (7, 9), (1, 1), (7, 9, 3), (31, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("tags", [{}, {"PhotometricInterpretation": "YBR_FULL"}, {"BitsStored": 7, "HighBit": 6}], ids=str)
def test_pixels_are_those_of_pydicoms_own_decoder(shape, dtype, tags):
    if len(shape) == 3 and dtype.startswith("int"):
        dtype = "u" + dtype  # no colour is signed
    coded = film(values(shape, dtype))
    for keyword, value in tags.items():
        if keyword != "PhotometricInterpretation" or (len(shape) == 3 and dtype == "uint8"):
            setattr(coded, keyword, value)
    expected = pixel_array(coded, index=0, decoding_plugin="pydicom").copy()

    decoded = _decode_frame(coded, "x")

    assert coded.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian, "the fast decoder was not used"
    assert decoded.dtype == expected.dtype
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.filterwarnings("ignore:The decoded RLE segment contains non-conformant padding")
def test_a_segment_longer_than_the_film_is_cut_off_as_by_pydicom():
    """Asked for the frame whole, pylibjpeg-rle would write beyond it, or into the next plane."""
    coded = film(values((6, 8), "uint16"))
    expected = pixel_array(coded, index=0, decoding_plugin="pydicom").copy()
    coded.PixelData = encapsulate([get_frame(coded.PixelData, 0, number_of_frames=1) + b"\x03long"])

    np.testing.assert_array_equal(_decode_frame(coded, "x"), expected)


@pytest.mark.filterwarnings("ignore:The decoded RLE segment contains non-conformant padding")
def test_damaged_frames_give_what_pydicom_makes_of_them_or_nothing_and_never_panic(capfd):
    whole = get_frame(film(values((12, 20), "uint16")).PixelData, 0, number_of_frames=1)
    read = 0
    for _ in range(3000):
        damaged = bytearray(whole[: NOISE.integers(len(whole) // 2, len(whole) + 1)])
        places = [NOISE.integers(0, 64), *NOISE.integers(0, len(damaged), NOISE.integers(1, 4))][NOISE.integers(0, 2) :]
        for place in places:
            damaged[place] = NOISE.integers(0, 256)
        pixels = decode_run_lengths(bytes(damaged), 240, 1, 16)
        if pixels is not None:
            read += 1
            assert pixels == bytes(_rle_decode_frame(bytes(damaged), 12, 20, 1, 16))

    assert 0 < read < 3000
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:The decoded RLE segment contains non-conformant padding")
@pytest.mark.parametrize("damage", ["header", "empty", "short", "order", "count"])
def test_a_damaged_rle_film_is_refused_in_one_line(damage, capfd):
    coded = film(values((12, 20), "uint16"))
    frame = bytearray(get_frame(coded.PixelData, 0, number_of_frames=1))
    frame = {
        "header": frame[:40],
        "empty": bytearray(2),
        "short": frame[: len(frame) * 3 // 4],
        "order": frame[:4] + frame[8:12] + frame[4:8] + frame[12:],
        "count": bytearray(b"\x03") + frame[1:],
    }[damage]
    coded.PixelData = encapsulate([bytes(frame)])

    with pytest.raises(MedretError, match=r"^x: the pixels \(RLE Lossless\) cannot be decoded") as refused:
        _decode_frame(coded, "x")
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""
