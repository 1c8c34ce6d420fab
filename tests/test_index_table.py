import csv
import gzip
import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from index.corpora.record import LabelState, Tally
from index.corpora.table import findings_table, read_table, recognises_table

POSITIVE, NEGATIVE, UNCERTAIN, NOT_MENTIONED = LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN, LabelState.NOT_MENTIONED


def write_csv(path: Path, header: list[str], *rows: list[str], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def read(root: Path, **columns: str) -> tuple[list, Tally]:
    tally = Tally()
    return list(read_table(root, tally, columns or None)), tally


def test_a_row_becomes_a_record(tmp_path):
    header = ["Image Path", "Report", "subject_id", "study-id", "View", "split", "Study Date", "AGE", "Gender"]
    path = write_csv(
        tmp_path / "t.csv", header, ["films/a.dcm.png", "Clear lungs.", "p1", "s1", "PA", "val", "2020-03-01", "58.5", "female"]
    )

    (record,), tally = read(path)

    assert (record.id, record.image) == ("films/a", tmp_path / "films/a.dcm.png")
    assert (record.patient_id, record.study_id, record.view, record.split) == ("p1", "s1", "PA", "validate")
    assert (record.study_date, record.age, record.sex) == (date(2020, 3, 1), 58.5, "F")
    assert (record.sections, record.labels) == ({"findings": "Clear lungs."}, {})
    assert not tally.left_out
    assert not tally.faults


ROWS = [
    {"path": "a.png", "text": "One.", "patient": "p1", "labels": ["Edema", "hernia"]},
    {"path": "b.png", "text": None, "patient": None, "labels": []},
    {"path": None, "text": "Three.", "patient": "p3", "labels": None},
]


def as_delimited(path: Path) -> Path:
    rows = [[row["path"] or "", row["text"] or "", row["patient"] or "", "|".join(row["labels"] or [])] for row in ROWS]
    rows[1][3] = "[]"  # labelled, with nothing found
    return write_csv(path, list(ROWS[0]), *rows, delimiter="\t" if ".tsv" in path.name else ",")


def as_json_lines(path: Path) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return path


def as_parquet(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS).append_column("pixels", pa.array([b"\0" * 9] * len(ROWS)))
    pa.parquet.write_table(table, path)
    return path


def gzipped(path: Path) -> Path:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return path.with_name(path.name + ".gz")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", as_delimited),
        ("t.csv", lambda path: gzipped(as_delimited(path))),
        ("t.tsv", as_delimited),
        ("t.tsv", lambda path: gzipped(as_delimited(path))),
        ("t.jsonl", as_json_lines),
        ("t.ndjson", lambda path: gzipped(as_json_lines(path))),
        ("t.parquet", as_parquet),
    ],
)
def test_every_kind_of_table_says_the_same(tmp_path, name, write):
    path = write(tmp_path / name)

    records, tally = read(path)

    assert [record.id for record in records] == ["a", "b", "row3"]
    assert [record.image and record.image.name for record in records] == ["a.png", "b.png", None]
    assert [dict(record.sections) for record in records] == [{"findings": "One."}, {}, {"findings": "Three."}]
    assert [record.patient_id for record in records] == ["p1", None, "p3"]
    assert findings_table(path) == ("Edema", "hernia")
    assert [record.labels for record in records] == [
        {"Edema": POSITIVE, "hernia": POSITIVE},
        {"Edema": NOT_MENTIONED, "hernia": NOT_MENTIONED},  # an empty list: labelled, nothing found
        {},  # no list: not labelled
    ]
    assert not tally.left_out
    assert not tally.faults
    assert recognises_table(path)
    assert [record.id for record in read(tmp_path)[0]] == ["a", "b", "row3"]  # the folder's only table


