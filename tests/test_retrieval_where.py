import operator
import random
from datetime import date, timedelta

import numpy as np
import pytest
from handmade_index import image_rows, make_engine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from encoders.errors import MedretError
from index.conditions import And, Comparison, Not, Or, Tree, comparisons
from index.corpora.record import LabelState, Record
from index.shards import Shards
from retrieval.answers import Query
from retrieval.columns import bind
from retrieval.filters import Selection, parse_where

VIEWS, TAGS = ("PA", "AP", "LATERAL"), ("Opacity, patchy", "normal", "none", 'so "called"')
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def some_records(count: int, seed: int, findings: tuple[str, ...]) -> list[Record]:
    draw = random.Random(seed)
    return [
        Record(
            id=f"{seed}/{row:03d}",
            image=None,
            patient_id=draw.choice(["p1", "p2", "10000032", None]),
            view=draw.choice([*VIEWS, None]),
            split=draw.choice(["train", "test", None]),
            sex=draw.choice(["F", "M", None]),
            age=draw.choice([None, 18.0, 40.1, 64.5, 90.0]),
            study_date=draw.choice([None, date(2011, 1, 31) + timedelta(days=draw.randrange(700))]),
            tags=tuple(draw.sample(TAGS, draw.randrange(3))),
            labels={finding: draw.choice(list(LabelState)) for finding in findings if draw.random() < 0.8},
        )
        for row in range(count)
    ]


RECORDS = [some_records(70, 1, ("Edema", "Pleural Effusion")), some_records(30, 2, ("Edema",))]  # two folders, three shards
EVERY = [record for part in RECORDS for record in part]
REMOVED = np.array([3, 55, 99])
LIVE = [record for row, record in enumerate(EVERY) if row not in REMOVED]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    parts = []
    for number, records in enumerate(RECORDS):
        findings = ("Edema", "Pleural Effusion")[: 2 - number]
        folder = tmp_path_factory.mktemp("shards")
        engine = make_engine(folder, {"images": (image_rows(records), {"joint": np.ones((len(records), 2))})}, findings=findings)
        parts += engine.opened.shards.parts
    return Shards(parts, {"images": REMOVED}).table("images")


def ids(table, text: str) -> list[str]:
    return np.array(table.ids())[Selection(where=parse_where(text)).rows(table)].tolist()


def values_of(record: Record, column: str) -> list[object]:
    """All that a record says of a column: nothing, one value, or several tags."""
    if column == "tags":
        return list(record.tags)
    if column in ("edema", "pleural_effusion"):
        state = record.labels.get(column.replace("_", " ").title())
        return [] if state is None else [state.name.lower()]
    value = getattr(record, column)
    return [] if value is None else [np.float32(value) if column == "age" else value]


def plainly(record: Record, tree: tuple) -> bool:
    """Whether a record meets a condition, one record and one value at a time."""
    kind, *rest = tree
    if kind == "not":
        return not plainly(record, rest[0])
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(plainly(record, part) for part in rest[0])
    column, sign, asked = rest
    said = values_of(record, column)
    if sign in COMPARED:
        return any(COMPARED[sign](value, asked[0]) for value in said)
    found = any(value == one for value in said for one in asked if one is not None) or (None in asked and not said)
    return found != (sign in ("!=", "not in"))


def written(tree: tuple) -> str:
    kind, *rest = tree
    if kind == "not":
        return f"not ({written(rest[0])})"
    if kind in ("and", "or"):
        return f" {kind} ".join(f"({written(part)})" for part in rest[0])
    column, sign, asked = rest
    texts = ["none" if value is None else f"'{value}'" for value in asked]
    return f"{column} {sign} ({', '.join(texts)})" if sign in ("in", "not in") else f"{column} {sign} {texts[0]}"


