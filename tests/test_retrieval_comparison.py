"""Evaluations saved, scored by outside tools, compared and frozen."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from handmade_index import image_rows, make_engine
from PIL import Image

import retrieval.saved_runs
from encoders.errors import MedretError
from index.corpora.phantom import write_phantoms
from index.corpora.record import LabelState, Record
from retrieval.comparison import compare_runs
from retrieval.comparison_page import render_comparison
from retrieval.comparison_table import interval_words
from retrieval.engine import SearchEngine
from retrieval.evaluation import evaluate_label_precision
from retrieval.figures import add_intervals, direction_result, with_intervals
from retrieval.frozen_sets import check_frozen, freeze, load_frozen
from retrieval.outside_runs import evaluate_trec, load_outside
from retrieval.saved_runs import load_run, save_run
from retrieval.trec import token

FINDINGS = ("Edema", "Lung Opacity")
MEDRET = Path(sys.executable).with_name("medret")


def evaluated(folder, seed, **options):
    """Image-to-image precision on 60 films of 15 patients, some of them with labels that nobody looked for."""
    draw = np.random.default_rng(1)
    states = [LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNCERTAIN, None]
    labels = [{name: state for name in FINDINGS if (state := states[draw.integers(4)]) is not None} for _ in range(60)]
    records = [Record(id=f"film {i:02d}%", image=None, patient_id=f"p{i // 4}", study_id=f"s{i // 2}", labels=labels[i]) for i in range(60)]
    vectors = np.random.default_rng(seed).normal(size=(60, 8)).round(0) + 0.01  # few values, so that scores tie
    engine = make_engine(folder, {"images": (image_rows(records), {"joint": vectors})}, findings=FINDINGS)
    return evaluate_label_precision(engine, directions=["image-image"], ks=(5, 10), **options)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    home = tmp_path_factory.mktemp("results")
    return [
        evaluated(home / str(seed), seed, by="study") if by else evaluated(home / str(seed), seed) for seed, by in ((1, 0), (2, 0), (3, 1))
    ]


def saved(result, folder):
    save_run(folder, result)
    return load_run(folder)


def test_a_saved_evaluation_comes_back_as_it_was(results, tmp_path):
    each = results[0].directions["image-image"].per_query

    back = saved(results[0], tmp_path / "run").directions["image-image"].queries

    assert (back.ids, back.views, back.unit) == (each.ids, each.views, each.unit)
    assert [back.names[place] for place in back.findings] == [each.names[place] for place in each.findings]
    for name in each.scores:
        np.testing.assert_array_equal(back.scores[name], each.scores[name])
    np.testing.assert_array_equal(back.hits, each.hits)
    np.testing.assert_allclose(each.hits[:, :5].mean(axis=1), each.scores["P@5"])
    for hits, rows, query in zip(each.hits, each.rows, range(len(each.ids)), strict=True):
        own = each.candidates[each.relevant(query)]
        np.testing.assert_array_equal(hits, np.isin(each.candidates[rows].astype(str), own.astype(str)) & (rows >= 0))


@pytest.mark.parametrize("place", [0, 2], ids=["images", "studies"])
def test_pytrec_eval_finds_in_the_files_what_was_measured(results, tmp_path, place):
    each = results[place].directions["image-image"].per_query
    save_run(tmp_path / "run", results[place])
    files = [tmp_path / "run" / f"image-image.{kind}.trec" for kind in ("run", "qrels")]

    with files[0].open() as run, files[1].open() as qrels:
        judge = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"P_5,10", "recall_10", "num_rel"})
        outside = list(judge.evaluate(pytrec_eval.parse_run(run)).values())
    scored = evaluate_trec(*files, measures=("P", "recall")).directions["image-image"]

    np.testing.assert_allclose([one["P_10"] for one in outside], each.scores["P@10"])
    np.testing.assert_array_equal([one["num_rel"] for one in outside], each.answers)
    np.testing.assert_allclose(scored.per_query.scores["recall@10"], [one["recall_10"] for one in outside])
    assert scored.metrics["P@5"].value == pytest.approx(results[place].directions["image-image"].metrics["P@5"].value)
    assert scored.metrics["P@5"].chance == pytest.approx(results[place].directions["image-image"].metrics["P@5"].chance)


def test_an_outside_run_is_struck_of_what_the_query_must_not_find_and_scores_as_our_own(results, tmp_path):
    """A run that also ranks the query itself and its patient's films, above all others."""
    save_run(tmp_path / "run", results[0])
    lines = (tmp_path / "run" / "image-image.run.trec").read_text().splitlines()
    struck = [line.split() for line in (tmp_path / "run" / "image-image.qrels.trec").read_text().splitlines() if line.endswith(" -1")]
    greedy = [f"{query} Q0 {document} 1 {9 + place} greedy" for place, (query, _, document, _) in enumerate(struck)]
    (tmp_path / "greedy.trec").write_text("\n".join(lines + greedy))

    scored = load_outside(tmp_path / "greedy.trec", tmp_path / "run" / "image-image.qrels.trec")

    each = results[0].directions["image-image"].per_query
    assert len(struck) >= 3 * len(each.ids)  # the patient's other films, and itself
    np.testing.assert_array_equal(scored.directions["image-image"].queries.scores["P@10"], each.scores["P@10"])


