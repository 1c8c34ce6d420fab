import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_folders import write_images

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from index.folder import build_index, open_index
from index.index_manifest import load_index_manifest

VECTORS = np.eye(8, dtype=np.float32)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "checkpoint"
    mark = save_checkpoint(build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=8), folder)
    return folder, mark


@pytest.fixture
def places(tmp_path, encoder):
    folder, mark = encoder
    write_images(tmp_path / "shards", VECTORS, [str(n) for n in range(len(VECTORS))], cuts=(5,), encoder=mark)
    build_index(tmp_path / "shards", tmp_path / "index", folder)
    return tmp_path


def test_an_index_answers_and_names_what_it_holds(places, encoder):
    index = open_index(places / "index")

    rows, scores = index.index("images", "joint").search(VECTORS[3:4], 1)[0]

    assert (rows.tolist(), scores.tolist()) == ([3], [1.0])
    assert [(e.modality, e.vector, e.kind, e.rows, e.dimension) for e in index.manifest.indexes] == [("images", "joint", "flat", 8, 8)]
    assert sorted(path.name for path in index.encoder_folder.iterdir()) == sorted(path.name for path in encoder[0].iterdir())
    assert (places / "index").stat().st_mode & 0o777 == 0o700


def test_an_index_and_its_shards_can_be_moved_together(places):
    (places / "elsewhere").mkdir()
    (places / "index").rename(places / "elsewhere" / "index")
    (places / "shards").rename(places / "elsewhere" / "shards")

    assert open_index(places / "elsewhere" / "index").index("images").rows == 8
    assert not Path(load_index_manifest(places / "elsewhere" / "index").parts[0].folder).is_absolute()


def test_an_index_moved_away_from_its_shards_says_so(places):
    (places / "elsewhere").mkdir()
    (places / "index").rename(places / "elsewhere" / "index")

    with pytest.raises(MedretError, match=r"shards are not at .*Move both"):
        open_index(places / "elsewhere" / "index")


def test_shards_of_another_encoder_are_refused(tmp_path, encoder):
    write_images(tmp_path / "shards", VECTORS, [str(n) for n in range(len(VECTORS))], encoder="f" * 16)

    with pytest.raises(MedretError, match=f"vectors of encoder ffffffffffffffff, but .* is encoder {encoder[1]}"):
        build_index(tmp_path / "shards", tmp_path / "index", encoder[0])
    assert not (tmp_path / "index").exists()


def test_shards_made_anew_after_the_index_are_refused(places, encoder):
    shutil.rmtree(places / "shards")
    write_images(places / "shards", VECTORS[::-1], [str(n) for n in range(len(VECTORS))], encoder=encoder[1])

    with pytest.raises(MedretError, match=r"not those it was built from.*build-index"):
        open_index(places / "index")


def test_an_encoder_swapped_in_the_index_is_refused(places):
    shutil.rmtree(places / "index" / "encoder")
    save_checkpoint(build_encoder("tiny", "tiny", texts=["a large effusion"], size=32, dimension=8, seed=1), places / "index" / "encoder")

    with pytest.raises(MedretError, match="vectors of encoder"):
        open_index(places / "index")


def test_a_shard_cut_in_half_is_refused(places, encoder):
    shard = places / "shards" / "images-00001.arrow"
    os.truncate(shard, shard.stat().st_size // 2)

    for open_it in (lambda: open_index(places / "index"), lambda: build_index(places / "shards", places / "new", encoder[0])):
        with pytest.raises(MedretError, match=r"images-00001\.arrow: the shard is damaged"):
            open_it()


def test_build_refuses_shards_whose_bytes_changed(places, encoder):
    shard = places / "shards" / "images-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)

    with pytest.raises(MedretError, match="SHA-256"):
        build_index(places / "shards", places / "new", encoder[0])
    with pytest.raises(MedretError, match="SHA-256"):
        open_index(places / "index", verify=True)


def test_a_vector_that_was_not_encoded_is_named(places):
    with pytest.raises(MedretError, match=r"hold no features vectors, only joint.*--vectors joint,features"):
        open_index(places / "index").index("images", "features")
    with pytest.raises(MedretError, match="holds no reports, only images"):
        open_index(places / "index").index("reports")


def test_a_folder_of_other_things_is_left_alone(places, encoder):
    (places / "home" / "encoder").mkdir(parents=True)
    (places / "home" / "encoder" / "thesis.txt").write_text("years of work")

    with pytest.raises(MedretError):
        build_index(places / "shards", places / "home", encoder[0])
    assert (places / "home" / "encoder" / "thesis.txt").read_text() == "years of work"

    (places / "other").mkdir()
    (places / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(MedretError, match=r"is no index and not empty \(it holds thesis.txt\)"):
        build_index(places / "shards", places / "other", encoder[0])


def test_building_again_over_an_index_keeps_it_whole(places, encoder):
    build_index(places / "shards", places / "index", places / "index" / "encoder")
    build_index(places / "shards", places / "index", encoder[0])

    assert open_index(places / "index", verify=True).index("images").rows == 8


def test_an_unknown_kind_lists_the_known(places, encoder):
    with pytest.raises(MedretError, match=r"'ivf' is not known.*Choose one of: flat"):
        build_index(places / "shards", places / "new", encoder[0], kind="ivf")