def compared(column: str) -> st.SearchStrategy[tuple]:
    held = sorted({value for record in LIVE for value in values_of(record, column)}, key=str)
    values = st.sampled_from([*held, None])
    equal = st.tuples(st.just("is"), st.just(column), st.sampled_from(["==", "!="]), st.tuples(values))
    among = st.tuples(
        st.just("is"), st.just(column), st.sampled_from(["in", "not in"]), st.lists(values, min_size=1, max_size=4).map(tuple)
    )
    anything = {"age": st.floats(0, 100, width=32).map(np.float32), "study_date": st.dates(date(2010, 1, 1), date(2014, 1, 1))}
    if column not in anything:
        return equal | among
    ordered = st.tuples(st.just("is"), st.just(column), st.sampled_from([*COMPARED]), st.tuples(anything[column] | st.sampled_from(held)))
    return equal | among | ordered


COLUMNS = ("id", "patient_id", "view", "split", "sex", "age", "study_date", "tags", "edema", "pleural_effusion")
TREES = st.recursive(
    st.one_of([compared(column) for column in COLUMNS]),
    lambda parts: (
        st.tuples(st.just("not"), parts) | st.tuples(st.sampled_from(["and", "or"]), st.lists(parts, min_size=2, max_size=4).map(tuple))
    ),
    max_leaves=8,
)


