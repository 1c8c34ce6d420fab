import csv
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from encoders.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.pixels import read_image
from index.cache import cache_of
from index.corpora.readers import open_corpus
from index.corpus_cache import cache_corpus
from index.encode import EncodeOptions, encode_corpus
from index.manifest import load_shards_manifest
from index.shards import open_shards
from index.squares import decode_square

REPORTS = {
    "s1": "FINDINGS: There is a small effusion. The heart is normal.",
    "s2": "FINDINGS: No acute disease.",
    "s3": "",
    "s4": "FINDINGS: " + "The lungs are clear. " * 60,
}
IMAGES = [
    ("i1", "s1", "p1"),
    ("i2", "s1", "p1"),
    ("i3", "s2", "p1"),
    ("i4", "s3", "p2"),
    ("i5", "s4", "p3"),
    ("i6", "s4", "p3"),
    ("i7", "s4", "p3"),
]
BOTH = EncodeOptions(vectors=("joint", "features"), text_units=("report", "sentence"), shard_rows=3, batch_size=2)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("tiny", "tiny", texts=list(REPORTS.values()), size=32, dimension=8).eval()


def write_corpus(folder, images=IMAGES, reports=REPORTS):
    (folder / "films").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "study_id", "patient_id", "text", "split", "age", "date", "Edema"])
        for number, (id, study, patient) in enumerate(images):
            Image.fromarray(random.integers(0, 256, (40, 30), np.uint8)).save(folder / "films" / f"{id}.png")
            split = "train" if number < 4 else "test"
            writer.writerow([id, f"films/{id}.png", study, patient, reports[study], split, 70 + 5 * number, "2020-01-02", number % 2])
    return folder / "table.csv"


@pytest.fixture
def corpus(tmp_path):
    return open_corpus(write_corpus(tmp_path / "corpus"))


def content(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_each_image_and_text_gets_the_vectors_that_the_encoder_gives_it(corpus, encoder, tmp_path):
    """Slow and plain: one at a time; batches differ by float32 rounding."""
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    shards = open_shards(tmp_path / "out", verify=True)

    with torch.inference_mode():
        for modality in shards.modalities:
            table = shards.table(modality)
            for row, record in enumerate(table.records(np.arange(table.rows))):
                if modality == "images":
                    square = encoder.config.preprocessing.square(read_image(Path(record["path"])))
                    alone = encoder.encode_images(torch.from_numpy(square)[None])
                else:
                    alone = encoder.encode_texts([record["text"]])
                for vector in ("joint", "features"):
                    expected = getattr(alone, vector).numpy()
                    np.testing.assert_allclose(table.vectors(vector, np.array([row])), expected, atol=1e-5)


def test_rows_are_images_studies_and_sentences(corpus, encoder, tmp_path):
    summary = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    shards = open_shards(tmp_path / "out")

    assert shards.table("images").ids() == [id for id, _, _ in IMAGES]
    assert shards.table("reports").ids() == ["s1", "s2", "s4"]
    assert shards.table("sentences").ids()[:4] == ["s1#1", "s1#2", "s2#1", "s4#1"]
    assert shards.table("sentences").column("text")[:3].tolist() == [
        "There is a small effusion.",
        "The heart is normal.",
        "No acute disease.",
    ]
    assert (summary.images, summary.reports, summary.sentences, summary.without_text) == (7, 3, 63, 1)
    assert summary.texts_cut == encoder.count_cut([REPORTS["s4"].removeprefix("FINDINGS: ")]) == 1
    assert summary.shards == 3 + 1 + 21
    record = shards.table("images").records(np.array([1]))[0]
    assert (record["patient_id"], record["study_id"], record["split"], record["age"]) == ("p1", "s1", "train", 75.0)
    assert (record["study_date"], record["labels"]) == ("2020-01-02", {"Edema": "positive"})
    assert record["path"] == str(tmp_path / "corpus" / "films" / "i2.png")


def test_the_manifest_says_what_made_the_shards(corpus, encoder, tmp_path):
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    manifest = load_shards_manifest(tmp_path / "out")

    assert manifest.encoder == fingerprint(encoder)
    assert manifest.preprocessing == json.loads(json.dumps(encoder.config.preprocessing.to_dict()))
    assert (manifest.dtype, manifest.findings, manifest.pseudonymised) == ("float32", ("Edema",), False)
    assert manifest.corpus == {"format": "table", "root": str(tmp_path / "corpus")}
    assert manifest.modalities["images"].dimensions == {"joint": 8, "features": encoder.image_width}
    assert manifest.counts == {"failures": 0, "texts_cut": 1, "without_text": 1, "left_out": 0}


def test_each_shard_says_what_computed_it(corpus, encoder, tmp_path):
    """Taken out of its folder, to any Arrow reader; a folder may be finished on another device than it was begun on."""
    encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, compute="bfloat16"))

    for shard in (tmp_path / "out").glob("*.arrow"):
        said = pa.ipc.open_file(shard).schema.metadata
        assert said[b"encoder"] == fingerprint(encoder).encode()
        assert (said[b"images"], said[b"texts"], said[b"device"], said[b"pixels"]) == (b"bfloat16", b"bfloat16", b"cpu", b"direct")


