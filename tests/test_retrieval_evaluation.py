import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade_index import image_rows, make_engine
from handmade_lists import CLASSES, write_lists

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.prompt import PromptConfig
from index.corpora.prompts import prompts_for
from index.corpora.record import NULL_LABEL, LabelState, Record
from index.shards import ShardRow
from retrieval.benchmarks import pair_task
from retrieval.evaluation import evaluate_label_precision, evaluate_report_recall
from retrieval.filters import Selection
from retrieval.metrics import first_match_ranks
from retrieval.published_benchmarks import evaluate_chexpert_8x200
from retrieval.published_lists import load_published_lists
from retrieval.report import render_evaluation
from retrieval.validation import _match_ranks, paired_validator

FINDINGS = ("Edema", "Fracture", "Pneumonia")
STATES = [*LabelState]


@pytest.fixture(scope="module")
def encoder():
    texts = ["edema fracture pneumonia is seen in wording findings consistent with the lungs are clear"]
    return build_encoder(texts=texts, size=32, dimension=16).eval()


@pytest.fixture(scope="module")
def encoder_folder(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    save_checkpoint(encoder, folder)
    return folder


def listed_engine(folder, lists, vectors, encoder_folder=None):
    """An index of the listed images whose vectors `vectors(class, rows)` gives; text queries need the encoder."""
    published = load_published_lists(lists)
    named = [(next(iter(candidate.positive)), candidate.path) for candidate in published.image_candidates] + [*published.image_queries]
    ids = [path.removeprefix("CheXpert-v1.0-small/").removesuffix(".jpg") for _, path in named]
    records = [Record(id=id, image=None, patient_id=id.split("/")[1]) for id in ids]
    made = vectors([name for name, _ in named])
    return make_engine(folder, {"images": (image_rows(records), {"joint": made, "features": made})}, encoder_folder=encoder_folder)


@pytest.fixture(scope="module")
def random_8x200(tmp_path_factory, encoder_folder):
    home = tmp_path_factory.mktemp("random")
    lists = write_lists(home / "lists", per_class=200, image_queries=10, text_queries=5)
    draw = np.random.default_rng(7)
    engine = listed_engine(home / "index", lists, lambda names: draw.normal(size=(len(names), 16)), encoder_folder)
    return evaluate_chexpert_8x200(engine, lists).to_dict()


def test_random_vectors_reach_chance_on_chexpert_8x200(random_8x200):
    assert (random_8x200["queries"], random_8x200["candidates"]) == (80, 1600)
    for k in (5, 10, 50, 100):
        found = random_8x200["metrics"][f"P@{k}"]
        deviation = math.sqrt(0.125 * 0.875 / (80 * k) * (1600 - k) / 1599)  # 80 draws of k without replacement
        assert found["chance"] == pytest.approx(0.125)
        assert abs(found["value"] - 0.125) < 4 * deviation


def test_the_result_is_json_of_the_published_form(random_8x200):
    content = json.loads(json.dumps(random_8x200, allow_nan=False))

    assert set(content) == {"benchmark", "protocol", "queries", "candidates", "counted", "metrics", "per_class", "published", "directions"}
    assert list(content["directions"]) == ["image-image", "text-image", "image-text"]
    assert content["directions"]["text-image"]["queries"] == 40
    assert set(content["directions"]["text-image"]) == set(content) - {"directions"}
    assert set(content["per_class"]) == set(CLASSES)
    assert content["per_class"]["Edema"]["queries"] == 10
    assert set(content["per_class"]["Edema"]["P@5"]) == {"value", "chance"}


def test_the_protocol_names_every_option(random_8x200):
    protocol = random_8x200["protocol"]

    assert (protocol["direction"], protocol["vector"], protocol["k"]) == ("image-image", "features", [5, 10, 50, 100])
    assert (protocol["denominator"], protocol["exclude_same_patient"], protocol["average"]) == ("k", False, "queries")
    assert random_8x200["directions"]["text-image"]["protocol"]["vector"] == "joint"


def test_vectors_that_are_the_class_reach_one(tmp_path):
    lists = write_lists(tmp_path / "lists", per_class=12, image_queries=2, text_queries=1)
    one_hot = lambda names: np.array([[float(name == other) for other in CLASSES] for name in names])  # noqa: E731
    engine = listed_engine(tmp_path / "index", lists, one_hot)

    result = evaluate_chexpert_8x200(engine, lists, directions=("image-image",), ks=(5, 12, 24)).to_dict()

    assert [result["metrics"][f"P@{k}"]["value"] for k in (5, 12, 24)] == [1, 1, 0.5]
    assert "directions" not in result


def test_the_page_of_the_published_lists_needs_no_labels_in_the_index(tmp_path):
    lists = write_lists(tmp_path / "lists", per_class=3, image_queries=1, text_queries=1)
    engine = listed_engine(tmp_path / "index", lists, lambda names: np.eye(len(names)))

    result = evaluate_chexpert_8x200(engine, lists, directions=("image-image",), ks=(3,)).to_dict()

    assert "chexpert-8x200: image-image" in render_evaluation(engine, result)


def test_the_patient_of_an_image_query_can_be_left_out_of_the_candidates(tmp_path):
    lists = write_lists(tmp_path / "lists", per_class=3, image_queries=1, text_queries=1)
    path = lists / "image-retrieval" / "query.csv"
    path.write_text(path.read_text().replace("patient90001/study1", "patient00001/study7"))  # now a candidate's patient
    one_hot = lambda names: np.array([[float(name == other) for other in CLASSES] for name in names])  # noqa: E731
    engine = listed_engine(tmp_path / "index", lists, one_hot)

    kept, left_out = (
        evaluate_chexpert_8x200(engine, lists, directions=("image-image",), ks=(3,), exclude_same_patient=exclude).to_dict()["per_class"]
        for exclude in (False, True)
    )

    assert kept["Atelectasis"]["P@3"] == {"value": 1, "chance": pytest.approx(3 / 24)}
    assert left_out["Atelectasis"]["P@3"] == {"value": pytest.approx(2 / 3), "chance": pytest.approx(2 / 23)}
    assert left_out["Edema"]["P@3"] == {"value": 1, "chance": pytest.approx(3 / 24)}


def labelled_corpus(seed, images=90, studies=50, patients=30):
    """Random records: study-mates share patient and labels; some studies have null or no labels; few distinct vectors."""
    draw = np.random.default_rng(seed)
    patient = draw.integers(0, patients, studies)
    labels = [{} if draw.random() < 0.1 else {f: STATES[draw.integers(4)] for f in FINDINGS if draw.random() < 0.9} for _ in range(studies)]
    study = np.concatenate([np.arange(studies), draw.integers(0, studies, images - studies)])

    def record(id, s, image):
        return Record(id=id, image=image, study_id=f"s{s}", patient_id=f"p{patient[s]}" if patient[s] else None, labels=labels[s])

    records = [record(f"i{row:03d}", s, Path(f"{row}.png")) for row, s in enumerate(study)]
    reports = [ShardRow(record(f"s{s}", s, None), text=f"Report {s % 20}.") for s in range(studies) if draw.random() < 0.9]
    pool = draw.normal(size=(25, 16))  # repeated vectors: ties
    return records, reports, pool[draw.integers(0, 25, images)], pool[draw.integers(0, 25, len(reports))]


def labelled_engine(folder, corpus, encoder_folder):
    records, reports, images, texts = corpus
    parts = {"images": (image_rows(records), {"joint": images}), "reports": (reports, {"joint": texts})}
    return make_engine(folder, parts, findings=FINDINGS, encoder_folder=encoder_folder)


def stored(engine, modality):
    """The vectors as the index holds them: normalised, in float32."""
    table = engine.table(modality)
    return table.vectors("joint", np.arange(table.rows))


def plain_precision(query, held, candidates, finding, uncertain, by, left_out, k):
    """P@k and chance of one query, step by step; None where no candidate is relevant."""
    judged = []
    for row, record in enumerate(candidates):
        state = record.labels.get(finding)
        if state is None or (uncertain == "ignore" and state is LabelState.UNCERTAIN) or left_out(record):
            continue
        relevant = state is LabelState.POSITIVE or (uncertain == "positive" and state is LabelState.UNCERTAIN)
        score = np.float32(np.sum(query.astype(np.float64) * held[row].astype(np.float64)))
        judged.append((-score, record.id, record.study_id if by == "study" else record.id, relevant))
    best = {}
    for _, _, unit_id, relevant in sorted(judged):
        best.setdefault(unit_id, relevant)
    ranked = list(best.values())
    if not any(ranked):
        return None
    return sum(ranked[:k]) / k, min(k, len(ranked)) * np.mean(ranked) / k


@pytest.mark.parametrize("uncertain", ["negative", "positive", "ignore"])
@pytest.mark.parametrize("by", ["image", "study"])
@pytest.mark.parametrize("same_patient", [True, False])
def test_label_precision_is_that_of_a_plain_count(tmp_path, encoder, encoder_folder, uncertain, by, same_patient):
    corpus = labelled_corpus(seed=len(uncertain))
    records, reports, *_ = corpus
    engine = labelled_engine(tmp_path, corpus, encoder_folder)
    images, texts = stored(engine, "images"), stored(engine, "reports")
    options = {"uncertain": uncertain, "by": by, "exclude_same_patient": not same_patient, "ks": (5, 40)}
    result = evaluate_label_precision(engine, **options).to_dict()["directions"]

    def mates(asking, is_image):
        def left_out(record):
            own = asking.study_id == record.study_id if by == "study" else asking.id == record.id
            of_patient = record.patient_id == asking.patient_id if asking.patient_id else record.study_id == asking.study_id
            return (is_image and own) or (not same_patient and of_patient)

        return left_out

    for direction, one in result.items():
        find_images = direction != "image-report"
        candidates, held = (records, images) if find_images else ([row.record for row in reports], texts)
        for finding in FINDINGS:
            if direction == "text-image":
                with torch.inference_mode():
                    vectors = encoder.encode_texts(prompts_for(finding)).joint.numpy()
                asked = [(vector, lambda record: False) for vector in vectors]
            else:
                positive = [row for row, record in enumerate(records) if record.labels.get(finding) is LabelState.POSITIVE]
                asked = [(images[row], mates(records[row], find_images)) for row in positive]
            for k in (5, 40):
                unit_by = by if find_images else "image"
                plain = [plain_precision(q, held, candidates, finding, uncertain, unit_by, out, k) for q, out in asked]
                scored = [figures for figures in plain if figures is not None]
                assert one["per_class"][finding]["queries"] == len(scored)
                assert one["per_class"][finding][f"P@{k}"] == pytest.approx(
                    {"value": np.mean([value for value, _ in scored]), "chance": np.mean([chance for _, chance in scored])}
                )


def test_a_prompt_is_named_by_its_finding_and_its_place_there_whatever_else_is_asked_for(tmp_path, encoder_folder):
    engine = labelled_engine(tmp_path, labelled_corpus(seed=3), encoder_folder)
    prompts = {"Edema": ("edema", "fluid"), "Fracture": ("fracture",), "Pneumonia": ("pneumonia",)}

    every, one = (
        evaluate_label_precision(engine, directions=("text-image",), prompts=prompts, findings=findings).directions["text-image"]
        for findings in (None, ("Fracture",))
    )

    assert every.per_query.ids == ("prompt0|Edema", "prompt1|Edema", "prompt0|Fracture", "prompt0|Pneumonia")
    assert one.per_query.ids == ("prompt0|Fracture",)


def test_studies_are_found_behind_a_study_of_very_many_images(tmp_path, encoder_folder):
    """120 images of one study fill the first answers; four other studies, one of them relevant, come after them."""
    crowd = [Record(id=f"a{row:03d}", image=Path("x"), study_id="s1", labels={"Edema": LabelState.NEGATIVE}) for row in range(120)]
    states = [LabelState.NEGATIVE, LabelState.NEGATIVE, LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.POSITIVE]
    others = [Record(id=f"b{row}", image=Path("x"), study_id=f"t{row}", labels={"Edema": state}) for row, state in enumerate(states)]
    angles = np.concatenate([np.linspace(0.01, 0.2, 120), [0.3, 0.4, 0.5, 0.6, 0.0]])  # the last one asks
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    engine = make_engine(tmp_path, {"images": (image_rows([*crowd, *others]), {"joint": vectors})}, findings=("Edema",))

    options = {"directions": ("image-image",), "by": "study", "exclude_same_patient": False}
    result = [evaluate_label_precision(engine, ks=(k,), **options).to_dict() for k in (3, 4, 5)]

    # t4 asks and finds s1, t0, t1, t2 (relevant), t3; t2 asks and finds t1 and t3, t0, s1, t4 (relevant).
    assert [one["metrics"][f"P@{k}"]["value"] for one, k in zip(result, (3, 4, 5), strict=True)] == [0, 1 / 8, 1 / 5]
    assert result[0]["metrics"]["P@3"]["chance"] == pytest.approx(1 / 5)


def test_the_macro_figure_is_the_mean_over_findings_and_what_was_left_out_is_counted(tmp_path, encoder_folder):
    corpus = labelled_corpus(seed=1)
    result = evaluate_label_precision(labelled_engine(tmp_path, corpus, encoder_folder), directions=("image-image",)).to_dict()

    for k in (5, 10, 50):
        for kind in ("value", "chance"):
            each = [result["per_class"][finding][f"P@{k}"][kind] for finding in FINDINGS]
            assert result["metrics"][f"P@{k}"][kind] == pytest.approx(np.mean(each))
    unlabelled = sum(not record.labels for record in corpus[0])
    assert result["protocol"]["left_out"]["images without any label"] == unlabelled
    assert result["candidates"] == len(corpus[0]) - unlabelled
    assert result["queries"] == sum(result["per_class"][finding]["queries"] for finding in FINDINGS)


def test_a_query_whose_patient_has_the_only_relevant_images_is_left_out_and_counted(tmp_path, encoder_folder):
    positive, negative = {"Edema": LabelState.POSITIVE}, {"Edema": LabelState.NEGATIVE}
    who = [("a", "p1", positive), ("b", "p1", positive), ("c", "p2", negative)]
    records = [Record(id=id, image=Path(id), patient_id=patient, labels=labels) for id, patient, labels in who]
    engine = make_engine(tmp_path, {"images": (image_rows(records), {"joint": np.eye(3)})}, findings=("Edema",))

    result = evaluate_label_precision(engine, directions=("image-image",)).to_dict()

    assert result["queries"] == 0
    assert result["metrics"]["P@5"] == {"value": None, "chance": None}
    assert result["protocol"]["left_out"] == {"queries without a relevant candidate": 2}


def plain_recall(engine, corpus, task, direction, by):
    """Each query's rank of its best own candidate, by sorting everything; ties by id."""
    records, reports, *_ = corpus
    numbers = task.image_text
    images, texts = stored(engine, "images"), stored(engine, "reports")
    scores = images[task.images].astype(np.float64) @ texts[task.texts].astype(np.float64).T
    scores = scores.astype(np.float32)  # (I, T)
    image_ids, text_ids = [records[row].id for row in task.images], [reports[row].record.id for row in task.texts]
    studies = [records[row].study_id if by == "study" else records[row].id for row in task.images]
    groups = sorted(set(studies))
    members = {group: [place for place, study in enumerate(studies) if study == group] for group in groups}
    best = np.array([scores[members[group]].max(axis=0) for group in groups])  # (G, T)
    group_ids = [min(image_ids[place] for place in members[group]) for group in groups]
    group_numbers = [numbers[members[group][0]] for group in groups]
    ranks = []
    if direction == "image-report":
        for group in range(len(groups)):
            order = sorted(range(len(text_ids)), key=lambda t, group=group: (-best[group, t], text_ids[t]))
            ranks.append(order.index(group_numbers[group]) + 1)
    else:
        for text in range(len(text_ids)):
            order = sorted(range(len(groups)), key=lambda g, text=text: (-best[g, text], group_ids[g]))
            ranks.append(next(rank for rank, g in enumerate(order, 1) if group_numbers[g] == text))
    return np.array(ranks)


@pytest.mark.parametrize("by", ["image", "study"])
@pytest.mark.parametrize("direction", ["image-report", "report-image"])
@pytest.mark.parametrize("at_once", [1 << 26, 100])
def test_report_recall_is_that_of_sorting_everything(tmp_path, encoder_folder, monkeypatch, by, direction, at_once):
    monkeypatch.setattr("retrieval.matches._SCORES_AT_ONCE", at_once)  # chunks of a few queries
    corpus = labelled_corpus(seed=5)
    engine = labelled_engine(tmp_path, corpus, encoder_folder)
    ranks = plain_recall(engine, corpus, pair_task(engine, Selection()), direction, by)

    result = evaluate_report_recall(engine, directions=(direction,), by=by).to_dict()

    assert result["queries"] == len(ranks)
    assert {name: figure["value"] for name, figure in result["metrics"].items()} == pytest.approx(
        {**{f"R@{k}": np.mean(ranks <= k) for k in (1, 5, 10)}, "median_rank": np.median(ranks), "MRR": np.mean(1 / ranks)}
    )


def test_chance_of_finding_the_own_report_is_k_of_the_distinct_texts(tmp_path, encoder_folder):
    corpus = labelled_corpus(seed=5)
    result = evaluate_report_recall(labelled_engine(tmp_path, corpus, encoder_folder)).to_dict()
    distinct = len({row.text for row in corpus[1]})

    assert result["candidates"] == distinct
    assert [result["metrics"][f"R@{k}"]["chance"] for k in (1, 5, 10)] == pytest.approx([k / distinct for k in (1, 5, 10)])
    assert result["metrics"]["median_rank"]["chance"] == (distinct + 1) / 2
    assert result["directions"]["report-image"]["queries"] == distinct


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path, encoder_folder):
    engine = labelled_engine(tmp_path, labelled_corpus(seed=1), encoder_folder)

    with pytest.raises(MedretError, match="split test"):
        evaluate_report_recall(engine, splits=["test"])


