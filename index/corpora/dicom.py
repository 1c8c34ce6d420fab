"""A folder tree of DICOM films from any vendor: what their headers say. Pixels are never touched here."""

from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from encoders.dicom_pixels import is_dicom
from encoders.errors import MedretError
from index.corpora.record import Record, Tally
from index.corpora.tree import walk_files

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITIES = ("CR", "DX", "RG", "XA")
"""Modalities read as films: computed, digital and scanned radiographs, and single shots of an angiography unit.

A header without a modality (some de-identified collections blank it) is read too, and counted as a fault.
"""

_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "Rows", "NumberOfFrames"),
    *("ViewPosition", "ViewCodeSequence", "ProjectionEponymousNameCodeSequence", "ImageLaterality", "Laterality"),
    *("StudyDate", "PatientAge", "PatientBirthDate", "PatientSex"),
]
_DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
_VIEW_CODES = {  # SNOMED CT, and the older SNOMED RT code, of DICOM's context group 4010
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("399173006", "R-10236"), "LL"),
    **dict.fromkeys(("399198007", "R-10232"), "RL"),
    **dict.fromkeys(("399067008", "R-102CD"), "LATERAL"),
}
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_LATERALITIES = {"L": "left", "R": "right", "B": "both sides"}
_PEEK = 200  # files opened, at most, to recognise a folder
_INSTALL = "pydicom is not installed, and DICOM headers cannot be read without it. Install it: pip install 'medret[dicom]'"


class _NoFilmError(Exception):
    """Why a file becomes no record."""


def recognises_dicom(root: Path) -> bool:
    """Whether one of the first 200 files of the folder tree bears the DICOM mark at byte 128."""
    if not root.is_dir():
        return False
    return any(_first_bytes(path)[128:132] == b"DICM" for path in islice(walk_files(root, Tally()), _PEEK))


def findings_dicom(root: Path) -> tuple[str, ...]:
    """Return no findings: headers hold no labels."""
    return ()


def read_dicom(root: Path, tally: Tally) -> Iterator[Record]:
    """Yield a record for each film of a folder tree, folders and files in the order of their names.

    The record's id is the SOPInstanceUID, its patient the PatientID (None where blank), its study the
    StudyInstanceUID. View: ViewPosition, else the view code (AP, PA, LL, RL, LATERAL, or the code's meaning), else the
    projection's eponym. Age: PatientAge ("058Y", "006M", "012W"; a bare number is years), else from the birth date.
    Laterality, where given, is a tag ("laterality: left"). Reports are not looked for: headers only.

    Args:
        root: Any folder. Files need no suffix; links are followed, each folder once.
        tally: Counts what was left out (DICOMDIR, other files, other modalities, objects without an image, several
            frames, a SOPInstanceUID seen before) and faults (no modality, no StudyInstanceUID, no PatientID).

    Raises:
        MedretError: If pydicom is not installed.
    """
    try:
        import pydicom.config
    except ImportError as error:
        raise MedretError(f"{root}: {_INSTALL}") from error
    root = root.absolute()
    seen: set[str] = set()
    for path in walk_files(root, tally):
        relative = path.relative_to(root).as_posix()
        try:
            with pydicom.config.disable_value_validation():  # its warnings would put header values on the screen
                record, faults = _record(path, _read_header(path))
            if record.id in seen:
                raise _NoFilmError("SOPInstanceUID seen before")
        except _NoFilmError as why:
            tally.leave_out(str(why), relative)
            continue
        seen.add(record.id)
        for fault in faults:
            tally.fault(fault, record.id)
        yield record


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError:
        return b""


def _read_header(path: Path) -> "Dataset":
    import pydicom

    if path.name.upper() == "DICOMDIR":
        raise _NoFilmError("DICOMDIR: a directory of other files")
    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(132)):
                raise _NoFilmError("no DICOM file")
            file.seek(0)
            return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
    except OSError as error:
        raise _NoFilmError("file cannot be read") from error
    except _NoFilmError:
        raise
    except Exception as error:  # a damaged header makes pydicom raise anything from EOFError to struct.error
        raise _NoFilmError("DICOM header is damaged") from error


def _record(path: Path, header: "Dataset") -> tuple[Record, list[str]]:
    """Turn a header into a record and the faults found in it."""
    try:
        modality = _text(header, "Modality").upper()
        _check_is_film(header, modality)
        id = _text(header, "SOPInstanceUID") or _text(header.file_meta, "MediaStorageSOPInstanceUID")
        patient, study = _text(header, "PatientID"), _text(header, "StudyInstanceUID")
        day = _date(_text(header, "StudyDate"))
        side = _text(header, "ImageLaterality").upper() or _text(header, "Laterality").upper()
        record = Record(
            id=id,
            image=path,
            patient_id=patient or None,
            study_id=study or None,
            view=_view(header),
            study_date=day,
            age=_age(_text(header, "PatientAge"), _date(_text(header, "PatientBirthDate")), day),
            sex=sex if (sex := _text(header, "PatientSex").upper()) in ("F", "M") else None,
            tags=(f"laterality: {_LATERALITIES[side]}",) if side in _LATERALITIES else (),
        )
    except _NoFilmError:
        raise
    except Exception as error:  # values are parsed when they are asked for, so damage may show only here
        raise _NoFilmError("DICOM header is damaged") from error
    if not id:
        raise _NoFilmError("no SOPInstanceUID")
    present = {"no modality in the header": modality, "no PatientID": patient, "no StudyInstanceUID": study}
    return record, [fault for fault, value in present.items() if not value]


def _check_is_film(header: "Dataset", modality: str) -> None:
    if _text(header, "SOPClassUID") == _DIRECTORY or _text(header.file_meta, "MediaStorageSOPClassUID") == _DIRECTORY:
        raise _NoFilmError("DICOMDIR: a directory of other files")
    if not header.get("Rows"):
        raise _NoFilmError(f"holds no image (modality {modality[:16] or 'not given'}: a report, a presentation state, ...)")
    if modality and modality not in MODALITIES:
        raise _NoFilmError(f"modality {modality[:16]}, expected {', '.join(MODALITIES)}")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise _NoFilmError("more than one frame")


def _text(header: "Dataset", keyword: str) -> str:
    value = header.get(keyword)
    if isinstance(value, list) or type(value).__name__ == "MultiValue":  # a backslash where one value is due
        value = value[0] if len(value) else None
    return "" if value is None else str(value).strip(" \0")


def _view(header: "Dataset") -> str | None:
    """Return ViewPosition, else what the view code or the projection's eponym says."""
    view = _text(header, "ViewPosition")
    if view:
        return view
    for sequence in ("ViewCodeSequence", "ProjectionEponymousNameCodeSequence"):
        for code in header.get(sequence) or ():
            meaning = _VIEW_CODES.get(_text(code, "CodeValue")) or _text(code, "CodeMeaning")
            if meaning:
                return meaning
    return None


def _date(text: str) -> date | None:
    digits = text.replace(".", "")  # "2004.08.26" before DICOM 3.0
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) if len(digits) == 8 else None
    except ValueError:
        return None


def _age(stated: str, born: date | None, day: date | None) -> float | None:
    """Return the age in years, as stated or from the birth date to the day of the study."""
    number, unit = (stated[:-1], stated[-1].upper()) if stated and not stated[-1].isdigit() else (stated, "Y")
    if number.isdecimal() and unit in _DAYS:
        return int(number) * _DAYS[unit] / _DAYS["Y"]
    if born is not None and day is not None and born <= day:
        return (day - born).days / _DAYS["Y"]
    return None