def test_finding_columns_hold_four_states(tmp_path):
    path = write_csv(
        tmp_path / "t.csv",
        ["path", "pleural_effusion", "Edema", "kind"],
        ["a.png", "1", "0.0", "x"],
        ["b.png", "-1.0", "", "x"],
        ["c.png", "positive", "negative", "x"],
        ["d.png", "uncertain", "not_mentioned", "x"],
        ["e.png", "", "", "x"],
    )

    records, tally = read(path)

    assert findings_table(path) == ("Edema", "Pleural Effusion")
    assert [(record.labels.get("Pleural Effusion"), record.labels.get("Edema")) for record in records] == [
        (POSITIVE, NEGATIVE),
        (UNCERTAIN, NOT_MENTIONED),
        (POSITIVE, NEGATIVE),
        (UNCERTAIN, NOT_MENTIONED),
        (None, None),  # blanks only: not labelled
    ]
    assert not tally.faults


def test_the_user_can_name_any_finding_columns(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path", "covid", "edema", "Pneumonia"], ["a.png", "1", "0", "1"])

    (record,), _ = read(path, labels="covid, edema")

    assert record.labels == {"covid": POSITIVE, "Edema": NEGATIVE}
    assert findings_table(path, {"labels": "covid,edema"}) == ("Edema", "covid")
    assert findings_table(path, {"labels": "covid,"}) == ("covid",)


def test_a_label_that_is_no_state_is_counted_and_taken_as_not_labelled(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path", "Edema", "Fracture"], ["a.png", "3", "1"])

    (record,), tally = read(path)

    assert record.labels == {"Fracture": POSITIVE}
    assert tally.faults == {"label of Edema not understood, expected 1, 0, -1 or blank; taken as not labelled": 1}


def test_labels_in_json_can_map_findings_to_states(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"path": "a.png", "labels": {"edema": "uncertain", "Fracture": 0}}\n{"path": "b.png", "labels": {"Edema": true}}\n')

    first, second = read(path)[0]

    assert first.labels == {"Edema": UNCERTAIN, "Fracture": NEGATIVE}
    assert second.labels == {"Edema": POSITIVE, "Fracture": NOT_MENTIONED}


def test_the_columns_that_the_user_names_win(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["file", "patient_id", "subject", "impression"], ["a.png", "wrong", "p1", "Clear."])

    (record,), _ = read(path, patient="subject", text="impression")

    assert record.patient_id == "p1"
    assert record.sections == {"findings": "Clear."}  # the column holds the text, and no section besides


def test_a_column_that_is_not_there_is_an_error_that_lists_the_columns(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path", "pid"], ["a.png", "1"])

    with pytest.raises(MedretError, match=r"no column 'subject' for patient; found 'path', 'pid'"):
        read(path, patient="subject")
    with pytest.raises(MedretError, match=r"a table has no 'colour'\. Known are id, path, text"):
        read(path, colour="pid")


def test_a_table_without_path_and_text_is_an_error_that_lists_the_columns(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["pid", "score"], ["1", "2"])

    with pytest.raises(MedretError, match=r"no column for the image path or the report text; found 'pid', 'score'"):
        read(path)
    assert not recognises_table(tmp_path)


def test_rows_that_cannot_become_records_are_left_out_with_a_reason(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path", "text"], ["a.png", ""], ["", ""], ["a.png", "Same id."], ["", "Text alone."])

    records, tally = read(path)

    assert [record.id for record in records] == ["a", "row4"]
    assert tally.left_out == {"row with neither a path nor a text": 1, "id seen before": 1}
    assert tally.examples["row with neither a path nor a text"] == ["row2"]


def test_cells_that_are_not_understood_are_counted_and_left_empty(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path", "split", "date", "age", "sex"], ["a.png", "fold7", "yesterday", "58Y", "X"])

    (record,), tally = read(path)

    assert (record.split, record.study_date, record.age, record.sex) == (None, None, None, None)
    assert tally.faults == {f"{role} not understood, left empty": 1 for role in ("split", "date", "age", "sex")}


@pytest.mark.parametrize(
    "text",
    [
        "INDICATION: cough.\nFINDINGS:\nLungs are clear.\nHeart is large.\nIMPRESSION: Cardiomegaly.",
        "INDICATION: cough. FINDINGS: Lungs are clear. Heart is large. IMPRESSION: Cardiomegaly.",
        " INDICATION: cough.\n \n FINDINGS:\n\n Lungs are clear. Heart is large.\n\n IMPRESSION:\n Cardiomegaly.\n",
    ],
)
def test_a_text_with_headings_is_cut_at_them(tmp_path, text):
    path = write_csv(tmp_path / "t.csv", ["text"], [text])

    (record,), _ = read(path)

    assert {name: " ".join(section.split()) for name, section in record.sections.items()} == {
        "indication": "cough.",
        "findings": "Lungs are clear. Heart is large.",
        "impression": "Cardiomegaly.",
    }


def test_section_columns_are_sections(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path", "findings", "section_impression"], ["a.png", "Clear.", "Normal."])

    (record,), _ = read(path)

    assert record.sections == {"findings": "Clear.", "impression": "Normal."}


def test_a_path_whose_last_dot_is_no_suffix_keeps_its_name_as_id(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path"], ["1.2.840.1"], ["1.2.840.2"], [str(tmp_path / "x" / "c.dcm")], ["/elsewhere/d.png"])

    records, _ = read(path)

    assert [record.id for record in records] == ["1.2.840.1", "1.2.840.2", "x/c", "/elsewhere/d"]
    assert records[3].image == Path("/elsewhere/d.png")


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 3, 1)])
def test_images_that_differ_by_their_suffix_alone_keep_it_in_their_ids(tmp_path, order):
    rows = [["", "a.png"], ["", "a.jpg"], ["", "./a.png"], ["", "b.png"], ["c", "b.jpg"]]
    path = write_csv(tmp_path / "t.csv", ["id", "path"], *[rows[place] for place in order])

    records, tally = read(path)

    assert {record.id: record.image.name for record in records} == {"a.png": "a.png", "a.jpg": "a.jpg", "b": "b.png", "c": "b.jpg"}
    assert tally.left_out == {"id seen before": 1}  # the same file twice


def test_two_tables_in_a_folder_are_not_guessed_between(tmp_path):
    write_csv(tmp_path / "a.csv", ["path"], ["a.png"])
    write_csv(tmp_path / "b.csv", ["path"], ["b.png"])

    assert not recognises_table(tmp_path)
    with pytest.raises(MedretError, match=r"2 tables \(a.csv, b.csv\).*Name the table's own file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"path": "a.png"}\n{"path": "SECRET\n', "line 2: not readable as JSON"),
        ("t.jsonl", b"[1]\n", "line 1: no JSON object"),
        ("t.jsonl.gz", gzip.compress(b'{"path": "a.png"}\n' * 9)[:-9], "not readable as JSON"),
        ("t.parquet", b"PAR1 nonsense PAR1", "cannot be read as Parquet"),
        ("t.xlsx", b"", r"no table, expected .csv, .tsv"),
    ],
)
def test_a_damaged_table_is_one_clear_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(MedretError, match=message) as error:
        read(tmp_path / name)

    assert "SECRET" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_that_names_dicom_files_is_read_as_a_table(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    write_csv(tmp_path / "t.csv", ["path", "Edema"], ["a.dcm", "1"])

    assert open_corpus(tmp_path).format == "table"


def test_a_table_without_such_columns_leaves_a_folder_of_films_to_the_dicom_reader(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    write_csv(tmp_path / "inventory.csv", ["station", "count"], ["3", "1"])

    assert open_corpus(tmp_path).format == "dicom"


def test_half_a_character_in_json_is_replaced(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": "a", "text": "Edema \\ud800."}')

    (record,) = read_table(tmp_path / "t.jsonl", Tally())

    assert record.sections == {"findings": "Edema ?."}
