"""Encoding is killed at random moments, and meets full disks, locked folders and damaged films: nothing is lost, nothing wrong is left.

MEDRET_KILLS says how often it is killed.
"""

import csv
import os
import random
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from encoding_process import Encoding
from PIL import Image

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from index.cache import build_image_cache
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions
from index.shards import open_shards

KILLS = int(os.environ.get("MEDRET_KILLS", "10"))
IN_TURN = 3  # kills of one folder before it is finished and compared
OPTIONS = EncodeOptions(vectors=("joint", "features"), text_units=("report", "sentence"), shard_rows=5, batch_size=2, workers=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of 24 films, two of them damaged, with reports; an encoder."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "films").mkdir()
    drawn = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "study_id", "patient_id", "text"])
        for number in range(24):
            film = folder / "films" / f"{number}.png"
            Image.fromarray(drawn.integers(0, 256, (40, 30), np.uint8)).save(film)
            if number in (3, 17):
                film.write_bytes(film.read_bytes()[:500])
            writer.writerow([f"i{number}", f"films/{number}.png", f"s{number // 2}", f"p{number // 4}", f"Finding {number}. No effusion."])
    encoder = build_encoder("tiny", "tiny", texts=["No effusion. Finding"], size=32, dimension=8).eval()
    save_checkpoint(encoder, folder / "encoder")
    return folder


def start(made, out, options=OPTIONS, **limits):
    return Encoding(made / "table.csv", made / "encoder", out, options, **limits)


def content(folder):
    """All files but locks."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def finished(made, out, options):
    """Run to the end, one process after the other, and say what is there."""
    for rank in range(options.size):
        assert start(made, out, replace(options, rank=rank)).outcome() is None
    open_shards(out, verify=True)
    return content(out)


WAYS = {
    "alone": OPTIONS,
    "by two": replace(OPTIONS, size=2),
    "pseudonymised": replace(OPTIONS, pseudonym_key=b"0123456789abcdef"),
    "from a cache": OPTIONS,
}


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_random_moments_and_run_again_it_writes_the_bytes_of_an_undisturbed_run(made, tmp_path, way):
    options = WAYS[way]
    if way == "from a cache":
        options = replace(options, cache=tmp_path / "cache", cache_size=48)
    expected = finished(made, tmp_path / "whole", options)
    cached = content(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    timed = start(made, tmp_path / "timed", options)
    began = time.monotonic()
    timed.outcome()
    lasts = time.monotonic() - began
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    moments = random.Random(f"{way} {KILLS}")
    out = tmp_path / "out"

    for number in range(-(-KILLS // len(WAYS))):
        running = [start(made, out, replace(options, rank=rank)) for rank in range(options.size)]
        time.sleep(moments.uniform(0, lasts))
        for process in running:
            process.kill()
        try:
            open_shards(out, verify=True)
        except MedretError:
            pass
        else:
            left = {name: held for name, held in content(out).items() if not name.endswith(".part")}
            assert left == expected  # it had come to its end
        if number % IN_TURN == IN_TURN - 1 or number == -(-KILLS // len(WAYS)) - 1:
            assert finished(made, out, options) == expected
            assert content(tmp_path / "cache") == cached
            shutil.rmtree(out)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_two_processes_at_once_write_the_bytes_of_one(made, tmp_path):
    expected = finished(made, tmp_path / "whole", OPTIONS)

    running = [start(made, tmp_path / "out", replace(OPTIONS, rank=rank, size=2)) for rank in range(2)]

    assert [process.outcome() for process in running] == [None, None]
    assert content(tmp_path / "out") == expected


def test_of_two_writers_at_once_one_is_told_to_wait(made, tmp_path):
    expected = finished(made, tmp_path / "whole", OPTIONS)

    running = [start(made, tmp_path / "out") for _ in range(2)]

    outcomes = [process.outcome() for process in running]
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert all("another medret is writing here. Wait for it" in outcome for outcome in refused)
    assert len(refused) <= 1
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("file_bytes", [0, 300, 2_500, 4_000])
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(made, tmp_path, file_bytes):
    """Full before the rows are noted, at the plan, or at a shard."""
    expected = finished(made, tmp_path / "whole", OPTIONS)

    outcome = start(made, tmp_path / "out", file_bytes=file_bytes).outcome()

    assert outcome is not None
    assert "cannot be written" in outcome
    assert "Free space" in outcome
    assert "\n" not in outcome
    assert finished(made, tmp_path / "out", OPTIONS) == expected


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_may_not_be_written_is_one_line(made, tmp_path):
    shutil.copytree(made, tmp_path / "made")
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path.is_relative_to("/tmp/pytest-of-root"):
            path.chmod(0o755)
    (tmp_path / "out").mkdir(mode=0o555)

    outcome = start(made, tmp_path / "out", user=65534).outcome()

    assert outcome == f"{tmp_path / 'out'}: cannot be written (Permission denied). Choose another --out"


def test_films_damaged_in_every_way_are_listed_and_once_mended_leave_no_trace(made, tmp_path):
    """Cut, flipped, emptied, exchanged for something else, gone."""
    folder = shutil.copytree(made, tmp_path / "corpus")
    whole = {number: (folder / "films" / f"{number}.png").read_bytes() for number in (1, 6, 8, 12, 20)}
    expected = finished(folder, tmp_path / "whole", OPTIONS)
    for number, change in {1: lambda held: held[:-200], 6: lambda held: b"", 8: lambda held: b"GIF89a" + held, 12: _flipped}.items():
        (folder / "films" / f"{number}.png").write_bytes(change(whole[number]))
    (folder / "films" / "20.png").unlink()

    finished(folder, tmp_path / "out", OPTIONS)
    with (tmp_path / "out" / "failures.csv").open() as file:
        failures = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    for number, held in whole.items():
        (folder / "films" / f"{number}.png").write_bytes(held)
    mended = finished(folder, tmp_path / "out", replace(OPTIONS, retry_failed=True))

    assert set(failures) == {f"i{number}" for number in (1, 3, 6, 8, 12, 17, 20)}
    assert all(str(folder) not in reason and reason.startswith(id) for id, reason in failures.items())
    assert mended == expected


def _flipped(held: bytes) -> bytes:
    return held[:600] + bytes([held[600] ^ 0xFF]) + held[601:]


def test_a_cache_being_filled_twice_at_once_is_filled_once(made, tmp_path):
    """Both runs wait for one another and write what one alone would."""
    options = replace(OPTIONS, cache=tmp_path / "cache", cache_size=48)
    running = [start(made, tmp_path / f"out{number}", options) for number in range(2)]

    assert [process.outcome() for process in running] == [None, None]
    assert len(list((tmp_path / "cache").glob("*.arrows"))) == 1
    one, other = (content(tmp_path / f"out{number}") for number in range(2))
    assert one == other
    records = list(open_corpus(made / "table.csv").records())
    preprocessing = build_encoder("tiny", "tiny", texts=["No effusion"], size=32, dimension=8).config.preprocessing
    assert len(build_image_cache(records, preprocessing, tmp_path / "cache", 48).ids) == 22
