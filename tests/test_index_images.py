"""A plain folder of films as a corpus: what is read, in which order, under which id, and what is left out."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from encoders.errors import MedretError
from index.corpora.images import read_images, recognises_images
from index.corpora.readers import open_corpus
from index.corpora.record import Record, Tally
from index.corpora.summary import summarise_corpus


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read(root: Path) -> tuple[list[Record], Tally]:
    tally = Tally()
    return list(read_images(root, tally)), tally


def test_each_film_becomes_a_record_that_claims_nothing_but_its_path(tmp_path):
    make(tmp_path, "ward/doe/film 1.JPG")

    (record,), tally = read(tmp_path)

    assert record == Record(id="ward/doe/film 1", image=tmp_path / "ward/doe/film 1.JPG")
    assert not tally.left_out and not tally.faults


def test_films_come_in_the_order_of_folders_and_names(tmp_path):
    make(tmp_path, "b/2.png", "c.png", "b/10.jpg", "a.jpeg", "b/a/1.png")

    assert [record.id for record in read(tmp_path)[0]] == ["a", "b/10", "b/2", "b/a/1", "c"]


def test_a_second_reading_gives_the_same_records(tmp_path):
    make(tmp_path, "a.png", "b/c.jpg", "d.txt")
    corpus = open_corpus(tmp_path)

    assert list(corpus.records()) == list(corpus.records())


def test_what_is_no_film_is_counted_by_its_suffix(tmp_path):
    make(tmp_path, "a.png", "notes.txt", "more.TXT", "Thumbs.db", "LICENSE", "scan.doe_john", "film.tiff", ".b.png", ".hidden/c.png")
    make(tmp_path, "d/._e.jpg")

    records, tally = read(tmp_path)

    assert [record.id for record in records] == ["a"]
    assert tally.left_out == {
        "hidden file": 3,
        "file that is no JPEG or PNG (.txt)": 2,
        "file that is no JPEG or PNG (.db)": 1,
        "file that is no JPEG or PNG (.tiff)": 1,
        "file that is no JPEG or PNG (no suffix)": 1,
        "file that is no JPEG or PNG (another suffix)": 1,
    }


def test_a_name_that_is_no_text_is_counted_and_named_in_print(tmp_path):
    """As of an archive that was packed in Latin-1; shards and tables of failures hold text."""
    make(tmp_path, "a.png", os.fsdecode(b"M\xfcller.png"), os.fsdecode(b"J\xfcrgen") + "/b.png")

    records, tally = read(tmp_path)

    assert [record.id for record in records] == ["a"]
    assert tally.left_out == {"name that is not UTF-8": 2}
    assert tally.examples["name that is not UTF-8"] == ["J\\udcfcrgen", "M\\udcfcller.png"]


def test_films_that_differ_only_in_suffix_keep_it(tmp_path):
    make(tmp_path, "a.png", "a.jpg", "b.png", "c/a.png", "c.jpg")

    assert [record.id for record in read(tmp_path)[0]] == ["a.jpg", "a.png", "b", "c/a", "c"]


def test_a_name_that_is_another_s_stem_keeps_its_suffix(tmp_path):
    """Openi's originals end in .dcm.png; a copy saved as a.jpg.png is no second a.jpg."""
    make(tmp_path, "a.jpg", "a.png", "a.jpg.png")

    assert [record.id for record in read(tmp_path)[0]] == ["a.jpg", "a.jpg.png", "a.png"]


@given(names=st.sets(st.from_regex(r"\A(a|b|a\.jpg|a\.png)(\.jpg|\.png|\.JPG|\.jpeg|)\Z"), max_size=12))
def test_no_two_films_share_an_id(tmp_path_factory, names):
    root = make(tmp_path_factory.mktemp("films"), *names)

    ids = [record.id for record in read(root)[0]]

    assert len(set(ids)) == len(ids) == sum(name.lower().endswith((".jpg", ".jpeg", ".png")) for name in names)


def test_links_in_a_circle_end(tmp_path):
    make(tmp_path, "a/film.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "lost.png").symlink_to(tmp_path / "gone.png")

    records, tally = read(tmp_path)

    assert [record.id for record in records] == ["a/film"]
    assert tally.left_out == {"folder met before through a link": 1, "broken link or no regular file": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_counted_not_fatal(tmp_path):
    make(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        records, tally = read(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)

    assert [record.id for record in records] == ["a"]
    assert tally.left_out == {"folder cannot be read": 1}


def test_records_come_while_the_tree_is_still_walked(tmp_path):
    make(tmp_path, "a/1.png", "b/2.png")
    records = read_images(tmp_path, Tally())

    assert next(records).id == "a/1"
    make(tmp_path, "b/3.png")  # in a folder that was not reached yet
    assert [record.id for record in records] == ["b/2", "b/3"]


@pytest.mark.parametrize(("names", "expected"), [(("deep/er/a.PNG",), True), (("a.txt", ".b.png"), False), ((), False)])
def test_a_folder_is_one_of_films_if_it_holds_one(tmp_path, names, expected):
    assert recognises_images(make(tmp_path, *names)) is expected


def test_a_single_film_is_no_folder_of_films(tmp_path):
    make(tmp_path, "a.png")

    with pytest.raises(MedretError, match="this file is none of the known corpora"):
        open_corpus(tmp_path / "a.png")


def test_a_summary_counts_films_and_what_was_left_out(tmp_path):
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(tmp_path / "film.png")
    make(tmp_path, "broken.jpg", "notes.txt")

    summary = summarise_corpus(open_corpus(tmp_path), check_images=True)

    assert (summary.format, summary.records, summary.images, summary.patients, summary.reports) == ("images", 2, 2, 0, 0)
    assert [(fault.count, fault.examples) for fault in summary.left_out] == [(1, ("notes.txt",))]
    assert [fault.reason for fault in summary.faults] == ["image cannot be decoded"]
