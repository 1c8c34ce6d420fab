"""Miniature CheXperts, written by hand: v1.0-small, v1.0, Plus."""

import csv
import json

import pytest

from encoders.errors import MedretError
from index.corpora.chexpert import chexpert_id, findings_chexpert, read_chexpert, recognises_chexpert
from index.corpora.record import FINDINGS, LabelState, Tally

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
FIRST, SECOND = "train/patient00001/study1/view1_frontal", "train/patient00002/study2/view2_lateral"


def labels(**states):
    return [states.get(finding.replace(" ", "_"), "") for finding in FINDINGS]


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(params=["CheXpert-v1.0-small", "CheXpert-v1.0"])
def release(tmp_path, request):
    folder, name = tmp_path / request.param, request.param
    write(
        folder / "train.csv",
        HEADER,
        [f"{name}/{FIRST}.jpg", "Female", "68", "Frontal", "AP", *labels(No_Finding="1.0", Edema="0.0", Pneumonia="-1.0")],
        [f"{name}/{SECOND}.jpg", "Unknown", "0", "Lateral", "", *labels()],
        [f"{name}/train/patient00003/study1/view1_frontal.jpg", "Male", "90", "Frontal", "", *labels()],
    )
    write(
        folder / "valid.csv",
        HEADER,
        [f"{name}/valid/patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "PA", *(["0.0"] * 13), "1.0"],
    )
    return folder


def read(root, **options):
    tally = Tally()
    return {record.id: record for record in read_chexpert(root, tally, **options)}, tally


def test_paths_give_patient_study_and_place(release):
    records, _ = read(release)

    first = records[FIRST]
    assert first.image == release / f"{FIRST}.jpg"
    assert (first.patient_id, first.study_id, first.split) == ("patient00001", "patient00001/study1", "train")
    assert records["valid/patient64541/study1/view1_frontal"].split == "validate"


def test_the_folder_above_will_do(release):
    assert recognises_chexpert(release) and recognises_chexpert(release.parent)
    assert read(release)[0] == read(release.parent)[0]


def test_labels_keep_four_states_and_blanks_are_not_mentioned(release):
    records, _ = read(release)

    first = records[FIRST].labels
    assert (first["No Finding"], first["Edema"], first["Pneumonia"]) == (LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN)
    assert set(records[SECOND].labels.values()) == {LabelState.NOT_MENTIONED}
    valid = records["valid/patient64541/study1/view1_frontal"].labels
    assert valid["Support Devices"] is LabelState.POSITIVE
    assert [state for finding, state in valid.items() if finding != "Support Devices"] == [LabelState.NEGATIVE] * 13


def test_frontal_films_have_their_projection_and_laterals_are_lateral(release):
    assert [record.view for record in read(release)[0].values()] == ["AP", "LATERAL", "Frontal", "PA"]


def test_age_zero_is_no_age_and_an_unknown_sex_is_none(release):
    records, tally = read(release)

    assert (records[FIRST].age, records[FIRST].sex) == (68.0, "F")
    assert (records[SECOND].age, records[SECOND].sex) == (None, None)
    assert tally.examples["age is 0, taken as not known"] == [SECOND]
    assert not tally.left_out


def test_test_labels_need_no_more_than_path_and_findings(release):
    write(release / "test.csv", ["Path", *reversed(FINDINGS)], ["test/patient64741/study1/view1_lateral.jpg", "1", *(["0"] * 13)])

    record = read(release)[0]["test/patient64741/study1/view1_lateral"]

    assert (record.split, record.view, record.age, record.sex) == ("test", "LATERAL", None, None)
    assert record.labels["Support Devices"] is LabelState.POSITIVE
    assert record.labels["No Finding"] is LabelState.NEGATIVE


def test_rows_that_can_be_no_record_are_left_out_and_counted(release):
    write(
        release / "train.csv",
        HEADER,
        [f"x/{FIRST}.jpg", "Female", "68", "Frontal", "AP", *labels()],
        [f"y/{FIRST}.jpg", "Female", "68", "Frontal", "AP", *labels()],
        ["/scans/film.jpg", "Neither", "old", "Frontal", "AP", *labels()],
    )

    records, tally = read(release)

    assert len(records) == 2
    assert tally.left_out == {"train.csv: image listed twice, the first row counts": 1, "train.csv: Path is no CheXpert path": 1}
    assert tally.examples["train.csv: Path is no CheXpert path"] == ["row 4"]


def test_what_is_no_age_or_sex_is_a_fault(release):
    write(release / "train.csv", HEADER, [f"{FIRST}.jpg", "f", "old", "Frontal", "AP", *labels(Edema="yes")])

    records, tally = read(release)

    assert (records[FIRST].age, records[FIRST].sex) == (None, None)
    assert "Edema" not in records[FIRST].labels
    assert len(tally.faults) == 3 and all(tally.examples[fault] == [FIRST] for fault in tally.faults)


def test_a_missing_column_is_named(release):
    write(release / "train.csv", [name for name in HEADER if name != "AP/PA"])

    with pytest.raises(MedretError, match=r"train\.csv: no column 'AP/PA'; found 'Path', 'Sex'"):
        read(release)


def test_two_releases_in_one_folder_must_be_told_apart(release):
    write(release.parent / "chexpert-copy" / "train.csv", HEADER)

    with pytest.raises(MedretError, match=r"several releases.*Name one of these folders"):
        read(release.parent)


def test_a_folder_without_chexpert_is_said_so(tmp_path):
    write(tmp_path / "train.csv", ["path", "label"])

    assert not recognises_chexpert(tmp_path)
    with pytest.raises(MedretError, match=r"no CheXpert here \(looked for train\.csv"):
        read(tmp_path)


def test_label_sets_are_only_for_plus(release):
    with pytest.raises(MedretError, match="only CheXpert Plus has several label sets"):
        findings_chexpert(release, labels="impression")


@pytest.mark.parametrize(
    "path",
    [
        f"CheXpert-v1.0-small/{FIRST}.jpg",
        f"CheXpert-v1.0/{FIRST}.jpg",
        f"/data/train/chexpert/{FIRST}.png",
        f"{FIRST}.dcm",
        FIRST,
        f"C:\\data\\{FIRST}.jpg".replace("/", "\\"),
    ],
)
def test_an_image_has_one_id_by_whatever_path_it_is_listed(path):
    assert chexpert_id(path) == FIRST


@pytest.mark.parametrize("path", ["", "film.jpg", "train/patient1/view1.jpg", "mytrain/patient1/study1/view1_frontal.jpg"])
def test_other_paths_have_no_id(path):
    with pytest.raises(MedretError, match="no CheXpert path"):
        chexpert_id(path)


PLUS_HEADER = ["path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order", "age", "sex"]
PLUS_HEADER += ["split", "report", "section_clinical_history", "section_findings", "section_impression"]


@pytest.fixture
def plus(tmp_path):
    """Three images; the first two are of one study, with texts that were de-identified apart."""
    mate = FIRST.replace("view1_frontal", "view2_lateral")
    write(
        tmp_path / "df_chexpert_plus_240401.csv",
        PLUS_HEADER,
        [f"{FIRST}.jpg", "", "Frontal", "AP", "p1", "1", "68.0", "Female", "train", "whole", "Cough.", "nan", "1. No edema.\n2. Clear."],
        [f"{mate}.jpg", "", "Lateral", "", "p1", "1", "68.0", "Female", "train", "whole", "Fever.", "", "1. No edema.\n2. Clear."],
        ["valid/patient9/study1/view1_frontal.jpg", "", "Frontal", "PA", "p9", "1", "", "Unknown", "valid", "Just text.", "", "", ""],
    )
    return tmp_path


def write_plus_labels(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"path_to_image": image, **dict.fromkeys(FINDINGS), **states}) + "\n" for image, states in rows))