def test_the_bytes_do_not_depend_on_the_number_of_threads(corpus, encoder, tmp_path):
    """Of seven films and two reports: torchrun gives each process one thread, a process alone takes all."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            encode_corpus(corpus, encoder, tmp_path / str(threads), options=EncodeOptions(workers=threads))
    finally:
        torch.set_num_threads(before)

    assert content(tmp_path / "1") == content(tmp_path / "2")


class StoppedError(Exception):
    pass


def test_a_run_stopped_anywhere_and_run_again_writes_the_bytes_of_one_run(corpus, encoder, tmp_path):
    encode_corpus(corpus, encoder, tmp_path / "whole", options=BOTH)
    expected = content(tmp_path / "whole")
    calls = 0

    def count(modality, done, total, failures):
        nonlocal calls
        calls += 1

    encode_corpus(corpus, encoder, tmp_path / "counted", options=BOTH, progress=count)
    for stop in range(1, calls, 9):
        left = stop

        def stop_there(modality, done, total, failures):
            nonlocal left
            left -= 1
            if left == 0:
                raise StoppedError

        out = tmp_path / f"stopped-{stop}"
        with pytest.raises(StoppedError):
            encode_corpus(corpus, encoder, out, options=BOTH, progress=stop_there)
        with pytest.raises(MedretError, match="was not finished"):
            open_shards(out)
        encode_corpus(corpus, encoder, out, options=BOTH)
        assert content(out) == expected


def test_a_killed_process_loses_at_most_one_shard(corpus, encoder, tmp_path):
    """A real SIGKILL, in the middle of the reports, with a half-written shard lying about."""
    save_checkpoint(encoder, tmp_path / "encoder")
    code = f"""
import os, signal
from pathlib import Path
from encoders.checkpoint import load_checkpoint
from index.cache import cache_of
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus

def kill(modality, done, total, failures):
    if (modality, done) == ("reports", 2):
        Path({str(tmp_path / "out" / f".reports-00000.arrow.{os.getpid()}.part")!r}).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