def test_the_validator_agrees_with_report_recall_through_an_index(tmp_path, encoder):
    draw = np.random.default_rng(0)
    squares = draw.integers(0, 255, (12, 32, 32), dtype=np.uint8)
    texts = [f"Edema is seen in wording {'i' * (row % 7)}." for row in range(12)]  # 7 distinct texts
    encoder.train()

    figures = paired_validator(squares, texts, batch_size=5)(encoder)

    assert encoder.training
    encoder.eval()
    with torch.inference_mode():
        images = encoder.encode_images(torch.from_numpy(squares)).joint.numpy()
        reports = encoder.encode_texts(texts).joint.numpy()
    rows = image_rows([Record(id=f"i{row:02d}", image=Path("x"), study_id=f"s{row:02d}") for row in range(12)])
    written = [ShardRow(Record(id=f"s{row:02d}", image=None, study_id=f"s{row:02d}"), text=text) for row, text in enumerate(texts)]
    engine = make_engine(tmp_path, {"images": (rows, {"joint": images}), "reports": (written, {"joint": reports})})
    result = evaluate_report_recall(engine).to_dict()["directions"]
    both = [result[direction]["metrics"] for direction in ("image-report", "report-image")]
    assert list(figures) == ["mrr", "R@10 image-report", "R@10 report-image"]
    assert figures["mrr"] == pytest.approx(np.mean([one["MRR"]["value"] for one in both]), abs=1e-3)
    assert [figures["R@10 image-report"], figures["R@10 report-image"]] == pytest.approx([one["R@10"]["value"] for one in both])


