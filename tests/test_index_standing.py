"""What any number of candidates finds, told by one search of the lists, against searching with each number."""

import numpy as np
import pytest
from shard_folders import unit, write_images

from index.kinds import find_kind
from index.planner import SearchPlan
from index.questions import ask_exactly
from index.shards import open_shards
from index.stages import build_stage
from index.standing import find_standing
from index.vector_index import VectorIndex

ROWS, DIMENSION, K = 4000, 64, 10


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random = np.random.default_rng(0)
    centres = random.standard_normal((60, DIMENSION))
    vectors = unit(centres[random.integers(0, 60, ROWS)] + 1.2 * random.standard_normal((ROWS, DIMENSION)))
    ids = [f"{row:05d}" for row in range(ROWS)]
    return open_shards(write_images(tmp_path_factory.mktemp("archive"), vectors, ids, cuts=(1500,))).table("images")


@pytest.mark.parametrize("kind", ["ivf-flat", "ivf-scan"])
def test_one_search_tells_what_each_number_of_candidates_finds(kind, table):
    index = VectorIndex(table, "joint", build_stage(find_kind(kind), table, "joint"))
    random = np.random.default_rng(1)
    asking = random.choice(ROWS, 40, replace=False)
    queries = unit(table.vectors("joint", asking) + 0.05 * random.standard_normal((40, DIMENSION)))
    own = [np.array([row]) if place % 2 else np.arange(row, min(row + 5, ROWS)) for place, row in enumerate(asking)]
    questions = ask_exactly(index, queries, own, "image", (K, 25))

    for effort in (1, 4):
        standing = find_standing(index.stage, questions[25], 200, effort)
        for candidates in (10, 15, 40, 200):
            plan = SearchPlan(how="approximate", kind=kind, candidates=candidates, effort=effort, allowed_rows=ROWS, rows=ROWS, reason="")
            found = [index.search(query[None], K, excluded=[out], plan=plan)[0][0] for query, out in zip(queries, own, strict=True)]
            expected = [len(set(rows) & set(best)) / K for rows, best in zip(found, questions[K].right, strict=True)]
            assert standing.shares(K, candidates).tolist() == pytest.approx(expected)
        assert 0.1 < standing.shares(K, 10).mean() < 1


def test_a_query_whose_lists_hold_too_few_is_searched_exactly_and_finds_all(table):
    index = VectorIndex(table, "joint", build_stage(find_kind("ivf-flat"), table, "joint"))
    queries = table.vectors("joint", np.arange(3))
    nothing = np.empty(0, np.int64)
    few = np.zeros(ROWS, bool)
    few[:7] = True

    questions = ask_exactly(index, queries, [nothing, nothing, np.arange(300, 600)], "image", (10,))[10]

    standing = find_standing(index.stage, questions, 50, index.stage.lists, few)

    assert standing.shares(10, 50).tolist() == [1, 1, 1]
