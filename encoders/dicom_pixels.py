"""DICOM bytes in, grey levels out: headers and limits checked, every transfer syntax by one decoder."""

import warnings
import zlib
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from encoders.errors import MedretError
from encoders.film import MAX_PIXELS, check_size, coded_format, grey_of_colour, jpeg_segments
from encoders.grey_levels import grey_levels
from encoders.run_lengths import decode_run_lengths

if TYPE_CHECKING:
    from pydicom import Dataset

PACKAGES = {  # module: what to install for it
    "pydicom": "pydicom",
    "gdcm": "python-gdcm",
    "pylibjpeg": "pylibjpeg",
    "openjpeg": "pylibjpeg-openjpeg",
    "rle": "pylibjpeg-rle",
}
_INSTALL = "Install it: pip install 'medret[dicom]'"
_NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
# transfer syntax: (pydicom's plugin, its modules). One decoder for each, or the same film could come out differently
# on two machines. gdcm is the fastest for JPEG lossless and JPEG-LS.
_DECODERS = {
    **dict.fromkeys((_JPEG + "50", _JPEG + "51"), ("pillow", ())),  # the same libjpeg as for plain JPEG files
    **dict.fromkeys((_JPEG + "57", _JPEG + "70", _JPEG + "80", _JPEG + "81"), ("gdcm", ("gdcm",))),
    **dict.fromkeys((_JPEG + n for n in ("90", "91", "201", "202", "203")), ("pylibjpeg", ("pylibjpeg", "openjpeg"))),
    _RLE: ("pydicom", ("rle",)),  # for what encoders.run_lengths leaves to it
}
_TAGS = [  # nothing about the patient is read
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]