@given(tree=TREES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_expression_selects_what_going_through_the_records_one_by_one_selects(table, tree):
    assert ids(table, written(tree)) == [record.id for record in LIVE if plainly(record, tree)]


@given(tree=TREES)
@settings(deadline=None)
def test_an_expression_written_out_reads_as_itself(tree):
    read = parse_where(written(tree))

    assert parse_where(str(read)) == read


@given(
    text=st.text(max_size=30)
    | st.lists(st.sampled_from(["view", "==", "=", "(", ")", "not", "in", "and", ",", "none", '"', "age", "<"])).map(" ".join)
)
@settings(deadline=None)
@example("(" * 10_000)
@example("not " * 10_000 + "sex == F")
@example("age == 1e999")
@example("age == nan")
@example("study_date == 0000")
@example("study_date in (9999-12, 99999999999999999999)")
@example("view == ''")
@example("view == 'P\nA' or 'split\n' == x")
def test_whatever_is_typed_is_an_expression_or_one_clear_line(table, text):
    try:
        bind(parse_where(text), table)
    except MedretError as fault:
        assert str(fault).startswith("where, at character ")
        assert "\n" not in str(fault)


def a(column: str, sign: str, *values: str | None) -> Tree:
    return Comparison(column, sign, values)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a == x or b == x and not c == x", Or((a("a", "==", "x"), And((a("b", "==", "x"), Not(a("c", "==", "x"))))))),
        ("(a == x or b == x) AND c == x", And((Or((a("a", "==", "x"), a("b", "==", "x"))), a("c", "==", "x")))),
        ("a==x and b==x and c==x", And((a("a", "==", "x"), a("b", "==", "x"), a("c", "==", "x")))),
        ("not not a in (x,'y z',\"none\", none)", Not(Not(a("a", "in", "x", "y z", "none", None)))),
        ("'Pleural Effusion' not in (positive)", a("Pleural Effusion", "not in", "positive")),
        ("a != p10/s5-x.1#2", a("a", "!=", "p10/s5-x.1#2")),
    ],
)
def test_not_binds_before_and_and_that_before_or(text, tree):
    assert parse_where(text) == tree


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at character 1: found the end, expected a column"),
        ("view = PA", r"at character 6: found '=', expected ==, !="),
        ("view == PA sex == F", "at character 12: found 'sex', expected and, or, or the end"),
        ("(view == PA", "at character 12: found the end, expected and, or, or [)]"),
        ('view == "PA', r"at character 9: found a quotation \(\"\) without its end"),
        ("pleural effusion == positive", "at character 9: found 'effusion'.*written_so or quoted"),
        ("view == and", r"at character 9: found 'and', expected a value \(the word itself is quoted"),
        ("view in PA", "at character 9: found 'PA', expected [(]"),
        ("view in (PA AP)", "at character 13: found 'AP', expected , or [)]"),
        ("plural_effusion == positive", r"at character 1: no column.*did you mean pleural_effusion\?.*study_date.*edema, pleural_effusion"),
        ("sex == F or veiw == PA", r"at character 13: .*did you mean view\?"),
        ("edema == postive", r"at character 10: .*did you mean positive\?.*not_mentioned, or none"),
        ("view in (PA, LATREAL)", r"at character 14: no record has view LATREAL; did you mean LATERAL\? choose .*: AP, LATERAL, PA$"),
        (
            "tags == opacity",
            r"at character 9: .*; did you mean Opacity, patchy\? choose from .*: \"Opacity, patchy\", none, normal, so \"called\"$",
        ),
        ("patient_id == 10000033", "at character 15: no record has patient_id 10000033; the images of this index have 3 others$"),
        ("age > old", "at character 7: 'old' is no number"),
        ("age == 41", r"at character 8: no record has age 41; in this index it is from 18\.0 to 90\.0"),
        ("study_date < 2011-13", "at character 14: '2011-13' is no ISO date"),
        ("study_date < none", "at character 14: none has no order"),
        ("age < 40..60", "at character 7: 40..60 is a range: ask age == 40..60"),
        ("view < PA", "at character 1: view has no order"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_there_is(table, text, says):
    with pytest.raises(MedretError, match=f"^where, {says}"):
        bind(parse_where(text), table)


def test_a_mistake_is_said_before_an_index_is_opened():
    with pytest.raises(MedretError, match=r"^where, at character 6"):
        Query(text="edema", where="view PA")


@pytest.mark.parametrize(
    ("date_asked", "test"),
    [
        ("== 2011", lambda day: day.year == 2011),
        ("!= 2012", lambda day: day is None or day.year != 2012),
        ("< 2011-06", lambda day: day < date(2011, 6, 1)),
        ("<= 2011-06", lambda day: day < date(2011, 7, 1)),
        ("> 2011-12", lambda day: day > date(2011, 12, 31)),
        (">= 2011-12", lambda day: day > date(2011, 11, 30)),
        ("in (2011-05..2011-08, 2012-12)", lambda day: "2011-05" <= str(day)[:7] <= "2011-08" or str(day)[:7] == "2012-12"),
        ("== ..2011", lambda day: day.year <= 2011),
        ("== ..", lambda day: True),
    ],
)
def test_a_date_without_day_or_month_is_all_of_its_days(table, date_asked, test):
    expected = [each.id for each in LIVE if (test(each.study_date) if each.study_date or "!=" in date_asked else False)]

    assert ids(table, f"study_date {date_asked}") == expected


def test_splits_and_sexes_may_be_named_though_no_record_has_them_as_scripts_do(table):
    assert ids(table, "split == validate") == []
    assert ids(table, "not split == VALIDATE and sex == f") == ids(table, "sex == F")


def test_any_spelling_of_a_word_stands_for_all_there_are(tmp_path):
    records = [Record(id=str(row), image=None, tags=tags) for row, tags in enumerate([("Normal",), ("normal",), ("NORMAL", "x"), ()])]
    table = make_engine(tmp_path, {"images": (image_rows(records), {"joint": np.ones((4, 2))})}).table("images")

    assert ids(table, "tags == nOrmal") == ["0", "1", "2"]
    assert ids(table, "tags != nOrmal") == ["3"]
    assert ids(table, "tags == normal") == ["1"]


def test_for_records_without_a_view_what_does_not_speak_of_it_is_left():
    selection = Selection(where=parse_where("view == PA and sex == F and (View == AP or age > 3)")).of_texts()

    assert [one.column for one in comparisons(selection.where)] == ["sex"]
    assert Selection(where=parse_where("not view == PA")).of_texts() == Selection()