options = EncodeOptions(vectors=("joint", "features"), text_units=("report", "sentence"), shard_rows=3, batch_size=2)
corpus = open_corpus(Path({str(corpus.root)!r}))
encode_corpus(corpus, load_checkpoint(Path({str(tmp_path / "encoder")!r})), Path({str(tmp_path / "out")!r}), options=options, progress=kill)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()

    summary = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    encode_corpus(corpus, encoder, tmp_path / "whole", options=BOTH)

    assert (summary.resumed_shards, summary.shards) == (3, 25)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_a_killed_process_left_behind_goes(corpus, encoder, tmp_path):
    """Half-written files, the private table among them, and the folder of an encoder that was being copied."""
    options = EncodeOptions(pseudonym_key=b"0123456789abcdef")
    encode_corpus(corpus, encoder, tmp_path / "out", options=options)
    (tmp_path / "out" / ".encoder.abc.part").mkdir()
    for name in (".encoder.abc.part/.model.part", ".manifest.json.1.part", "commits/.x.json.1.part", "private/.paths.csv.1.part"):
        (tmp_path / "out" / name).write_text("half")

    encode_corpus(corpus, encoder, tmp_path / "out", options=options)

    assert list((tmp_path / "out").rglob("*.part")) == []


def test_a_finished_run_is_not_repeated(corpus, encoder, tmp_path):
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}

    summary = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)

    assert summary.resumed_shards == summary.shards == 25
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")} == times


@pytest.mark.parametrize(("file", "length"), [("images-00001.arrow", 100), ("commits/images-00001.json", 3)])
def test_a_shard_that_was_cut_or_whose_commit_is_damaged_is_made_again(corpus, encoder, tmp_path, file, length):
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    before = content(tmp_path / "out")
    os.truncate(tmp_path / "out" / file, length)

    summary = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)

    assert summary.resumed_shards == summary.shards - 1
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EncodeOptions(shard_rows=3, vectors=("joint",)), "vectors"),
        (EncodeOptions(shard_rows=4), "vectors"),
        (EncodeOptions(shard_rows=3, vectors=BOTH.vectors, text_units=BOTH.text_units, dtype="float16"), "dtype"),
        (
            EncodeOptions(shard_rows=3, vectors=BOTH.vectors, text_units=BOTH.text_units, text_sections=("impression", "findings")),
            "text_sections",
        ),
        (EncodeOptions(shard_rows=3, vectors=BOTH.vectors, text_units=BOTH.text_units, pseudonym_key=b"k" * 16), "pseudonym_key"),
    ],
)
def test_a_run_with_other_options_is_refused(corpus, encoder, tmp_path, options, message):
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    before = content(tmp_path / "out")

    with pytest.raises(MedretError, match=rf"holds shards of another run \(({message}): .*Name another --out"):
        encode_corpus(corpus, encoder, tmp_path / "out", options=options)
    assert content(tmp_path / "out") == before


def test_another_encoder_or_changed_records_are_refused(corpus, encoder, tmp_path):
    encode_corpus(corpus, encoder, tmp_path / "out")

    other = build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=8, seed=1)
    with pytest.raises(MedretError, match=f'encoder: "{fingerprint(encoder)}", now "{fingerprint(other)}"'):
        encode_corpus(corpus, other, tmp_path / "out")
    write_corpus(tmp_path / "corpus", reports={**REPORTS, "s2": "FINDINGS: A large effusion."})
    with pytest.raises(MedretError, match=r"another run \(records: "):
        encode_corpus(corpus, encoder, tmp_path / "out")


def test_a_smaller_batch_may_finish_what_a_larger_one_began(corpus, encoder, tmp_path):
    """As after running out of memory."""
    encode_corpus(corpus, encoder, tmp_path / "out", options=EncodeOptions(batch_size=4))

    assert encode_corpus(corpus, encoder, tmp_path / "out", options=EncodeOptions(batch_size=1)).resumed_shards == 2


def test_bad_images_are_listed_without_paths_and_the_rest_goes_on(encoder, tmp_path):
    table = write_corpus(tmp_path / "Doe_Jane")
    films = tmp_path / "Doe_Jane" / "films"
    (films / "i2.png").write_bytes((films / "i2.png").read_bytes()[:200])
    (films / "i5.png").unlink()
    (films / "i6.png").write_text("no image")
    corpus = open_corpus(table)

    summary = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    resumed = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)

    with (tmp_path / "out" / "failures.csv").open() as file:
        failures = list(csv.DictReader(file))
    assert [failure["id"] for failure in failures] == ["i2", "i5", "i6"]
    assert all(failure["reason"] for failure in failures)
    assert "Doe_Jane" not in (tmp_path / "out" / "failures.csv").read_text()
    assert summary.failures == resumed.failures == 3
    assert open_shards(tmp_path / "out").table("images").ids() == ["i1", "i3", "i4", "i7"]