def test_a_document_that_was_no_candidate_is_refused(results, tmp_path):
    save_run(tmp_path / "run", results[0])
    query = token(results[0].directions["image-image"].per_query.ids[0])
    (tmp_path / "strange.trec").write_text(f"{query} Q0 film 1 1 x\n")

    with pytest.raises(MedretError, match="1 of its 1 documents are no candidates, the first is film"):
        evaluate_trec(tmp_path / "strange.trec", tmp_path / "run" / "image-image.qrels.trec")


def test_judgements_of_what_was_ranked_alone_score_no_other_run(results, tmp_path, monkeypatch):
    """Beyond a number of them only those that were ranked are written, so that what another run finds would count as wrong."""
    monkeypatch.setattr(retrieval.saved_runs, "MOST_JUDGEMENTS", 10)
    (note,) = save_run(tmp_path / "run", results[0])

    assert "names only those that were ranked" in note
    with pytest.raises(MedretError, match=r"names other relevant candidates than there were for .* too many to write"):
        evaluate_trec(*(tmp_path / "run" / f"image-image.{kind}.trec" for kind in ("run", "qrels")))


def test_an_outside_run_of_candidates_that_nothing_names_scores_nothing(tmp_path):
    """Judgements name what is relevant or struck; the other candidates are candidates all the same."""
    records = [Record(id=f"f{i}", image=None, patient_id=f"p{i}", labels={"Edema": LabelState(int(i < 2))}) for i in range(4)]
    engine = make_engine(tmp_path / "index", {"images": (image_rows(records), {"joint": np.eye(4)})}, findings=["Edema"])
    save_run(tmp_path / "run", evaluate_label_precision(engine, directions=["image-image"], ks=(2,)))
    (tmp_path / "poor.trec").write_text("f0|Edema Q0 f2 1 0.5 poor\nf1|Edema Q0 f3 1 0.5 poor\n")

    found = evaluate_trec(tmp_path / "poor.trec", tmp_path / "run" / "image-image.qrels.trec", measures=("P",))

    assert found.directions["image-image"].metrics["P@2"].value == 0


def test_outside_judgements_alone_give_figures_without_chance_and_count_silence(tmp_path):
    (tmp_path / "run").write_text("a Q0 x 1 2 s\na Q0 y 2 1 s\n")
    (tmp_path / "qrels").write_text("a 0 y 1\nb 0 y 2\nc 0 x 0\n")

    found = evaluate_trec(tmp_path / "run", tmp_path / "qrels", ks=[2]).directions["run"]

    assert (found.queries, found.metrics["P@2"].value, found.metrics["MRR"].value) == (2, 0.25, 0.25)
    assert all(np.isnan(figure.chance) for figure in found.metrics.values())
    assert found.protocol["scored_0_since_not_in_the_run"] == 1
    assert found.protocol["relevance"].startswith("a grade from 1, higher ones counting no more")
    assert found.protocol["left_out"] == {"queries without a relevant candidate": 1}


def test_a_difference_is_that_of_the_macro_means_and_p_that_of_all_swaps(results, tmp_path):
    """With few patients that differ, p is counted over every way to swap them."""
    base = saved(results[0], tmp_path / "run")
    held = base.directions["image-image"].queries
    chosen = np.isin(held.units, np.unique(held.units)[:3])
    gains = np.where(chosen, 0.5 + held.units / 10, 0.0)
    better = replace(held, scores={**held.scores, "P@10": held.scores["P@10"] + gains})
    other = replace(base, name="other", directions={"image-image": replace(base.directions["image-image"], queries=better)})

    one = compare_runs([base, other])["image-image"]

    macro = np.mean([gains[held.findings == place].mean() for place in range(len(held.names))])
    tested = one.differences[0].overall["P@10"]
    assert (one.primary, tested.units) == ("P@10", 3)
    assert tested.difference == pytest.approx(macro)
    assert tested.p == pytest.approx(2 / 2**3)  # all patients gain: as they are, and all swapped
    assert set(one.differences[0].changed) == set(np.flatnonzero(chosen).tolist())
    assert list(gains[list(one.differences[0].changed)]) == sorted(gains[chosen], reverse=True)
    assert one.differences[0].overall["P@5"].p == 1


