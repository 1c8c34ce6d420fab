import numpy as np
import pytest
from scoring import make_run
from scoring_contenders import medret, pytrec_eval


def test_contenders_score_the_same_run_alike(tmp_path):
    make_run(tmp_path / "run.npz", queries=20, candidates=500, depth=60)
    with np.load(tmp_path / "run.npz") as held:
        arrays = [held[part] for part in ("ranked", "query_masks", "candidate_masks")]

    ours, theirs = medret(*arrays)(), pytrec_eval(*arrays)()

    assert ours == pytest.approx(theirs)
    assert 0.2 < ours["P@10"] < 1 and ours["recall@10"] < 0.5