def test_a_shard_whose_images_all_failed_is_empty_and_tried_again(corpus, encoder, tmp_path):
    for id in ("i1", "i2", "i3"):
        (tmp_path / "corpus" / "films" / f"{id}.png").rename(tmp_path / f"{id}.png")
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    assert open_shards(tmp_path / "out", verify=True).table("images").ids() == ["i4", "i5", "i6", "i7"]

    for id in ("i1", "i2", "i3"):
        (tmp_path / f"{id}.png").rename(tmp_path / "corpus" / "films" / f"{id}.png")
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    assert open_shards(tmp_path / "out", verify=True).table("images").ids() == [id for id, _, _ in IMAGES]


def test_a_corpus_whose_images_all_fail_is_an_error(corpus, encoder, tmp_path):
    for path in (tmp_path / "corpus" / "films").iterdir():
        path.unlink()

    with pytest.raises(MedretError, match="none of 7 images can be decoded; the first: "):
        encode_corpus(corpus, encoder, tmp_path / "out")


def test_a_corpus_without_reports_or_without_images_has_one_modality(encoder, tmp_path):
    images = open_corpus(write_corpus(tmp_path / "images", reports=dict.fromkeys(REPORTS, "")))
    (tmp_path / "reports.csv").write_text("study_id,text\na,The heart is large.\nb,No acute disease.\n")

    assert encode_corpus(images, encoder, tmp_path / "out1").reports == 0
    assert open_shards(tmp_path / "out1").modalities == ("images",)
    assert encode_corpus(open_corpus(tmp_path / "reports.csv"), encoder, tmp_path / "out2").images == 0
    assert open_shards(tmp_path / "out2").modalities == ("reports",)
    with pytest.raises(MedretError, match="holds no images, only reports"):
        open_shards(tmp_path / "out2").table("images")


def test_rows_that_the_reader_leaves_out_are_counted_with_their_reason(corpus, encoder, tmp_path):
    with corpus.root.open("a", newline="") as file:
        csv.writer(file).writerows([["i1", "films/i1.png", *[""] * 7], ["i8", *[""] * 8], ["i9", *[""] * 8]])

    summary = encode_corpus(corpus, encoder, tmp_path / "out")

    assert summary.left_out == {"id seen before": 1, "row with neither a path nor a text": 2}
    assert json.loads(json.dumps(summary.to_dict()))["left_out"] == summary.left_out
    assert load_shards_manifest(tmp_path / "out").counts["left_out"] == 3


def test_only_the_wanted_splits_are_encoded(corpus, encoder, tmp_path):
    encode_corpus(corpus, encoder, tmp_path / "out", options=EncodeOptions(splits=("test",)))

    assert open_shards(tmp_path / "out").table("images").ids() == ["i5", "i6", "i7"]
    with pytest.raises(MedretError, match="no record in split validate"):
        encode_corpus(corpus, encoder, tmp_path / "other", options=EncodeOptions(splits=("validate",)))


