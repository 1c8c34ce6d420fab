import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from encoders.atomic import private_folder, whole_file, whole_folder
from encoders.errors import MedretError

ROOT = Path(__file__).parents[1]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def run_until_killed(program: str, folder: Path) -> None:
    """Run a program that writes half of something, and kill it there as a power cut would."""
    killed = subprocess.run(
        [sys.executable, "-c", f"import os, signal\nfrom pathlib import Path\nfrom encoders.atomic import *\n{program}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL


def test_a_file_appears_whole_with_its_content_and_for_its_owner_alone(tmp_path):
    with whole_file(tmp_path / "a.json") as beside:
        beside.write_text("new")
        assert names(tmp_path) == [beside.name]

    assert (tmp_path / "a.json").read_text() == "new"
    assert mode(tmp_path / "a.json") == 0o600
    assert names(tmp_path) == ["a.json"]


def test_a_file_gets_the_mode_that_is_asked_for(tmp_path):
    with whole_file(tmp_path / "page.html", mode=0o644) as beside:
        beside.touch()

    assert mode(tmp_path / "page.html") == 0o644


def test_what_a_link_names_is_replaced_and_no_device(tmp_path):
    """A redirected /dev/stdout is a link to a file, and root may replace devices."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)

    with whole_file(tmp_path / "link") as beside:
        beside.write_text("new")
    for device in ("pipe", "null", "far"):
        with pytest.raises(MedretError, match="expected a file to write"), whole_file(tmp_path / device) as beside:
            beside.write_text("lost")

    with pytest.raises(MedretError, match="is no folder"), whole_folder(tmp_path / "pipe"):
        pass

    assert (tmp_path / "far" / "a").read_text() == "new"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "pipe").is_fifo() and (tmp_path / "null").is_char_device()


def test_an_error_while_writing_a_file_leaves_the_old_one_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")

    with pytest.raises(KeyError), whole_file(tmp_path / "a") as beside:
        beside.write_text("half")
        raise KeyError

    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_process_killed_while_writing_a_file_leaves_the_old_one(tmp_path):
    (tmp_path / "a").write_text("old")

    run_until_killed("with whole_file(Path('a')) as beside: beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)", tmp_path)

    assert (tmp_path / "a").read_text() == "old"
    with whole_file(tmp_path / "a") as beside:
        beside.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_process_killed_while_filling_a_folder_leaves_the_old_one(tmp_path):
    with whole_folder(tmp_path / "run") as beside:
        (beside / "weights").write_text("old")

    run_until_killed(
        "with whole_folder(Path('run')) as beside: (beside / 'weights').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)", tmp_path
    )

    assert (tmp_path / "run" / "weights").read_text() == "old"
    with whole_folder(tmp_path / "run") as beside:
        (beside / "weights").write_text("new")
    assert (tmp_path / "run" / "weights").read_text() == "new"


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_full_disk_is_one_line_that_names_the_place(whole, tmp_path):
    with (
        pytest.raises(MedretError, match=r"^[^\n]*out: cannot be written \(No space left on device\)\. Free space[^\n]*$"),
        whole(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert names(tmp_path) == []


def test_a_write_beyond_what_the_system_allows_is_one_line_and_leaves_the_old_file(tmp_path):
    """A real refusal of the kernel: the size limit for files of this process."""
    (tmp_path / "a").write_text("old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(MedretError, match=r"a: cannot be written \(File too large\)"), whole_file(tmp_path / "a") as beside:
            beside.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_place_that_is_no_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(MedretError, match="cannot be written"), whole_folder(tmp_path / "file" / "run"):
        pass
    with pytest.raises(MedretError, match="cannot be made"):
        private_folder(tmp_path / "file" / "run")
    with pytest.raises(MedretError, match="cannot be written"), whole_file(tmp_path / "missing" / "a") as beside:
        beside.touch()


def test_a_folder_replaces_the_old_one_whole_and_is_its_owners_alone(tmp_path):
    for content in ("old", "new"):
        with whole_folder(tmp_path / "deep" / "run") as beside:
            (beside / "sub").mkdir()
            (beside / "sub" / content).touch()
            assert content == "old" or names(tmp_path / "deep" / "run" / "sub") == ["old"]

    assert names(tmp_path / "deep" / "run" / "sub") == ["new"]
    assert names(tmp_path / "deep") == ["run"]
    assert mode(tmp_path / "deep" / "run") == mode(tmp_path / "deep" / "run" / "sub") == 0o700
    assert mode(tmp_path / "deep" / "run" / "sub" / "new") == 0o600


def test_a_file_linked_into_a_folder_keeps_its_mode(tmp_path):
    (tmp_path / "shared").touch()
    (tmp_path / "shared").chmod(0o644)

    with whole_folder(tmp_path / "run") as beside:
        os.link(tmp_path / "shared", beside / "shared")

    assert mode(tmp_path / "shared") == 0o644


def test_an_error_while_filling_a_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    with whole_folder(tmp_path / "run") as beside:
        (beside / "old").touch()

    with pytest.raises(KeyError), whole_folder(tmp_path / "run") as beside:
        (beside / "half").touch()
        raise KeyError

    assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["run"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    with whole_folder(tmp_path / "run") as beside:
        (beside / "old").touch()
    replace = Path.replace

    def refuse_the_new_one(source: Path, target: Path) -> Path:
        if source.name.endswith(".part"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse_the_new_one)
    with pytest.raises(MedretError, match="Input/output error"), whole_folder(tmp_path / "run") as beside:
        (beside / "new").touch()

    assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["run"]


def test_a_private_folder_and_its_missing_parents_are_their_owners_alone_and_old_ones_keep_their_mode(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o755)

    assert private_folder(tmp_path / "old" / "new" / "newer") == tmp_path / "old" / "new" / "newer"

    assert [mode(tmp_path / "old"), mode(tmp_path / "old" / "new"), mode(tmp_path / "old" / "new" / "newer")] == [0o755, 0o700, 0o700]
    private_folder(tmp_path / "old")
    assert mode(tmp_path / "old") == 0o755
