"""Scores of random pairs, against closed forms: of vectors spread evenly over a circle, and over a sphere of many dimensions."""

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from handmade_archive import make_encoder, write_archive
from shard_folders import unit, write_images

from encoders.checkpoint import load_checkpoint
from index.askers import Askers
from index.compact import compact_index
from index.folder import build_index, open_index
from index.index_manifest import load_index_manifest
from index.life import add_shards
from index.removal import remove_records
from index.score_scale import LEVELS, ScoreScale, measure_scales
from index.shards import open_shards
from index.vector_index import VectorIndex


def table_of(folder: Path, vectors: np.ndarray):
    return open_shards(write_images(folder, vectors, [f"i{number:05d}" for number in range(len(vectors))])).table("images")


def asking(vectors: np.ndarray, own=None) -> Askers:
    return Askers(vectors=vectors, own=own or [np.empty(0, np.int64)] * len(vectors), drawn="images")


def measured(folder: Path, vectors: np.ndarray, askers: Askers) -> ScoreScale:
    (scale,) = measure_scales(table_of(folder, vectors), "joint", {"image": askers})
    return scale


def test_on_a_circle_the_percentile_is_the_arc_that_lies_farther_away(tmp_path):
    """Angles are spread evenly, so that a cosine below c is an angle above acos(c): 1 - acos(c) / pi of them."""
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    scale = measured(tmp_path, circle, asking(circle[::4]))

    scores = np.linspace(-0.99, 0.99, 67)
    np.testing.assert_allclose(scale.percentile(scores), 100 * (1 - np.arccos(scores) / np.pi), atol=0.1)
    assert (scale.mean, scale.deviation) == pytest.approx((0, 0.5**0.5), abs=1e-4)


def test_in_many_dimensions_the_percentile_is_the_normal_distribution_far_into_its_tail(tmp_path):
    random = np.random.default_rng(0)
    vectors = unit(random.standard_normal((3000, 256)))

    scale = measured(tmp_path, vectors, asking(unit(random.standard_normal((1000, 256)))))

    assert scale.pairs == 1000 * 2000
    assert scale.deviation == pytest.approx(256**-0.5, rel=0.01)
    for level, factor in ((0.01, 1.05), (0.5, 1.05), (0.99, 1.05), (0.999, 1.1), (0.9999, 1.3), (0.99999, 2)):
        missing = 100 - scale.percentile([NormalDist().inv_cdf(level) / 16])[0]
        assert 1 / factor < missing / (100 * (1 - level)) < factor


def test_percentile_and_score_undo_each_other_and_nothing_is_above_what_the_pairs_show(tmp_path):
    vectors = unit(np.random.default_rng(1).standard_normal((30, 8)))
    scale = measured(tmp_path, vectors, asking(vectors[:10], [np.array([row]) for row in range(10)]))

    assert scale.pairs == 10 * 29
    for percentile in (0.5, 37, 96):
        assert scale.percentile([scale.score(percentile)])[0] == pytest.approx(percentile)
    assert scale.percentile([-1, 1]).tolist() == [0, pytest.approx(100 * 290 / 291)]


def test_a_pair_of_one_patient_is_none(tmp_path):
    """Of two clusters at right angles, only the rows of the other one are left."""
    vectors = np.repeat(np.eye(2, 8), 20, axis=0) + 0.05 * np.random.default_rng(2).standard_normal((40, 8))
    own = [np.arange(20) if row < 20 else np.arange(20, 40) for row in range(40)]

    scale = measured(tmp_path, unit(vectors), asking(unit(vectors), own))

    assert scale.pairs == 2 * 20 * 20
    assert max(scale.quantiles) < 0.5


def test_too_few_pairs_or_pairs_that_all_score_alike_make_no_scale(tmp_path):
    same = np.tile(np.eye(1, 4, dtype=np.float32), (30, 1))

    assert measure_scales(table_of(tmp_path / "same", same), "joint", {"image": asking(same)}) == ()
    assert measure_scales(table_of(tmp_path / "few", np.eye(4, dtype=np.float32)), "joint", {"image": asking(np.eye(4)[:4])}) == ()


def test_of_scores_that_many_pairs_share_the_pairs_below_count():
    """As in an archive with copies: 1.0 is what the highest tenth scores, and a score above it is above all."""
    scores = tuple(min(level, 0.9) for level in LEVELS)
    scale = ScoreScale(asker="image", drawn="images", pairs=10**7, mean=0.45, deviation=0.3, quantiles=scores)

    assert scale.percentile([0.4, 0.9, 0.95]).tolist() == pytest.approx([40, 90, 100 - 1e-5])


def test_few_words_are_measured_by_themselves_and_where_they_were_not_they_are_texts(tmp_path):
    mark = make_encoder(tmp_path / "encoder")
    write_archive(tmp_path / "shards", range(1, 21), mark)
    build_index(tmp_path / "shards", tmp_path / "index", tmp_path / "encoder")
    reports = open_index(tmp_path / "index").index("reports")
    degrees = ["", "minimal", "small", "moderate", "large", "new", "chronic", "unchanged", "improving", "worsening"]
    with torch.inference_mode():
        asked = load_checkpoint(tmp_path / "encoder").encode_texts([f"{degree} pulmonary edema".strip() for degree in degrees]).joint

    scale = reports.scale("phrase")

    scores = asked.numpy() @ reports.table.vectors("joint", np.arange(20)).T  # of whichever patient: nobody's words
    assert (scale.drawn, scale.pairs) == ("prompts", 10 * 20)
    assert (scale.mean, scale.deviation) == pytest.approx((scores.mean(), scores.std()), abs=1e-5)
    older = VectorIndex(reports.table, "joint", scales=[one for one in reports.scales if one.asker != "phrase"])
    assert older.scale("phrase") == older.scale("text") != scale


@pytest.mark.parametrize("change", [{"quantiles": (0.1, 0.2)}, {"quantiles": tuple(-level for level in LEVELS)}, {"deviation": 0.0}])
def test_a_scale_that_is_none_is_refused(change):
    with pytest.raises(ValueError, match=r"expected"):
        ScoreScale(**{"asker": "text", "drawn": "reports", "pairs": 9, "mean": 0.0, "deviation": 1.0, "quantiles": LEVELS, **change})


def test_scales_live_with_their_index_and_an_index_without_them_still_opens(tmp_path):
    mark = make_encoder(tmp_path / "encoder")
    write_archive(tmp_path / "index" / "shards", range(1, 21), mark)
    build_index(tmp_path / "index" / "shards", tmp_path / "index", tmp_path / "encoder")

    def pairs() -> int:
        return open_index(tmp_path / "index").index("images").scale("image").pairs

    built = pairs()
    remove_records(tmp_path / "index", patients=["patient0001", "patient0002"])
    removed = pairs()
    compact_index(tmp_path / "index")
    compacted = pairs()
    add_shards(tmp_path / "index", write_archive(tmp_path / "more", range(31, 41), mark))

    assert built == removed == 20 * (40 - 2)  # one film of each patient asks, and is not compared with the two of its own
    assert (compacted, pairs()) == (18 * (36 - 2), 28 * (56 - 2))
    manifest = load_index_manifest(tmp_path / "index")
    replace(manifest, indexes=tuple(replace(entry, scales=()) for entry in manifest.indexes)).save(tmp_path / "index")
    assert open_index(tmp_path / "index").index("images").scale("image") is None
