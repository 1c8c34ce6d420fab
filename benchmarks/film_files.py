"""Films of the sizes that archives hold, made from phantoms: what decoding is measured on."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from index.corpora.phantom_cases import draw_patient
from index.corpora.phantom_findings import draw_film

SIZES = {"mimic": (3000, 2500), "chexpert-small": (320, 390), "dicom": (3000, 2500)}  # rows, columns
BYTES = {"mimic": 1_400_000, "chexpert-small": 45_000}  # of the real files at quality 95, on average: 570 GB / 377,000 and 11 GB / 224,000
SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
}

Levels = npt.NDArray[np.float32]


def make_films(work: Path, kind: str, count: int) -> Path:
    """Return a folder of so many films, making it where it is missing.

    A phantom is enlarged and given film grain, so that its file is as large as real ones are: noise is what an entropy decoder
    works on, and an enlarged phantom has none.

    Args:
        kind: "mimic" and "chexpert-small" (8-bit JPEG, quality 95), or "dicom: " and one of SYNTAXES (12 bit).
    """
    folder = work / f"films-{kind.replace(': ', '-').replace(' ', '-')}-{count}"
    if (folder / f"{count - 1:05d}").with_suffix(".dcm" if "dicom" in kind else ".jpg").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    home, _, syntax = kind.partition(": ")
    grain = 0.0
    for number, film in enumerate(_phantoms(count, SIZES[home])):
        noise = np.random.default_rng(number).standard_normal(film.shape, np.float32)
        if syntax:
            _write_dicom(folder / f"{number:05d}.dcm", film + 2 * noise, SYNTAXES[syntax])
            continue
        grain = grain or _grain(film, noise, BYTES[home])
        (folder / f"{number:05d}.jpg").write_bytes(_jpeg(film + grain * noise))
    return folder


def _phantoms(count: int, size: tuple[int, int]) -> Iterator[Levels]:
    """Yield (rows, columns) grey levels 0 to 255."""
    for number in range(count):
        patient = draw_patient(0, number, None)
        study = patient.studies[0]
        pixels, _ = draw_film(patient.anatomy, study.images[0].pose, study.findings)
        yield np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC), np.float32)


def _grain(film: Levels, noise: Levels, wanted: int) -> float:
    """Return the standard deviation of the noise, in grey levels, that makes the file as large as wanted."""
    low, high = 0.0, 16.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if len(_jpeg(film + middle * noise)) < wanted else (low, middle)
    return high


def _jpeg(levels: Levels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _write_dicom(path: Path, levels: Levels, syntax: str) -> None:
    """Write a 12-bit film with a window, in the transfer syntax."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    film.file_meta.MediaStorageSOPClassUID, film.file_meta.MediaStorageSOPInstanceUID = film.SOPClassUID, film.SOPInstanceUID
    film.Modality, film.PatientID, film.PhotometricInterpretation = "DX", "phantom", "MONOCHROME2"
    film.Rows, film.Columns = levels.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.WindowCenter, film.WindowWidth = 2048, 3600
    film.PixelData = np.clip(levels * 16, 0, 4095).astype("<u2").tobytes()
    film["PixelData"].VR = "OW"
    if syntax == SYNTAXES["JPEG lossless"]:
        film.save_as(path, enforce_file_format=True)
        _recode_by_gdcm(path, syntax)
        return
    if syntax != ExplicitVRLittleEndian:
        film.compress(syntax, generate_instance_uid=False)
    film.save_as(path, enforce_file_format=True)


def _recode_by_gdcm(path: Path, syntax: str) -> None:
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    done: list[Any] = [reader.Read()]
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    done.append(change.Change())
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not all([*done, writer.Write()]):
        raise RuntimeError(f"{path}: GDCM could not write it in {syntax}")
