import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from handmade_archive import DIMENSION, KINDS, film_vector, make_encoder, write_archive

import index.compact
import index.encode
import index.folder
from encoders.checkpoint import load_checkpoint
from encoders.errors import MedretError
from index.compact import compact_index
from index.corpora.readers import open_corpus
from index.folder import OpenedIndex, build_index, open_index
from index.index_manifest import load_index_manifest
from index.kinds import find_kind
from index.life import add_corpus, add_options, add_shards
from index.manifest import load_shards_manifest, sha256_file
from index.planner import SearchPlan
from index.publish import writing
from index.removal import remove_records
from index.resume import locked
from index.verify import verify_index, verify_shards
from retrieval.benchmarks import pair_task
from retrieval.engine import Query, SearchEngine
from retrieval.evaluation import evaluate_label_precision

PATIENTS = range(1, 41)
MORE = range(41, 51)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("archive")
    make_encoder(home / "encoder")
    return home


@pytest.fixture(scope="module")
def mark(home):
    return make_encoder(home / "encoder")


@pytest.fixture
def archive(tmp_path, home, mark):
    """An index of 40 patients whose shards lie inside of it."""
    write_archive(tmp_path / "index" / "shards", PATIENTS, mark)
    build_index(tmp_path / "index" / "shards", tmp_path / "index", home / "encoder")
    return tmp_path / "index"


def nearest(opened: OpenedIndex, query: np.ndarray, k: int = 10, modality: str = "images") -> list[tuple[str, float]]:
    rows, scores = opened.index(modality).search(query, k)[0]
    return list(zip(opened.shards.table(modality).ids(rows), scores.tolist(), strict=True))


