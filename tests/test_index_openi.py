import csv
from pathlib import Path

import pytest
from PIL import Image

from encoders.errors import MedretError
from index.corpora.openi import FINDINGS_OF_MESH, findings_openi, labels_from_mesh, read_openi, recognises_openi
from index.corpora.record import FINDINGS, LabelState, Tally

REPORT_COLUMNS = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_openi(root: Path, reports: list[list[str]], projections: list[list[str]], images: tuple[str, ...] = ()) -> Path:
    write_csv(root / "indiana_reports.csv", REPORT_COLUMNS, reports)
    write_csv(root / "indiana_projections.csv", ["uid", "filename", "projection"], projections)
    folder = root / "images" / "images_normalized"
    folder.mkdir(parents=True)
    for name in images:
        Image.new("L", (8, 8)).save(folder / name)
    return root


def report(uid: str, mesh: str, **sections: str) -> list[str]:
    problems = ";".join(heading.split("/")[0] for heading in mesh.split(";"))
    return [uid, mesh, problems, "PA and lateral", *(sections.get(name, "") for name in REPORT_COLUMNS[4:])]


def positives(mesh: str) -> set[str]:
    return {finding for finding, state in labels_from_mesh(mesh).items() if state is LabelState.POSITIVE}


def test_an_image_becomes_a_record_with_its_study_and_report(tmp_path):
    root = write_openi(
        tmp_path,
        [report("7", "Cardiomegaly/mild;Scoliosis", indication="cough", comparison=" ", findings="Big heart.", impression="Same.")],
        [["7", "7_IM-0001-1001.dcm.png", "Frontal"], ["7", "7_IM-0001-2001.dcm.png", "Lateral"]],
        ("7_IM-0001-1001.dcm.png", "7_IM-0001-2001.dcm.png"),
    )
    write_csv(root / "split.csv", ["uid", "split"], [["7", "validate"]])

    frontal, lateral = read_openi(root, Tally())

    assert (frontal.id, frontal.view, lateral.id, lateral.view) == ("7_IM-0001-1001", "Frontal", "7_IM-0001-2001", "Lateral")
    assert frontal.image == root / "images/images_normalized/7_IM-0001-1001.dcm.png"
    assert (frontal.patient_id, frontal.study_id, frontal.split) == ("7", "7", "validate")
    assert frontal.sections == {"indication": "cough", "findings": "Big heart.", "impression": "Same."}
    assert frontal.tags == ("Cardiomegaly", "Scoliosis")
    assert frontal.labels == dict.fromkeys(FINDINGS, LabelState.NOT_MENTIONED) | {"Cardiomegaly": LabelState.POSITIVE}


def test_a_listed_png_is_found_as_jpg_and_a_listed_jpg_as_png(tmp_path):
    root = write_openi(
        tmp_path,
        [report("1", "normal")],
        [["1", "1_a.dcm.png", "Frontal"], ["1", "1_b.dcm.jpg", "Lateral"]],
        ("1_a.dcm.jpg", "1_b.dcm.png"),
    )

    images = [record.image for record in read_openi(root, Tally())]

    assert [image.name for image in images] == ["1_a.dcm.jpg", "1_b.dcm.png"]
    assert all(image.is_file() for image in images)


