import hashlib
import json

import numpy as np
import pytest
from shard_folders import unit, write_images

from encoders.errors import MedretError
from encoders.json_object import write_json
from index.manifest import (
    Certificate,
    IndexEntry,
    IndexManifest,
    ShardsPart,
    StoredFile,
    holds_shards,
    load_index_manifest,
    load_shards_manifest,
    sha256_file,
)


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "shards", unit(np.random.default_rng(0).normal(size=(3, 4))), list("abc"), cuts=(1,))


def test_a_manifest_comes_back_as_it_was_written(folder, tmp_path):
    manifest = load_shards_manifest(folder)
    manifest.save(tmp_path)

    assert load_shards_manifest(tmp_path) == manifest
    assert manifest.modalities["images"].rows == 3
    assert [(shard.file, shard.rows) for shard in manifest.modalities["images"].shards] == [
        ("images-00000.arrow", 1),
        ("images-00001.arrow", 2),
    ]


def test_an_index_manifest_comes_back_as_it_was_written(tmp_path):
    stage = StoredFile(file="g00002/images-joint.codes.npy", bytes=12, sha256="1" * 64)
    measured = Certificate(
        asker="text",
        k=10,
        target=0.99,
        recall=0.995,
        low=0.991,
        high=0.998,
        queries=500,
        drawn="reports",
        candidates=30,
        effort=None,
        p50_ms=0.5,
        p99_ms=1.5,
        met=True,
    )
    entry = IndexEntry(modality="images", vector="joint", kind="scan", rows=3, dimension=4, files=(stage,), certificates=(measured,))
    gone = StoredFile(file="g00002/images.removed.npy", bytes=136, sha256="2" * 64)
    parts = (ShardsPart(folder="../shards", sha256="0" * 64), ShardsPart(folder="parts/00002-1", sha256="3" * 64))
    manifest = IndexManifest(encoder="0" * 16, parts=parts, indexes=(entry,), generation=2, removed={"images": gone}, recall=0.95)
    manifest.save(tmp_path)

    assert load_index_manifest(tmp_path) == manifest
    assert manifest.files == (stage, gone)


def test_an_index_of_the_first_version_says_how_to_build_it_again(tmp_path):
    write_json(tmp_path / "index.json", {"format": "medret-index", "version": 1, "created_by": "medret 0.1.0", "shards": "../s"})

    with pytest.raises(MedretError, match=rf"version 1, .* reads version 2.*medret build-index {tmp_path.parent}/s --out {tmp_path}"):
        load_index_manifest(tmp_path)


@pytest.mark.parametrize("file", ["../elsewhere.npy", "/etc/passwd", "."])
def test_an_index_manifest_that_points_outside_its_folder_is_refused(tmp_path, file):
    gone = StoredFile(file=file, bytes=1, sha256="0" * 64)
    IndexManifest(encoder="0" * 16, parts=(), indexes=(), removed={"images": gone}).save(tmp_path)

    with pytest.raises(MedretError, match=r"the manifest is damaged .*outside the folder"):
        load_index_manifest(tmp_path)


@pytest.mark.parametrize(("record", "key", "value"), [("parts", "folder", 5), ("indexes", "rows", "3"), ("indexes", "kind", None)])
def test_an_index_manifest_with_a_value_of_another_type_is_refused(tmp_path, record, key, value):
    entry = IndexEntry(modality="images", vector="joint", kind="scan", rows=3, dimension=4)
    IndexManifest(encoder="0" * 16, parts=(ShardsPart(folder="../shards", sha256="0" * 64),), indexes=(entry,)).save(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    content[record][0][key] = value
    (tmp_path / "index.json").write_text(json.dumps(content))

    with pytest.raises(MedretError, match=rf"index.json: the manifest is damaged \(TypeError: {key} is "):
        load_index_manifest(tmp_path)


def test_the_manifest_names_size_and_checksum_of_each_shard(folder):
    for shard in load_shards_manifest(folder).modalities["images"].shards:
        content = (folder / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert sha256_file(folder / shard.file) == shard.sha256


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(MedretError, match=r"is no shards folder.*medret encode"):
        load_shards_manifest(tmp_path)
    with pytest.raises(MedretError, match=r"is no index.*medret build-index"):
        load_index_manifest(tmp_path)
    assert not holds_shards(tmp_path)


def test_an_unfinished_encoding_is_not_taken_for_a_whole_one(tmp_path):
    write_json(tmp_path / "plan.json", {})

    assert holds_shards(tmp_path)
    with pytest.raises(MedretError, match=r"encoding was not finished.*again"):
        load_shards_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(version=2, created_by="medret 9"), "version 2, written by medret 9; this medret reads version 1"),
        (lambda content: content.update(format="other"), "is no medret-shards manifest"),
        (lambda content: content.pop("encoder"), "the manifest is damaged"),
        (lambda content: content.update(modalities=[1]), "the manifest is damaged"),
        (lambda content: content["modalities"].update(sounds=content["modalities"]["images"]), "the manifest is damaged"),
        (lambda content: content["modalities"]["images"]["shards"][0].update(rows="many"), "the manifest is damaged"),
    ],
    ids=["version", "format", "key", "type", "modality", "number"],
)
def test_a_manifest_of_another_kind_is_refused(folder, change, message):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))

    with pytest.raises(MedretError, match=message):
        load_shards_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_a_file_that_is_no_manifest_is_one_clear_line(tmp_path, text):
    for name, load in (("manifest.json", load_shards_manifest), ("index.json", load_index_manifest)):
        (tmp_path / name).write_text(text)
        with pytest.raises(MedretError) as fault:
            load(tmp_path)
        assert "\n" not in str(fault.value) and name in str(fault.value)


def test_files_are_for_their_owner_alone(folder):
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0
