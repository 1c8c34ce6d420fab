"""Opening a corpus: recognition, options, records that can be read again."""

import pytest

from encoders.errors import MedretError
from index.corpora.readers import FORMATS, open_corpus
from index.corpora.record import FINDINGS, Tally

MIMIC = {
    "mimic-cxr-2.0.0-metadata.csv": "dicom_id,subject_id,study_id,ViewPosition\n"
    "a-1,10000032,50000001,PA\nb-2,10000032,50000001,LL\nb-2,1,1,\n",
    "mimic-cxr-2.0.0-split.csv": "dicom_id,split\na-1,train\nb-2,train\n",
}
CHEXPERT = {
    "train.csv": f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(FINDINGS)}\n"
    f"train/patient1/study1/view1_frontal.jpg,Male,50,Frontal,AP,{','.join('1' for _ in FINDINGS)}\n"
}
OPENI = {
    "indiana_reports.csv": "uid,MeSH,Problems,image,indication,comparison,findings,impression\n1,normal,normal,Chest,,,Clear.,Normal.\n",
    "indiana_projections.csv": "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n",
}
TABLE = {"films.csv": "path,text\na.png,The lungs are clear.\n"}


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("files", "format"), [(MIMIC, "mimic-cxr-jpg"), (CHEXPERT, "chexpert"), (OPENI, "openi"), (TABLE, "table")])
def test_a_corpus_is_recognised_by_what_its_folder_holds(tmp_path, files, format):
    corpus = open_corpus(write(tmp_path, files))

    assert (corpus.format, corpus.recognised, corpus.root) == (format, True, tmp_path)
    assert len(list(corpus.records())) == (2 if format == "mimic-cxr-jpg" else 1)


def test_a_dicom_tree_is_recognised_by_the_mark_of_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "IM0001").write_bytes(bytes(128) + b"DICM")

    assert open_corpus(tmp_path).format == "dicom"


def test_a_folder_of_films_alone_is_recognised_when_nothing_else_fits(tmp_path):
    write(tmp_path, {"a.jpg": "", "notes.txt": ""})

    corpus = open_corpus(tmp_path)

    assert (corpus.format, corpus.recognised, corpus.findings) == ("images", True, ())
    assert [record.id for record in corpus.records()] == ["a"]


@pytest.mark.parametrize(("files", "format"), [(MIMIC, "mimic-cxr-jpg"), (CHEXPERT, "chexpert"), (OPENI, "openi"), (TABLE, "table")])
def test_films_beside_what_describes_them_are_no_folder_of_films_alone(tmp_path, files, format):
    assert open_corpus(write(tmp_path, files | {"a.png": ""})).format == format


def test_a_table_can_be_a_file(tmp_path):
    corpus = open_corpus(write(tmp_path, TABLE) / "films.csv")

    assert (corpus.format, corpus.root) == ("table", tmp_path / "films.csv")


def test_a_format_that_the_user_names_is_not_second_guessed(tmp_path):
    write(tmp_path, MIMIC | TABLE)

    corpus = open_corpus(tmp_path / "films.csv", "table")

    assert not corpus.recognised and [record.image for record in corpus.records()] == [tmp_path / "a.png"]


def test_records_can_be_read_again_in_the_same_order(tmp_path):
    corpus = open_corpus(write(tmp_path, MIMIC))
    first, second = Tally(), Tally()

    assert list(corpus.records(first)) == list(corpus.records(second))
    assert first == second and sum(first.left_out.values()) == 1


def test_findings_are_the_source_s_and_empty_without_labels(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    assert open_corpus(write(tmp_path / "a", CHEXPERT)).findings == FINDINGS
    assert open_corpus(write(tmp_path / "b", MIMIC)).findings == ()


def test_a_path_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(MedretError, match="no such file or folder"):
        open_corpus(tmp_path / "none")


def test_an_unknown_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(MedretError) as fault:
        open_corpus(tmp_path)

    message = str(fault.value)
    assert str(tmp_path) in message and "\n" not in message
    assert all(name in message for name in FORMATS)
    assert "mimic-cxr-2.0.0-metadata.csv" in message and "indiana_reports.csv" in message


def test_a_folder_of_several_tables_asks_to_name_one(tmp_path):
    write(tmp_path, TABLE | {"more.csv": "path\nb.png\n"})

    with pytest.raises(MedretError, match=r"holds 2 tables \(films\.csv, more\.csv\).*Name one of them, e\.g\. .*/films\.csv"):
        open_corpus(tmp_path)


def test_films_beside_several_tables_are_not_taken_without_their_labels(tmp_path):
    write(tmp_path, TABLE | {"more.csv": "path\nb.png\n", "a.png": ""})

    with pytest.raises(MedretError, match="holds 2 tables"):
        open_corpus(tmp_path)
    assert [record.id for record in open_corpus(tmp_path, "images").records()] == ["a"]


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(MedretError, match=r"'mimic' is no corpus format.*mimic-cxr-jpg, chexpert, openi, table, dicom, images"):
        open_corpus(tmp_path, "mimic")


@pytest.mark.parametrize("format", FORMATS)
def test_the_wrong_folder_for_a_named_format_is_one_clear_line(tmp_path, format):
    with pytest.raises(MedretError) as fault:
        list(open_corpus(tmp_path, format).records())

    assert str(tmp_path) in str(fault.value) and "\n" not in str(fault.value)


def test_a_corpus_without_a_record_says_why(tmp_path):
    files = MIMIC | {"mimic-cxr-2.0.0-metadata.csv": "dicom_id,subject_id,study_id,ViewPosition\na-1,x,1,PA\n"}

    with pytest.raises(MedretError, match=r"no record in this mimic-cxr-jpg corpus \(left out: .*1 x mimic.*not of their form"):
        list(open_corpus(write(tmp_path, files)).records())


def test_an_option_of_another_format_is_refused(tmp_path):
    write(tmp_path, CHEXPERT)

    with pytest.raises(MedretError, match=r"a chexpert corpus has no option --reports \(understood by mimic-cxr-jpg\)"):
        open_corpus(tmp_path, reports=tmp_path)
    with pytest.raises(MedretError, match=r"no option --column \(understood by table\)"):
        open_corpus(tmp_path, columns={"text": "report"})


def test_options_reach_the_reader(tmp_path):
    write(tmp_path, MIMIC)
    (tmp_path / "s50000001.txt").write_text(" FINAL REPORT\n IMPRESSION:  Normal.\n")

    corpus = open_corpus(tmp_path, reports=tmp_path)

    assert [record.sections["impression"] for record in corpus.records()] == ["Normal.", "Normal."]
