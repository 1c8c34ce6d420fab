from datetime import date

import numpy as np
import pytest
from handmade_index import image_rows, make_engine
from hypothesis import given
from hypothesis import strategies as st

from encoders.errors import MedretError
from index.corpora.record import LabelState, Record
from retrieval.answers import Query
from retrieval.filters import Condition, Selection, parse_condition
from retrieval.owners import Groups, number_values, same_owner_rows

FINDINGS = ("Edema", "Pleural Effusion")
STUDIES = [  # id, patient, sex, age, date, tags, Edema, Pleural Effusion
    ("a", "p1", "F", 40.0, date(2011, 1, 31), ("Opacity, patchy",), LabelState.POSITIVE, LabelState.NEGATIVE),
    ("b", "p1", "F", 40.5, date(2011, 2, 28), ("Scoliosis", "normal"), LabelState.UNCERTAIN, None),
    ("c", "p2", "M", 60.0, date(2012, 12, 31), (), LabelState.NOT_MENTIONED, LabelState.POSITIVE),
    ("d", "p3", None, None, None, ("normal",), None, None),
    ("e", None, "M", 90.0, date(2013, 1, 1), (), LabelState.NEGATIVE, LabelState.POSITIVE),
]


def table_of(folder, records, findings=()):
    vectors = {"joint": np.ones((len(records), 2))}
    return make_engine(folder, {"images": (image_rows(records), vectors)}, findings=findings).table("images")


@pytest.fixture
def studies(tmp_path):
    records = [
        Record(
            id=id,
            image=None,
            patient_id=patient,
            sex=sex,
            age=age,
            study_date=day,
            tags=tags,
            labels={name: state for name, state in zip(FINDINGS, states, strict=True) if state is not None},
        )
        for id, patient, sex, age, day, tags, *states in STUDIES
    ]
    return table_of(tmp_path, records, FINDINGS)


def rows_with(table, column, values):
    return Condition(column=column, values=tuple(values)).rows(table)


def test_rows_of_a_split_are_marked(tmp_path):
    splits = ["train", "test", None, "train"]
    table = table_of(tmp_path, [Record(id=str(row), image=None, split=split) for row, split in enumerate(splits)])

    assert rows_with(table, "split", ["train"]).tolist() == [True, False, False, True]
    assert rows_with(table, "split", ["test", "train"]).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("column", "others"), [("id", 5), ("patient_id", 3)])
def test_ids_of_others_are_counted_not_listed(studies, column, others):
    with pytest.raises(MedretError) as fault:
        rows_with(studies, column, ["UNKNOWN"])

    assert str(fault.value) == f"no record has {column} UNKNOWN; the images of this index have {others} others"


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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sex=F", "ab"),
        ("Sex=m", "ce"),
        ("sex=", "d"),
        ("patient_id=p1,p3", "abd"),
        ("patient=p2,", "ce"),
        ("id=a, e", "ae"),
        ("tags=normal", "bd"),
        ("tag=scoliosis,normal", "bd"),
        ('tags="Opacity, patchy"', "a"),
        ("tags=", "ce"),
        ("age=40", "a"),
        ("age=40..60", "abc"),
        ("age=..40.5", "ab"),
        ("age=60..", "ce"),
        ("age=40,90", "ae"),
        ("age=", "d"),
        ("study_date=2011-01-31", "a"),
        ("study_date=2011-02", "b"),
        ("date=2011-02..2012", "bc"),
        ("study_date=2012-12-31..", "ce"),
        ("study_date=..2011-01", "a"),
        ("study_date=2012-12", "c"),
        ("Edema=positive", "a"),
        ("edema=positive,uncertain", "ab"),
        ("pleural_effusion=negative", "a"),
        ("PLEURAL EFFUSION=positive", "ce"),
        ("Edema=not_mentioned", "c"),
        ("Edema=Not mentioned", "c"),
        ("Edema=", "d"),
    ],
)
def test_a_condition_selects_the_records_that_meet_it(studies, words, expected):
    assert "".join(np.array(studies.ids())[parse_condition(words).rows(studies)]) == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("colour=red", r"no column or finding 'colour'.*patient_id.*study_date.*Edema, Pleural Effusion"),
        ("sex=X", r"sex X; choose from what the index holds: F, M$"),
        ("sex=F,X", "sex X"),
        ("patient_id=P1", "patient_id P1"),  # the letter case of an id matters
        ("view=PA", "the images of this index name none"),
        ("Edema=yes", "'yes'.*positive.*not_mentioned"),
        ("age=100..", r"age 100\.\.; in this index it is from 40.0 to 90.0"),
        ("age=60..40", "no record"),
        ("age=old", "'old' is no number"),
        ("study_date=2011-02-30", "no ISO date"),
        ("study_date=2011-01-01-01..", "no ISO date"),
        ("study_date=99999999999999999999", "no ISO date"),
        ("study_date=2020", "from 2011-01-31 to 2013-01-01"),
    ],
)
def test_a_condition_that_nothing_can_meet_names_what_there_is(studies, words, says):
    with pytest.raises(MedretError, match=says):
        parse_condition(words).rows(studies)


