"""CSV files as published: plain, gzipped, with a byte-order mark, damaged."""

import gzip

import pytest

from encoders.errors import MedretError
from index.corpora.csvfile import find_csv, read_csv, read_header


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_plain_and_gzipped_files_with_and_without_a_mark_read_alike(tmp_path, packed, mark):
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    data = mark + b'id,text\r\n1,"two\nlines, one ""field"""\r\n\r\n2,\r\n'
    path.write_bytes(gzip.compress(data) if packed else data)

    assert list(read_csv(path, ("id",))) == [{"id": "1", "text": 'two\nlines, one "field"'}, {"id": "2", "text": ""}]
    assert read_header(path) == ("id", "text")


def test_gzip_is_told_by_content_and_not_by_name(tmp_path):
    """Browsers unpack a .gz on the way and keep its name."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"id\n1\n")

    assert list(read_csv(path)) == [{"id": "1"}]


def test_spaces_around_column_names_are_dropped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ImageId, EncodedPixels\n1,2\n")

    assert read_header(path) == ("ImageId", "EncodedPixels")


def test_a_missing_column_is_named_with_the_file_and_the_columns_found(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("study,a\n1,2\n")

    with pytest.raises(MedretError) as fault:
        list(read_csv(path, ("study", "Edema", "Fracture")))

    message = str(fault.value)
    assert str(path) in message and "no columns 'Edema', 'Fracture'" in message and "found 'study', 'a'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"a,b,a\n1,2,3\n", "a column more than once; found 'a', 'b', 'a'. Rename all but one 'a'."),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields, expected 2"),
        (b"a,b\n1\n", "line 2: 1 fields, expected 2"),
        (b"a,b\n\xff\xfe,2\n", "not UTF-8"),
        (b"a\n" + b"x" * 200_000 + b"\n", "not a readable CSV"),
        (gzip.compress(b"a,b\n1,2\n" * 1000)[:-20], "damaged or cut short"),
        (b"\x1f\x8bno gzip at all", "damaged or cut short"),
        (gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 400)[:12] + b"\0" * 40, "damaged or cut short"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, data, words):
    path = tmp_path / "a.csv"
    path.write_bytes(data)

    with pytest.raises(MedretError) as fault:
        list(read_csv(path))

    assert str(path) in str(fault.value) and words in str(fault.value) and "\n" not in str(fault.value)


def test_a_folder_or_nothing_in_the_file_s_place_is_an_error(tmp_path):
    with pytest.raises(MedretError, match="no such file"):
        read_header(tmp_path / "none.csv")
    with pytest.raises(MedretError, match="cannot be read"):
        read_header(tmp_path)


def test_the_plain_file_is_found_before_the_gzipped_one(tmp_path):
    assert find_csv(tmp_path, "a") is None
    (tmp_path / "a.csv.gz").write_bytes(b"")
    assert find_csv(tmp_path, "a") == tmp_path / "a.csv.gz"
    (tmp_path / "a.csv").write_bytes(b"")
    assert find_csv(tmp_path, "a") == tmp_path / "a.csv"