def test_a_pseudonymised_folder_names_nobody_outside_its_private_table(encoder, tmp_path):
    ids = [(f"film-{number}-of-jane-doe", f"study-{study}", f"hospital-{patient}") for number, (_, study, patient) in enumerate(IMAGES)]
    corpus = open_corpus(write_corpus(tmp_path / "Doe^Jane", ids, {f"study-{study}": text for study, text in REPORTS.items()}))
    (tmp_path / "Doe^Jane" / "films" / "film-1-of-jane-doe.png").write_text("no image")
    options = EncodeOptions(vectors=BOTH.vectors, text_units=BOTH.text_units, shard_rows=3, pseudonym_key=b"0123456789abcdef")

    encode_corpus(corpus, encoder, tmp_path / "out", options=options)

    for name, held in content(tmp_path / "out").items():
        if not name.startswith("private"):
            assert not any(word in held for word in (b"jane", b"Doe", b"hospital-", b"study-s", b"2020-01-02")), name
    table = open_shards(tmp_path / "out").table("images")
    records = table.records(np.arange(table.rows))
    assert {record["study_date"] for record in records} == {record["path"] for record in records} == {None}
    assert [record["age"] for record in records] == [70, 80, 85, 90, 90, 90]
    assert table.codes("study_id").tolist() == [0, 1, 2, 3, 3, 3]
    private = tmp_path / "out" / "private" / "paths.csv"
    with private.open() as file:
        paths = {row["id"]: row["path"] for row in csv.DictReader(file)}
    assert len(paths) == 7
    assert paths[records[0]["id"]] == str(tmp_path / "Doe^Jane" / "films" / "film-0-of-jane-doe.png")
    assert {path.stat().st_mode & 0o077 for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]} == {0}


@pytest.mark.parametrize("size", [2, 5])
def test_processes_that_take_turns_write_the_bytes_of_one(corpus, encoder, tmp_path, size):
    """Whatever their order; the last one makes the folder whole."""
    encode_corpus(corpus, encoder, tmp_path / "whole", options=BOTH)
    order = [1, 0, *range(2, size)]

    for rank in order:
        with pytest.raises(MedretError, match=r"was not finished|is no shards folder"):
            open_shards(tmp_path / "out")
        summary = encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, rank=rank, size=size, workers=1 + rank))
        assert summary.complete == (rank == order[-1])

    assert summary.images == 7
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_ranks_share_a_folder_with_each_other_and_with_nobody_else(corpus, encoder, tmp_path):
    def others(modality, done, total, failures):
        for rank, size in ((0, 2), (0, 1)):
            with pytest.raises(MedretError, match="another medret is writing here"):
                encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, rank=rank, size=size))
        encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, rank=1, size=2))

    encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, size=2), progress=others)

    assert open_shards(tmp_path / "out", verify=True).table("images").rows == 7


def test_images_that_were_mended_are_encoded_on_demand_as_if_nothing_had_been(corpus, encoder, tmp_path):
    encode_corpus(corpus, encoder, tmp_path / "whole", options=BOTH)
    films = tmp_path / "corpus" / "films"
    for id in ("i2", "i5"):
        (films / f"{id}.png").rename(tmp_path / f"{id}.png")
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    (tmp_path / "i5.png").rename(films / "i5.png")
    first = (tmp_path / "out" / "images-00000.arrow").stat().st_mtime_ns

    assert encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH).failures == 2
    assert encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, retry_failed=True)).failures == 1
    assert (tmp_path / "out" / "images-00000.arrow").stat().st_mtime_ns == first  # none of its images can be decoded now
    (tmp_path / "i2.png").rename(films / "i2.png")
    assert encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, retry_failed=True)).failures == 0

    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(("allowed", "stops"), [(1, True), (2, False), (0.28, True), (0.29, False), (0, True)])
def test_more_failures_than_allowed_stop_the_run_and_what_is_done_is_kept(corpus, encoder, tmp_path, allowed, stops):
    """Two of seven images, in the second shard and the last."""
    for id in ("i5", "i7"):
        (tmp_path / "corpus" / "films" / f"{id}.png").unlink()
    options = replace(BOTH, max_failures=allowed)
    if not stops:
        assert encode_corpus(corpus, encoder, tmp_path / "out", options=options).failures == 2
        return

    with pytest.raises(MedretError, match=r"images could not be decoded, more than --max-failures allows \(\d\); the last: i\d: "):
        encode_corpus(corpus, encoder, tmp_path / "out", options=options)

    assert "i5" in (tmp_path / "out" / "failures.csv").read_text()
    assert encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH).resumed_shards >= 1
    with pytest.raises(MedretError, match="more than --max-failures allows"):  # nothing is left to do, and still they are too many
        encode_corpus(corpus, encoder, tmp_path / "out", options=options)
    assert len((tmp_path / "out" / "failures.csv").read_text().splitlines()) == 3 and open_shards(tmp_path / "out")