def bytes_under(folder: Path) -> list[tuple[Path, bytes]]:
    return [(path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]


def test_an_index_that_grew_answers_like_one_built_at_once(archive, tmp_path, home, mark):
    add_shards(archive, write_archive(tmp_path / "more", MORE, mark, findings=("Pneumonia", "Edema")))
    write_archive(tmp_path / "all", [*PATIENTS, *MORE], mark)
    build_index(tmp_path / "all", tmp_path / "whole", home / "encoder")

    grown, whole = open_index(archive), open_index(tmp_path / "whole")

    for modality in ("images", "reports", "sentences"):
        for number in (3, 45):
            assert nearest(grown, film_vector(number), 20, modality) == nearest(whole, film_vector(number), 20, modality)
    table = grown.shards.table("images")
    assert table.findings == ("Edema", "Pneumonia")
    assert set(table.labels(["Pneumonia"])[:80, 0]) == {-128}
    assert table.records(np.array([0, 80]))[1]["path"] == "/films of more/study0041/0.png"
    assert table.records(np.array([0, 80]))[0]["path"] == "/films of shards/study0001/0.png"


def test_a_first_stage_of_few_rows_is_fitted_again_when_there_are_more_than_twice_as_many(tmp_path, home, mark):
    """However small the steps: five patients, then four, then two more."""
    folder = tmp_path / "index"
    build_index(write_archive(tmp_path / "0", range(1, 6), mark, texts=False), folder, home / "encoder", "scan")
    few = open_index(folder).index("images").stage.quantiser.rotation
    add_shards(folder, write_archive(tmp_path / "1", range(6, 10), mark, texts=False))
    np.testing.assert_array_equal(open_index(folder).index("images").stage.quantiser.rotation, few)
    build_index(write_archive(tmp_path / "all", range(1, 12), mark, texts=False), tmp_path / "whole", home / "encoder", "scan")

    add_shards(folder, write_archive(tmp_path / "2", range(10, 12), mark, texts=False))

    (grown,), (whole,) = folder.glob("g00003/*.codes.npy"), (tmp_path / "whole").glob("g00001/*.codes.npy")
    np.testing.assert_array_equal(np.load(grown), np.load(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_is_found_and_what_is_removed_is_not(kind, tmp_path, home, mark):
    write_archive(tmp_path / "shards", range(1, 301), mark, texts=False)
    build_index(tmp_path / "shards", tmp_path / "index", home / "encoder", kind)
    add_shards(tmp_path / "index", write_archive(tmp_path / "more", range(301, 321), mark, texts=False))
    remove_records(tmp_path / "index", patients=["patient0310"], ids=["film0007-0"])

    index = open_index(tmp_path / "index").index("images")
    effort = None if index.stage is None else index.stage.efforts()[-1]
    forced = SearchPlan(how="approximate", kind=kind, candidates=50, effort=effort, allowed_rows=637, rows=640, reason="test")

    for plan in (None, forced):
        found = {number: index.search(film_vector(number), 3, plan=plan)[0][0].tolist() for number in (7, 305, 310)}
        assert found[305][0] == 608
        assert 12 not in found[7] and not {618, 619} & set(found[310])
        everything = index.search(film_vector(310), 640, plan=plan)[0][0]
        assert not {12, 618, 619} & set(everything.tolist()) and len(everything) == 637
    assert index.rows == 640 and (find_kind(kind).exact or index.stage.rows == 640)
    assert not verify_index(tmp_path / "index").faults


def test_what_faiss_cannot_search_among_allowed_rows_is_searched_exactly_while_rows_are_removed(tmp_path, home, mark):
    folder = tmp_path / "index"
    build_index(write_archive(tmp_path / "shards", range(1, 101), mark, texts=False), folder, home / "encoder", "PQ16x4fs", recall=0.5)

    remove_records(folder, patients=["patient0007"])
    removed = open_index(folder).index("images").plan(10, asker="image")
    add_shards(folder, write_archive(tmp_path / "more", range(101, 121), mark, texts=False))
    grown = open_index(folder)

    assert removed.how == grown.index("images").plan(10, asker="image").how == "exact"
    found = dict(nearest(grown, film_vector(7), 500))
    assert len(found) == 238 and not {"film0007-0", "film0007-1"} & found.keys()
    compact_index(folder)
    assert open_index(folder).index("images").plan(10, asker="image").how == "approximate"


def test_a_removed_patient_is_in_no_answer_no_report_and_no_count(archive):
    before = SearchEngine.load(archive, device="cpu")
    counted = evaluate_label_precision(before, directions=["image-image"], ks=(5,)).directions["image-image"]
    summary = remove_records(archive, patients=["patient0003"])

    engine = SearchEngine.load(archive, device="cpu")

    assert summary.removed == {"images": 2, "reports": 1, "sentences": 2}
    for modality in ("images", "reports", "sentences"):
        hits = engine.search(Query(id="film0005-0", find=modality, k=500)).hits
        assert "patient0003" not in {hit.patient_id for hit in hits}
        assert len(hits) == {"images": 76, "reports": 38, "sentences": 76}[modality]
    for id in ("film0003-0", "study0003", "study0003#1"):
        with pytest.raises(MedretError, match="no such record"):
            engine.search(Query(id=id))
    assert engine.image_path("film0003-0") is None
    after = evaluate_label_precision(engine, directions=["image-image"], ks=(5,)).directions["image-image"]
    assert (counted.candidates, after.candidates) == (80, 78)
    assert set(engine.table("images").ids(pair_task(engine).images)) == set(before.table("images").ids()) - {"film0003-0", "film0003-1"}


def test_the_text_of_a_removed_report_shows_beside_no_image(archive):
    remove_records(archive, ids=["study0004"])

    engine = SearchEngine.load(archive, device="cpu")
    hits = {hit.id: hit for hit in engine.search(Query(id="film0005-0", k=500)).hits}

    assert hits["film0004-0"].text is None and hits["film0006-0"].text == "Film of 6. Nothing else."
    assert engine.table("sentences").find("study0004#2") is None and engine.table("sentences").find("study0005#2") is not None
    assert len(pair_task(engine).images) == 78


@pytest.mark.parametrize("asked", [{"ids": ["film0001-0", "film9999-0"]}, {"patients": ["film0001-0"]}, {"studies": ["patient0001"]}])
def test_an_unknown_id_removes_nothing(archive, asked):
    with pytest.raises(MedretError, match=r"has no (record film9999-0|patient film0001-0|study patient0001)\. Nothing was removed"):
        remove_records(archive, **asked)
    assert load_index_manifest(archive).generation == 1
    remove_records(archive, studies=["study0001"])
    with pytest.raises(MedretError, match="has no study study0001"):
        remove_records(archive, studies=["study0001"])


def test_a_record_can_come_back_after_it_was_removed(archive, tmp_path, mark):
    with pytest.raises(MedretError, match=r"record film0002-0 is in the index already \(images\)"):
        add_shards(archive, write_archive(tmp_path / "more", [50, 2], mark, texts=False))
    remove_records(archive, patients=["patient0002"])

    add_shards(archive, tmp_path / "more")

    opened = open_index(archive)
    assert opened.shards.table("images").find("film0002-0") == 82
    assert nearest(opened, film_vector(2), 2)[0][0] == "film0002-0"
    assert len(opened.shards.table("images").rows_of("patient_id", ["patient0002"])) == 2


def test_shards_that_do_not_fit_are_refused(archive, tmp_path, home, mark):
    other = make_encoder(tmp_path / "other", seed=1)
    unfit = {
        "vectors of encoder": write_archive(tmp_path / "one", MORE, other),
        "is pseudonymised, but .* is not pseudonymised": write_archive(tmp_path / "two", MORE, mark, pseudonymised=True),
        "is in .* already": archive / "shards",
    }
    for message, folder in unfit.items():
        with pytest.raises(MedretError, match=message):
            add_shards(archive, folder)
    assert load_index_manifest(archive).generation == 1 and not verify_index(archive).faults


def test_shards_pseudonymised_with_another_key_are_refused(tmp_path, home, mark):
    for name, patients in (("index/shards", PATIENTS), ("more", MORE)):
        shards = write_archive(tmp_path / name, patients, mark, pseudonymised=True)
        (shards / "plan.json").write_text(json.dumps({"pseudonym_key": name[0] * 32}))
    build_index(tmp_path / "index" / "shards", tmp_path / "index", home / "encoder")

    with pytest.raises(MedretError, match="pseudonymised with another key"):
        add_shards(tmp_path / "index", tmp_path / "more")


def test_what_is_not_chosen_when_adding_is_as_encoding_has_it(archive):
    options = add_options(open_index(archive), batch_size=None, workers=None, max_failures=None, cache=None)

    assert (options.batch_size, options.workers, options.cache) == (32, None, None)


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_compaction_leaves_no_byte_of_what_was_removed(place, tmp_path, home, mark):
    shards = tmp_path / "index" / "shards" if place == "inside" else tmp_path / "shards"
    write_archive(shards, PATIENTS, mark)
    (shards / "failures.csv").write_text("id,reason\nfilm0003-7,of patient0003\n")
    (shards / "plan.json").write_text("{}")
    build_index(shards, tmp_path / "index", home / "encoder", "ivf-flat")
    add_shards(tmp_path / "index", write_archive(tmp_path / "index" / "more", MORE, mark))
    reader = open_index(tmp_path / "index")
    expected = nearest(reader, film_vector(9), 60)
    remove_records(tmp_path / "index", patients=["patient0003", "patient0044"], ids=["film0009-1"])

    summary = compact_index(tmp_path / "index")

    words = [b"film0003", b"patient0003", b"study0003", b"Film of 3.", b"Sentence 1 of 3.", b"film0044", b"patient0044", b"film0009-1"]
    vectors = [film_vector(number, film).tobytes() for number, film in ((3, 0), (3, 1), (3, 2), (44, 0), (9, 1))]
    for path, content in bytes_under(tmp_path / "index"):
        assert not [word for word in [*words, *vectors] if word in content], path
    assert summary.removed == {"images": 5, "reports": 2, "sentences": 4}
    assert summary.outside == (() if place == "inside" else (shards,)) and shards.exists() == (place == "outside")
    after = open_index(tmp_path / "index", verify=True)
    gone = {"film0003-0", "film0003-1", "film0044-0", "film0044-1", "film0009-1"}
    kept = [hit for hit in expected if hit[0] not in gone]
    assert nearest(after, film_vector(9), 60)[: len(kept)] == kept
    assert after.shards.table("images").rows == 95 and not after.manifest.removed
    assert not verify_index(tmp_path / "index").faults
    assert nearest(reader, film_vector(9), 60) == expected  # what it has mapped it keeps


def test_a_film_of_a_removed_patient_that_failed_is_named_in_no_part(archive, mark):
    more = write_archive(archive / "more", MORE, mark)
    (more / "commits").mkdir()
    for table in ("failures.csv", "commits/images-00000.json", "plan.json"):
        (more / table).write_text('{"film0003-7": 0}')
    replace(load_shards_manifest(more), counts={"failures": 1}).save(more)
    add_shards(archive, more)
    compact_index(archive)
    assert more.exists()  # nothing was removed
    remove_records(archive, patients=["patient0003"])

    compact_index(archive)
    compacted = load_index_manifest(archive).parts
    remove_records(archive, patients=["patient0004"])
    compact_index(archive)

    assert not [path for path, content in bytes_under(archive) if b"film0003" in content]
    assert open_index(archive, verify=True).shards.table("images").rows == 96
    assert load_index_manifest(archive).parts[1] == compacted[1]  # it names nobody now, and stays


def test_compaction_renews_the_private_table_and_keeps_the_check_of_the_key(tmp_path, home, mark):
    shards = write_archive(tmp_path / "index" / "shards", PATIENTS, mark, pseudonymised=True)
    (shards / "plan.json").write_text(json.dumps({"pseudonym_key": "c" * 32}))
    build_index(shards, tmp_path / "index", home / "encoder")
    remove_records(tmp_path / "index", patients=["patient0003"])

    compact_index(tmp_path / "index")

    (part,) = (tmp_path / "index" / "parts").iterdir()
    assert len((part / "private" / "paths.csv").read_text().splitlines()) == 79
    assert "film0003" not in (part / "private" / "paths.csv").read_text()
    assert SearchEngine.load(tmp_path / "index").image_path("film0004-0") == Path("/films/film0004-0.png")
    with pytest.raises(MedretError, match="pseudonymised with another key"):
        remove_records(tmp_path / "index", patients=["4"], key=b"k" * 32)


def test_the_reports_of_a_part_without_images_can_be_compacted_again(tmp_path, home, mark):
    shards = write_archive(tmp_path / "index" / "shards", PATIENTS, mark, pseudonymised=True)
    build_index(shards, tmp_path / "index", home / "encoder")
    remove_records(tmp_path / "index", ids=open_index(tmp_path / "index").shards.table("images").ids())
    compact_index(tmp_path / "index")
    remove_records(tmp_path / "index", studies=["study0003"])

    compact_index(tmp_path / "index")

    assert open_index(tmp_path / "index", verify=True).shards.table("reports").rows == 39


def test_added_shards_may_lie_on_another_disk(archive, tmp_path):
    (tmp_path / "disk").mkdir()
    (archive / "parts").symlink_to(tmp_path / "disk")

    for number in (3, 4):
        remove_records(archive, patients=[f"patient{number:04d}"])
        compact_index(archive)

    assert open_index(archive, verify=True).shards.table("images").rows == 76
    assert [place.name for place in (tmp_path / "disk").iterdir()] == ["00005-1"]


def test_a_compaction_that_was_killed_is_finished_by_the_next_writer(archive, monkeypatch):
    remove_records(archive, patients=["patient0003"])

    def stop_after_publishing(folder, manifest, forget):
        manifest.save(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(index.compact, "publish", stop_after_publishing)
    with pytest.raises(KeyboardInterrupt):
        compact_index(archive)

    with writing(archive):
        pass

    assert [path.name for path in archive.glob("g*")] == ["g00003"] and not (archive / "shards").exists()
    assert open_index(archive, verify=True).index("images").rows == 78


def test_what_a_compaction_that_was_killed_copied_goes_and_what_somebody_put_there_stays(archive, tmp_path, mark, monkeypatch):
    remove_records(archive, patients=["patient0003"])
    monkeypatch.setattr(index.compact, "write_generation", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compact_index(archive)
    (copied,) = (archive / "parts").iterdir()
    write_archive(archive / "parts" / "00009-1", MORE, mark)
    (archive / "parts" / "00009-2").mkdir()
    assert load_index_manifest(archive).generation == 2 and not verify_index(archive).faults

    with writing(archive):
        pass

    assert not copied.exists() and [place.name for place in (archive / "parts").iterdir()] == ["00009-1"]
    add_shards(archive, archive / "parts" / "00009-1")
    assert len(open_index(archive).index("images").search(film_vector(1), 100)[0][0]) == 98


def test_the_name_of_a_part_that_went_never_comes_back(archive, tmp_path):
    names = []
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text(f"id,report,patient_id\nnew,No acute disease.,new{number}\n")
        opened = open_index(archive)
        add_corpus(archive, open_corpus(tmp_path / f"{number}.csv"), load_checkpoint(opened.encoder_folder), add_options(opened))
        names.append(load_index_manifest(archive).parts[-1].folder)
        remove_records(archive, patients=[f"new{number}"])
        compact_index(archive)

    assert len(set(names)) == 3 and not any((archive / name).exists() for name in names)


def test_a_file_that_goes_while_an_index_is_opened_is_not_missed(archive, monkeypatch):
    opening, tried = index.folder._open, []

    def go_meanwhile(folder, manifest, verify):
        tried.append(manifest.generation)
        if len(tried) > 1:
            return opening(folder, manifest, verify)
        replace(manifest, generation=2).save(folder)
        (folder / "g00001").rename(folder / "g00002")
        raise FileNotFoundError(folder / "g00001")

    monkeypatch.setattr(index.folder, "_open", go_meanwhile)

    assert open_index(archive).manifest.generation == 2 and tried == [1, 2]


def test_records_may_be_removed_while_a_corpus_is_read_to_be_added(archive, tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("id,report,patient_id\nnew,No acute disease.,patient9999\n")
    corpus = open_corpus(tmp_path / "table.csv")
    reading = index.encode.read_rows

    def remove_first(*asked, **options):
        remove_records(archive, patients=["patient0003"])
        return reading(*asked, **options)

    monkeypatch.setattr(index.encode, "read_rows", remove_first)
    opened = open_index(archive)

    add_corpus(archive, corpus, load_checkpoint(opened.encoder_folder), add_options(opened))

    reports = open_index(archive).shards.table("reports")
    assert reports.find("new") is not None and reports.find("study0003") is None


def test_an_add_that_was_not_finished_is_to_be_finished_before_another(archive, tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / f"{name}.csv").write_text(f"id,report\n{name},No acute disease.\n")
    opened = open_index(archive)
    encoder, options = load_checkpoint(opened.encoder_folder), add_options(opened)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("index.encode.EncodeRun.encode", Mock(side_effect=KeyboardInterrupt))
        add_corpus(archive, open_corpus(tmp_path / "first.csv"), encoder, options)

    with pytest.raises(MedretError, match=r"parts/\S+: an add was not finished.*records: .*Run that one again first, or remove"):
        add_corpus(archive, open_corpus(tmp_path / "second.csv"), encoder, options)
    add_corpus(archive, open_corpus(tmp_path / "first.csv"), encoder, options)
    add_corpus(archive, open_corpus(tmp_path / "second.csv"), encoder, options)

    ids = open_index(archive).shards.table("reports").ids()
    assert ids[-2:] == ["first", "second"]


def test_a_reader_whose_files_were_erased_is_told_to_open_the_index_again(archive):
    reader = open_index(archive)
    remove_records(archive, patients=["patient0003"])
    compact_index(archive)

    with pytest.raises(MedretError, match="was compacted or built again since it was opened"):
        reader.index("images")
    assert open_index(archive).index("images").rows == 78


def test_compacting_changes_nothing_where_nothing_was_removed_and_mends_when_asked(tmp_path, home, mark):
    build_index(write_archive(tmp_path / "shards", PATIENTS, mark), tmp_path / "index", home / "encoder", "scan")
    before = bytes_under(tmp_path / "index")

    assert compact_index(tmp_path / "index") is None
    assert bytes_under(tmp_path / "index") == before

    (codes,) = (tmp_path / "index").glob("*/images-joint.codes.npy")
    codes.write_bytes(b"")
    with pytest.raises(MedretError, match=r"is damaged: .* medret compact --rebuild --index"):
        compact_index(tmp_path / "index")
    compact_index(tmp_path / "index", rebuild=True)
    assert not verify_index(tmp_path / "index").faults


def test_what_cannot_be_changed_says_why_and_what_to_do(archive, tmp_path):
    changes = (compact_index, lambda folder: remove_records(folder, ids=["x"]), lambda folder: add_shards(folder, archive / "shards"))
    for change in changes:
        with pytest.raises(MedretError, match=r"nowhere: is no index \(index.json is missing\). Make one: medret build-index SOURCE"):
            change(tmp_path / "nowhere")
        with pytest.raises(MedretError, match=rf"is a shards folder.* medret build-index {archive}/shards --out INDEX$"):
            change(archive / "shards")
        with locked(archive), pytest.raises(MedretError, match=r"another medret is writing here. Wait for it$"):
            change(archive)
    assert "is a shards folder" in verify_index(archive / "shards").faults[0]


def test_compacting_what_is_all_removed_says_to_delete_it(archive):
    remove_records(archive, patients=[f"patient{number:04d}" for number in PATIENTS])

    assert open_index(archive).index("images").search(film_vector(1), 5)[0][0].tolist() == []
    with pytest.raises(MedretError, match="every record was removed"):
        compact_index(archive)


def test_a_reader_keeps_its_view_through_any_number_of_changes(archive, tmp_path, mark):
    reader = open_index(archive)

    for number in (1, 2, 3, 4):
        remove_records(archive, patients=[f"patient{number:04d}"])

    assert [id for id, _ in nearest(reader, film_vector(1), 1)] == ["film0001-0"]
    assert sorted(path.name for path in archive.glob("g*")) == ["g00001", "g00004", "g00005"]
    del reader
    remove_records(archive, patients=["patient0005"])
    assert sorted(path.name for path in archive.glob("g*")) == ["g00005", "g00006"]


def test_building_over_a_changed_index_neither_loses_nor_revives_records(archive, tmp_path, home, mark):
    remove_records(archive, patients=["patient0001"])
    with pytest.raises(MedretError, match=r"would bring back.*medret compact"):
        build_index(archive / "shards", archive, home / "encoder")
    compact_index(archive)
    with pytest.raises(MedretError, match=r"parts/00003-1 that a new index would lose"):
        build_index(write_archive(tmp_path / "more", MORE, mark), archive, home / "encoder")

    build_index(archive / "parts" / "00003-1", archive, home / "encoder", "scan")

    assert open_index(archive).index("images").rows == 78 and load_index_manifest(archive).indexes[0].kind == "scan"


def test_another_encoder_is_swapped_in_together_with_its_shards(archive, tmp_path, home, mark):
    reader = open_index(archive)
    other = make_encoder(tmp_path / "other", seed=1)

    build_index(write_archive(tmp_path / "shards", MORE, other), archive, tmp_path / "other")

    assert open_index(archive, verify=True).manifest.encoder == other
    assert reader.encoder_folder.is_dir()
    remove_records(archive, patients=["patient0041"])
    assert not (archive / "encoder").exists() and open_index(archive).encoder_folder.is_dir()


DAMAGED = {
    "g00001/images-joint.codes.npy": "verify",
    "g00001/images-joint.quantiser.npz": "use",
    "shards/images-00001.arrow": "verify",
    "shards/manifest.json": "open",
    "encoder/model.safetensors": "verify",
    "encoder/encoder.json": "verify",
    "encoder/LICENSE": "verify",
    "index.json": "open",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_verify_names_each_file_that_is_damaged(name, tmp_path, home, mark):
    index = tmp_path / "index"
    write_archive(index / "shards", PATIENTS, mark)
    (home / "encoder" / "LICENSE").write_text("For research only.")
    build_index(index / "shards", index, home / "encoder", "scan")
    assert not verify_index(index).faults
    path = index / name
    content = bytearray(path.read_bytes())
    path.unlink()  # the encoder is linked to the one it was copied from
    content[len(content) // 2 + len(content) // 9] ^= 0x11
    path.write_bytes(content)

    faults = verify_index(index).faults

    assert faults and Path(name).parts[0 if name.startswith("encoder") else -1].split(".")[0] in faults[0], faults
    if DAMAGED[name] == "open":
        with pytest.raises(MedretError):
            open_index(index)
    if DAMAGED[name] == "use":
        with pytest.raises(MedretError, match="damaged"):
            open_index(index).index("images")


def test_verify_finds_bad_vectors_and_ids_that_occur_twice(archive, tmp_path, home, mark, monkeypatch):
    twice = write_archive(tmp_path / "twice", [1, 2, 1], mark)
    assert "two images have the id film0001-0" in verify_shards(twice).faults[0]
    before = bytes_under(archive)
    for refused in (lambda: build_index(twice, tmp_path / "new", home / "encoder"), lambda: add_shards(archive, twice)):
        with pytest.raises(MedretError, match=r"twice: two images have the id film0001-0\. Give each record an id of its own"):
            refused()
    assert not (tmp_path / "new").exists() and bytes_under(archive) == before
    with monkeypatch.context() as earlier:
        earlier.setattr("index.folder.check_ids", Mock())
        build_index(twice, tmp_path / "both", home / "encoder")
    fault = verify_index(tmp_path / "both").faults[0]
    assert fault.endswith(f"Remove both, then add the right one again: medret remove --index {tmp_path}/both --id film0001-0")

    monkeypatch.setattr("index.shards.ShardWriter._vectors", _unchecked)
    for value in (0.0, np.nan):
        bad = write_archive(tmp_path / f"bad{value}", [1, 2], mark, texts=False)
        path = bad / "images-00000.arrow"
        _rewrite(bad, path, value)
        assert "film0001-1: its stored joint vector has norm" in verify_shards(bad).faults[0]
        with pytest.raises(MedretError, match="film0001-1: its stored joint vector has norm"):
            build_index(bad, tmp_path / "new", home / "encoder")
        with pytest.raises(MedretError, match="film0001-1"):
            add_shards(archive, bad)


def _unchecked(self, vectors, rows, name):
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), DIMENSION)


def _rewrite(folder: Path, path: Path, value: float) -> None:
    """Put a vector of this value into the second row, with all checksums right: what a faulty writer might make."""

    content = path.read_bytes().replace(film_vector(1, 1).tobytes(), np.full(DIMENSION, value, np.float32).tobytes())
    path.write_bytes(content)
    text = (folder / "manifest.json").read_text()
    (shard,) = load_shards_manifest(folder).modalities["images"].shards
    (folder / "manifest.json").write_text(text.replace(shard.sha256, sha256_file(path)))


def test_a_shards_folder_of_an_index_can_be_verified_alone(archive):
    verified = verify_shards(archive / "shards")

    assert (verified.faults, verified.records) == ([], {"images": 80, "reports": 40, "sentences": 80})
    assert verified.files == 2 + 1 + 2 + 1
    os.truncate(archive / "shards" / "reports-00000.arrow", 100)
    assert "reports-00000.arrow: the shard is damaged: 100 bytes" in verify_shards(archive / "shards").faults[0]
    shutil.rmtree(archive / "shards")
    assert "are not at" in verify_index(archive).faults[-1]
