"""Which kind of index is taken, where the machine is a given one."""

from dataclasses import replace

import pytest
from given_machine import MACHINE

from encoders.errors import MedretError
from index.choice import check_patience, choose_kind, is_small, resolve_kind
from index.cost import predict


@pytest.mark.parametrize(
    ("rows", "limits", "kind"),
    [
        (50_000, {}, "flat"),  # 4 ms
        (601_000, {}, "ivf-pq"),
        (601_000, {"latency": 0.08}, "flat"),  # 49 ms will do
        (601_000, {"memory": 70e6}, "ivf-pq"),
        (10_000_000, {}, "scan"),  # lists of so many take minutes to make
        (10_000_000, {"latency": 0.020}, "ivf-scan"),  # unless they are asked for
    ],
)
def test_the_kind_follows_from_the_limits(rows, limits, kind):
    choice = choose_kind(rows, 512, MACHINE, 0.99, **limits)

    assert choice.kind == kind
    assert choice.reason.startswith(f"{kind}: ")


def test_a_latency_of_a_second_or_more_is_said_in_whole_milliseconds():
    assert choose_kind(601_000, 512, MACHINE, 0.99, latency=2).reason.endswith("within 2000 ms")


def test_where_nothing_is_as_fast_as_exact_search_that_is_taken():
    choice = choose_kind(100, 64, MACHINE, 0.8, latency=5e-5)

    assert min(choice.predictions, key=lambda one: one.latency_s).kind == choice.kind == "flat"
    assert "none answers within 0.05 ms" in choice.reason


def test_vectors_of_float16_need_half_the_memory_for_exact_search():
    assert choose_kind(601_000, 512, MACHINE, 0.99, memory=0.7e9, latency=1).kind != "flat"
    assert choose_kind(601_000, 512, MACHINE, 0.99, memory=0.7e9, latency=1, half=True).kind == "flat"


def test_a_recall_that_a_thousand_queries_cannot_show_takes_exact_search():
    assert choose_kind(601_000, 512, MACHINE, 0.999).kind == "flat"


def test_what_fits_into_no_memory_is_refused_with_the_least_that_would():
    with pytest.raises(MedretError, match=r"fits into 10 MB: the smallest, ivf-pq, needs 4\d MB"):
        choose_kind(601_000, 512, MACHINE, 0.99, memory=10e6)
    with pytest.raises(MedretError, match="fits into 10 kB: "):
        choose_kind(601_000, 512, MACHINE, 0.99, memory=10e3)
    with pytest.raises(MedretError, match="fits into 0 bytes: "):
        resolve_kind("auto", 3000, 512, 0.99, memory=0)


def test_hours_of_building_need_a_yes():
    long = predict("ivf-flat", 100_000_000, 512, MACHINE)

    with pytest.raises(MedretError, match=r"ivf-flat .* hours .*--yes"):
        check_patience(long, yes=False)
    check_patience(long, yes=True)
    check_patience(replace(long, build_s=1800, certify_s=1700), yes=False)


def test_few_vectors_are_searched_exactly_without_measuring_the_machine():
    choice = resolve_kind("auto", 3000, 512, 0.99)

    assert is_small(3000, 512) and not is_small(601_000, 512)
    assert (choice.kind, choice.predictions) == ("flat", ())


def test_an_unknown_kind_is_refused_before_anything_is_measured():
    with pytest.raises(MedretError, match="'flt' is not known"):
        resolve_kind("flt", 3000, 512, 0.99)
