"""What `medret evaluate` measures, through the installed command on a handmade index."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_retrieval_figures import corpus_engine

from encoders.checkpoint import default_checkpoint, read_fingerprint
from index.folder import build_index

MEDRET = Path(sys.executable).with_name("medret")


def evaluate(folder, *arguments):
    command = [str(MEDRET), "evaluate", "label-precision", "--index", str(folder), "--direction", "image-image", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("measured")
    corpus_engine(home / "shards", seed=1, dimension=256, encoder=read_fingerprint(default_checkpoint()))
    build_index(home / "shards", home / "index", default_checkpoint())
    return home / "index"


def test_measures_denominator_and_who_asks_are_chosen_named_and_given_intervals(folder, tmp_path):
    chosen = [option for name in ("P", "recall", "nDCG", "mAP", "MRR", "median_rank") for option in ("--measure", name)]

    done = evaluate(
        folder, *chosen, "-k", 3, "--split", "train", "--ask-split", "test", "--denominator", "min(k, relevant)", "--resamples", 50,
        "--json", tmp_path / "result.json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["metrics"]) == ["P@3", "recall@3", "nDCG@3", "mAP", "MRR", "median_rank"]
    assert all(one["low"] <= one["value"] <= one["high"] for one in result["metrics"].values())
    said = result["protocol"]
    assert (said["denominator"], said["ask_splits"], said["splits"]) == ("min(k, relevant)", ["test"], ["train"])
    assert said["interval"].startswith("95% of 50 resamples of ") and said["interval"] in done.stdout
    heads = done.stdout.splitlines()[1].split()
    assert heads[:5] == ["finding", "queries", "P@3", "95", "%"]
    assert {"macro", "Edema", "Fracture", "LATERAL", "PA"} <= {line.partition(" ")[0] for line in done.stdout.splitlines()}


def test_studies_are_ranked_few_films_ask_and_their_patients_may_answer(folder, tmp_path):
    protocols = []
    for options in ((), ("--by", "study", "--max-queries", 2, "--include-same-patient")):
        done = evaluate(folder, *options, "--resamples", 0, "--json", tmp_path / "result.json")
        assert done.returncode == 0, done.stderr
        protocols.append(json.loads((tmp_path / "result.json").read_text()))

    plain, chosen = protocols
    names = ("candidates", "max_queries", "exclude_same_patient")
    assert [plain["protocol"][name] for name in names] == ["images", 1000, True]
    assert [chosen["protocol"][name] for name in names] == ["each study by its best image", 2, False]
    assert chosen["candidates"] < plain["candidates"] and chosen["queries"] <= 2 * len(chosen["per_class"])


def test_without_resamples_there_are_no_intervals(folder, tmp_path):
    done = evaluate(folder, "--resamples", 0, "--json", tmp_path / "result.json")

    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "result.json").read_text())["metrics"]["P@5"]) == {"value", "chance"}
    assert "95" not in done.stdout


def test_the_rule_of_relevance_and_the_findings_are_chosen_and_the_page_can_do_without_maps(folder, tmp_path):
    done = evaluate(
        folder, "--relevance", "exact", "--finding", "edema", "--finding", "Edema", "-k", 3, "-k", 3, "--resamples", 0,
        "--json", tmp_path / "result.json", "--html", tmp_path / "page.html", "--no-maps",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    said = result["protocol"]
    assert said["relevance"] == "positive for the same findings as the image that asks, and no other"
    assert (said["findings"], said["k"]) == (["Edema"], [3])
    assert result["per_class"] == {} and 0 < result["metrics"]["P@3"]["chance"] < 1
    assert "positive for the same findings" in (tmp_path / "page.html").read_text()


def test_a_selection_of_nothing_says_so(folder):
    done = evaluate(folder, "--where", "split == train and split == test")

    assert (done.returncode, done.stderr) == (1, "medret: the selection holds none of the images of this index; select other records\n")


def test_a_finding_that_there_is_not_is_a_line_with_those_there_are(folder):
    done = evaluate(folder, "--finding", "oedema")

    assert (done.returncode, done.stderr) == (1, "medret: the corpus has no finding 'oedema'. It has: Edema, Fracture\n")


def test_a_measure_that_there_is_not_is_wrong_usage(folder):
    done = evaluate(folder, "--measure", "F1")

    assert done.returncode == 2
    assert "median_rank" in done.stderr and "Traceback" not in done.stderr