def test_curves_pass_through_the_measured_figures_and_queries_apart_are_left_out(results, tmp_path):
    runs = [saved(result, tmp_path / str(place)) for place, result in enumerate(results[:2])]
    queries = runs[1].directions["image-image"].queries
    fewer = replace(runs[1].directions["image-image"], queries=replace(queries, ids=("gone", *queries.ids[1:])))

    whole = compare_runs(runs)["image-image"]
    cut = compare_runs([runs[0], replace(runs[1], directions={"image-image": fewer})])["image-image"]

    for place, result in enumerate(results[:2]):
        assert whole.curves[place, 9] == pytest.approx(result.directions["image-image"].metrics["P@10"].value)
    assert whole.curve == "P"
    assert (whole.apart, cut.apart) == (0, 2)
    assert cut.results[0].queries == whole.results[0].queries - 1


def test_runs_that_share_nothing_are_refused_and_options_that_differ_are_named(results, tmp_path):
    base, studies = saved(results[0], tmp_path / "a"), saved(results[2], tmp_path / "b")
    elsewhere = replace(base, name="elsewhere", directions={"text-image": base.directions["image-image"]})

    assert set(compare_runs([base, studies])["image-image"].unlike) == {"candidates"}
    with pytest.raises(MedretError, match="share no direction"):
        compare_runs([base, elsewhere])
    with pytest.raises(MedretError, match="median cannot be compared; the runs share P@5, P@10"):
        compare_runs([base, base], "median")


def test_the_page_names_no_record_unless_asked_to(results, tmp_path):
    compared = compare_runs([saved(result, tmp_path / str(place)) for place, result in enumerate(results[:2])])

    page, named = render_comparison(compared), render_comparison(compared, with_ids=True)

    assert "film" not in re.sub(r"<style>.*</style>|class=\"\w+\"", "", page, flags=re.DOTALL).replace("to see films", "")
    assert "film 0" in named
    assert page.count("<svg") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_the_page_names_nobody_that_conditions_name_unless_asked_to(tmp_path):
    limits = [{"where": "patient != p3"}, {"where": "patient_id != p7"}]
    runs = [saved(evaluated(tmp_path / str(seed), seed, **limit), tmp_path / f"run{seed}") for seed, limit in enumerate(limits)]
    compared = compare_runs(runs)

    page, named = render_comparison(compared), render_comparison(compared, with_ids=True)

    assert page.count("a condition on ids") == 3  # of both where they differ, and of the first
    assert re.findall(r"p[37]\b", page) == [] != re.findall(r"p[37]\b", named)


def test_curves_keep_to_the_denominator_and_draw_chance_only_where_it_is_level(tmp_path):
    runs = []
    for seed in (1, 2):
        result = evaluated(tmp_path / str(seed), seed, denominator="min(k, relevant)", measures=("P",))
        runs.append((result, saved(result, tmp_path / f"run{seed}")))

    compared = compare_runs([run for _, run in runs])
    page = render_comparison(compared)

    for place, (result, _) in enumerate(runs):
        figures = result.directions["image-image"].metrics
        assert compared["image-image"].curves[place, [4, 9]] == pytest.approx([figures[f"P@{k}"].value for k in (5, 10)])
    assert figures["P@5"].chance != pytest.approx(figures["P@10"].chance)
    assert ">chance</text>" not in page


def test_systems_put_to_other_candidates_or_judged_otherwise_are_said_to_be_unlike(results, tmp_path):
    run = saved(results[0], tmp_path / "run")
    held = run.directions["image-image"].queries
    more = replace(held, reachable=held.reachable + 1)
    fewer = replace(held, answers=held.answers - (np.arange(len(held.ids)) == 0))
    total, relevant = int(held.reachable.sum()), int(held.answers.sum())

    def unlike(queries):
        other = replace(run, directions={"image-image": replace(run.directions["image-image"], queries=queries)})
        return compare_runs([run, other])["image-image"].unlike

    assert unlike(more) == {"candidates_of_all_queries": (f"{total:,}", f"{total + len(held.ids):,}")}
    assert unlike(fewer) == {"relevant_candidates_of_all_queries": (f"{relevant:,}", f"{relevant - 1:,}")}


