"""The recall contract: what a certificate says, counted again by brute force; what few queries and weak indexes cannot have."""

import numpy as np
import pytest
from shard_folders import unit, write_images, write_rows

from index.askers import Sample
from index.contract import certify, most_recall_shown
from index.corpora.record import Record
from index.kinds import find_kind
from index.planner import SearchPlan
from index.shards import ShardRow, open_shards
from index.stages import build_stage
from index.vector_index import VectorIndex

ROWS, DIMENSION = 6000, 48


def draw(rows: int, seed: int = 0) -> np.ndarray:
    """Vectors near a space of few dimensions, as embeddings are."""
    random = np.random.default_rng(seed)
    basis = np.random.default_rng(99).standard_normal((10, DIMENSION))
    return unit(random.standard_normal((rows, 10)) @ basis + 0.3 * random.standard_normal((rows, DIMENSION)))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """6,000 images of 2,000 patients."""
    rows = [ShardRow(Record(id=f"i{row}", image=None, patient_id=f"p{row // 3}")) for row in range(ROWS)]
    return open_shards(write_rows(tmp_path_factory.mktemp("archive"), rows, draw(ROWS), cuts=(2500,)))


def sample_of(held: np.ndarray, own=None, drawn="images") -> Sample:
    own = own or [np.empty(0, np.int64)] * len(held)
    tune = draw(200, seed=5)
    return Sample(tune=tune, held=held, tune_own=[np.empty(0, np.int64)] * len(tune), held_own=own, drawn=drawn)


def build(shards, kind: str) -> VectorIndex:
    table = shards.table("images")
    return VectorIndex(table, "joint", build_stage(find_kind(kind), table, "joint"))


