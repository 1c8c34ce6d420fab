"""An index is killed while it changes, and meets damaged, swapped and missing files, full disks, and readers and writers at once.

MEDRET_KILLS says how often it is killed.
"""

import csv
import hashlib
import os
import random
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from handmade_archive import film_vector, make_encoder, write_archive
from index_process import Change
from PIL import Image

from encoders.errors import MedretError
from index.folder import build_index, open_index
from index.index_manifest import load_index_manifest
from index.life import add_shards
from index.removal import remove_records
from index.resume import locked
from index.verify import verify_index

KILLS = int(os.environ.get("MEDRET_KILLS", "10"))
CHANGES = ("build", "rebuild", "add", "remove", "compact")
PATIENTS = range(1, 21)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An encoder, a corpus of eight films with reports, and an index of twenty patients before each of the changes."""
    home = tmp_path_factory.mktemp("home")
    mark = make_encoder(home / "encoder")
    drawn = np.random.default_rng(0)
    with (home / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "study_id", "patient_id", "text"])
        for number in range(8):
            Image.fromarray(drawn.integers(0, 256, (40, 30), np.uint8)).save(home / f"{number}.png")
            writer.writerow([f"new{number}", f"{number}.png", f"newstudy{number // 2}", f"new{number // 4}", f"Finding {number // 2}."])
    for what in CHANGES:
        folder = home / what
        write_archive(folder / "shards", PATIENTS, mark, shard_rows=15)
        if what != "build":
            build_index(folder / "shards", folder, home / "encoder", "scan")
        if what == "compact":
            remove_records(folder, patients=["patient0003", "patient0004"])
    return home


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content(folder: Path) -> dict | None:
    """What the index answers with: records that can be found with their vectors, first stages, removed rows; None without an index."""
    if not (folder / "index.json").exists():
        return None
    opened = open_index(folder, verify=True)
    held: dict = {"kinds": [(entry.modality, entry.kind, entry.rows) for entry in opened.manifest.indexes]}
    held["files"] = {Path(file.file).name: digest((folder / file.file).read_bytes()) for file in opened.manifest.files}
    for part, place in zip(opened.shards.parts, opened.manifest.parts, strict=True):
        entries = part.manifest.modalities.values()
        held[place.folder] = {shard.file: digest((part.folder / shard.file).read_bytes()) for entry in entries for shard in entry.shards}
    for modality in opened.shards.modalities:
        table = opened.shards.table(modality)
        rows, scores = opened.index(modality).search(film_vector(7), 10)[0]
        held[modality] = (table.ids(table.live_rows), table.ids(rows), scores.tolist())
    return held


def leftovers(folder: Path) -> list[str]:
    """What a writer that came to its end must not leave behind."""
    manifest = load_index_manifest(folder)
    generations = sorted(path.name for path in folder.glob("g*"))[:-2]
    parts = {f"parts/{path.name}" for path in folder.glob("parts/*")} - {part.folder for part in manifest.parts}
    return [*generations, *parts, *(str(path) for path in folder.rglob(".*") if path.name.endswith((".part", ".old")))]


@pytest.mark.parametrize("what", CHANGES)
def test_killed_at_any_moment_it_is_the_old_index_or_the_new_and_the_command_can_be_run_again(home, tmp_path, what):
    before = content(home / what)
    shutil.copytree(home / what, tmp_path / "whole")
    began = time.monotonic()
    fault, calls = Change(home, tmp_path / "whole", what).outcome()
    lasts = time.monotonic() - began
    after = content(tmp_path / "whole")
    assert fault is None and after != before
    moments = random.Random(f"{what} {KILLS}")
    outcomes = {"old": 0, "new": 0}

    for number in range(-(-KILLS // len(CHANGES))):
        folder = tmp_path / f"killed{number}"
        shutil.copytree(home / what, folder)
        if number % 2:
            change = Change(home, folder, what)
            time.sleep(moments.uniform(0, lasts))
            change.kill()
        else:  # just before a call on a file: moments that matter
            Change(home, folder, what, last_event=moments.randrange(calls)).die()
        killed = content(folder)
        assert killed in (before, after)
        outcomes["old" if killed == before else "new"] += 1
        fault, _ = Change(home, folder, what).outcome()
        again = fault is not None and ("in the index already" in fault or "has no patient patient0003" in fault)
        assert fault is None or (again and killed == after), fault
        assert content(folder) == after
        assert not verify_index(folder).faults
        if again:
            remove_records(folder, patients=["patient0020"])  # the next writer removes what is left
        assert not leftovers(folder)
        if what == "compact":
            assert not [path for path in folder.rglob("*") if path.is_file() and b"patient0003" in path.read_bytes()]
        shutil.rmtree(folder)
    print(f"\n{what}: {sum(outcomes.values())} kills: {outcomes['old']} left the old index, {outcomes['new']} the new one, none another")


@pytest.fixture
def archive(home, tmp_path):
    return Path(shutil.copytree(home / "add", tmp_path / "index"))


def swap(one: Path, other: Path) -> None:
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def test_files_that_changed_places_are_told_at_once(archive, home, tmp_path, archive_twin):
    """Two of the same size: nothing but their content tells them apart."""
    swaps = {
        "first stages": (archive / "g00001/images-joint.codes.npy", archive / "g00001/sentences-joint.codes.npy"),
        "shards": (archive / "shards/images-00000.arrow", archive / "shards/images-00001.arrow"),
        "shards of two archives": (archive / "shards/images-00000.arrow", archive_twin / "shards/images-00000.arrow"),
    }
    for what, (one, other) in swaps.items():
        assert one.stat().st_size == other.stat().st_size, what
        swap(one, other)
        with pytest.raises(MedretError, match="damaged"):
            open_index(archive)
        assert verify_index(archive).faults, what
        swap(one, other)
        assert not verify_index(archive).faults


@pytest.fixture
def archive_twin(home, tmp_path):
    """Another archive whose files have the sizes of the first."""
    folder = tmp_path / "twin"
    write_archive(folder / "shards", range(21, 41), load_index_manifest(home / "add").encoder, shard_rows=15)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "g00001/images-joint.codes.npy",
        "g00001/reports-joint.quantiser.npz",
        "shards/reports-00000.arrow",
        "shards/manifest.json",
        "index.json",
    ],
)
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "longer"])
def test_a_missing_or_cut_file_is_told_when_the_index_is_opened(archive, name, how):
    path = archive / name
    size = path.stat().st_size
    if how == "missing":
        path.unlink()
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        os.truncate(path, size // 2 if how == "cut" else 0)

    with pytest.raises(MedretError) as fault:
        open_index(archive)
    assert "\n" not in str(fault.value) and verify_index(archive).faults


@pytest.mark.parametrize("name", ["images-joint.faiss", "images-joint.quantiser.npz", "images.removed.npy", "images-joint.codes.npy"])
def test_a_flipped_bit_in_what_is_searched_gives_no_answer_or_the_right_one(archive, home, name):
    if name.endswith(".faiss"):
        build_index(archive / "shards", archive, home / "encoder", "ivf-scan")
    remove_records(archive, patients=["patient0003"])
    right = content(archive)
    path = next(archive.glob(f"g0000{load_index_manifest(archive).generation}/{name}"))
    held = bytearray(path.read_bytes())
    for place in random.Random(name).sample(range(len(held)), 12):
        changed = bytearray(held)
        changed[place] ^= 1 << (place % 8)
        path.unlink()
        path.write_bytes(changed)

        assert verify_index(archive).faults
        try:
            opened = open_index(archive)
            rows, scores = opened.index("images").search(film_vector(7), 10)[0]
        except MedretError as fault:
            assert "damaged" in str(fault)
        else:
            assert name.endswith(".codes.npy")  # it is mapped: its checksum is compared by verify alone
            assert (opened.shards.table("images").ids(rows), scores.tolist()) == right["images"][1:]


@pytest.mark.parametrize("what", ["add", "remove", "compact", "rebuild"])
def test_a_full_disk_leaves_the_index_as_it_was(home, tmp_path, what):
    folder = Path(shutil.copytree(home / what, tmp_path / "index"))
    before = content(folder)

    fault, _ = Change(home, folder, what, file_bytes=100 if what == "remove" else 1500).outcome()

    assert fault is not None and "cannot be written" in fault and "\n" not in fault
    assert content(folder) == before
    assert Change(home, folder, what).outcome()[0] is None and not leftovers(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_folder_that_may_only_be_read_is_searched_and_not_changed(home, tmp_path_factory):
    folder = Path(shutil.copytree(home / "remove", tmp_path_factory.mktemp("readonly") / "index"))
    for place in [*folder.parents][:4]:
        if place.stat().st_uid == 0 and str(place).startswith("/tmp/"):
            place.chmod(0o755)
    for place in [folder, *folder.rglob("*")]:
        place.chmod(0o755 if place.is_dir() else 0o644)
    before = content(folder)

    fault, _ = Change(home, folder, "remove", user=65534).outcome()

    assert fault is not None and "cannot be written (Permission denied). Check" in fault
    assert content(folder) == before


def test_of_two_writers_at_once_one_is_told_to_wait(archive, home):
    with locked(archive):
        fault, _ = Change(home, archive, "remove").outcome()
        assert fault is not None and "another medret is writing here" in fault

    changes = [Change(home, archive, "add"), Change(home, archive, "remove")]
    faults = [change.outcome()[0] for change in changes]

    assert sum(fault is None for fault in faults) >= 1
    assert all(fault is None or "another medret is writing here" in fault for fault in faults)
    assert not verify_index(archive).faults


def test_readers_see_one_generation_each_while_a_writer_publishes(archive, tmp_path, home):
    """Patients come and go; a reader finds all five records of a patient or none, and never a patient that is not there."""
    mark = load_index_manifest(archive).encoder
    answers, faults, done = [], [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                opened = open_index(archive)
                counts = {}
                for modality, each in (("images", 2), ("reports", 1), ("sentences", 2)):
                    table = opened.shards.table(modality)
                    rows = opened.index(modality).search(film_vector(7), 1000)[0][0]
                    owners = table.values("patient_id", rows)
                    counts[modality] = {owner: owners.count(owner) // each for owner in owners}
                    assert len(rows) == len(table.live_rows)
                answers.append((opened.manifest.generation, counts))
            except (MedretError, AssertionError, OSError) as fault:
                faults.append(fault)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    expected = {1: {f"patient{number:04d}" for number in PATIENTS}}
    for number in range(41, 45):
        add_shards(archive, write_archive(tmp_path / str(number), [number], mark))
        expected[2 * number - 80] = expected[2 * number - 81] | {f"patient{number:04d}"}
        remove_records(archive, patients=[f"patient{number - 40:04d}"])
        expected[2 * number - 79] = expected[2 * number - 80] - {f"patient{number - 40:04d}"}
    done.set()
    for reader in readers:
        reader.join()

    assert not faults
    assert len({generation for generation, _ in answers}) > 2
    for generation, counts in answers:
        for found in counts.values():
            assert found == dict.fromkeys(expected[generation], 1)
