import numpy as np
import pytest
from handmade_index import image_rows, make_engine
from hypothesis import given
from hypothesis import strategies as st

from encoders.errors import MedretError
from index.corpora.record import Record
from retrieval.filters import Groups, number_values, rows_with, same_owner_rows


def table_of(folder, records):
    vectors = {"joint": np.ones((len(records), 2))}
    return make_engine(folder, {"images": (image_rows(records), vectors)}).table("images")


def test_rows_of_a_split_are_marked(tmp_path):
    splits = ["train", "test", None, "train"]
    table = table_of(tmp_path, [Record(id=str(row), image=None, split=split) for row, split in enumerate(splits)])

    assert rows_with(table, "split", ["train"]).tolist() == [True, False, False, True]
    assert rows_with(table, "split", ["test", "train"]).tolist() == [True, True, False, True]


def test_a_split_that_no_record_has_names_those_there_are(tmp_path):
    table = table_of(tmp_path, [Record(id="a", image=None, split="train"), Record(id="b", image=None)])

    with pytest.raises(MedretError, match=r"split validate.*train"):
        rows_with(table, "split", ["validate"])


def test_no_value_is_not_the_word_none(tmp_path):
    table = table_of(tmp_path, [Record(id="a", image=None, split="train"), Record(id="b", image=None)])

    with pytest.raises(MedretError, match="split None"):
        rows_with(table, "split", ["None"])


def test_records_of_one_patient_are_found_across_tables_and_by_study_where_no_patient_is_named(tmp_path):
    who = [("p1", "s1"), ("p1", "s2"), (None, "s3"), (None, "s3"), (None, None), ("s3", "s4")]
    images = table_of(tmp_path / "a", [Record(id=f"i{row}", image=None, patient_id=p, study_id=s) for row, (p, s) in enumerate(who)])
    others = [("p2", "s9"), ("p1", "s2"), (None, "s3"), (None, None)]
    reports = table_of(tmp_path / "b", [Record(id=f"r{row}", image=None, patient_id=p, study_id=s) for row, (p, s) in enumerate(others)])

    within = same_owner_rows(images, np.arange(6), images)
    across = same_owner_rows(images, np.arange(6), reports)

    assert [rows.tolist() for rows in within] == [[0, 1], [0, 1], [2, 3], [2, 3], [], [5]]
    assert [rows.tolist() for rows in across] == [[1], [1], [2], [2], [], []]


@given(st.lists(st.integers(-1, 4), max_size=20), st.integers(-1, 5))
def test_a_group_holds_its_rows_in_order(numbers, number):
    expected = [row for row, held in enumerate(numbers) if held == number and number >= 0]

    assert Groups(np.array(numbers, dtype=np.int64)).rows(number).tolist() == expected


def test_equal_values_of_two_columns_have_equal_numbers():
    asked, held = number_values(["b", None, "c"], ["a", "b", None, "b"])

    assert asked[0] == held[1] == held[3]
    assert asked[1] == held[2] == -1
    assert len({asked[0], asked[2], held[0]}) == 3
