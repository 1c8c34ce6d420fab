import os
import warnings
from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from index.corpora.dicom import read_dicom, recognises_dicom
from index.corpora.record import Tally


def write_film(path: Path, uid: str, *, preamble: bool = True, leave_out: tuple[str, ...] = (), **values: object) -> Path:
    """Write a 2 x 2 radiograph; its last bytes are PixelData that reading headers must not need."""
    film = Dataset()
    film.SOPClassUID = ComputedRadiographyImageStorage
    film.SOPInstanceUID = uid
    film.StudyInstanceUID = "1.2.3"
    film.PatientID = "P1"
    film.Modality = "CR"
    film.Rows = film.Columns = 2
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit, film.PixelRepresentation, film.SamplesPerPixel = 7, 0, 1
    film.PhotometricInterpretation = "MONOCHROME2"
    film.PixelData = b"\1\2\3\4"
    for keyword, value in values.items():
        setattr(film, keyword, value)
    for keyword in leave_out:
        delattr(film, keyword)
    path.parent.mkdir(parents=True, exist_ok=True)
    if preamble:
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        film.file_meta.MediaStorageSOPInstanceUID = uid
        film.save_as(path, enforce_file_format=True)
    else:
        film.save_as(path, implicit_vr=True, little_endian=True)
    return path


def read(root: Path) -> tuple[list, Tally]:
    tally = Tally()
    return list(read_dicom(root, tally)), tally


def view_code(value: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodeMeaning = value, meaning
    return Sequence([code])


def test_a_header_becomes_a_record(tmp_path):
    path = write_film(
        tmp_path / "a" / "IM0001",  # no suffix
        "1.2.3.4",
        PatientID="H-77 ",
        ViewPosition="PA",
        StudyDate="20200301",
        PatientAge="058Y",
        PatientSex="F",
        ImageLaterality="L",
    )

    (record,), tally = read(tmp_path)

    assert (record.id, record.image, record.patient_id, record.study_id) == ("1.2.3.4", path, "H-77", "1.2.3")
    assert (record.view, record.study_date, record.age, record.sex) == ("PA", date(2020, 3, 1), 58.0, "F")
    assert record.tags == ("laterality: left",)
    assert (record.split, record.labels, record.sections) == (None, {}, {})
    assert not tally.left_out
    assert not tally.faults


@pytest.mark.parametrize(
    ("stated", "born", "years"),
    [
        ("058Y", "", 58.0),
        ("006M", "", 0.5),
        ("026W", "", 26 * 7 / 365.25),
        ("010D", "", 10 / 365.25),
        ("68", "", 68.0),  # not DICOM, but found in published collections
        ("", "19700301", 18263 / 365.25),  # 50 years with 13 leap days
        ("old", "", None),
        ("", "20210101", None),  # born after the study
        ("", "", None),
    ],
)
def test_age_comes_from_the_stated_age_or_the_birth_date(tmp_path, stated, born, years):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns while writing what is not DICOM
        write_film(tmp_path / "a.dcm", "1.1", PatientAge=stated, PatientBirthDate=born, StudyDate="20200301")

    (record,), _ = read(tmp_path)

    assert record.age == pytest.approx(years)


@pytest.mark.parametrize(
    ("values", "view"),
    [
        ({"ViewPosition": "AP", "ViewCodeSequence": view_code("R-10214", "postero-anterior")}, "AP"),
        ({"ViewPosition": "", "ViewCodeSequence": view_code("R-10214", "postero-anterior")}, "PA"),
        ({"ViewCodeSequence": view_code("399173006", "left lateral")}, "LL"),
        ({"ViewCodeSequence": view_code("399135007", "left anterior oblique")}, "left anterior oblique"),
        ({"ProjectionEponymousNameCodeSequence": view_code("X", "lordotic")}, "lordotic"),
        ({}, None),
    ],
)
def test_the_view_comes_from_its_position_then_its_code_then_its_eponym(tmp_path, values, view):
    write_film(tmp_path / "a.dcm", "1.1", **values)

    (record,), _ = read(tmp_path)

    assert record.view == view


def test_what_is_no_film_is_left_out_with_its_reason(tmp_path):
    write_film(tmp_path / "1_film", "1.1")
    write_film(tmp_path / "2_same_again.dcm", "1.1")
    write_film(tmp_path / "3_ct.dcm", "1.2", Modality="CT")
    write_film(tmp_path / "4_report.dcm", "1.3", Modality="SR", leave_out=("Rows", "PixelData"))
    write_film(tmp_path / "5_run.dcm", "1.4", Modality="XA", NumberOfFrames=12)
    (tmp_path / "6_notes.txt").write_text("not a film")
    (tmp_path / "7_empty").touch()
    write_film(tmp_path / "DICOMDIR", "1.5")
    write_film(tmp_path / "directory", "1.6", SOPClassUID=MediaStorageDirectoryStorage)
    (tmp_path / "lost").symlink_to(tmp_path / "gone")

    records, tally = read(tmp_path)

    assert [record.id for record in records] == ["1.1"]
    assert tally.left_out == {
        "SOPInstanceUID seen before": 1,
        "modality CT, expected CR, DX, RG, XA": 1,
        "holds no image (modality SR: a report, a presentation state, ...)": 1,
        "more than one frame": 1,
        "no DICOM file": 2,
        "DICOMDIR: a directory of other files": 2,
        "broken link or no regular file": 1,
    }
    assert tally.examples["SOPInstanceUID seen before"] == ["2_same_again.dcm"]


def test_a_file_without_preamble_is_read(tmp_path):
    write_film(tmp_path / "old.ima", "1.9", preamble=False, ViewPosition="AP")

    (record,), _ = read(tmp_path)

    assert (record.id, record.view) == ("1.9", "AP")


def test_blank_identity_is_kept_and_counted(tmp_path):
    write_film(tmp_path / "a.dcm", "1.1", PatientID="", leave_out=("Modality", "StudyInstanceUID", "SOPInstanceUID"))

    (record,), tally = read(tmp_path)

    assert (record.id, record.patient_id, record.study_id) == ("1.1", None, None)  # the file's own header names the object too
    assert tally.faults == {"no modality in the header": 1, "no PatientID": 1, "no StudyInstanceUID": 1}


def test_a_header_cut_short_is_left_out(tmp_path):
    whole = write_film(tmp_path / "a.dcm", "1.1").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[: whole.index(b"1.1\0") + 2])

    records, tally = read(tmp_path)

    assert records == []
    assert sum(tally.left_out.values()) == 1


