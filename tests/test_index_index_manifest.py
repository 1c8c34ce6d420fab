import string
from dataclasses import replace

import pytest

from encoders.errors import MedretError
from encoders.json_object import write_json
from index.index_manifest import Certificate, IndexEntry, IndexManifest, ShardsPart, StoredFile, find_index_manifest, load_index_manifest

MEASURED = Certificate(
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


def test_an_index_manifest_comes_back_as_it_was_written(tmp_path):
    stage = StoredFile(file="g00002/images-joint.codes.npy", bytes=12, sha256="1" * 64)
    entry = IndexEntry(modality="images", vector="joint", kind="scan", rows=3, dimension=4, files=(stage,), certificates=(MEASURED,))
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
    part = ShardsPart(folder="../shards", sha256="0" * 64)
    changed = {"parts": part, "indexes": entry} | {record: replace({"parts": part, "indexes": entry}[record], **{key: value})}
    IndexManifest(encoder="0" * 16, parts=(changed["parts"],), indexes=(changed["indexes"],)).save(tmp_path)

    with pytest.raises(MedretError, match=rf"index.json: the manifest is damaged \(TypeError: {key} is "):
        load_index_manifest(tmp_path)


def test_an_index_manifest_with_any_digit_or_letter_changed_is_refused(tmp_path):
    entry = IndexEntry(modality="images", vector="joint", kind="scan", rows=3, dimension=4, certificates=(MEASURED,))
    encoder = StoredFile(file="encoder/LICENSE", bytes=12, sha256="1" * 64)
    IndexManifest(encoder="0" * 16, parts=(), indexes=(entry,), encoder_files=(encoder,)).save(tmp_path)
    path = tmp_path / "index.json"
    whole = path.read_text()

    for place, held in enumerate(whole):
        if held in string.ascii_letters + string.digits:
            path.write_text(whole[:place] + ("1" if held != "1" else "2") + whole[place + 1 :])
            with pytest.raises(MedretError):
                find_index_manifest(tmp_path)
    path.write_text(whole.replace('"low": 0.991', '"low": 0.99'))
    with pytest.raises(MedretError, match=r"the manifest is damaged .*checksum is another\)\. Copy it again .* medret build-index"):
        load_index_manifest(tmp_path)


@pytest.mark.parametrize("change", [{"low": 0.996}, {"high": 0.994}, {"low": 0.98}, {"met": False}])
def test_a_certificate_that_contradicts_itself_is_refused(tmp_path, change):
    measured = replace(MEASURED, **change)
    entry = IndexEntry(modality="images", vector="joint", kind="scan", rows=3, dimension=4, certificates=(measured,))
    IndexManifest(encoder="0" * 16, parts=(), indexes=(entry,)).save(tmp_path)

    with pytest.raises(MedretError, match=r"damaged .*a certificate of recall"):
        load_index_manifest(tmp_path)
