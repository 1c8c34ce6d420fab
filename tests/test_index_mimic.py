"""A miniature MIMIC-CXR-JPG, written by hand in the published layout."""

import gzip
from datetime import date

import pytest

from encoders.errors import MedretError
from index.corpora.mimic import findings_mimic, read_mimic, recognises_mimic
from index.corpora.record import FINDINGS, LabelState, Tally

A, B, C, D = (f"{letter * 8}-00000000-00000000-00000000-00000000" for letter in "abcd")
ALPHABETICAL = sorted(FINDINGS)  # the order of the published label files
REPORT = " FINAL REPORT\n FINDINGS:  Lungs are clear.\n \n IMPRESSION:  No edema.\n"


def label_row(**states):
    return ",".join(states.get(finding.replace(" ", "_"), "") for finding in ALPHABETICAL)


def write(path, *lines):
    text = "".join(f"{line}\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture(params=[".csv", ".csv.gz"])
def root(tmp_path, request):
    """Two patients, three studies (one without a label row, one all blank), four images."""
    suffix = request.param
    write(
        tmp_path / f"mimic-cxr-2.0.0-metadata{suffix}",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
        f'{A},10000032,50000001,"CHEST (PA AND LAT)",PA,3056,2544,21800506,213014.531,CHEST,postero-anterior,Erect',
        f"{B},10000032,50000001,,LATERAL,3056,2544,21800506,213014.531,CHEST,lateral,Erect",
        f"{C},10000032,50000002,,,3056,2544,21800626,165500.312,CHEST,antero-posterior,Recumbent",
        f"{D},11000007,50000003,,,3056,2544,,165500.312,CHEST,,",
    )
    write(
        tmp_path / f"mimic-cxr-2.0.0-split{suffix}",
        "dicom_id,study_id,subject_id,split",
        f"{A},50000001,10000032,train",
        f"{B},50000001,10000032,train",
        f"{C},50000002,10000032,validate",
        f"{D},50000003,11000007,test",
    )
    write(
        tmp_path / f"mimic-cxr-2.0.0-chexpert{suffix}",
        f"subject_id,study_id,{','.join(ALPHABETICAL)}",
        f"10000032,50000001,{label_row(Edema='0.0', Pneumonia='-1.0', Support_Devices='1.0')}",
        f"10000032,50000002,{label_row()}",
    )
    write(tmp_path / "files/p10/p10000032/s50000001.txt", *REPORT.splitlines())
    return tmp_path


def read(root, **options):
    tally = Tally()
    return {record.id: record for record in read_mimic(root, tally, **options)}, tally


def test_each_image_is_a_record_with_its_place_in_the_published_layout(root):
    records, _ = read(root)

    assert list(records) == [A, B, C, D]
    first = records[A]
    assert first.image == root / "files/p10/p10000032/s50000001" / f"{A}.jpg"
    assert (first.patient_id, first.study_id, first.view, first.split) == ("10000032", "50000001", "PA", "train")
    assert first.study_date == date(2180, 5, 6)
    assert (first.age, first.sex) == (None, None)
    assert records[D].image.parts[-4:-1] == ("p11", "p11000007", "s50000003")
    assert records[D].study_date is None


def test_missing_image_files_are_no_fault(root):
    _, tally = read(root)

    assert not tally.left_out
    assert dict(tally.faults) == {"study without a report": 2}


def test_labels_keep_four_states_and_belong_to_the_study(root):
    records, _ = read(root)

    labels = records[A].labels
    assert labels["Support Devices"] is LabelState.POSITIVE
    assert labels["Edema"] is LabelState.NEGATIVE
    assert labels["Pneumonia"] is LabelState.UNCERTAIN
    assert labels["Fracture"] is LabelState.NOT_MENTIONED
    assert records[B].labels == labels and len(labels) == 14


def test_a_study_without_a_label_row_is_not_labelled_and_an_all_blank_one_mentions_nothing(root):
    records, _ = read(root)

    assert records[D].labels == {}
    assert set(records[C].labels.values()) == {LabelState.NOT_MENTIONED}
    assert set(records[C].labels) == set(FINDINGS)


def test_a_blank_view_is_inferred_from_the_view_code(root):
    records, _ = read(root)

    assert [record.view for record in records.values()] == ["PA", "LATERAL", "AP", None]


def test_images_of_a_study_share_its_report(root):
    records, _ = read(root)

    assert records[A].sections == records[B].sections
    assert records[A].sections["findings"] == "Lungs are clear."
    assert records[A].sections["impression"] == "No edema."
    assert records[C].sections == {}


@pytest.mark.parametrize("place", ["files/p10/p10000032/s50000002.txt", "p10/p10000032/s50000002.txt", "s50000002.txt"])
def test_reports_are_found_elsewhere_in_each_layout(root, tmp_path_factory, place):
    reports = tmp_path_factory.mktemp("reports")
    write(reports / place, " FINAL REPORT", " IMPRESSION:  Elsewhere.")

    records, _ = read(root, reports=reports)

    assert records[C].sections["impression"] == "Elsewhere."
    assert records[A].sections["impression"] == "No edema."  # still found beside the images


@pytest.mark.parametrize("name", ["mimic_cxr_sectioned.csv", "mimic_cxr_sectioned.csv.gz", "other.csv"])
def test_the_sectioned_table_comes_first_and_text_files_fill_what_it_leaves_out(root, tmp_path_factory, name):
    reports = tmp_path_factory.mktemp("reports") / name
    write(reports, "study,impression,findings,last_paragraph,comparison", 's50000002,"Table,\nimpression.",,,None seen.')

    for given in (reports, reports.parent) if "sectioned" in name else (reports,):
        records, _ = read(root, reports=given)
        assert records[C].sections == {"impression": "Table,\nimpression.", "comparison": "None seen."}
        assert records[A].sections["impression"] == "No edema."


def test_a_sectioned_table_beside_the_metadata_needs_no_option(root):
    write(root / "mimic_cxr_sectioned.csv", "study,impression,findings,last_paragraph,comparison", "s50000001,,From table.,,")

    assert read(root)[0][A].sections == {"findings": "From table."}


def test_reports_that_are_not_there_are_an_error_and_not_an_empty_corpus(root, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "mimic-cxr-reports.zip").write_bytes(b"PK")

    with pytest.raises(MedretError, match=r"no reports of MIMIC-CXR here.*Unpack mimic-cxr-reports\.zip"):
        read(root, reports=empty)
    with pytest.raises(MedretError, match="still packed"):
        read(root, reports=empty / "mimic-cxr-reports.zip")
    with pytest.raises(MedretError, match="no such file or folder"):
        read(root, reports=empty / "none")


def test_other_label_sets_are_read_on_request(root):
    write(
        root / "mimic-cxr-2.0.0-negbio.csv",
        f"subject_id,study_id,{','.join(ALPHABETICAL)}",
        f"10000032,50000001,{label_row(Edema='1.0')}",
    )

    assert read(root, labels="negbio")[0][A].labels["Edema"] is LabelState.POSITIVE
    assert read(root, labels="chexpert")[0][A].labels["Edema"] is LabelState.NEGATIVE


def test_the_radiologist_s_test_labels_are_read_with_their_own_spelling(root):
    header = ",".join(["study_id", *("Airspace Opacity" if finding == "Lung Opacity" else finding for finding in ALPHABETICAL)])
    write(root / "mimic-cxr-2.1.0-test-set-labeled.csv", header, f"50000003,{label_row(Lung_Opacity='1.0')}")

    records, _ = read(root, labels="test-set")

    assert records[D].labels["Lung Opacity"] is LabelState.POSITIVE
    assert records[A].labels == {}
    assert findings_mimic(root, labels="test-set") == FINDINGS


def test_a_label_set_that_is_unknown_or_not_there_is_an_error(root):
    with pytest.raises(MedretError, match=r"'u-ones' is no label set.*chexpert, negbio, test-set"):
        findings_mimic(root, labels="u-ones")
    with pytest.raises(MedretError, match=r"no mimic-cxr-2\.0\.0-negbio\.csv"):
        findings_mimic(root, labels="negbio")


def test_without_the_default_label_file_nothing_is_labelled_and_that_is_said(root):
    for file in root.glob("*chexpert*"):
        file.unlink()

    records, tally = read(root)

    assert findings_mimic(root) == ()
    assert all(record.labels == {} for record in records.values())
    assert any("no label file" in fault for fault in tally.faults)


def test_a_label_value_that_is_none_of_the_four_is_named_with_its_file_and_study(root):
    for file in root.glob("*chexpert*"):
        file.unlink()
    write(
        root / "mimic-cxr-2.0.0-chexpert.csv",
        f"subject_id,study_id,{','.join(ALPHABETICAL)}",
        f"10000032,50000001,{label_row(Edema='2.0', Pneumonia='1')}",
    )

    records, tally = read(root)

    assert "Edema" not in records[A].labels and records[A].labels["Pneumonia"] is LabelState.POSITIVE
    (reason,) = [fault for fault in tally.faults if "Edema" in fault]
    assert "mimic-cxr-2.0.0-chexpert.csv" in reason and "'2.0'" in reason
    assert tally.examples[reason] == ["50000001"]


def test_a_label_file_without_a_finding_is_an_error(root):
    for file in root.glob("*chexpert*"):
        file.unlink()
    write(root / "mimic-cxr-2.0.0-chexpert.csv", "subject_id,study_id,Edema", "10000032,50000001,1.0")

    with pytest.raises(MedretError, match=r"no column for No Finding, .*found 'subject_id', 'study_id', 'Edema'"):
        read(root)


def test_rows_that_do_not_match_between_files_are_counted(root):
    with_more = f"dicom_id,study_id,subject_id,split\n{A},50000001,10000032,train\n{B},50000001,10000032,dev\n{'e' * 8},1,2,test\n"
    for file in root.glob("*split*"):
        file.unlink()
    (root / "mimic-cxr-2.0.0-split.csv").write_text(with_more)
    for file in root.glob("*chexpert*"):
        file.unlink()
    write(root / "mimic-cxr-2.0.0-chexpert.csv", f"subject_id,study_id,{','.join(ALPHABETICAL)}", f"1,59999999,{label_row()}")

    records, tally = read(root)

    assert [record.split for record in records.values()] == ["train", None, None, None]
    assert tally.faults["image without a row in the split file"] == 2
    assert tally.faults["mimic-cxr-2.0.0-split.csv: split is 'dev', expected one of train, validate, test"] == 1
    assert tally.left_out == {
        "row of the split file without a row in the metadata file": 1,
        "row of the label file without an image in the metadata file": 1,
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{A},10000032,50000001,PA", "image listed twice, the first row counts"),
        ("e-1,10000032,,PA", "row without a study"),
        ("../../e,10000032,50000001,PA", "dicom_id, subject_id or study_id is not of their form"),
        ("e-1,../secret,50000001,PA", "dicom_id, subject_id or study_id is not of their form"),
    ],
)
def test_a_row_that_can_be_no_record_is_left_out_with_its_reason(root, row, reason):
    for file in root.glob("*metadata*"):
        file.unlink()
    write(root / "mimic-cxr-2.0.0-metadata.csv", "dicom_id,subject_id,study_id,ViewPosition", f"{A},10000032,50000001,PA", row)

    records, tally = read(root)

    assert list(records) == [A]
    assert tally.left_out[f"mimic-cxr-2.0.0-metadata.csv: {reason}"] == 1