def test_plus_has_reports_in_sections(plus):
    records, tally = read(plus)

    assert recognises_chexpert(plus)
    assert records[FIRST].sections == {"clinical history": "Cough.", "impression": "1. No edema.\n2. Clear."}
    assert records["valid/patient9/study1/view1_frontal"].sections == {"full report": "Just text."}
    assert records["valid/patient9/study1/view1_frontal"].split == "validate"
    assert (records[FIRST].age, records[FIRST].sex, records[FIRST].patient_id) == (68.0, "F", "patient00001")
    assert not tally.left_out


def test_images_of_a_plus_study_keep_their_own_texts_and_that_is_counted(plus):
    records, tally = read(plus)

    mate = FIRST.replace("view1_frontal", "view2_lateral")
    assert records[mate].study_id == records[FIRST].study_id
    assert records[mate].sections["clinical history"] == "Fever."
    assert tally.examples["image whose report differs from that of its study's first image"] == [mate]


def test_plus_images_are_png_unless_the_jpg_is_there(plus):
    (plus / FIRST).parent.mkdir(parents=True)
    (plus / f"{FIRST}.jpg").write_bytes(b"")

    records, _ = read(plus)

    assert records[FIRST].image == plus / f"{FIRST}.jpg"
    assert records["valid/patient9/study1/view1_frontal"].image == plus / "valid/patient9/study1/view1_frontal.png"