def test_a_share_of_failures_is_counted_as_it_is_written():
    """In floating point 0.29 * 100 is below 29."""
    for percent in range(101):
        assert EncodeOptions(max_failures=percent / 100).failures_allowed(100) == percent
        assert EncodeOptions(max_failures=percent / 100).failures_allowed(1_000_007) == percent * 1_000_007 // 100


def test_a_cache_of_squares_that_are_too_small_is_refused_before_anything_is_written(corpus, encoder, tmp_path):
    with pytest.raises(MedretError, match=r"squares of 31 pixels, but the encoder reads 32\. Ask for --cache-size 32"):
        encode_corpus(corpus, encoder, tmp_path / "out", options=EncodeOptions(cache=tmp_path / "cache", cache_size=31))

    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_a_cached_film_is_a_smaller_square_of_a_larger_one_and_is_decoded_once(corpus, encoder, tmp_path, monkeypatch):
    options = EncodeOptions(cache=tmp_path / "cache", cache_size=64)
    encode_corpus(corpus, encoder, tmp_path / "out", options=options)
    monkeypatch.setattr("encoders.preprocess.read_film", None)
    other = build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=8, seed=1).eval()
    encode_corpus(corpus, other, tmp_path / "other", options=options)
    monkeypatch.undo()

    shards = open_shards(tmp_path / "out", verify=True)
    assert (shards.manifest.compute["pixels"], shards.manifest.corpus["cache"]) == ("squares 64", str(tmp_path / "cache"))
    way = encoder.config.preprocessing
    film = read_image(tmp_path / "corpus" / "films" / "i3.png")
    square = np.zeros((32, 32), np.uint8)
    within = Image.fromarray(way.square(film, 64)).crop((8, 0, 56, 64))  # 30 x 40, padded
    square[:, 4:28] = within.resize((24, 32), Image.Resampling.BICUBIC)
    with torch.inference_mode():
        expected = encoder.encode_images(torch.from_numpy(square)[None]).joint.numpy()
    np.testing.assert_allclose(shards.table("images").vectors("joint", np.array([2])), expected, atol=1e-5)
    with pytest.raises(MedretError, match=r"another run \(pixels: "):
        encode_corpus(corpus, encoder, tmp_path / "out")


def test_a_pseudonymised_folder_knows_its_cache_in_private(corpus, encoder, tmp_path):
    options = EncodeOptions(cache=tmp_path / "Doe^Jane", cache_size=64, pseudonym_key=b"0123456789abcdef")
    encode_corpus(corpus, encoder, tmp_path / "out", options=options)

    manifest = load_shards_manifest(tmp_path / "out")
    assert "cache" not in manifest.corpus
    assert cache_of(tmp_path / "out", manifest.corpus) == tmp_path / "Doe^Jane"
    with pytest.raises(MedretError, match="a cache holds real ids, so it must not lie in pseudonymised shards"):
        encode_corpus(corpus, encoder, tmp_path / "new", options=replace(options, cache=tmp_path / "new" / "cache"))
    assert not (tmp_path / "new").exists()


