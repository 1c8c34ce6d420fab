import numpy as np
import pytest
from handmade_fives import write_five_list
from handmade_index import image_rows, make_engine

from encoders.errors import MedretError
from index.corpora.record import FINDINGS, LabelState, Record
from retrieval.filters import Selection
from retrieval.five_by_200 import FIVE, draw_five_list, load_five_list, save_five_list

MULTI_LINE = '1. Small left effusion.\n\n2. "Stable" lines,\n   unchanged.'


def test_a_list_in_the_form_of_the_published_file_is_read_with_its_texts_folded(tmp_path):
    path = write_five_list(tmp_path / "list.csv", {4: MULTI_LINE, 7: "Consolidation."})

    listed = load_five_list(path, "chexpert-5x200")

    assert [image.id for image in listed.images] == [f"train/patient0000{number}/study1/view1_frontal" for number in (4, 7)]
    assert [image.finding for image in listed.images] == [FIVE[4], FIVE[2]]
    assert listed.images[0].text == '1. Small left effusion. 2. "Stable" lines, unchanged.'
    assert listed.origin["list"].startswith("2 images, SHA-256 ")


@pytest.mark.parametrize(
    ("column", "cell", "id"),
    [("dicom_id", "02aa804e-bde0afdd", "02aa804e-bde0afdd"), ("Path", "files/p10/p10000032/s5/02aa804e-bde0afdd.jpg", "02aa804e-bde0afdd")],
)
def test_mimic_lists_name_images_by_dicom_id_or_path(tmp_path, column, cell, id):
    path = tmp_path / "list.csv"
    path.write_text(f"{column},{','.join(FIVE)}\n{cell},0,1,0,0,\n")

    assert [(image.id, image.finding, image.text) for image in load_five_list(path, "mimic-5x200").images] == [(id, FIVE[1], None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"name,{','.join(FIVE)}\na,1,0,0,0,0\n", "no column that names the images, expected Path or dicom_id or id"),
        (f"id,{','.join(FIVE[:4])}\na,1,0,0,0\n", "Pleural Effusion"),
        (f"id,{','.join(FIVE)}\na,1,0,0,1,0\n", "row 1: positive for 2 of the five findings"),
        (f"id,{','.join(FIVE)}\na,1,0,0,-1,0\n", "row 1: Edema is neither 0 nor 1"),
        (f"id,{','.join(FIVE)}\na,1,0,0,0,0\na,1,0,0,0,0\n", "row 2: a is listed a second time"),
        (f"id,{','.join(FIVE)},report\na,1,0,0,0,0,  \n", "row 1: report is blank"),
        (f"id,{','.join(FIVE)}\n", "lists no image"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path, text, expected):
    path = tmp_path / "list.csv"
    path.write_text(text)

    with pytest.raises(MedretError) as fault:
        load_five_list(path, "mimic-5x200")
    assert expected in str(fault.value) and "list.csv" in str(fault.value)


def test_a_path_that_is_none_of_chexperts_is_refused_by_its_row(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"Path,{','.join(FIVE)}\ntrain/patient00001/study1/view1_frontal.jpg,1,0,0,0,0\nfilm.jpg,1,0,0,0,0\n")

    with pytest.raises(MedretError, match=r"list\.csv, row 2: 'film\.jpg' is no CheXpert path"):
        load_five_list(path, "chexpert-5x200")


def labelled_films(folder):
    draw = np.random.default_rng(11)
    records = []
    for number in range(400):
        some = draw.choice(len(FINDINGS), draw.integers(0, 3), replace=False)
        labels = {FINDINGS[place]: draw.choice([LabelState.POSITIVE, LabelState.UNCERTAIN, LabelState.NEGATIVE]) for place in some}
        view = ("PA", "AP", "LATERAL", "Frontal", None)[number % 5]
        records.append(Record(id=f"i{draw.integers(10**9)}-{number}", image=None, study_id=f"s{number // 2}", view=view, labels=labels))
    vectors = draw.normal(size=(len(records), 4))
    return make_engine(folder, {"images": (image_rows(records), {"joint": vectors})}, findings=FINDINGS).table("images"), records


def test_drawn_lists_follow_the_written_rule_and_repeat(tmp_path):
    table, records = labelled_films(tmp_path / "index")
    has_report = np.array([int(record.study_id[1:]) % 7 != 0 for record in records])
    fitting = {finding: {} for finding in FIVE}
    for record, reported in sorted(zip(records, has_report, strict=True), key=lambda pair: pair[0].id):  # the rule, word by word
        marked = [name for name, state in record.labels.items() if state in (LabelState.POSITIVE, LabelState.UNCERTAIN)]
        marked = [name for name in marked if name != "No Finding"]
        frontal = record.view in ("PA", "AP", "Frontal")
        if reported and frontal and len(marked) == 1 and marked[0] in FIVE and record.labels[marked[0]] == LabelState.POSITIVE:
            fitting[marked[0]].setdefault(record.study_id, record.id)
    least = min(map(len, fitting.values()))

    listed = draw_five_list(table, has_report, Selection(), least, seed=4)

    assert least > 1
    for place, finding in enumerate(FIVE):
        ids = sorted(fitting[finding].values())
        drawn = np.sort(np.random.default_rng([4, place]).choice(len(ids), least, replace=False))
        assert [image.id for image in listed.images if image.finding == finding] == [ids[number] for number in drawn]
    save_five_list(listed, tmp_path / "drawn.csv")
    assert load_five_list(tmp_path / "drawn.csv", "mimic-5x200").images == listed.images
    with pytest.raises(MedretError, match=rf"too few images show one finding alone: {least} of"):
        draw_five_list(table, has_report, Selection(), least + 1, seed=4)
