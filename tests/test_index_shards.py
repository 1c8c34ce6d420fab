import os
import resource
import threading
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shard_folders import unit, write_images, write_rows

from encoders.errors import MedretError
from index.corpora.record import NULL_LABEL, LabelState, Record
from index.shards import ShardRow, ShardWriter, open_shards

FINDINGS = ("Edema", "Fracture")
OPEN_FILES = Path("/proc/self/fd")
RECORDS = [
    Record(
        id="a",
        image=None,
        patient_id="p1",
        study_id="s1",
        view="PA",
        split="train",
        labels={"Edema": LabelState.POSITIVE, "Fracture": LabelState.UNCERTAIN},
        study_date=date(2019, 2, 28),
        age=61.5,
        sex="F",
        tags=("Heart/enlarged", "naïve"),
    ),
    Record(id="b", image=None),
    Record(id="ä", image=None, patient_id="p1", labels={"Edema": LabelState.NOT_MENTIONED, "Fracture": LabelState.NEGATIVE}),
    Record(id="d", image=None, patient_id="p2", split="test", labels={"Fracture": LabelState.POSITIVE}),
]
VECTORS = unit(np.random.default_rng(0).normal(size=(4, 6)))


@pytest.fixture(params=[(), (1, 1, 3)], ids=["one shard", "shards of odd sizes"])
def table(request, tmp_path):
    rows = [ShardRow(record, path=f"files/{number}.png") for number, record in enumerate(RECORDS)]
    write_rows(tmp_path, rows, VECTORS, request.param, findings=FINDINGS, root="/corpus")
    return open_shards(tmp_path, verify=True).table("images")


def test_vectors_come_back_bit_for_bit_without_a_copy(table):
    blocks = table.blocks("joint")

    np.testing.assert_array_equal(np.concatenate(blocks), VECTORS)
    assert not any(block.flags.writeable or block.flags.owndata for block in blocks)
    np.testing.assert_array_equal(table.vectors("joint", np.array([3, 0, 3])), VECTORS[[3, 0, 3]])
    assert (table.rows, table.dimension("joint")) == (4, 6)


def test_an_arrow_reader_that_knows_nothing_of_us_reads_a_shard(tmp_path):
    write_rows(tmp_path, [ShardRow(record) for record in RECORDS], VECTORS, findings=FINDINGS)

    content = pa.ipc.open_file(tmp_path / "images-00000.arrow").read_all()

    assert content.schema.field("embedding").type == pa.list_(pa.float32(), 6)
    assert content.column("labels").to_pylist()[0] == {"Edema": 1, "Fracture": -1}
    assert content.column("study_date").to_pylist() == [date(2019, 2, 28), None, None, None]
    assert content.column("age").to_pylist() == [61.5, None, None, None]
    assert content.column("tags").to_pylist() == [["Heart/enlarged", "naïve"], [], [], []]


def test_labels_keep_four_states_and_nobody_looked(table):
    expected = [[1, -1], [NULL_LABEL, NULL_LABEL], [-2, 0], [NULL_LABEL, 1]]

    np.testing.assert_array_equal(table.labels(), expected)
    np.testing.assert_array_equal(table.labels(["Fracture"]), np.array(expected)[:, 1:])
    assert table.findings == FINDINGS
    with pytest.raises(MedretError, match=r"no finding 'Pneumonia'. It has: Edema, Fracture"):
        table.labels(["Pneumonia"])


@pytest.mark.parametrize("short", [0, 10])
def test_rows_are_found_by_id_and_by_column(table, monkeypatch, short):
    monkeypatch.setattr("index.shard_table._SHORT", short)  # rows of a table that is searched without Arrow's functions

    assert [table.find(id) for id in ("a", "ä", "d", "nobody")] == [0, 2, 3, None]
    assert table.ids() == ["a", "b", "ä", "d"]
    assert table.ids(np.array([2, 0])) == ["ä", "a"]
    assert table.rows_of("patient_id", ["p1"]).tolist() == [0, 2]
    assert table.rows_of("split", ["test", "train"]).tolist() == [0, 3]
    assert table.rows_of("split", []).tolist() == []


