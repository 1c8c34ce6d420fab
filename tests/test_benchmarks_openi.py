"""The OpenI tables: the script as it is run, its figures against the package's own, its intervals against slow ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade_openi import write_openi
from openi import main
from openi_measures import rank_worded, resampled_precision

from encoders.checkpoint import read_fingerprint, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from retrieval.engine import SearchEngine
from retrieval.evaluation import evaluate_label_precision, evaluate_report_recall

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def openi(tmp_path_factory):
    root = tmp_path_factory.mktemp("openi")
    write_openi(root)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        encoder = build_encoder(texts=["finding number is seen impression enlarged heart fluid"], size=32, dimension=16, seed=seed)
        save_checkpoint(encoder, home / f"run-{seed}" / "last")
    return [home / "run-0", home / "run-1"]


@pytest.fixture(scope="module")
def measured(openi, runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, str(BENCHMARKS / "openi.py"), str(openi), "--run", f"tiny={runs[0]},{runs[1]}", "--run", f"one={runs[0]}"]
    done = subprocess.run([*command, "--work", str(out / "work"), "--json", str(out / "openi.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "openi.json").read_text()), out / "work"


def test_studies_are_counted_with_and_without_a_frontal_film(measured):
    corpus = measured[1]["corpus"]

    assert (corpus["studies"], corpus["without a frontal film"], corpus["without labels"]) == (27, 2, 5)
    assert corpus["findings"]["Cardiomegaly"] == {"studies": 6, "with a frontal film": 5}
    assert "27 studies of the validate split; 2 have no frontal film" in measured[0]


def test_the_figures_are_those_of_the_package(measured, runs):
    engine = SearchEngine.load(measured[2] / read_fingerprint(runs[0] / "last"))
    figures = measured[1]["runs"]["one"]["seeds"][0]

    recall = evaluate_report_recall(engine, views=["Frontal"], by="study").directions
    for direction, expected in recall.items():
        for name in ("R@1", "R@5", "R@10"):
            found = figures["recall"][direction][name]
            assert (found["value"], found["chance"]) == pytest.approx((expected.metrics[name].value, expected.metrics[name].chance))
            assert found["low"] <= found["value"] <= found["high"]
        assert figures["recall"][direction]["median rank"]["value"] == expected.metrics["median_rank"].value

    labels = evaluate_label_precision(engine, views=["Frontal"], by="study", max_queries=None).directions
    for finding, (_, expected) in labels["text-image"].per_class.items():
        for name in ("P@5", "P@10", "P@50"):
            found = figures["findings"][finding][name]
            assert (found["value"], found["chance"]) == (pytest.approx(expected[name].value), pytest.approx(expected[name].chance))
    assert figures["findings"]["Cardiomegaly"]["P@50"]["ceiling"] == 5 / 50
    assert figures["image-image"]["P@5"]["value"] == labels["image-image"].metrics["P@5"].value


def test_worded_questions_are_at_least_five_for_each_finding_and_averaged_over_the_seeds(measured):
    result = measured[1]
    both, one = (result["runs"][name]["worded"] for name in ("tiny", "one"))

    for finding, texts in result["prompts"].items():
        assert len(set(texts)) >= 5
        assert (both[finding]["seeds"], one[finding]["seeds"], one[finding]["prompts"]) == (2, 1, len(texts))
        assert one[finding]["low"] <= one[finding]["P@10"] <= one[finding]["high"]
        assert one[finding]["base rate"] == pytest.approx(result["corpus"]["findings"][finding]["with a frontal film"] / 20)


def test_the_tables_name_every_run_and_the_level_of_chance(measured):
    page = measured[0]

    for run in ("tiny", "one"):
        assert page.count(f"| {run} |") == 3 + 3  # recall, findings, image to image; three worded findings
        assert f"#### {run}" in page
    assert page.count("| chance |") == 3


def test_a_worded_ranking_holds_every_study_once(measured, runs):
    engine = SearchEngine.load(measured[2] / read_fingerprint(runs[0] / "last"))

    for ranking in rank_worded(engine).values():
        assert (np.sort(ranking.studies, axis=1) == np.arange(20)).all()
        assert (ranking.relevance.sum(axis=1) == ranking.relevance[0].sum()).all()


def test_a_resampled_precision_is_that_of_a_list_in_which_studies_stand_as_often_as_drawn():
    draw = np.random.default_rng(1)
    studies = np.array([draw.permutation(9) for _ in range(4)])
    positive = draw.random(9) < 0.4
    counts = draw.multinomial(9, np.full(9, 1 / 9), 30)

    expected = []
    for drawn in counts:
        lists = [[positive[study] for study in order for _ in range(drawn[study])] for order in studies]
        expected.append(np.mean([sum(hits[:3]) / 3 for hits in lists]))

    np.testing.assert_allclose(resampled_precision(studies, positive[studies], counts, 3), expected)


def test_a_run_that_is_none_is_said_so(openi, tmp_path):
    with pytest.raises(MedretError, match="last: nothing, expected an encoder"):
        main([str(openi), "--run", f"none={tmp_path}"])