def test_the_validator_scores_prompts_where_there_are_labels(encoder):
    squares = np.random.default_rng(0).integers(0, 255, (6, 32, 32), dtype=np.uint8)
    labels = np.full((6, 2), int(LabelState.NOT_MENTIONED), dtype=np.int8)
    labels[:, 0] = LabelState.POSITIVE  # every image is relevant; nobody has the other finding

    figures = paired_validator(squares, ["edema", "no edema"] * 3, labels, findings=("Edema", "Fracture"))(encoder)

    assert list(figures) == ["mrr", "R@10 image-report", "R@10 report-image", "P@5 text-image"]
    assert figures["P@5 text-image"] == 1


def test_the_validator_scores_continuous_prompts_beside_worded_ones():
    encoder = build_encoder(texts=["edema fracture"], size=32, dimension=16).eval()
    encoder.add_prompts(PromptConfig(names=("Fracture",), length=3))
    squares = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
    labels = np.full((20, 2), int(LabelState.NEGATIVE), dtype=np.int8)
    with torch.inference_mode():
        scores = encoder.encode_images(torch.from_numpy(squares)).joint @ encoder.encode_labels(["Fracture"]).joint[0]
    order = scores.argsort(descending=True).tolist()
    labels[order[1:4], 1] = LabelState.POSITIVE  # second to fourth of the prompt's ranking
    labels[0, 0] = LabelState.POSITIVE

    figures = paired_validator(squares, [""] * 20, labels, findings=("Edema", "Fracture"))(encoder)

    assert list(figures) == ["P@5 label-image", "P@5 text-image"]
    assert figures["P@5 label-image"] == pytest.approx(3 / 5)


