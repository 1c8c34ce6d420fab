"""The benchmarks with a protocol of their own: against plain versions, and through the installed `medret`."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade_fives import write_five_list, write_fives
from handmade_index import image_rows, make_engine
from handmade_lists import CLASSES, listed_path, write_lists
from PIL import Image
from shard_folders import unit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.prompt import PromptConfig
from index.corpora.prompts import prompts_for
from index.corpora.record import LabelState, Record
from retrieval.comparison import compare_runs
from retrieval.comparison_page import render_comparison
from retrieval.engine import SearchEngine
from retrieval.evaluation import evaluate_report_recall
from retrieval.five_by_200 import FIVE
from retrieval.linear_probe import STRENGTHS, evaluate_linear_probe
from retrieval.outside_runs import load_outside
from retrieval.protocols import BENCHMARKS
from retrieval.published_benchmarks import evaluate_five_by_200
from retrieval.published_figures import PUBLISHED_FIGURES
from retrieval.saved_runs import load_run, save_run
from retrieval.zero_shot import evaluate_zero_shot

MEDRET = Path(sys.executable).with_name("medret")
PER_CLASS = 6
FINDINGS = ("Edema", "No Finding", "Fracture")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    texts = [
        "there is no edema fracture atelectasis cardiomegaly consolidation pleural effusion of grade the heart is stable seen in wording"
    ]
    encoder = build_encoder(texts=texts, size=32, dimension=16).eval()
    encoder.add_prompts(PromptConfig(names=("edema", "Pneumonia"), length=2))
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    save_checkpoint(encoder, folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, encoder_folder):
    """An index of 30 images of the five findings and 8 more, of which 24 and the 8 are those of 8x200 lists."""
    home = tmp_path_factory.mktemp("fives")
    write_fives(home / "corpus", PER_CLASS)
    write_lists(home / "lists", per_class=3, image_queries=1, text_queries=5)
    index = ["build-index", home / "corpus", "--encoder", encoder_folder, "--out", home / "index", "--vectors", "joint,features"]
    succeeds(*index)
    return home


def medret(*arguments):
    return subprocess.run([str(MEDRET), *map(str, arguments)], capture_output=True, text=True, timeout=300)


def succeeds(*arguments):
    done = medret(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*arguments, code=1):
    done = medret(*arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return " ".join(done.stderr.replace("│", " ").split())


def plain_precision(engine, numbers, texts, classes, ks, own, once, exact=False):
    """P@k by sorting: cosines rounded to float32, ties by id, the own text among the candidates or not."""
    table = engine.table("images")
    ids = [f"train/patient{number:05d}/study1/view1_frontal" for number in numbers]
    asking = engine.stored_vectors("images", np.array([table.find(id) for id in ids]))
    folded = [" ".join(text.split()) for text in texts]
    held = [place for place, text in enumerate(folded) if not once or folded.index(text) == place]
    answers = engine.encode_texts([folded[place] for place in held])
    cosines = (asking.astype(np.float64) @ answers.astype(np.float64).T).astype(np.float32)
    found = {k: [] for k in ks}
    for query, finding in enumerate(classes):
        mine = [folded.index(folded[query]) if once else query]
        order = sorted(range(len(held)), key=lambda place: (-cosines[query, place], ids[held[place]]))
        order = [held[place] for place in order if own == "counted" or held[place] not in mine]
        standing = [[place, *(other for other in range(len(folded)) if once and folded[other] == folded[place])] for place in order]
        shown = [{classes[other] for other in others} for others in standing]
        right = [some == {finding} if exact else finding in some for some in shown]
        for k in ks:
            found[k].append(sum(right[:k]) / k)
    return {f"P@{k}": np.mean(values) for k, values in found.items()}


@pytest.mark.parametrize("own", ["counted", "excluded"])
@pytest.mark.parametrize(("same_text", "rule"), [("each", "finding"), ("once", "finding"), ("once", "any"), ("once", "exact")])
def test_5x200_is_that_of_sorting_everything(made, tmp_path, own, same_text, rule):
    numbers = list(range(1, 26))
    said = [
        "The heart is stable" if number % 4 == 0 else f"There is {FIVE[number % 5].lower()} of grade {number % 7}" for number in numbers
    ]
    texts = dict(zip(numbers, said, strict=True))
    lists = write_five_list(tmp_path / "list.csv", texts)
    engine = SearchEngine.load(made / "index")

    options = {"own_report": own, "same_text": same_text, "relevance": rule}
    content = evaluate_five_by_200(engine, lists, benchmark="chexpert-5x200", ks=(1, 5, 10), **options).to_dict()
    result = content["directions"]["image-report"]

    classes = [FIVE[number % 5] for number in numbers]
    plain = plain_precision(engine, numbers, list(texts.values()), classes, (1, 5, 10), own, same_text == "once", rule == "exact")
    assert {name: score["value"] for name, score in result["metrics"].items()} == pytest.approx(plain)
    assert result["protocol"]["own_report"] == own
    assert result["candidates"] == (20 if same_text == "once" else 25)
    if own == "counted" and same_text == "each":
        assert [score["chance"] for score in result["metrics"].values()] == pytest.approx([0.2] * 3)
        assert content["directions"]["own-report"]["metrics"]["R@1"]["chance"] == pytest.approx(1 / 25)


def labelled_engine(folder, encoder_folder, patients=60, split=None):
    """Images of which each patient has two, with vectors that lean towards the labels, some of which nobody looked for."""
    draw = np.random.default_rng(2)
    states = draw.choice([LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN, None], (2 * patients, 3), p=[0.4, 0.4, 0.1, 0.1])
    states[states[:, 1] == None, 1] = LabelState.NEGATIVE  # noqa: E711  (so that every image is looked at for something)
    records = [
        Record(
            id=f"i{number:03d}",
            image=None,
            patient_id=f"p{number // 2}",
            split=split(number // 2) if split else None,
            labels={name: state for name, state in zip(FINDINGS, row, strict=True) if state is not None},
        )
        for number, row in enumerate(states)
    ]
    vectors = draw.normal(size=(2 * patients, 16)) + np.pad(1.5 * (states == LabelState.POSITIVE), ((0, 0), (0, 13)))
    engine = make_engine(folder, {"images": (image_rows(records), {"joint": vectors})}, findings=FINDINGS, encoder_folder=encoder_folder)
    return engine, records, unit(vectors), states


@pytest.mark.parametrize("uncertain", ["negative", "positive", "ignore"])
def test_zero_shot_areas_are_those_of_scikit_learn(tmp_path, encoder_folder, uncertain):
    engine, _, vectors, states = labelled_engine(tmp_path / "index", encoder_folder)

    result = evaluate_zero_shot(engine, uncertain=uncertain).to_dict()["directions"]

    kept = [np.array([state is not None and (uncertain != "ignore" or state != -1) for state in column]) for column in states.T]
    right = (states == 1) | ((states == -1) & (uncertain == "positive"))
    asked = {
        "sentences": {name: engine.encode_texts(prompts_for(name)).mean(axis=0) for name in FINDINGS},
        "contrast": {name: np.subtract(*engine.encode_texts([name, f"no {name.lower()}"])) for name in FINDINGS if name != "No Finding"},
        "continuous": {"Edema": engine.encode_labels(["edema"])[0]},
    }
    for direction, prompts in asked.items():
        areas = {
            name: roc_auc_score(right[kept[place], place], vectors[kept[place]] @ prompts[name])
            for place, name in enumerate(FINDINGS)
            if name in prompts
        }
        found = result[direction]
        assert {name: one["AUC"]["value"] for name, one in found["per_class"].items()} == pytest.approx(areas, abs=2e-4)
        assert found["metrics"]["AUC"]["value"] == pytest.approx(np.mean(list(areas.values())), abs=2e-4)
        assert found["metrics"]["AUC"]["chance"] == 0.5
        for one in found["per_class"].values():
            assert one["AUC"]["low"] < one["AUC"]["value"] < one["AUC"]["high"]
    assert result["contrast"]["protocol"]["left_out"] == {"findings without a prompt (No Finding)": 1}


def test_a_finding_that_all_images_have_is_left_out_by_name_and_nothing_else_is_an_error(tmp_path, encoder_folder):
    labels = [{"Edema": LabelState(number % 2), "Fracture": LabelState.POSITIVE} for number in range(4)]
    records = [Record(id=f"{number}", image=None, labels=each) for number, each in enumerate(labels)]
    parts = {"images": (image_rows(records), {"joint": np.eye(4, 16)})}
    engine = make_engine(tmp_path / "index", parts, findings=("Edema", "Fracture"), encoder_folder=encoder_folder)

    (left_out,) = evaluate_zero_shot(engine, directions=["sentences"]).to_dict()["protocol"]["left_out"].items()

    assert left_out == ("findings without a positive and a negative image (Fracture)", 1)
    with pytest.raises(MedretError, match="no finding can be scored: findings without a positive and a negative image"):
        evaluate_zero_shot(engine, directions=["sentences"], findings=["Fracture"])


def test_a_linear_probe_is_that_of_scikit_learn_by_hand(tmp_path, encoder_folder):
    def split(patient):
        return "train" if patient < 40 else "validate" if patient < 50 else "test"

    engine, records, vectors, states = labelled_engine(tmp_path / "index", encoder_folder, split=split)

    result = evaluate_linear_probe(engine, fractions=(1.0,)).to_dict()

    part = np.array([record.split for record in records])
    train = part == "train"
    scaled = StandardScaler().fit(vectors[train]).transform(vectors)
    by_strength = []
    for strength in STRENGTHS:
        areas = {}
        for place, name in enumerate(FINDINGS):
            known = np.array([state is not None for state in states[:, place]])
            right = states[:, place] == 1
            fitted = LogisticRegression(C=strength, max_iter=1000).fit(scaled[train & known], right[train & known])
            for sought in ("validate", "test"):
                rows = (part == sought) & known
                areas[sought, name] = roc_auc_score(right[rows], fitted.decision_function(scaled[rows]))
        by_strength.append(areas)
    best = max(by_strength, key=lambda areas: np.mean([areas["validate", name] for name in FINDINGS]))
    assert {name: one["AUC 100%"]["value"] for name, one in result["per_class"].items()} == pytest.approx(
        {name: best["test", name] for name in FINDINGS}, abs=0.006
    )
    assert result["protocol"]["parts"] == "the source's train, validate and test (80 train, 20 validate, 20 test images)"


def test_without_named_splits_patients_are_drawn_whole_and_fractions_hold_each_other(tmp_path, encoder_folder):
    engine, *_ = labelled_engine(tmp_path / "index", encoder_folder)

    first, again = (evaluate_linear_probe(engine, fractions=(0.2, 1.0), seed=seed).to_dict() for seed in (3, 3))

    assert first == again
    assert "patients drawn" in first["protocol"]["parts"]
    counts = [int(number) for number in re.findall(r"(\d+) (?:train|validate|test)[, ]", first["protocol"]["parts"].partition("(")[2])]
    assert sum(counts) == 120 and all(count % 2 == 0 for count in counts)  # two images a patient
    learned = [int(number) for number in re.findall(r": (\d+) images", str(first["protocol"]["learned_from"]))]
    assert learned[0] == 2 * round(0.2 * counts[0] / 2) and learned[1] == counts[0]


def test_a_probe_says_how_many_test_images_its_encoder_may_have_learned_from(tmp_path, encoder_folder):
    noted = shutil.copytree(encoder_folder, tmp_path / "encoder")
    config = json.loads((noted / "encoder.json").read_text())
    (noted / "encoder.json").write_text(json.dumps(config | {"notes": {"training": {"corpora": [{"format": "table"}]}}}))
    told = []
    for number, split in enumerate((lambda patient: None, lambda patient: "train" if patient % 2 else "test")):
        engine, *_ = labelled_engine(tmp_path / str(number), noted, split=split)
        result = evaluate_linear_probe(engine, fractions=(1.0,)).directions["image-label"]
        told.append((result.protocol["test_images_that_the_encoder_may_have_learned_from"], result.queries))

    (every, images), (some, _) = told
    assert every == f"{images} of {images}, as it learned from table"
    assert 0 < int(some.split()[0]) < images
    engine, *_ = labelled_engine(tmp_path / "unnoted", encoder_folder)
    unnoted = evaluate_linear_probe(engine, fractions=(1.0,)).directions["image-label"].protocol
    assert unnoted["test_images_that_the_encoder_may_have_learned_from"] == "none that its notes tell of"


def test_the_sections_that_stand_for_a_report_are_read_from_the_corpus(made):
    engine = SearchEngine.load(made / "index")
    index, impression, longer, findings = (
        evaluate_report_recall(engine, directions=["image-report"], report_text=name).to_dict()
        for name in ("index", "impression", "longer", "findings")
    )

    assert index["protocol"]["report_text"] == "as the index holds it: findings + impression"
    assert impression["candidates"] == len({*FIVE, *CLASSES})  # one text a finding
    assert longer["metrics"] == findings["metrics"] != index["metrics"]


def test_every_direction_with_published_figures_is_one_that_can_be_measured():
    for benchmark, direction in PUBLISHED_FIGURES:
        assert direction in BENCHMARKS[benchmark].directions
    for tables in PUBLISHED_FIGURES.values():
        assert all(table.source and table.caveat and len(row) == len(table.metrics) for table in tables for row in table.percent.values())


def test_8x200_ranks_the_texts_for_each_image_and_says_the_ceiling(made, tmp_path):
    out = succeeds(
        "evaluate", "chexpert-8x200", made / "lists", "--index", made / "index", "--json", tmp_path / "r.json", "-k", 10, "-k", 40
    )

    assert "ceiling: P@10 0.5, P@40 0.125" in out and "published: EGMA" in out and "published: ConVIRT" in out
    result = json.loads((tmp_path / "r.json").read_text())["directions"]["image-text"]
    assert (result["queries"], result["candidates"]) == (24, 40)
    assert result["metrics"]["P@40"]["value"] == result["metrics"]["P@10"]["chance"] == 0.125  # all 40 hold the 5 of the class
    assert result["published"][0]["systems"]["EGMA"]["P@10"] == pytest.approx(0.2884)


def test_8x200_encodes_just_the_listed_films_from_where_they_lie(made, encoder_folder, tmp_path):
    draw = np.random.default_rng(0)
    for number in (*range(1, 3 * len(CLASSES) + 1), *range(90001, 90001 + len(CLASSES))):
        film = tmp_path / "films" / listed_path(number)
        film.parent.mkdir(parents=True)
        Image.fromarray(draw.integers(0, 255, (40, 48), dtype=np.uint8)).save(film)
    asked = ("evaluate", "chexpert-8x200", made / "lists", "--image-root", tmp_path / "films", "--encoder", encoder_folder, "-k", 3)

    succeeds(*asked, "--json", tmp_path / "r.json")

    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["queries"], result["candidates"]) == (8, 24)
    film.write_bytes(film.read_bytes()[:200])
    assert re.search(r"1 of the listed images cannot be read, the first: \S+/view1_frontal: the JPEG cannot be decoded", fails(*asked))
    film.unlink()
    assert "1 of the 32 listed images are missing" in fails(*asked)


def test_mimic_5x200_is_drawn_and_the_list_that_was_drawn_repeats_it(made, tmp_path):
    drawn = ["evaluate", "mimic-5x200", "--index", made / "index", "--per-class", 4, "--seed", 2, "--list-out", tmp_path / "list.csv"]
    first = succeeds(*drawn, "--json", tmp_path / "drawn.json")
    succeeds("evaluate", "mimic-5x200", tmp_path / "list.csv", "--index", made / "index", "--json", tmp_path / "listed.json")

    assert (
        "drawn without replacement" in first
        and "per class: 4; seed: 2" in first
        and "views: frontal" in first
        and "published: BenchX" in first
    )
    drawn, listed = (json.loads((tmp_path / f"{name}.json").read_text())["directions"] for name in ("drawn", "listed"))
    assert [one["metrics"] for one in drawn.values()] == [one["metrics"] for one in listed.values()]
    assert drawn["image-report"]["metrics"]["P@10"]["chance"] == pytest.approx(0.2)
    assert [len(row) for row in csv.reader((tmp_path / "list.csv").open())] == [6] * 21  # ids and findings, no text


def test_chexpert_5x200_takes_the_list_of_the_user(made, tmp_path):
    lists = write_five_list(tmp_path / "list.csv", {number: f"{FIVE[number % 5]} is\nseen." for number in range(1, 11)})
    found = ["evaluate", "chexpert-5x200", lists, "--index", made / "index"]

    out = succeeds(*found, "--own-report", "excluded", "--same-text", "once")

    assert "own report: excluded" in out and "identical texts: one candidate" in out and "texts: the list's" in out
    assert "10 queries, 5 candidates" in out
    found[2] = write_five_list(tmp_path / "unknown.csv", {7001: "Edema."})
    assert "1 of the 1 listed images are missing: train/patient07001" in fails(*found)


def test_zero_shot_linear_probe_and_report_text_run_from_the_command_line(made):
    asked = ["--index", made / "index"]
    out = succeeds("evaluate", "zero-shot", *asked, "--direction", "contrast", "--uncertain", "ignore")
    assert "AUC" in out and "published: CheXzero" in out and "uncertain: ignore" in out
    out = succeeds("evaluate", "linear-probe", *asked, "--fraction", 0.5, "--fraction", 1)
    assert "AUC 50%" in out and "AUC 100%" in out and "vector: features" in out and "but: mean over five findings" in out
    assert "report text: longer, read from the corpus" in succeeds("evaluate", "report-recall", *asked, "--report-text", "longer")


def test_frozen_classifications_are_repeated_or_what_differs_is_named(made, tmp_path):
    """Of ids, hashes and options alone; a label that was changed, a test image that is gone, another seed."""
    frozen = {}
    for benchmark, options in (("zero-shot", ("--direction", "contrast")), ("linear-probe", ("--fraction", 1, "--seed", 3))):
        file = tmp_path / f"{benchmark}.json"
        asked = ("evaluate", benchmark, "--index", made / "index")
        printed = succeeds(*asked, *options, "--resamples", 0, "--freeze", file)
        again = medret(*asked, "--frozen", file)
        assert (again.returncode, again.stdout, again.stderr) == (0, printed, "")
        frozen[benchmark] = json.loads(file.read_text())
    listed = {name: next(iter(one["directions"].values())) for name, one in frozen.items()}
    assert [list(one["images"]) for one in listed.values()] == [["test"], ["train", "validate", "test"]]
    listed["zero-shot"]["labels_sha256"] = "0"
    ids, frozen["linear-probe"]["options"]["seed"] = listed["linear-probe"]["images"]["test"], 4
    ids[0] = "a film that was"
    for name, one in frozen.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(one))

    labels, images = (fails("evaluate", name, "--index", made / "index", "--frozen", tmp_path / f"{name}.json") for name in frozen)

    assert labels.startswith("medret: not what was frozen: contrast: the labels of the images are not those that were frozen. ")
    assert "image-label: seed was 3, is 4; " in images and "labels" not in images
    assert re.search(rf"\d of {len(ids)} test images are gone and \d are new, such as ", images)


@pytest.mark.parametrize(
    ("texts", "direction", "reports"), [("index", "image-report", 60), ("list", "image-report", 0), ("index", "own-report", 60)]
)
def test_a_comparison_on_lists_shows_the_reports_of_the_index_and_none_of_a_list(made, tmp_path, texts, direction, reports):
    """The index names a report by its study, a list by its film; the words of a list are in no index."""
    engine = SearchEngine.load(made / "index")
    lists = write_five_list(tmp_path / "list.csv", {number: f"{FIVE[number % 5]}." for number in range(1, 26)}) if texts == "list" else None
    drawn = {"per_class": 5} if lists is None else {}
    result = evaluate_five_by_200(engine, lists, benchmark="chexpert-5x200", directions=[direction], ks=(5,), **drawn)
    save_run(tmp_path / "run", result)
    run = load_run(tmp_path / "run")
    held = run.directions[direction]
    turned = replace(held.queries, scores={name: 1 - values for name, values in held.queries.scores.items()})

    page = render_comparison(compare_runs([run, replace(run, directions={direction: replace(held, queries=turned)})]), engine)

    outside = load_outside(*(tmp_path / "run" / f"{direction}.{kind}.trec" for kind in ("run", "qrels"))).directions[direction]
    assert outside.queries.find == held.queries.find == "reports"  # the same answers are shown of both
    assert page.count('alt="query film"') == 6
    assert page.count(", and the heart is stable.") == reports  # 6 queries, 2 systems, 5 answers
    assert page.count('style="height:28px"') == 60 - reports  # there, nothing but the rank and whether it is right


def test_a_frozen_8x200_tells_other_words_of_its_lists(made, tmp_path):
    lists = shutil.copytree(made / "lists", tmp_path / "lists")
    asked = ("evaluate", "chexpert-8x200", lists, "--index", made / "index", "--direction", "text-image", "-k", 3)
    succeeds(*asked, "--freeze", tmp_path / "frozen.json")
    again = ("--frozen", tmp_path / "frozen.json")
    succeeds(*asked[:5], *again)
    words = lists / "text-retrieval" / "query.csv"
    words.write_text(words.read_text().replace("Edema is seen", "No edema is seen"))

    assert "not what was frozen: text-image: lists was SHA-256 " in fails(*asked[:5], *again)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["report-recall", "--report-text", "history"], 1, "--report-text history: expected one of index | findings"),
        (["mimic-5x200", "--per-class", "50"], 1, "too few images show one finding alone: 7 of Atelectasis"),
        (["chexpert-8x200"], 2, "needs the folder of its lists"),
        (["zero-shot", "list.csv"], 2, "takes no lists"),
        (["zero-shot", "-k", "5"], 2, "zero-shot has no option -k"),
        (["mimic-5x200", "list.csv", "--seed", "1"], 2, "--seed is of lists that are drawn"),
        (["zero-shot", "--direction", "text-image"], 2, "zero-shot has sentences, contrast, continuous"),
        (["linear-probe", "--fraction", "0"], 2, "0.0001<=x<=1"),
    ],
)
def test_wrong_use_says_what_to_give(made, arguments, code, expected):
    assert expected in fails("evaluate", *arguments, "--index", made / "index", code=code)