def test_codes_number_the_distinct_values(table):
    assert table.codes("patient_id").tolist() == [0, -1, 0, 1]
    assert table.codes("view").tolist() == [0, -1, -1, -1]
    assert table.column("patient_id").tolist() == ["p1", None, "p1", "p2"]
    np.testing.assert_array_equal(table.column("age"), np.array([61.5, np.nan, np.nan, np.nan], np.float32))


def test_records_are_plain_json_values(table):
    assert table.records(np.array([3, 0])) == [
        {
            "id": "d",
            "modality": "images",
            "patient_id": "p2",
            "study_id": None,
            "view": None,
            "split": "test",
            "sex": None,
            "age": None,
            "study_date": None,
            "tags": [],
            "labels": {"Fracture": "positive"},
            "text": None,
            "path": "/corpus/files/3.png",
        },
        {
            "id": "a",
            "modality": "images",
            "patient_id": "p1",
            "study_id": "s1",
            "view": "PA",
            "split": "train",
            "sex": "F",
            "age": 61.5,
            "study_date": "2019-02-28",
            "tags": ["Heart/enlarged", "naïve"],
            "labels": {"Edema": "positive", "Fracture": "uncertain"},
            "text": None,
            "path": "/corpus/files/0.png",
        },
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("order", ["ascending", "mixed"])
def test_rows_are_taken_from_many_shards_in_the_order_asked(tmp_path, dtype, order):
    """As from one array of all; rows may be named twice, and a shard may give none."""
    vectors = unit(np.random.default_rng(0).standard_normal((30, 16)))
    table = open_shards(write_images(tmp_path, vectors, [f"i{row}" for row in range(30)], cuts=(4, 9, 21), dtype=dtype)).table("images")
    rows = np.array([3, 0, 29, 9, 9, 20, 21]) if order == "mixed" else np.array([0, 3, 9, 9, 20, 29])

    np.testing.assert_array_equal(table.vectors("joint", rows), vectors.astype(dtype).astype(np.float32)[rows])
    assert table.ids(rows) == [f"i{row}" for row in rows]


def test_rows_that_are_not_there_are_a_wrong_call(table):
    for rows in ([4], [-1]):
        with pytest.raises(ValueError, match="expected 0 to 3"):
            table.vectors("joint", np.array(rows))
    with pytest.raises(ValueError, match="no column 'colour'"):
        table.column("colour")


def test_half_precision_is_stored_as_such_and_read_as_single(tmp_path):
    write_images(tmp_path, VECTORS, list("abcd"), dtype="float16")
    table = open_shards(tmp_path).table("images")

    assert table.blocks("joint")[0].dtype == np.float16
    np.testing.assert_array_equal(table.vectors("joint", np.arange(4)), VECTORS.astype(np.float16).astype(np.float32))


def test_a_corpus_without_labels_has_an_empty_label_matrix(tmp_path):
    write_images(tmp_path, VECTORS, list("abcd"), cuts=(2,))
    table = open_shards(tmp_path).table("images")

    assert table.labels().shape == (4, 0)
    assert table.records(np.array([3]))[0]["labels"] == {}


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(6, np.nan), np.ones(6)], ids=["zero", "NaN", "longer than 1"])
def test_vectors_that_are_not_of_norm_one_are_refused(tmp_path, bad):
    vectors = VECTORS.copy()
    vectors[2] = bad

    with pytest.raises(ValueError, match="1 of 4 have not norm 1"):
        write_images(tmp_path, vectors, list("abcd"))
    assert list(tmp_path.glob("*.arrow")) == []