def test_the_validator_pairs_only_the_images_that_have_a_text(encoder):
    squares = np.random.default_rng(0).integers(0, 255, (7, 32, 32), dtype=np.uint8)
    texts = ["edema", "", "no edema", "a small effusion", " ", "edema", ""]
    spoken = [0, 2, 3, 5]

    figures = paired_validator(squares, texts)(encoder)

    assert figures == pytest.approx(paired_validator(squares[spoken], [texts[row] for row in spoken])(encoder))


def test_ranks_in_blocks_of_queries_are_those_of_all_at_once(monkeypatch):
    rng = np.random.default_rng(3)
    queries, candidates = rng.normal(size=(23, 8)).astype(np.float32), rng.normal(size=(11, 8)).astype(np.float32)
    numbers = rng.integers(0, 12, 23)
    monkeypatch.setattr("retrieval.validation._BLOCK", 4)

    ranks = _match_ranks(queries, numbers, candidates, np.arange(11))

    np.testing.assert_array_equal(ranks, first_match_ranks(queries @ candidates.T, numbers, np.arange(11)))


def test_the_validator_asks_for_a_finding_only_where_it_was_looked_for(encoder):
    squares = np.random.default_rng(0).integers(0, 255, (40, 32, 32), dtype=np.uint8)
    labels = np.full((40, 1), NULL_LABEL, dtype=np.int8)
    labels[:5] = LabelState.POSITIVE

    assert paired_validator(squares, [""] * 40, labels, findings=("Edema",))(encoder) == {"P@5 text-image": 1}


@pytest.mark.parametrize("state", [None, LabelState.NEGATIVE, LabelState.NOT_MENTIONED, NULL_LABEL])
@pytest.mark.parametrize("text", ["", "edema"])
def test_the_validator_says_nothing_of_images_that_nothing_tells_apart(encoder, state, text):
    labels = None if state is None else np.full((4, 1), int(state), dtype=np.int8)

    assert paired_validator(np.zeros((4, 32, 32), np.uint8), [text] * 4, labels, findings=("Edema",))(encoder) == {}


@pytest.mark.parametrize(("films", "texts"), [(2, ["a"]), (0, [])])
def test_images_and_texts_of_different_numbers_are_a_wrong_call(films, texts):
    with pytest.raises(ValueError, match="as many of each"):
        paired_validator(np.zeros((films, 8, 8), np.uint8), texts)
