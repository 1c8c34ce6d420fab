"""What a DICOM film stores, as grey levels: modality LUT, VOI LUT or window, padding, MONOCHROME1; the rule of encoders.pixels.DECODING."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.errors import MedretError

if TYPE_CHECKING:
    from pydicom import Dataset


def grey_levels(stored: np.ndarray, dataset: "Dataset", name: str) -> np.ndarray:
    """Map stored values to grey by one table over all values that occur: exact, and each formula runs once per level.

    Args:
        stored: (H, W) integers as the file holds them.
        dataset: Rescale, lookup tables, windows, padding and MONOCHROME1 are read from its header.
        name: What messages call the image.

    Returns:
        (H, W) uint8, 0 is black.

    Raises:
        MedretError: If values take more than 16 bits. A damaged header raises whatever its values make of NumPy and pydicom.
    """
    offsets = stored.astype(np.int64)
    low = int(offsets.min())
    offsets -= low
    if offsets.max() > 0xFFFF:
        raise MedretError(f"{name}: the DICOM holds values of more than 16 bits, expected at most 16. Leave it out.")
    occurs = np.bincount(offsets.ravel()) > 0  # (L,)
    levels = np.arange(low, low + len(occurs))  # (L,) stored values
    values = _modality(levels, dataset)
    grey = _voi(values, dataset)
    if grey is None or _loses_all(grey, values, occurs):
        plain = dataset.BitsStored == 8 and levels[0] >= 0 and levels[-1] <= 255 and np.array_equal(values, levels)
        grey = values if plain else _stretch(values, occurs & ~_padding(levels, dataset))
    table = np.rint(grey).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        table = 255 - table
    film: np.ndarray = table[offsets]
    return film


def _modality(levels: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values to the values that windows speak of, float64."""
    values = levels.astype(np.float64)
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(values, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values = values * (1.0 if slope is None else float(slope)) + (0.0 if intercept is None else float(intercept))
    if not np.isfinite(values).all() or slope == 0:
        raise ValueError(f"RescaleSlope {slope}, RescaleIntercept {intercept}")
    return values


def _voi(values: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Values to grey 0..255 by the first VOI LUT, else the first window; None without either or if it is degenerate.

    Source: DICOM PS3.3 C.11.2.1.
    """
    if dataset.get("VOILUTSequence"):
        grey, white = _looked_up(values, dataset.VOILUTSequence[0], dataset)
        return grey * (255 / white)
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if not (math.isfinite(center) and math.isfinite(width)) or width <= 0:
        return None
    if function == "LINEAR" and width >= 1:
        center, width = center - 0.5, width - 1
        return 255 * (np.clip((values - center) / width + 0.5, 0, 1) if width else (values > center).astype(np.float64))
    if function == "LINEAR_EXACT":
        return 255 * np.clip((values - center) / width + 0.5, 0, 1)
    if function == "SIGMOID":
        return 255 * (0.5 + 0.5 * np.tanh(2 * (values - center) / width))  # 1 / (1 + exp(-4 (x - c) / w)), without overflow
    return None


def _first(value: Any) -> float:
    """The first of the values of a decimal string, NaN for none."""
    if value is None or value == "" or (isinstance(value, Sequence) and not value):
        return math.nan
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)


def _looked_up(values: np.ndarray, table: "Dataset", dataset: "Dataset") -> tuple[np.ndarray, int]:
    """Look values up in a Modality or VOI LUT; also return the largest entry that its depth allows.

    Not by pydicom 3.0, whose apply_voi wraps around in tables of 8 bits with more than 256 entries.
    """
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    count = count & 0xFFFF or 0x10000
    if first > 0x7FFF and values.min() < 0:  # signed, read as unsigned
        first -= 0x10000
    data = table.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(data[: count * 2], f"{order}u2") if len(data) >= count * 2 else np.frombuffer(data, np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.uint16)
    if len(entries) < count and bits <= 8:
        entries = entries.astype("<u2").view(np.uint8)  # two entries of 8 bits in a word
    if len(entries) < count:
        raise ValueError(f"a lookup table with {len(entries)} of {count} entries")
    entries = entries[:count]
    places = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    return entries[places].astype(np.float64), max(2**bits - 1, int(entries.max()), 1)


def _loses_all(grey: np.ndarray, values: np.ndarray, occurs: np.ndarray) -> bool:
    """Whether a film that is not constant comes out as one grey."""
    return bool(np.ptp(grey[occurs]) < 1 and np.ptp(values[occurs]) > 0)


def _padding(levels: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """(L,) bool: which stored values only pad the film."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(len(levels), dtype=bool)
    ends = [value, limit if isinstance(limit, int) else value]
    if levels[0] < 0:  # signed, read as unsigned
        ends = [end - 0x10000 if end > 0x7FFF else end for end in ends]
    return (levels >= min(ends)) & (levels <= max(ends))


def _stretch(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Stretch to 0..255 from the smallest to the largest counted value; a constant film becomes 0."""
    if not counted.any():
        return np.zeros(len(values))
    low, high = values[counted].min(), values[counted].max()
    return np.clip((values - low) * (255 / (high - low)), 0, 255) if high > low else np.zeros(len(values))