def test_a_pseudonymised_encode_takes_films_from_a_cache_of_real_ids_and_tells_none_of_them(corpus, encoder, tmp_path, monkeypatch):
    """An image that cannot be decoded among them: the cache's reason names it by its real id."""
    (tmp_path / "corpus" / "films" / "i5.png").write_text("no image")
    held = cache_corpus(corpus, encoder.config.preprocessing, tmp_path / "cache", 64)
    decoded = Mock(wraps=decode_square)
    monkeypatch.setattr("index.cache.decode_square", decoded)
    options = EncodeOptions(cache=tmp_path / "cache", cache_size=64)
    encode_corpus(corpus, encoder, tmp_path / "plain", options=options)
    encode_corpus(corpus, encoder, tmp_path / "out", options=replace(options, pseudonym_key=b"0123456789abcdef"))

    assert len(held.ids) == 6 and len(list((tmp_path / "cache").glob("*.arrows"))) == 1
    assert [call.args[2].image.stem for call in decoded.call_args_list] == ["i5", "i5"]  # once more in each run, for its reason
    plain, out = (open_shards(tmp_path / name).table("images") for name in ("plain", "out"))
    np.testing.assert_array_equal(out.vectors("joint", np.arange(6)), plain.vectors("joint", np.arange(6)))
    told = b"".join(told for name, told in content(tmp_path / "out").items() if not name.startswith("private"))
    assert not [id for id, _, _ in IMAGES if id.encode() in told]
    assert len((tmp_path / "out" / "failures.csv").read_text().splitlines()) == 2
    with (tmp_path / "out" / "private" / "paths.csv").open(newline="") as file:
        assert [(row["real_id"], Path(row["path"]).stem) for row in csv.DictReader(file)] == [(id, id) for id, _, _ in IMAGES]


def test_an_encoder_is_left_as_it_was_where_trying_bfloat16_fails(corpus, encoder, tmp_path, monkeypatch):
    def fail(encode, device, compiled):
        raise MedretError("no memory")

    monkeypatch.setattr("index.encode.has_bfloat16", lambda device: True)
    monkeypatch.setattr("index.encode.agreement", fail)
    encoder.train()

    with pytest.raises(MedretError, match="no memory"):
        encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, compute="auto"))
    assert encoder.training


def test_bfloat16_is_chosen_by_what_it_does_to_the_vectors_of_each_side(corpus, encoder, tmp_path, monkeypatch):
    """And whoever goes on with the run takes what was chosen, wherever it runs."""
    found = iter([0.99993, 0.99996])  # images, texts
    monkeypatch.setattr("index.encode.has_bfloat16", lambda device: True)
    monkeypatch.setattr("index.encode.agreement", lambda encode, device, compiled: next(found))
    summary = encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, compute="auto", size=2))
    assert (summary.compute["images"], summary.compute["texts"], summary.compute["device"]) == ("float32", "bfloat16", "cpu")

    monkeypatch.setattr("index.encode.has_bfloat16", lambda device: False)
    encode_corpus(corpus, encoder, tmp_path / "out", options=replace(BOTH, compute="auto", rank=1, size=2))
    with pytest.raises(MedretError, match=r"another run \(compute: "):
        encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)

    encode_corpus(corpus, encoder, tmp_path / "exact", options=BOTH)
    for modality, same in (("images", True), ("reports", False), ("sentences", False)):
        rounded, exact = (open_shards(tmp_path / name).table(modality).blocks("joint")[0] for name in ("out", "exact"))
        assert np.array_equal(rounded, exact) == same
        assert (rounded * exact).sum(axis=1).min() > 0.999


def test_a_compiled_network_gets_batches_of_one_size_and_gives_the_same_vectors(corpus, encoder, tmp_path, monkeypatch):
    """In shards of three, by two: every second batch would be of one."""
    sizes = set()
    monkeypatch.setattr("index.encode.compile_encoder", lambda encoder: None)
    hooks = [part.register_forward_hook(lambda part, given, made: sizes.add(len(made))) for part in (encoder.image, encoder.text)]
    try:
        encode_corpus(corpus, encoder, tmp_path / "compiled", options=replace(BOTH, compile=True))
    finally:
        for hook in hooks:
            hook.remove()
    encode_corpus(corpus, encoder, tmp_path / "plain", options=BOTH)

    assert sizes == {2}
    for modality in ("images", "reports", "sentences"):
        one, other = (open_shards(tmp_path / name).table(modality) for name in ("compiled", "plain"))
        for left, right in zip(one.blocks("joint"), other.blocks("joint"), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5)