def test_the_film_of_a_record_with_blanks_in_its_id_is_shown_beside_what_it_asked(tmp_path):
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "film.png")
    labels = [{"Lung Opacity": LabelState(number % 2)} for number in range(8)]
    records = [Record(id=f"a film {i}%20", image=tmp_path / "film.png", patient_id=f"p{i}", labels=labels[i]) for i in range(8)]
    runs = []
    for seed in (1, 2):
        vectors = np.random.default_rng(seed).normal(size=(8, 4))
        engine = make_engine(tmp_path / str(seed), {"images": (image_rows(records), {"joint": vectors})}, findings=["Lung Opacity"])
        runs.append(saved(evaluate_label_precision(engine, directions=["image-image"], ks=(1, 2)), tmp_path / f"run{seed}"))

    page = render_comparison(compare_runs(runs, "P@2"), engine, with_ids=True)

    assert "a%20film%201%2520|Lung_Opacity Q0 a%20film%20" in (tmp_path / "run1" / "image-image.run.trec").read_text()
    assert page.count('alt="query film"') == page.count('class="changed"') > 0
    assert "a film 1%20|Lung_Opacity" in page


def test_what_was_frozen_is_repeated_or_named(results, tmp_path):
    frozen = json.loads(json.dumps(freeze(results[0], {"ks": (5, 10)}, "e1")))

    assert check_frozen(frozen, freeze(evaluated(tmp_path / "again", 1), {}, "e1")) == ()
    assert check_frozen(frozen, freeze(results[1], {}, "e2")) == ()  # another encoder may rank otherwise
    assert "ranked otherwise" in check_frozen(frozen, freeze(results[1], {}, "e1"))[0]
    with pytest.raises(MedretError, match="uncertain was negative, is positive; image-image: the labels say otherwise"):
        check_frozen(frozen, freeze(evaluated(tmp_path / "other", 1, uncertain="positive"), {}, "e1"))
    with pytest.raises(MedretError, match="queries are gone and 0 are new"):
        check_frozen(frozen, freeze(evaluated(tmp_path / "fewer", 1, max_queries=4), {}, "e1"))


@pytest.mark.parametrize("damage", [{"options": []}, {"directions": {"image-image": {}}}, {"directions": None}, {"format": 0}])
def test_a_damaged_frozen_set_is_said_to_be_none(results, tmp_path, damage):
    (tmp_path / "frozen.json").write_text(json.dumps(freeze(results[0], {}, "e1") | damage))

    with pytest.raises(MedretError, match=r"frozen\.json: no frozen evaluation of format 1"):
        load_frozen(tmp_path / "frozen.json", "label-precision")


