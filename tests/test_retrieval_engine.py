import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade_index import image_rows, make_engine, unit
from PIL import Image

from encoders.checkpoint import load_checkpoint, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.pixels import read_image
from encoders.prompt import PromptConfig
from index.corpora.readers import open_corpus
from index.corpora.record import LabelState, Record
from index.encode import EncodeOptions, encode_corpus
from index.folder import build_index
from index.index_manifest import Certificate
from index.kinds import find_kind
from index.shards import ShardRow
from index.stages import build_stage
from index.vector_index import VectorIndex
from retrieval.engine import Query, SearchEngine, Term
from retrieval.filters import parse_condition
from retrieval.tables import answer_notes

ROWS = [  # path, text, patient, study, view, split, Edema, Fracture
    ("a1.png", "Mild pulmonary edema. No fracture.", "p1", "s1", "PA", "train", "1", "0"),
    ("a2.png", "Mild pulmonary edema. No fracture.", "p1", "s1", "LATERAL", "train", "1", "0"),
    ("a3.png", "The edema has resolved since.", "p1", "s2", "PA", "train", "0", ""),
    ("b1.png", "Displaced rib fracture on the left.", "p2", "s3", "AP", "validate", "", "1"),
    ("c1.png", "Lungs are clear, the heart is normal.", "", "s4", "AP", "validate", "-1", "0"),
    ("c2.png", "Lungs are clear, the heart is normal.", "", "s4", "PA", "validate", "-1", "0"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus of six films in a table, a tiny random encoder, and the index of the one by the other."""
    home = tmp_path_factory.mktemp("engine")
    corpus = home / "corpus"
    corpus.mkdir()
    draw = np.random.default_rng(0)
    for path, *_ in ROWS:
        coarse = Image.fromarray(draw.integers(0, 255, (5, 4), dtype=np.uint8))
        coarse.resize((48, 60), Image.Resampling.BICUBIC).save(corpus / path)
    lines = ["path,text,patient,study,view,split,Edema,Fracture", *(",".join(f'"{cell}"' for cell in row) for row in ROWS)]
    (corpus / "table.csv").write_text("\n".join(lines) + "\n")
    encoder = build_encoder(texts=[row[1] for row in ROWS], size=32, dimension=16, max_tokens=24).eval()
    save_checkpoint(encoder, home / "encoder")
    options = EncodeOptions(vectors=("joint", "features"), text_units=("report", "sentence"))
    encode_corpus(open_corpus(corpus / "table.csv"), encoder, home / "shards", options=options)
    build_index(home / "shards", home / "index", home / "encoder")
    return home


@pytest.fixture(scope="module")
def engine(home):
    return SearchEngine.load(home / "index", device="cpu")


def joint(engine, texts=None, films=None):
    """Encode by the encoder alone, without the engine."""
    with torch.inference_mode():
        if texts is not None:
            return engine.encoder.encode_texts(texts).joint.numpy()
        squares = np.stack([engine.encoder.config.preprocessing.square(read_image(film)) for film in films])
        return engine.encoder.encode_images(torch.from_numpy(squares)).joint.numpy()


def test_a_text_finds_images_by_cosine(engine, home):
    scores = joint(engine, films=[home / "corpus" / row[0] for row in ROWS]) @ joint(engine, texts=["rib fracture"])[0]
    expected = np.argsort(-scores)

    answer = engine.search(Query(text="rib fracture", k=6))

    assert [hit.id for hit in answer.hits] == [Path(ROWS[row][0]).stem for row in expected]
    np.testing.assert_allclose([hit.score for hit in answer.hits], scores[expected], atol=1e-5)
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5, 6]
    assert answer.notes == ()


def test_a_hit_says_all_that_is_known_of_its_record(engine, home):
    hit = next(hit for hit in engine.search(Query(text="edema", k=6)).hits if hit.id == "c1")

    assert hit.to_dict() == {
        "rank": hit.rank,
        "score": hit.score,
        "id": "c1",
        "modality": "images",
        "patient_id": None,
        "study_id": "s4",
        "view": "AP",
        "labels": {"Edema": "uncertain", "Fracture": "negative"},
        "text": "Lungs are clear, the heart is normal.",
        "path": str(home / "corpus" / "c1.png"),
        "percentile": hit.percentile,
        "sentence": None,
        "sentence_span": None,
    }
    assert hit.image_path == home / "corpus" / "c1.png"


def test_a_text_finds_the_report_that_is_that_text(engine):
    answer = engine.search(Query(text="  Displaced rib fracture \n on the left. ", find="reports", k=4))

    assert answer.hits[0].id == "s3"
    assert answer.hits[0].score == pytest.approx(1, abs=1e-5)
    assert {hit.modality for hit in answer.hits} == {"reports"}
    assert answer.hits[0].path is None


@pytest.fixture(scope="module")
def prompted(home):
    """The same encoder, to which prompts were given later: their context says what a text could say."""
    encoder = load_checkpoint(home / "encoder")
    encoder.add_prompts(PromptConfig(names=("Edema", "Rib Fracture"), words="mild pulmonary"))
    save_checkpoint(encoder, home / "prompted")
    return SearchEngine.load(home / "index", home / "prompted", device="cpu")


@pytest.mark.parametrize("find", ["images", "reports"])
def test_a_label_finds_what_its_prompt_written_out_finds(engine, prompted, find):
    answer = prompted.search(Query(label="edema", find=find, k=4))

    written = engine.search(Query(text="mild pulmonary edema", find=find, k=4))
    assert [hit.id for hit in answer.hits] == [hit.id for hit in written.hits]
    np.testing.assert_allclose([hit.score for hit in answer.hits], [hit.score for hit in written.hits], atol=1e-6)
    assert answer.notes == ()


def test_a_label_can_be_a_term_among_others(engine, prompted):
    clear = Term(text="Lungs are clear.", weight=-0.4)

    answer = prompted.search(Query(terms=(Term(label="edema"), clear), k=4))

    written = engine.search(Query(terms=(Term(text="mild pulmonary edema"), clear), k=4))
    assert [hit.id for hit in answer.hits] == [hit.id for hit in written.hits]
    np.testing.assert_allclose(answer.vector, written.vector, atol=1e-5)


def test_an_unreadable_image_among_several_is_named(engine, home, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"torn")

    with pytest.raises(MedretError, match=r"torn\.png"):
        engine.search(Query(terms=(Term(image=home / "corpus" / "a1.png"), Term(image=tmp_path / "torn.png"))))


def test_an_unknown_label_lists_the_known_ones(prompted):
    with pytest.raises(MedretError, match=r"'Hernia' .*Edema, Rib Fracture"):
        prompted.search(Query(label="Hernia"))


def test_an_encoder_without_prompts_says_what_to_do(engine):
    with pytest.raises(MedretError, match=r"no learned prompts.*--text.*medret train.*learn=prompts.*--encoder RUN"):
        engine.search(Query(label="Edema"))


def test_features_of_a_label_are_those_of_a_text(prompted):
    assert prompted.search(Query(label="Edema", find="reports", vector="features", k=1)).hits
    with pytest.raises(MedretError, match="joint"):
        prompted.search(Query(label="Edema", vector="features"))


def test_sentences_are_found_by_sentence(engine):
    answer = engine.search(Query(text="No fracture.", find="sentences", k=1))

    assert answer.hits[0].text == "No fracture."


def test_features_compare_texts_with_texts(engine):
    answer = engine.search(Query(text="The edema has resolved since.", find="reports", vector="features", k=1))

    assert (answer.hits[0].id, answer.hits[0].score) == ("s2", pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize("query", [{"text": "edema"}, {"id": "s1"}, {"id": "a1", "find": "reports"}])
def test_features_of_images_and_texts_are_never_compared(engine, query):
    with pytest.raises(MedretError, match="joint"):
        engine.search(Query(vector="features", **query))


def test_a_record_finds_others_but_not_itself_nor_its_patient(engine):
    answer = engine.search(Query(id="a1", k=10))

    assert sorted(hit.id for hit in answer.hits) == ["b1", "c1", "c2"]
    assert any("own patient" in note and "3 images" in note for note in answer.notes)
    assert any("3 answers instead of 10" in note for note in answer.notes)


def test_a_record_without_a_patient_leaves_out_its_study(engine):
    answer = engine.search(Query(id="c1", k=10))

    assert sorted(hit.id for hit in answer.hits) == ["a1", "a2", "a3", "b1"]
    assert any("own study" in note for note in answer.notes)


def test_the_patient_may_be_included_but_the_record_is_never_its_own_answer(engine):
    answer = engine.search(Query(id="a1", k=5, exclude_same_patient=False))

    assert sorted(hit.id for hit in answer.hits) == ["a2", "a3", "b1", "c1", "c2"]
    assert answer.notes == ()


def test_a_report_by_id_finds_images_of_other_patients(engine):
    answer = engine.search(Query(id="s3", k=10))

    assert sorted(hit.id for hit in answer.hits) == ["a1", "a2", "a3", "c1", "c2"]
    assert {hit.modality for hit in answer.hits} == {"images"}


def test_an_image_of_the_corpus_is_recognised_by_its_file(engine, home):
    asked = engine.search(Query(image=home / "corpus" / "a1.png", k=10))
    by_id = engine.search(Query(id="a1", k=10))

    assert [hit.id for hit in asked.hits] == [hit.id for hit in by_id.hits]
    assert asked.notes == by_id.notes


def test_a_copied_image_is_no_record_and_finds_its_original(engine, home, tmp_path):
    (tmp_path / "copy.png").write_bytes((home / "corpus" / "b1.png").read_bytes())

    answer = engine.search(Query(image=tmp_path / "copy.png", k=1))

    assert (answer.hits[0].id, answer.hits[0].score) == ("b1", pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize("query", [{"text": "edema"}, {"image": "copy.png"}])
def test_a_query_whose_patient_is_not_known_cannot_leave_the_patient_out(engine, home, tmp_path, query):
    if "image" in query:
        query = {"image": tmp_path / "copy.png"}
        query["image"].write_bytes((home / "corpus" / "b1.png").read_bytes())

    with pytest.raises(MedretError, match="patient is not known"):
        engine.search(Query(exclude_same_patient=True, **query))


def test_a_query_can_be_kept_to_splits(engine):
    answer = engine.search(Query(text="edema", splits=("validate",), k=5))

    assert sorted(hit.id for hit in answer.hits) == ["b1", "c1", "c2"]
    assert any("split validate holds 3 images" in note for note in answer.notes)


def test_a_query_can_be_kept_to_views_of_images(engine):
    answer = engine.search(Query(text="edema", views=("PA",), k=5))

    assert sorted(hit.id for hit in answer.hits) == ["a1", "a3", "c2"]
    assert any("view PA holds 3 images" in note for note in answer.notes)
    assert len(engine.search(Query(text="edema", views=("PA",), find="reports", k=5)).hits) == 4


def test_a_query_can_be_kept_to_what_records_say_of_themselves(engine):
    only = (parse_condition("edema=uncertain,negative"), parse_condition("patient_id=p1,"))

    answer = engine.search(Query(text="edema", only=only, k=5))

    assert sorted(hit.id for hit in answer.hits) == ["a3", "c1", "c2"]
    assert answer.plan.reason == "exact over the 3 allowed rows"
    assert "5: the index with edema=uncertain,negative and patient_id=p1, holds 3 images" in answer.notes[-1]
    assert answer_notes(answer)[-1] == answer.plan.reason
    reports = engine.search(Query(text="edema", find="reports", only=only, k=5))
    assert sorted(hit.id for hit in reports.hits) == ["s2", "s4"]


def test_a_plain_exact_search_needs_no_word_about_its_plan(engine):
    answer = engine.search(Query(text="edema", k=2))

    assert answer.plan.reason == "exact over all 6 rows"
    assert answer_notes(answer) == ()


def test_a_long_text_is_cut_with_a_note(engine):
    assert any("24 tokens" in note for note in engine.search(Query(text="edema " * 40)).notes)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_is_refused(engine, text):
    with pytest.raises(MedretError, match="empty"):
        engine.search(Query(text=text))


def test_texts_are_short_for_queries_among_others(engine):
    answers = list(engine.search_all(["edema", Query(text="fracture", k=2), "lungs"]))

    assert [answer.query for answer in answers] == [Query(text="edema"), Query(text="fracture", k=2), Query(text="lungs")]
    assert [len(answer.hits) for answer in answers] == [6, 2, 6]


def test_bytes_that_are_no_text_are_replaced(engine):
    broken, replaced = (engine.search(Query(text=text)).hits for text in ("edema \udcff", "edema ?"))

    assert broken == replaced


@pytest.mark.parametrize("arrow", [False, True])
def test_no_record_is_called_by_bytes_that_are_no_text(engine, tmp_path, monkeypatch, arrow):
    """A film may: its name is that of no image of the index, however many are compared with it."""
    if arrow:
        monkeypatch.setattr("index.shard_table._SHORT", 0)
    film = tmp_path / "r\udce9sum\udce9.png"
    Image.new("L", (64, 64)).save(film)

    assert engine.search(Query(image=film, k=1)).hits
    for wrong in ({"id": "\udcff"}, {"text": "edema", "where": "patient_id == \udcff"}, {"text": "edema", "where": "view in (PA, \udcff)"}):
        with pytest.raises(MedretError, match=r"no such record|no record has"):
            engine.search(Query(**wrong))


def test_an_unreadable_image_is_refused_by_name(engine, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")

    with pytest.raises(MedretError, match=r"torn\.png"):
        engine.search(Query(image=tmp_path / "torn.png"))


def test_an_unknown_record_is_refused_by_name(engine):
    with pytest.raises(MedretError, match="z9"):
        engine.search(Query(id="z9"))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"text": "a", "id": "b"},
        {"text": "a", "label": "b"},
        {"text": "a", "k": 0},
        {"text": "a", "find": "films"},
        {"text": "a", "vector": "both"},
        {"text": "a", "offset": -1},
        {"text": "a", "min_score": float("nan")},
        {"text": "a", "collapse": "film"},
        {"text": "a", "without": "edema"},
        {"text": "a", "splits": "test"},
    ],
)
def test_a_query_that_makes_no_sense_is_a_wrong_call(wrong):
    with pytest.raises(ValueError, match=r"query|k is|find is|vector is|offset is|min_score|collapse is|(without|splits) is one"):
        Query(**wrong)


def test_another_encoder_is_refused_and_both_fingerprints_named(home, tmp_path):
    other = save_checkpoint(build_encoder(texts=["other words"], size=32, dimension=16, seed=1), tmp_path / "other")
    own = SearchEngine.load(home / "index").fingerprint

    with pytest.raises(MedretError, match=f"{other}.*{own}.*build-index"):
        SearchEngine.load(home / "index", encoder=tmp_path / "other")


def test_a_copy_of_the_same_encoder_is_taken(home, tmp_path):
    save_checkpoint(SearchEngine.load(home / "index").encoder, tmp_path / "run" / "best")

    engine = SearchEngine.load(home / "index", encoder=tmp_path / "run")

    assert engine.encoder_folder == tmp_path / "run" / "best"
    assert engine.search(Query(text="edema")).hits


def test_a_stored_record_is_asked_without_loading_torch(home):
    script = (
        "import sys; from retrieval.engine import Query, SearchEngine; "
        f"hits = SearchEngine.load({str(home / 'index')!r}).search(Query(id='a1')).hits; "
        "assert len(hits) == 3; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


def test_many_threads_get_the_answers_of_one(home):
    engine = SearchEngine.load(home / "index", device="cpu")
    queries = [Query(text=row[1], k=3) for row in ROWS] + [Query(id=Path(row[0]).stem, k=3) for row in ROWS]
    queries += [Query(terms=(Term(text=row[1]), Term(id="a1", weight=-0.5)), without=("fracture", row[3]), k=3) for row in ROWS]
    alone = [SearchEngine.load(home / "index", device="cpu").search(query) for query in queries[:1]]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(engine.search, queries * 4))

    one_by_one = [engine.search(query) for query in queries]
    assert together == one_by_one * 4
    assert together[0] == alone[0]


STAGED = ("scan", "ivf-scan", "ivf-pq", "ivf-flat", "ivf-rabitq", "hnsw")


def staged_engine(folder, kind, rows=2000):
    """An engine over clustered images with an index of this kind, whose settings are certified for both askers."""
    draw = np.random.default_rng(3)
    centres = draw.normal(size=(50, 64))
    vectors = centres[draw.integers(0, 50, rows)] + draw.normal(size=(rows, 64))
    records = [Record(id=f"r{row:04d}", image=None, patient_id=f"p{row // 3}", sex="FM"[row % 2]) for row in range(rows)]
    engine = make_engine(folder, {"images": (image_rows(records), {"joint": vectors})})
    table = engine.table("images")
    effort = {"nprobe": 16, "efSearch": 200}.get(find_kind(kind).effort)
    certificates = [
        Certificate(
            asker=asker,
            k=10,
            target=0.95,
            recall=0.97,
            low=0.95,
            high=1.0,
            queries=99,
            drawn="images",
            candidates=100,
            effort=effort,
            p50_ms=1.0,
            p99_ms=1.0,
            met=True,
        )
        for asker in ("image", "text")
    ]
    index = VectorIndex(table, "joint", build_stage(find_kind(kind), table, "joint"), certificates)
    engine.opened._indexes["images", "joint"] = index
    return engine


@pytest.mark.parametrize("kind", STAGED)
def test_many_threads_get_the_answers_of_one_from_every_kind_of_index(tmp_path, kind):
    engine = staged_engine(tmp_path, kind)
    filters = [(), (parse_condition("sex=F"),), (parse_condition("patient_id=p1,p2,p3"),)]
    queries = [Query(id=f"r{row:04d}", k=10, only=only) for row in range(0, 2000, 100) for only in filters]
    one_by_one = [engine.search(query) for query in queries]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.search, queries * 2))

    assert together == one_by_one * 2
    assert {answer.plan.kind for answer in together} == {kind}


@pytest.mark.parametrize("kind", STAGED)
def test_a_ranking_without_a_plan_is_exact_whatever_the_kind_of_index(tmp_path, kind):
    engine = staged_engine(tmp_path, kind)
    table = engine.table("images")
    vectors = table.vectors("joint", np.arange(table.rows))

    ranking = engine.rank(vectors[:40], "images", 10)

    np.testing.assert_array_equal(ranking.rows, np.argsort(-(vectors[:40].astype(np.float64) @ vectors.T), axis=1)[:, :10])


def test_an_approximate_answer_says_what_is_certified(tmp_path):
    answer = staged_engine(tmp_path, "scan").search(Query(id="r0000", k=10))

    assert answer_notes(answer)[-1] == "approximate: scan, certified recall@10 0.970 for image"


def test_a_composed_query_is_searched_exactly_as_no_certificate_speaks_for_it(tmp_path):
    engine = staged_engine(tmp_path, "scan")

    answer = engine.search(Query(terms=(Term(id="r0000"), Term(id="r0300", weight=-0.5)), k=10))

    assert answer_notes(answer)[-1] == "exact over all 2,000 rows: no certificate speaks for a composed query"
    scores = answer.vector @ engine.table("images").vectors("joint", np.arange(2000)).T
    scores[[0, 1, 2, 300, 301, 302]] = -9  # the patients that ask
    assert [int(hit.id[1:]) for hit in answer.hits] == np.argsort(-scores)[:10].tolist()


def test_equal_scores_come_in_the_order_of_ids_and_short_lists_are_padded(tmp_path):
    rows = [ShardRow(Record(id=id, image=None)) for id in ("c", "a", "b", "d")]
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    engine = make_engine(tmp_path, {"images": (rows, {"joint": vectors})})

    ranking = engine.rank(unit(np.array([[2, 0]])), "images", 5, exclude=[np.array([1])])

    assert ranking.rows.tolist() == [[2, 0, 3, -1, -1]]
    np.testing.assert_array_equal(ranking.scores, np.array([[1, 1, 0, np.nan, np.nan]], np.float32))


def test_more_answers_than_there_is_memory_for_are_all_there_are(tmp_path):
    rows = [ShardRow(Record(id=id, image=None)) for id in ("a", "b", "c")]
    engine = make_engine(tmp_path, {"images": (rows, {"joint": np.eye(3)})})

    assert [hit.id for hit in engine.search(Query(id="b", k=10**15)).hits] == ["a", "c"]


def test_a_modality_that_the_index_lacks_is_named(tmp_path):
    rows = [ShardRow(Record(id="a", image=None))]
    engine = make_engine(tmp_path, {"images": (rows, {"joint": np.ones((1, 2))})})

    with pytest.raises(MedretError, match="reports"):
        engine.search(Query(id="a", find="reports"))


def test_an_index_of_reports_alone_says_how_to_ask_it(tmp_path):
    rows = [ShardRow(Record(id="a", image=None), text="Clear.")]
    engine = make_engine(tmp_path, {"reports": (rows, {"joint": np.ones((1, 2))})})

    with pytest.raises(MedretError, match=r"no images, only reports.*--find reports"):
        engine.search(Query(id="a"))


def test_vectors_that_the_index_lacks_are_named(tmp_path):
    rows = [ShardRow(Record(id="a", image=None))]
    engine = make_engine(tmp_path, {"images": (rows, {"joint": np.ones((1, 2))})})

    with pytest.raises(MedretError, match="features"):
        engine.search(Query(id="a", vector="features"))


def test_a_report_without_a_study_belongs_to_the_image_of_its_name(tmp_path):
    image = ShardRow(Record(id="x", image=Path("x.png"), labels={"Edema": LabelState.POSITIVE}), path="x.png")
    other = ShardRow(Record(id="y", image=Path("y.png")), path="y.png")
    report = ShardRow(Record(id="x", image=None), text="Edema is seen.")
    parts = {"images": ([image, other], {"joint": np.eye(2)}), "reports": ([report], {"joint": np.ones((1, 2))})}
    engine = make_engine(tmp_path, parts, findings=["Edema"], root=str(tmp_path))

    hits = engine.search(Query(id="x", find="images", exclude_same_patient=False)).hits
    by_report = {hit.id: hit.text for hit in (*hits, *engine.search(Query(id="y", exclude_same_patient=False)).hits)}

    assert by_report == {"x": "Edema is seen.", "y": None}


def test_a_pseudonymised_index_shows_images_without_naming_their_files(tmp_path):
    rows = [ShardRow(Record(id="hash1", image=None)), ShardRow(Record(id="hash2", image=None))]
    engine = make_engine(tmp_path, {"images": (rows, {"joint": np.eye(2)})}, pseudonymised=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "paths.csv").write_text("id,path\nhash1,/films/a.png\nhash2,/films/b.png\n")

    hit = engine.search(Query(id="hash1")).hits[0]

    assert hit.path is None
    assert hit.to_dict()["path"] is None
    assert hit.image_path == Path("/films/b.png")


def test_without_the_private_table_a_pseudonymised_image_cannot_be_shown(tmp_path):
    rows = [ShardRow(Record(id="hash1", image=None)), ShardRow(Record(id="hash2", image=None))]
    engine = make_engine(tmp_path, {"images": (rows, {"joint": np.eye(2)})}, pseudonymised=True)

    assert engine.search(Query(id="hash1")).hits[0].image_path is None