def test_the_encoder_lies_beside_its_shards_before_the_first_of_them(corpus, encoder, tmp_path):
    save_checkpoint(encoder, tmp_path / "encoder")

    def look(modality, done, total, failures):
        assert fingerprint(load_checkpoint(tmp_path / "out" / "encoder")) == fingerprint(encoder)
        raise StoppedError

    with pytest.raises(StoppedError):
        encode_corpus(corpus, encoder, tmp_path / "out", checkpoint=tmp_path / "encoder", options=BOTH, progress=look)


@pytest.mark.parametrize(
    ("dimensions", "dtype", "rows"), [(512, "float32", 1953), (512, "float16", 3906), (8, "float32", 65536), (9999, "float32", 256)]
)
def test_the_rows_of_a_shard_follow_from_its_size(dimensions, dtype, rows):
    assert EncodeOptions(dtype=dtype).rows_per_shard(dimensions) == rows


def test_the_summary_says_what_the_run_took(corpus, encoder, tmp_path):
    first = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    again = encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)

    assert set(first.rates) == {"images", "reports", "sentences"}
    assert again.rates == {}
    assert 10_000_000 < first.peak_rss < 100_000_000_000
    assert first.seconds > 7 / first.rates["images"]


def test_two_processes_cannot_write_to_one_folder(corpus, encoder, tmp_path):
    def again(modality, done, total, failures):
        with pytest.raises(MedretError, match="another medret is writing here"):
            encode_corpus(corpus, encoder, tmp_path / "out")

    encode_corpus(corpus, encoder, tmp_path / "out", progress=again)


def test_a_folder_of_other_things_is_left_alone(corpus, encoder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")

    with pytest.raises(MedretError, match=r"is no shards folder and not empty \(it holds thesis.txt\)"):
        encode_corpus(corpus, encoder, tmp_path / "home")

    assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["thesis.txt"]  # not even a lock


def test_ids_that_are_not_unique_are_refused(encoder, tmp_path):
    table = write_corpus(tmp_path / "corpus", [("i1", "s1", "p1"), ("i2", "s1", "p2")])

    with pytest.raises(MedretError, match=r"study s1 belongs to two patients\..* medret corpus .*table\.csv$"):
        encode_corpus(open_corpus(table), encoder, tmp_path / "out")


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(corpus, encoder, tmp_path):
    """The kernel refuses to let a shard grow, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(MedretError, match=r"images-00000\.arrow: cannot be written .*Free space"):
            encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    encode_corpus(corpus, encoder, tmp_path / "out", options=BOTH)
    encode_corpus(corpus, encoder, tmp_path / "whole", options=BOTH)

    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_encoder_that_gives_nan_is_an_error(corpus, tmp_path):
    broken = build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=8)
    with torch.no_grad():
        next(broken.image_head.parameters()).fill_(torch.nan)

    with pytest.raises(MedretError, match="record i1: the encoder gives no unit joint vector"):
        encode_corpus(corpus, broken, tmp_path / "out")


def test_the_encoder_is_left_in_the_mode_it_was_in(corpus, tmp_path):
    training = build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=8).train()
    encode_corpus(corpus, training, tmp_path / "out")

    assert training.training


@pytest.mark.parametrize(
    "wrong", [{"vectors": ()}, {"vectors": ("joint", "other")}, {"dtype": "float64"}, {"shard_rows": 0}, {"text_units": ("word",)}]
)
def test_wrong_options_are_a_wrong_call(wrong):
    with pytest.raises(ValueError, match="expected"):
        EncodeOptions(**wrong)


def test_options_do_not_show_the_key():
    assert "0123456789abcdef" not in repr(EncodeOptions(pseudonym_key=b"0123456789abcdef"))
