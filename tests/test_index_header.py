"""A table without its header row must not be quoted: its first row is a patient's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.errors import MedretError
from index.corpora.csvfile import read_csv, read_header
from index.corpora.header import columns_found, quoted
from index.corpora.labels import LabelColumns
from index.corpora.record import FINDINGS, Tally
from index.corpora.table import findings_table, read_table

MISSING = "its first row does not look like column names; is the header missing?"


@pytest.mark.parametrize(
    "header",
    [
        ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "StudyDate"),
        ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS),
        ("Image Index", "Finding Labels", "Follow-up #", "OriginalImage[Width", "Height]", "y]", "Unnamed: 11"),
        ("", "ImageID", "StudyDate_DICOM", "labelCUIS"),  # with a column of row numbers
        ("uid", "MeSH", "Problems"),
        ("STUDY_DATE", "PID"),
    ],
)
def test_the_columns_of_published_tables_are_named(header):
    assert columns_found(header, "Mend it.") == f"found {', '.join(repr(name) for name in header)}. Mend it."


@pytest.mark.parametrize(
    "cell",
    [
        "DOE JANE 1950",
        "DOE JANE",
        "Doe^Jane",
        "Doe, Jane",
        "films/a.PNG",
        "1.2.840.113619",
        "10000032",
        "p10000032",
        "0.5",
        "-1",
        "F",
        "Lateral",
        "2020-01-02",
        "01/02/1950",
        "058Y",
        "nan 1950",
        "Lungs are clear. Heart normal",
        "Normal.",
        "no acute disease is seen",
        "x" * 41,
        " ",
        "?",
    ],
)
def test_a_row_with_a_cell_that_is_no_name_is_not_quoted(cell):
    assert columns_found(("path", cell), "Mend it.") == MISSING


FIRST_ROWS = ["films/1.png,DOE JANE 1950,Lungs clear", "DOE JANE,DOE JANE,F", "DOE JANE;1950-01-02;Clear. No effusion"]


@pytest.mark.parametrize("row", FIRST_ROWS)
def test_a_table_without_a_header_names_nobody_whichever_reader_meets_it(tmp_path, row):
    path = tmp_path / "t.csv"
    path.write_text(f"{row}\n{row}\n")

    def label_columns():
        LabelColumns(path, read_header(path))

    for read in (
        lambda: list(read_csv(path, ("uid",))),
        lambda: list(read_table(path, Tally())),
        lambda: list(read_table(path, Tally(), {"text": "report"})),
        label_columns,
    ):
        with pytest.raises(MedretError, match="is the header missing") as fault:
            read()
        assert "DOE" not in str(fault.value) and "1950" not in str(fault.value)


@given(st.text())
def test_only_short_codes_are_quoted(cell):
    words = quoted(cell)

    assert words in ("blank", "free text") or (words == f"'{cell.strip()}'" and len(words) <= 14 and " " not in words)


@pytest.mark.parametrize(
    ("cell", "words"), [("3", "'3'"), ("fold-7", "'fold-7'"), ("-1.5", "'-1.5'"), (" ", "blank"), ("Doe Jane", "free text")]
)
def test_a_code_is_quoted_and_free_text_is_not(cell, words):
    assert quoted(cell) == words


def test_a_label_or_split_that_is_free_text_is_not_quoted(tmp_path):
    path, tally = tmp_path / "t.csv", Tally()
    cells = dict.fromkeys(FINDINGS, "1") | {"Edema": "Doe Jane has edema", "Fracture": "3"}
    LabelColumns(path, list(FINDINGS)).read(cells, "s1", tally)
    (tmp_path / "u.csv").write_text('path,labels\na.png,"{Doe Jane"\nb.png,Edema\n')
    list(read_table(tmp_path / "u.csv", tally))

    assert findings_table(tmp_path / "u.csv") == ("Edema",)
    faults = " ".join(tally.faults)
    assert "Edema is free text" in faults and "Fracture is '3'" in faults and "label of free text not understood" in faults
    assert "Doe" not in faults