def is_dicom(data: bytes) -> bool:
    """Tell from the content: DICM at byte 128, or a first tag of group 2 or 8 (files without preamble)."""
    return data[128:132] == b"DICM" or data[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def decode_dicom(data: bytes, name: str) -> np.ndarray:
    """Decode the one frame of a DICOM film by the rule of encoders.pixels.DECODING.

    Args:
        data: A whole DICOM file, with or without preamble.
        name: What messages call the image.

    Returns:
        (H, W) uint8, 0 is black.

    Raises:
        MedretError: As encoders.pixels.read_image.
    """
    try:
        import pydicom  # noqa: F401  (an optional extra)
    except ImportError as error:
        raise MedretError(f"{name}: DICOM needs the package pydicom, which is not installed. {_INSTALL}") from error
    with warnings.catch_warnings():
        # They quote values of the header, and what matters is raised below. Limited to pydicom, as threads share filters.
        warnings.filterwarnings("ignore", module=r"pydicom\.")
        dataset = _read(data, name)
        _check(dataset, name)
        stored = _decode_frame(dataset, name)  # (H, W) or (H, W, 3)
    if stored.ndim == 3:
        if stored.dtype != np.uint8:
            raise MedretError(f"{name}: no greyscale film: the DICOM holds colours of more than 8 bits. Leave it out.")
        return grey_of_colour(stored, name)
    try:
        return grey_levels(stored, dataset, name)
    except MedretError:
        raise
    except Exception as error:  # a damaged header raises whatever its values make of NumPy and pydicom
        raise MedretError(f"{name}: the VOI LUT, window or rescale of the DICOM cannot be used ({_reason(error)}). Mend it.") from error


def _reason(error: Exception) -> str:
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    """A damaged header can hold anything; a message is one line of printable text."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200]).strip()


def _read(data: bytes, name: str) -> "Dataset":
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if _DEFLATED.encode() in data[:65536]:
        data = _inflated(data, name)
    try:
        dataset = dcmread(BytesIO(data), force=True, specific_tags=list(_TAGS))
        if not getattr(dataset.file_meta, "TransferSyntaxUID", None):
            implicit, little = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            )
    except Exception as error:  # its text is left out: it may quote a header
        raise MedretError(f"{name}: the DICOM cannot be read ({type(error).__name__}): damaged or cut short. Copy it again.") from error
    return dataset


def _inflated(data: bytes, name: str) -> bytes:
    """Inflate a deflated data set here, with a limit; pydicom would inflate a bomb whole."""
    at, syntax = (132 if data[128:132] == b"DICM" else 0), ""
    while data[at : at + 2] == b"\x02\x00":  # the file meta group: explicit VR, little endian
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        start = at + (12 if long else 8)
        length = int.from_bytes(data[start - 4 : start] if long else data[start - 2 : start], "little")
        if data[at + 2 : at + 4] == b"\x10\x00":
            syntax = data[start : start + length].decode("ascii", "replace").strip("\0 ")
        at = start + length
    if syntax and syntax != _DEFLATED:
        return data
    limit = 2 * MAX_PIXELS + (1 << 26)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data[at:], limit)
    except zlib.error as error:
        raise MedretError(f"{name}: the deflated DICOM cannot be inflated: damaged. Copy it again.") from error
    if stream.unconsumed_tail:
        raise MedretError(f"{name}: the deflated DICOM holds over {limit:,} bytes, expected fewer (a decompression bomb?). Leave it out.")
    return inflated


def _check(dataset: "Dataset", name: str) -> None:
    try:
        has_pixels = "PixelData" in dataset
        rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
        frames = int(dataset.get("NumberOfFrames") or 1)
        kind = _one_line(str(dataset.get("PhotometricInterpretation") or "no PhotometricInterpretation"))
    except Exception as error:
        raise MedretError(f"{name}: the DICOM header is damaged ({type(error).__name__}). Copy it again.") from error
    if not has_pixels:
        raise MedretError(f"{name}: the DICOM has no pixel data (a report, a presentation state, or cut short). Leave it out.")
    if frames != 1:
        raise MedretError(f"{name}: the DICOM has {frames} frames, expected a single film. Export the frame that you need.")
    if kind not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not kind.startswith("YBR_"):
        raise MedretError(f"{name}: no greyscale film: the DICOM has {kind}, expected MONOCHROME1 or MONOCHROME2. Leave it out.")
    check_size(columns, rows, name)


def _decode_frame(dataset: "Dataset", name: str) -> np.ndarray:
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    coding = _one_line(syntax.name)
    plugin, modules = _DECODERS.get(str(syntax), ("", ()))
    if not plugin and str(syntax) not in _NATIVE:
        raise MedretError(f"{name}: the DICOM is compressed as {coding}, which cannot be decoded. Decompress it, say with gdcmconv.")
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            needed = f"the package {PACKAGES[module]}, which is not installed"
            raise MedretError(f"{name}: the DICOM is compressed as {coding}, which needs {needed}. {_INSTALL}") from error
    try:
        if plugin:
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
            if syntax == _RLE:
                plugin = _unpack(frame, dataset, plugin)
            else:
                _check_frame(frame, dataset, name)
        array: np.ndarray = pixel_array(dataset, index=0, decoding_plugin=plugin)
    except MedretError:
        raise
    except Exception as error:  # every decoder has its own exceptions
        raise MedretError(f"{name}: the pixels ({coding}) cannot be decoded ({_reason(error)}). Copy it again or leave it out.") from error
    if array.shape[:2] != (dataset.Rows, dataset.Columns):
        raise MedretError(
            f"{name}: the DICOM decodes to {array.shape}, its header says {dataset.Rows} rows, {dataset.Columns} columns. Leave it out."
        )
    return array


def _unpack(frame: bytes, dataset: "Dataset", plugin: str) -> str:
    """Put the pixels of an RLE frame in its place where they are whole; return who decodes what is there then."""
    from pydicom.uid import ExplicitVRLittleEndian

    pixels = decode_run_lengths(frame, dataset.Rows * dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated)
    if pixels is None:
        return plugin
    dataset.PixelData, dataset.PlanarConfiguration = pixels, 1
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ""


def _check_frame(frame: bytes, dataset: "Dataset", name: str) -> None:
    """Refuse a JPEG or JPEG 2000 frame that a native decoder would trust.

    Another size than the header's may be a bomb; gdcm pads a frame without its end with grey, and crashes the
    process on broken segments, on a Huffman table that is missing, and on a sample format that cannot be.
    """
    coded, fault = coded_format(frame), ""
    markers = [marker for marker, _ in jpeg_segments(frame)] if frame[:2] == b"\xff\xd8" else []
    if coded is None:
        fault = "have no JPEG or JPEG 2000 header"
    elif (coded.width, coded.height) != (dataset.Columns, dataset.Rows):
        fault = f"hold {coded.width} x {coded.height}, but the DICOM header says {dataset.Columns} x {dataset.Rows}"
    elif not 2 <= coded.precision <= dataset.BitsAllocated <= 16 or coded.components != dataset.SamplesPerPixel:
        fault = f"have {coded.components} x {coded.precision} bits, unlike the DICOM header or beyond 16 bits"
    elif markers and (markers[-1] != 0xDA or not {0xC4, 0xF7} & set(markers)):  # neither Huffman tables nor JPEG-LS, which has none
        fault = "have a damaged JPEG header"
    elif b"\xff\xd9" not in frame[-1024:]:
        fault = "are cut short (no end marker)"
    if fault:
        raise MedretError(f"{name}: the compressed pixels {fault}. Copy it again or leave it out.")