@pytest.mark.parametrize("only", ["sex=F", ("sex=F",)])
def test_a_query_of_conditions_not_read_yet_says_how_to_read_them(only):
    with pytest.raises(ValueError, match=r"only has a str, expected conditions: .*parse_condition"):
        Query(text="edema", only=only)


@pytest.mark.parametrize("words", ["sex", "=F", ""])
def test_a_condition_is_a_column_and_values(words):
    with pytest.raises(ValueError, match="COLUMN=VALUE"):
        parse_condition(words)


def test_of_many_values_a_message_lists_the_first(tmp_path):
    table = table_of(tmp_path, [Record(id=str(row), image=None, tags=(f"{row:03d}",)) for row in range(100)])

    with pytest.raises(MedretError, match=r"000, 001, .*011 \.\.\. \(100 in all\)$"):
        parse_condition("tags=x").rows(table)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_one_unknown_value_among_many_is_named(tmp_path, count):
    table = table_of(tmp_path, [Record(id=f"{row:03d}", image=None) for row in range(100)])
    known = [f"{row:03d}" for row in range(count)]

    assert Condition(column="id", values=tuple(known)).rows(table).sum() == count
    with pytest.raises(MedretError, match="no record has id xyz;"):
        Condition(column="id", values=(*known, "xyz")).rows(table)


def test_all_conditions_of_a_selection_hold_and_no_removed_record_is_selected(studies):
    selection = Selection(only=(parse_condition("sex=M,F"), parse_condition("pleural effusion=positive")))
    assert np.array(studies.ids())[selection.rows(studies)].tolist() == ["c", "e"]

    studies.live = np.array([True, True, False, True, True])

    assert np.array(studies.ids())[selection.rows(studies)].tolist() == ["e"]
    assert Selection().rows(studies).tolist() == studies.live.tolist()
    assert Condition(column="sex", values=("",)).rows(studies).tolist() == [False, False, False, True, False]
    studies.live[3] = False
    assert not Condition(column="Edema", values=("",)).rows(studies).any()
    assert not Condition(column="sex", values=("",)).rows(studies).any()


def test_one_value_in_two_spellings_does_not_select_records_without_any(studies):
    assert rows_with(studies, "sex", ["f", "F"]).tolist() == [True, True, False, False, False]
    assert rows_with(studies, "sex", ["f", "F", ""]).tolist() == [True, True, False, True, False]


def test_what_was_removed_is_not_in_the_range_that_there_is(studies):
    studies.live = np.array([True, True, True, True, False])

    with pytest.raises(MedretError, match=r"no record has age 80\.\.; in this index it is from 40\.0 to 60\.0"):
        Condition(column="age", values=("80..",)).rows(studies)


def test_a_condition_on_the_view_of_reports_says_that_only_images_have_one(tmp_path):
    rows = image_rows([Record(id="r", image=None)])
    table = make_engine(tmp_path, {"reports": (rows, {"joint": np.ones((1, 2))})}).table("reports")

    with pytest.raises(MedretError, match="only images have a view"):
        parse_condition("view=PA").rows(table)


@given(values=st.lists(st.text("ab\"', =", max_size=5).map(str.strip), min_size=1, max_size=3))
def test_a_condition_reads_back_from_how_it_is_written(values):
    condition = Condition(column="tags", values=tuple(values))

    assert parse_condition(str(condition)) == condition
