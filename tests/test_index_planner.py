import math

import pytest

from index.index_manifest import Certificate
from index.kinds import find_kind
from index.planner import exact_plan, plan_search

ROWS, DIMENSION, LISTS = 601_000, 512, 1024


def certificate(asker="text", k=10, *, effort=64, candidates=30, met=True):
    return Certificate(
        asker=asker,
        k=k,
        target=0.99,
        recall=0.994 if met else 0.981,
        low=0.991 if met else 0.978,
        high=0.996,
        queries=1000,
        drawn="reports",
        candidates=candidates,
        effort=effort,
        p50_ms=1.0,
        p99_ms=2.0,
        met=met,
    )


def plan(kind, certificates, k=10, asker="text", allowed=None, rows=ROWS):
    kind = find_kind(kind) if isinstance(kind, str) else kind
    return plan_search(kind, rows, DIMENSION, k, asker, allowed, certificates, LISTS if kind.effort == "nprobe" else None)


BOTH = (certificate(effort=64), certificate(k=50, effort=128, candidates=200))


@pytest.mark.parametrize(
    ("kind", "certificates", "k", "asker", "reason"),
    [
        ("flat", (), 10, "text", "exact over all 601,000 rows"),
        ("flat", BOTH, 10, "text", "exact over all 601,000 rows"),
        ("scan", (), 10, "text", "exact over all 601,000 rows: not certified for text queries"),
        ("scan", BOTH, 10, "image", "exact over all 601,000 rows: not certified for image queries"),
        ("ivf-scan", BOTH, 51, "text", "exact over all 601,000 rows: certified up to 50 hits, 51 are asked for"),
        (
            "ivf-scan",
            (certificate(met=False), certificate(k=50)),
            10,
            "text",
            "exact over all 601,000 rows: recall@10 for text is 0.981 (at least 0.978), short of 0.99",
        ),
    ],
)
def test_without_a_met_certificate_for_just_this_search_it_is_exact_and_says_so(kind, certificates, k, asker, reason):
    made = plan(kind, certificates, k, asker)

    assert (made.how, made.candidates, made.effort, made.reason) == ("exact", 0, None, reason)


@pytest.mark.parametrize(("k", "effort", "certified"), [(1, 64, 10), (10, 64, 10), (11, 128, 50), (50, 128, 50)])
def test_the_settings_are_those_certified_for_at_least_as_many_hits(k, effort, certified):
    made = plan("ivf-scan", BOTH, k)

    assert (made.how, made.effort) == ("approximate", effort)
    assert made.candidates == next(one.candidates for one in BOTH if one.k == certified)
    assert made.reason == f"approximate: ivf-scan, certified recall@{certified} 0.994 for text"


def test_the_settings_are_those_of_the_asker():
    made = plan("ivf-scan", (certificate("image", effort=16), certificate("text", effort=99)), asker="image")

    assert (made.effort, made.reason) == (16, "approximate: ivf-scan, certified recall@10 0.994 for image")


@pytest.mark.parametrize(
    ("share", "effort", "confirmed_by"),
    [(1.0, 64, None), (0.8, 320, 80), (0.5, 512, 128), (0.3, 854, 214), (0.25, LISTS, None), (0.1, LISTS, None)],
)
def test_under_a_filter_more_lists_are_looked_into_and_fewer_must_find_the_same(share, effort, confirmed_by):
    made = plan("ivf-scan", BOTH, allowed=round(ROWS * share))

    assert (made.how, made.effort, made.confirmed_by) == ("approximate", effort, confirmed_by)
    assert made.candidates == (30 if share == 1 else 120)
    assert made.checked == ("within" in made.reason) == (share < 1)


@pytest.mark.parametrize(("kind", "effort"), [("ivf-scan", math.ceil(64 / 0.95**2)), ("hnsw", 64)])
def test_removed_rows_alone_need_no_check(kind, effort):
    live = round(ROWS * 0.95)
    lists = LISTS if kind == "ivf-scan" else None

    made = plan_search(find_kind(kind), ROWS, DIMENSION, 10, "text", None, BOTH, lists, live)

    assert (made.how, made.candidates, made.effort, made.checked, made.confirmed_by) == ("approximate", 30, effort, False, None)
    assert made.allowed_rows == live
    filtered = plan_search(find_kind(kind), ROWS, DIMENSION, 10, "text", live - 1, BOTH, lists, live)
    assert filtered.checked or filtered.how == "exact"


@pytest.mark.parametrize("kind", ["scan", "ivf-scan", "ivf-pq", "ivf-flat", "ivf-rabitq", "hnsw"])
@pytest.mark.parametrize("allowed", [0, 1, 601, 6010])
def test_few_allowed_rows_are_searched_exactly(kind, allowed):
    made = plan(kind, BOTH, allowed=allowed)

    assert (made.how, made.allowed_rows, made.rows) == ("exact", allowed, ROWS)
    assert f"the {allowed:,} allowed rows" in made.reason


def test_a_scan_under_a_filter_that_leaves_many_rows_takes_more_candidates():
    made = plan("scan", (certificate(effort=None, candidates=50),), allowed=ROWS // 2)

    assert (made.how, made.candidates, made.effort) == ("approximate", 200, None)
    assert made.checked
    assert made.confirmed_by is None
    assert made.reason == "approximate: scan, certified recall@10 0.994 for text, within the 300,500 allowed rows"


@pytest.mark.parametrize(
    ("live", "allowed", "how"),
    [(1, 0.999, "exact"), (0.95, 0.949, "exact"), (0.95, None, "approximate"), (0.9, None, "approximate"), (0.89, None, "exact")],
)
def test_a_graph_passes_over_few_removed_rows_but_is_searched_exactly_under_a_filter(live, allowed, how):
    made = plan_search(
        find_kind("hnsw"), ROWS, DIMENSION, 10, "text", allowed and round(ROWS * allowed), BOTH, live_rows=round(ROWS * live)
    )

    assert made.how == how
    assert ("loses recall" in made.reason) == (how == "exact")


@pytest.mark.parametrize(("name", "effort"), [("PQ16x4fs", None), ("IVF16,RQ4x4", 1)])
def test_a_factory_that_may_not_know_filters_is_searched_exactly_under_one(name, effort):
    certificates = (certificate(effort=effort),)

    assert plan(find_kind(name), certificates).how == "approximate"
    assert plan(find_kind(name), certificates, allowed=ROWS - 1).reason.endswith(f"{name} loses recall where rows are left out")


def test_a_small_index_is_searched_exactly_where_its_lists_cost_more():
    assert plan("ivf-flat", BOTH, rows=1000).how == "exact"
    assert plan("ivf-flat", BOTH, rows=ROWS).how == "approximate"


def test_where_the_number_of_lists_is_not_known_the_effort_is_not_capped():
    made = plan_search(find_kind("ivf-scan"), ROWS, DIMENSION, 10, "text", ROWS // 2, BOTH)

    assert made.effort == math.ceil(64 * 4 / 0.5)


def test_an_exact_plan_of_any_kind_says_why():
    assert exact_plan("hnsw", 5, 3, "an evaluation").reason == "exact over the 3 allowed rows: an evaluation"
    assert exact_plan("hnsw", 5).reason == "exact over all 5 rows"


@pytest.mark.parametrize(("k", "allowed"), [(0, None), (1, -1), (1, ROWS + 1)])
def test_a_plan_for_no_hits_or_for_more_rows_than_there_are_is_a_wrong_call(k, allowed):
    with pytest.raises(ValueError, match="allowed"):
        plan("flat", (), k, allowed=allowed)