def test_a_listed_image_that_is_nowhere_keeps_its_listed_place(tmp_path):
    root = write_openi(tmp_path, [report("1", "normal")], [["1", "1_a.dcm.png", "Frontal"]])

    (record,) = read_openi(root, Tally())

    assert record.image == root / "images/images_normalized/1_a.dcm.png"


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ("normal", {"No Finding"}),
        ("Opacity/lung/base/left", {"Lung Opacity"}),
        ("Opacity/costophrenic angle/left", set()),
        ("Opacity/ribs/anterior", set()),
        ("Density/lung/lingula", {"Lung Opacity"}),
        ("Density/sternum", set()),
        ("Nodule/lung/upper lobe/right", {"Lung Lesion"}),
        ("Mass/breast/large", set()),
        ("Cardiac Shadow/enlarged/mild", {"Cardiomegaly"}),
        ("Cardiac Shadow/irregular", set()),
        ("Thickening/pleura/apex", {"Pleural Other"}),
        ("Thickening/bronchi", set()),
        ("Cicatrix/lung/base", set()),
        ("Hydropneumothorax/right", {"Pneumothorax", "Pleural Effusion"}),
        ("Fractures, Bone/ribs/left;Catheters, Indwelling/right", {"Fracture", "Support Devices"}),
        ("Pulmonary Edema/interstitial", {"Edema"}),  # no Lung Opacity: CheXpert's hierarchy is not applied
        ("Calcified Granuloma/lung;Costophrenic Angle/blunted;Emphysema", set()),
    ],
)
def test_a_mesh_heading_means_the_findings_of_the_table(mesh, expected):
    assert positives(mesh) == expected


def test_a_study_without_indexing_has_no_labels_and_is_counted(tmp_path):
    root = write_openi(tmp_path, [report("5", "No Indexing")], [["5", "5_a.dcm.png", "Frontal"], ["5", "5_b.dcm.png", "Lateral"]])
    tally = Tally()

    records = list(read_openi(root, tally))

    assert [record.labels for record in records] == [{}, {}]
    assert records[0].tags == ("No Indexing",)
    assert tally.faults == {"study without indexing: no labels": 1}


def test_rows_without_their_counterpart_are_kept_and_counted(tmp_path):
    root = write_openi(tmp_path, [report("1", "normal", findings="Clear.")], [["2", "2_a.dcm.png", "Frontal"]])
    tally = Tally()

    image, text = read_openi(root, tally)

    assert (image.id, image.labels, image.sections) == ("2_a", {}, {})
    assert (text.id, text.image, text.sections) == ("1", None, {"findings": "Clear."})
    assert tally.faults == {"image without a report row": 1, "report without an image row": 1}


def test_rows_given_twice_are_left_out_and_counted(tmp_path):
    root = write_openi(
        tmp_path,
        [report("1", "normal"), report("1", "Pneumonia/lingula")],
        [["1", "1_a.dcm.png", "Frontal"], ["1", "1_a.dcm.png", "Lateral"]],
    )
    tally = Tally()

    (record,) = read_openi(root, tally)

    assert record.view == "Frontal"
    assert record.labels["No Finding"] is LabelState.POSITIVE
    assert tally.left_out == {"report listed twice": 1, "image listed twice": 1}


def test_an_unknown_split_is_refused_by_uid(tmp_path):
    root = write_openi(tmp_path, [report("1", "normal")], [["1", "1_a.dcm.png", "Frontal"]])
    write_csv(root / "split.csv", ["uid", "split"], [["1", "holdout"]])

    with pytest.raises(MedretError, match="uid 1: the split is 'holdout', expected one of train, validate, test"):
        list(read_openi(root, Tally()))


def test_a_missing_column_is_named(tmp_path):
    root = write_openi(tmp_path, [report("1", "normal")], [["1", "1_a.dcm.png", "Frontal"]])
    write_csv(root / "indiana_projections.csv", ["uid", "filename"], [["1", "1_a.dcm.png"]])

    with pytest.raises(MedretError, match="projection"):
        list(read_openi(root, Tally()))


def test_the_two_files_make_the_folder_recognised(tmp_path):
    assert not recognises_openi(tmp_path)
    write_openi(tmp_path, [], [])
    assert recognises_openi(tmp_path)


def test_the_table_names_only_findings_and_only_headings_in_lower_case():
    assert all(finding in FINDINGS for meaning in FINDINGS_OF_MESH.values() for finding in meaning.findings)
    assert all(heading == heading.lower() for heading in FINDINGS_OF_MESH)
    assert set(findings_openi(Path())) == set(labels_from_mesh("normal"))
