"""DICOM's RLE frames, unpacked by the decoder of pylibjpeg-rle (MIT), which is several times as fast as pydicom's."""

import struct

import numpy as np

_HEADER = struct.Struct("<16L")  # how many segments, and where each begins
_ALONE = _HEADER.pack(1, _HEADER.size, *[0] * 14)


def decode_run_lengths(frame: bytes, pixels: int, samples: int, bits: int) -> bytes | None:
    """Unpack a frame whose segments (a byte of each value, highest first) hold what they should.

    Segments are given to pylibjpeg-rle one by one, as frames of single bytes: asked for a frame of 16 bits, it panics on a
    segment that is too long (a trace on stderr, and an exception that is no Exception).

    Args:
        frame: With its header of 64 bytes.
        pixels: H * W.
        samples: Values a pixel, in planes.
        bits: That a value takes, 8 times how many segments it has.

    Returns:
        samples * pixels * bits / 8 bytes, plane by plane, little endian, and one more where that is odd; None for a
        frame that seems damaged: pydicom's decoder says whether, and how.

    Source: DICOM PS3.5, annex G.
    """
    from rle.rle import decode_frame

    wide = bits // 8
    if len(frame) < _HEADER.size:
        return None
    count, *starts = _HEADER.unpack_from(frame)
    if count != samples * wide:
        return None
    ends = [*starts[1:count], len(frame)]
    values = np.zeros(samples * pixels * wide + samples * pixels * wide % 2, np.uint8)
    planes = values[: samples * pixels * wide].reshape(samples, pixels, wide)
    for place, (start, end) in enumerate(zip(starts, ends, strict=False)):
        try:
            segment = decode_frame(_ALONE + frame[start:end], pixels, 8, "<")
        except ValueError:
            return None
        planes[place // wide, :, wide - 1 - place % wide] = np.frombuffer(segment, np.uint8)
    return values.tobytes()