def test_a_film_without_its_pixels_is_still_listed(tmp_path):
    whole = write_film(tmp_path / "a.dcm", "1.1").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:-12])  # the pixel data element: 8 bytes of header, 4 of pixels

    records, _ = read(tmp_path)

    assert [record.id for record in records] == ["1.1"]


def test_links_are_followed_once_and_in_the_order_of_names(tmp_path):
    write_film(tmp_path / "b" / "2.dcm", "1.2")
    write_film(tmp_path / "b" / "10.dcm", "1.10")
    write_film(tmp_path / "a.dcm", "1.1")
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)

    records, tally = read(tmp_path)

    assert [record.id for record in records] == ["1.1", "1.10", "1.2"]
    assert tally.left_out == {"folder met before through a link": 1}


def test_a_pipe_does_not_block_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write_film(tmp_path / "z.dcm", "1.1")

    records, tally = read(tmp_path)

    assert len(records) == 1
    assert tally.left_out == {"broken link or no regular file": 1}


def test_odd_values_put_nothing_of_the_patient_on_the_screen(tmp_path, recwarn, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_film(tmp_path / "a.dcm", "1.1", PatientID="SECRET" * 20, PatientAge="SECRET", StudyInstanceUID="SECRET")

    read(tmp_path)

    shown = [str(warning.message) for warning in recwarn] + list(capfd.readouterr())
    assert not any("SECRET" in text for text in shown)


def test_a_folder_of_films_is_recognised_by_content(tmp_path):
    (tmp_path / "a.dcm").write_text("no film despite its name")
    assert not recognises_dicom(tmp_path)
    assert not recognises_dicom(tmp_path / "a.dcm")
    write_film(tmp_path / "deep" / "down" / "film", "1.1")
    assert recognises_dicom(tmp_path)