def medret(*arguments, code=0):
    done = subprocess.run([str(MEDRET), *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    home = tmp_path_factory.mktemp("phantoms")
    write_phantoms(home / "corpus", 8, 3)
    medret("build-index", home / "corpus", "--vectors", "joint,features", "--out", home / "index", "--kind", "flat")
    return home / "index"


def test_the_command_line_saves_scores_compares_and_repeats(index_dir, tmp_path):
    asked = ("evaluate", "label-precision", "--index", index_dir, "--direction", "image-image")
    medret(*asked, "--save", tmp_path / "joint", "--freeze", tmp_path / "frozen.json")
    medret(*asked, "--save", tmp_path / "features", "--image-vector", "features")
    run, qrels = (tmp_path / "features" / f"image-image.{kind}.trec" for kind in ("run", "qrels"))

    scored = medret(
        "evaluate", "trec", "--run", run, "--qrels", tmp_path / "joint" / qrels.name, "-k", 5, "--json", tmp_path / "scored.json"
    )
    medret("evaluate", "report-recall", "--index", index_dir, "--save", tmp_path / "recall")
    own = [tmp_path / "recall" / f"report-image.{kind}.trec" for kind in ("run", "qrels")]
    same = medret("compare", tmp_path / "recall", own[0], "--qrels", own[1])
    printed = medret(
        "compare", tmp_path / "joint", tmp_path / "features", run, "--qrels", qrels, "--index", index_dir, "--html", tmp_path / "c.html",
        "--metric", "P@5",
    )  # fmt: skip
    unknown = medret("compare", tmp_path / "joint", tmp_path / "features", "--metric", "P@7", code=1)
    repeated = medret("evaluate", "label-precision", "--index", index_dir, "--frozen", tmp_path / "frozen.json")

    features = json.loads((tmp_path / "features" / "result.json").read_text())
    assert json.loads((tmp_path / "scored.json").read_text())["metrics"]["P@5"]["value"] == features["metrics"]["P@5"]["value"]
    assert "trec image-image: " in scored
    assert "difference of features" in printed
    page = (tmp_path / "c.html").read_text()
    assert "data:image/jpeg" in page and "P@5 of each finding" in page
    assert "P@7 cannot be compared; the runs share P@5, " in unknown
    assert "P@5" in repeated
    assert re.search(r"R@1 .* \+0.000", same)
    assert "MRR" not in same  # of all ranks there, and of those written here


def test_a_figure_of_a_saved_run_keeps_the_interval_that_it_was_saved_with(index_dir, tmp_path):
    """Where texts ask, patients of the candidates were drawn, of which a file knows nothing: no other interval may stand beside it."""
    result = add_intervals(evaluate_label_precision(SearchEngine.load(index_dir), directions=["text-image"]), resamples=40)
    run = saved(result, tmp_path / "run")
    queries = run.directions["text-image"].queries
    fewer = replace(run.directions["text-image"], queries=replace(queries, ids=("gone", *queries.ids[1:])))

    whole = compare_runs([run, run])["text-image"]
    cut = compare_runs([run, replace(run, directions={"text-image": fewer})])["text-image"]
    outside = load_outside(*(tmp_path / "run" / f"text-image.{kind}.trec" for kind in ("run", "qrels"))).directions["text-image"]

    figures = result.directions["text-image"]
    for compared in whole.results:
        assert compared.metrics == figures.metrics
        assert compared.per_class == figures.per_class
    assert "of 40 resamples of 8 patients among the candidates" in interval_words(whole)
    assert f"of differences: 95% of 2000 resamples of {figures.queries} prompts, each put to both" in interval_words(whole)
    scored = with_intervals(direction_result(outside.queries, outside.protocol, outside.candidates))
    for one in (*cut.results, scored):
        assert one.protocol["interval"] == "none: texts ask, and a run does not say whose the candidates are"
        assert np.isnan(one.metrics["P@10"].low)


@pytest.mark.parametrize("content", ["{}", '{"directions": 3}', '{"protocol": {"direction": "image-image"}}', "[]", "{"])
def test_a_damaged_result_is_said_to_be_none(results, tmp_path, content):
    save_run(tmp_path / "run", results[0])
    (tmp_path / "run" / "result.json").write_text(content)

    with pytest.raises(MedretError, match=r"result\.json: (is no result|not JSON|holds a list)"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "content", "fault"),
    [
        ("queries.jsonl", b"", "holds no query"),
        ("queries.jsonl", b'{"id": "\xff"}\n', "is no text in UTF-8"),
        ("run.trec", b"film_01%25|Edema Q0 film_02%25 1 0.5 medret\n", "ranks less than image-image.queries.jsonl tells of"),
    ],
)
def test_files_of_a_run_that_do_not_fit_are_named(results, tmp_path, kind, content, fault):
    save_run(tmp_path / "run", results[0])
    (tmp_path / "run" / f"image-image.{kind}").write_bytes(content)

    with pytest.raises(MedretError, match=fault):
        load_run(tmp_path / "run")


def test_faults_on_the_command_line_are_one_line(index_dir, tmp_path):
    (tmp_path / "run").write_text("q Q0 d 1 0.5 x\n")
    (tmp_path / "qrels").write_text("other 0 d 1\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "letter").write_text("mine")

    faults = {
        "1 of its 1 queries are not in": ("evaluate", "trec", "--run", tmp_path / "run", "--qrels", tmp_path / "qrels"),
        "needs --qrels FILE": ("compare", tmp_path / "run", tmp_path / "run"),
        "no such file or folder": ("compare", tmp_path / "nowhere", tmp_path / "run"),
        "holds no saved evaluation": ("evaluate", "report-recall", "--index", index_dir, "--save", tmp_path / "kept"),
        "cannot be read": ("evaluate", "report-recall", "--index", index_dir, "--frozen", tmp_path / "nowhere"),
    }
    for fault, arguments in faults.items():
        (line,) = medret(*arguments, code=1).splitlines()
        assert fault in line
    assert "trec needs a run" in medret("evaluate", "trec", code=2)
    assert "has no option --run" in medret("evaluate", "report-recall", "--run", tmp_path / "run", code=2)
    assert "expected 2 to 6" in medret("compare", tmp_path / "run", code=2)