@pytest.mark.parametrize("kind", ["scan", "ivf-scan", "ivf-pq", "hnsw"])
def test_a_certificate_says_what_brute_force_counts(archive, kind):
    """Each query asked alone, against sorted products of all vectors, its own patient's rows left out."""
    index = build(archive, kind)
    random = np.random.default_rng(3)
    rows = random.permutation(ROWS // 3)[:500] * 3
    vectors = archive.table("images").vectors("joint", rows)
    own = [np.arange(row, row + 3) for row in rows]
    sample = Sample(tune=vectors[:100], held=vectors[100:], tune_own=own[:100], held_own=own[100:], drawn="images")

    certificates = certify(index, {"image": sample}, 0.95, ks=(10, 30))

    assert [(one.asker, one.k, one.queries, one.drawn) for one in certificates] == [("image", k, 400, "images") for k in (10, 30)]
    everything = np.concatenate(archive.table("images").blocks("joint")).astype(np.float64)
    for one in certificates:
        shares = []
        for query, left_out in zip(sample.held, sample.held_own, strict=True):
            scores = everything @ query.astype(np.float64)
            scores[left_out] = -np.inf
            right = set(np.argsort(-scores)[: one.k].tolist())
            plan = SearchPlan(
                how="approximate", kind=kind, candidates=one.candidates, effort=one.effort, allowed_rows=ROWS, rows=ROWS, reason=""
            )
            (found, _), *_ = index.search(query[None], one.k, excluded=[left_out], plan=plan)
            shares.append(len(right & set(found.tolist())) / one.k)
        assert one.recall == pytest.approx(np.mean(shares), abs=1e-4)
        assert one.met and one.low >= 0.95
        assert one.low <= one.recall <= one.high
        assert 0 < one.p50_ms <= one.p99_ms


def test_a_scan_takes_twice_the_candidates_that_its_tuning_queries_need(archive):
    """Needed is the place, in the order of the codes' products, of the last of the ten best by brute force."""
    index = build(archive, "scan")
    sample = sample_of(draw(100, seed=6))
    everything = np.concatenate(archive.table("images").blocks("joint"))
    ranked = [own.tolist() for own in index.stage.candidates(sample.tune, 500, None, None)]
    right = np.argsort(-(sample.tune @ everything.T), axis=1)[:, :10].tolist()
    needed = max(own.index(row) + 1 for own, rows in zip(ranked, right, strict=True) for row in rows)

    (certificate,) = certify(index, {"image": sample}, 0.9, ks=(10,))

    assert certificate.recall == 1
    assert 2 * needed <= certificate.candidates <= 6 * needed


def test_settings_are_no_dearer_than_the_target_needs(archive):
    """A lower target is met with less effort, or at least not with more."""
    index = build(archive, "ivf-flat")
    held = sample_of(draw(400, seed=6))

    (low,), (high,) = (certify(index, {"text": held}, target, ks=(10,)) for target in (0.7, 0.985))

    assert low.met and high.met
    assert (low.effort, low.asker) < (high.effort, "z")
    assert low.effort < index.stage.lists


def test_an_answer_that_scores_as_well_counts_as_right(tmp_path):
    """Of 40 equal copies any ten are the ten best, not only those whose ids come first."""
    vectors = np.repeat(draw(50), 40, axis=0)
    ids = [f"{number:04d}" for number in np.random.default_rng(0).permutation(len(vectors))]
    index = build(open_shards(write_images(tmp_path, vectors, ids)), "ivf-flat")
    held = sample_of(draw(50, seed=0)[np.arange(400) % 50])  # each asks for its own copies

    (one,) = certify(index, {"image": held}, 0.9, ks=(10,))

    assert one.recall == 1
    assert one.candidates < 40


def test_few_queries_cannot_show_a_high_recall_and_the_certificate_says_so(archive):
    (one,) = certify(build(archive, "scan"), {"image": sample_of(draw(60, seed=8))}, 0.99, ks=(10,))

    assert (one.recall, one.queries, one.met) == (1.0, 60, False)
    assert one.low == pytest.approx(60 / (60 + 1.96**2), abs=1e-4)
    assert most_recall_shown(60) == pytest.approx(one.low)


def test_lists_shorter_than_k_do_not_pass_for_good_ones(tmp_path):
    """Of 600 rows in 32 lists one probe never holds 50, so exact search answers; two may hold them, and the wrong ones."""
    index = build(open_shards(write_images(tmp_path, draw(600), [f"{row:03d}" for row in range(600)])), "ivf-flat")

    (one,) = certify(index, {"text": sample_of(draw(200, seed=8), drawn="reports")}, 0.99, ks=(50,))

    assert one.recall > 0.99
    assert one.effort * 600 / index.stage.lists >= one.k


def test_an_index_too_coarse_for_the_target_does_not_meet_it(archive):
    """One bit a vector, and at most 4,000 of 6,000 rows ranked again."""
    (one,) = certify(build(archive, "PQ1x1"), {"image": sample_of(draw(400, seed=9))}, 0.985, ks=(10,))

    assert not one.met
    assert one.recall < 0.985
    assert one.candidates == 4000


def test_text_that_lies_elsewhere_gets_settings_of_its_own(archive):
    """Queries from outside the cloud of images, as texts are: they need more effort than images do."""
    gap = unit(draw(600, seed=10) + 1.5 * np.random.default_rng(11).standard_normal((600, DIMENSION)) / DIMENSION**0.5)
    text = Sample(
        tune=gap[:200], held=gap[200:], tune_own=[np.empty(0, np.int64)] * 200, held_own=[np.empty(0, np.int64)] * 400, drawn="reports"
    )

    image, far = certify(build(archive, "ivf-scan"), {"image": sample_of(draw(400, seed=12)), "text": text}, 0.95, ks=(10,))

    assert (image.asker, far.asker, far.drawn) == ("image", "text", "reports")
    assert image.met and far.met
    assert far.effort * far.candidates > image.effort * image.candidates


def test_exact_search_needs_no_certificate(archive):
    assert certify(VectorIndex(archive.table("images"), "joint"), {"image": sample_of(draw(10))}, 0.99) == ()


def test_a_target_that_is_no_recall_is_refused(archive):
    with pytest.raises(ValueError, match=r"target recall is 1\.5"):
        certify(build(archive, "scan"), {}, 1.5)