def test_a_report_with_broken_bytes_is_read_and_counted(root):
    (root / "files/p10/p10000032/s50000001.txt").write_bytes(b" FINAL REPORT\n IMPRESSION:  No \xff edema.\n")

    records, tally = read(root)

    assert records[A].sections["impression"] == "No � edema."
    assert tally.examples["report is not UTF-8; the bytes that are none were replaced"] == ["50000001"]


def test_the_folder_is_recognised_by_its_metadata(root, tmp_path_factory):
    assert recognises_mimic(root)
    assert not recognises_mimic(tmp_path_factory.mktemp("empty"))
    assert not recognises_mimic(next(root.glob("*metadata*")))


def test_the_dicom_release_is_told_apart_with_advice(tmp_path):
    write(tmp_path / "cxr-record-list.csv.gz", "subject_id,study_id,dicom_id,path")

    assert recognises_mimic(tmp_path)
    with pytest.raises(MedretError, match=r"MIMIC-CXR as DICOM.*--format dicom"):
        read(tmp_path)


def test_a_missing_split_file_is_named(root):
    for file in root.glob("*split*"):
        file.unlink()

    with pytest.raises(MedretError, match=r"no mimic-cxr-2\.0\.0-split\.csv or mimic-cxr-2\.0\.0-split\.csv\.gz"):
        read(root)


def test_reading_twice_gives_the_same_records(root):
    assert read(root)[0] == read(root)[0]