def test_a_label_outside_the_findings_is_a_wrong_call(tmp_path):
    with pytest.raises(ValueError, match="Edema"):
        write_rows(tmp_path, [ShardRow(RECORDS[0])], VECTORS[:1], findings=("Fracture",))


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path):
    """The kernel refuses to let the file grow, as a full disk does."""
    writer = ShardWriter(tmp_path, "images", {"joint": 6}, ())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(MedretError, match=r"images-00000\.arrow: cannot be written .*Free space"):
            writer.write(0, [ShardRow(record) for record in RECORDS[1:2] * 100], {"joint": np.repeat(VECTORS[:1], 100, axis=0)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_is_cut_missing_or_changed_is_named(tmp_path):
    shard = write_images(tmp_path, VECTORS, list("abcd")) / "images-00000.arrow"
    content = shard.read_bytes()

    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(MedretError, match=r"images-00000\.arrow: the shard is damaged: \d+ bytes, expected"):
        open_shards(tmp_path)

    shard.write_bytes(content.replace(b"embedding", b"embeddinG"))
    with pytest.raises(MedretError, match="SHA-256"):
        open_shards(tmp_path, verify=True)

    shard.write_bytes(bytes(len(content)))
    with pytest.raises(MedretError, match="the shard is damaged"):
        open_shards(tmp_path).table("images")

    shard.unlink()
    with pytest.raises(MedretError, match="the shard is missing"):
        open_shards(tmp_path)


def test_an_arrow_file_without_a_batch_is_a_damaged_shard(tmp_path):
    shard = write_images(tmp_path, VECTORS, list("abcd")) / "images-00000.arrow"
    before = shard.stat().st_size
    with pa.ipc.new_file(shard, pa.schema([])):
        pass
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"bytes": {before}', f'"bytes": {shard.stat().st_size}'))

    with pytest.raises(MedretError, match="the shard is damaged"):
        open_shards(tmp_path).table("images")


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="needs /proc")
def test_thousands_of_shards_need_no_open_files(tmp_path):
    write_images(tmp_path, VECTORS, list("abcd"), cuts=(1, 2, 3))
    before = len(list(OPEN_FILES.iterdir()))

    blocks = open_shards(tmp_path).table("images").blocks("joint")

    assert len(list(OPEN_FILES.iterdir())) == before
    np.testing.assert_array_equal(np.concatenate(blocks), VECTORS)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_vectors_that_are_gone_through_once_are_those_that_are_mapped(tmp_path, dtype):
    vectors = unit(np.random.default_rng(1).normal(size=(1500, 256))).astype(dtype)
    write_images(tmp_path, vectors.astype(np.float32), [str(row) for row in range(1500)], cuts=(7,), dtype=dtype.__name__)
    table = open_shards(tmp_path).table("images")
    shard = tmp_path / "images-00001.arrow"

    def gone_through():
        return np.concatenate([piece.copy() for number in range(2) for piece in table.passing("joint", number)])

    np.testing.assert_array_equal(gone_through(), vectors)
    shard.rename(tmp_path / "elsewhere")  # the map goes on
    np.testing.assert_array_equal(gone_through(), vectors)
    shard.write_bytes(bytes(1 << 20))  # another file of this name
    np.testing.assert_array_equal(gone_through(), vectors)
    (tmp_path / "elsewhere").rename(shard)
    os.truncate(shard, 1 << 19)
    with pytest.raises(OSError, match=f"shorter.*{shard.name}"):
        gone_through()


def test_what_may_not_fit_into_memory_is_not_read_ahead(table, monkeypatch):
    asked = []
    monkeypatch.setattr("index.shard_table.read_ahead", asked.append)
    for most in (VECTORS.nbytes // 2, 4 << 30):
        monkeypatch.setattr("index.shard_table._MOST_READ_AHEAD", most)
        for _ in range(2):
            table.read_ahead("joint")
        for thread in set(threading.enumerate()) - {threading.current_thread()}:
            thread.join(5)

    assert [len(np.concatenate(blocks)) for blocks in asked] == [4]