@pytest.mark.parametrize("place", ["PNG", "PNG/PNG"])
def test_plus_images_are_found_where_their_archives_unpack_to(plus, place):
    (plus / place / "train").mkdir(parents=True)

    records, _ = read(plus)

    assert records[FIRST].image == plus / place / f"{FIRST}.png"


def test_plus_without_label_files_is_not_labelled_and_that_is_said(plus):
    records, tally = read(plus)

    assert findings_chexpert(plus) == ()
    assert all(record.labels == {} for record in records.values())
    assert any("no label file" in fault for fault in tally.faults)
    with pytest.raises(MedretError, match=r"no chexbert_labels/report_fixed\.json"):
        findings_chexpert(plus, labels="report")
    with pytest.raises(MedretError, match="'u-ones' is no label set"):
        findings_chexpert(plus, labels="u-ones")


def test_plus_labels_are_joined_by_image(plus):
    write_plus_labels(
        plus / "chexbert_labels/impression_fixed.json",
        ("valid/patient9/study1/view1_frontal.jpg", {"Edema": 1.0, "Fracture": -1.0}),
        (f"{FIRST}.jpg", {"Edema": 0.0, "Pneumonia": float("nan")}),
        ("train/patient77/study1/view1_frontal.jpg", {}),
    )
    write_plus_labels(plus / "chexbert_labels/report_fixed.json", (f"{FIRST}.jpg", {"Edema": 1}))

    records, tally = read(plus)

    assert findings_chexpert(plus) == FINDINGS
    assert records["valid/patient9/study1/view1_frontal"].labels["Edema"] is LabelState.POSITIVE
    assert records["valid/patient9/study1/view1_frontal"].labels["Fracture"] is LabelState.UNCERTAIN
    assert records[FIRST].labels["Edema"] is LabelState.NEGATIVE
    assert records[FIRST].labels["Pneumonia"] is LabelState.NOT_MENTIONED
    assert records[FIRST.replace("view1_frontal", "view2_lateral")].labels == {}
    assert sum(tally.left_out.values()) == 1
    assert read(plus, labels="report")[0][FIRST].labels["Edema"] is LabelState.POSITIVE


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"path_to_image": "x"}', json.dumps({"path_to_image": f"{FIRST}.jpg"})])
def test_a_damaged_plus_label_line_is_named(plus, line):
    path = plus / "chexbert_labels/impression_fixed.json"
    write_plus_labels(path, (f"{FIRST}.jpg", {}))
    path.write_text(path.read_text() + line + "\n")

    with pytest.raises(MedretError, match=r"impression_fixed\.json, line 2: "):
        read(plus)
