import hashlib
import json

import numpy as np
import pytest
from shard_folders import unit, write_images

from encoders.errors import MedretError
from encoders.json_object import write_json
from index.index_manifest import load_index_manifest
from index.manifest import holds_shards, load_shards_manifest, sha256_file


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
