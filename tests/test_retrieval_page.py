"""The page of `medret query`, driven as a user drives it, over phantoms and an encoder that has learned nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from index.corpora.phantom import write_phantoms

MEDRET = Path(sys.executable).with_name("medret")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    write_phantoms(home / "corpus", 4, 0)
    save_checkpoint(build_encoder("tiny", "tiny", ["small left effusion", "edema"], size=64, dimension=16).eval(), home / "encoder")
    done = medret("build-index", home / "corpus", "--encoder", home / "encoder", "--out", home / "index")
    assert done.returncode == 0, done.stderr
    return home


def medret(*arguments, **environment):
    command = [str(MEDRET), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


def asked(home, *more, **environment):
    return medret("query", "--text", "edema", "--index", home / "index", "-k", 3, *more, **environment)


def test_open_shows_the_page_in_the_browser_and_names_the_file(home, tmp_path):
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)

    done = asked(home, "--open", BROWSER=f"{browser} %s", TMPDIR=str(tmp_path))

    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert (tmp_path / "opened").read_text().strip() == path.as_uri()
    assert path.stat().st_mode & 0o077 == 0
    page = path.read_text(encoding="utf-8")
    assert len(re.findall(r'class="map" src="data:image/png', page)) == 3  # a map over each film
    assert len(re.findall(r"above [\d.]+ % of random pairs", page)) == 3
    assert "<mark" in page
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|<script""", page)


def test_where_no_browser_starts_the_page_is_there_all_the_same(home, tmp_path):
    done = asked(home, "--open", "--no-maps", BROWSER="/bin/false %s", DISPLAY="", WAYLAND_DISPLAY="", PATH="", TMPDIR=str(tmp_path))

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("medret: ")]
    assert "no browser could be started" in line
    (path,) = tmp_path.glob("medret-*.html")
    assert str(path) in line
    assert "<h1>Answers</h1>" in path.read_text(encoding="utf-8")


def test_maps_can_be_left_out_which_the_page_says(home):
    page = asked(home, "--format", "html", "--no-maps").stdout

    assert 'class="map" src' not in page
    assert "No similarity maps on this page" in page


def test_open_is_no_json(home):
    done = asked(home, "--open", "--format", "json")

    assert done.returncode == 2
    assert "--open" in done.stderr


def test_letters_that_the_terminal_lacks_and_a_full_disk_are_no_internal_error(home):
    command = [str(MEDRET), "query", "--text", "edema", "--index", str(home / "index")]

    done = asked(home, "--text", "œdema", "--explain", PYTHONIOENCODING="ascii")
    with Path("/dev/full").open("w") as full:
        stopped = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)

    assert (done.returncode, "\\u0153dema" in done.stdout) == (0, True), done.stderr
    assert (stopped.returncode, stopped.stderr.partition(".")[0]) == (1, "medret: No space left on device")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_process_with_a_closed_stream_answers_all_the_same(home, closed):
    command = f"exec {MEDRET} query --text edema -k 3 --format json --index {home / 'index'} {closed}"

    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60)

    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.count('"rank"') == (0 if closed == ">&-" else 3)


def test_help_names_options_and_commands_in_full_on_a_narrow_terminal():
    query, whole = medret("query", "-h", COLUMNS="80"), medret("-h", COLUMNS="80")

    for name in ("--exclude-same-patient / --include-same-patient", "--exclude-same-study ", "--no-best-sentence", "study_date=2011-05.."):
        assert name in query.stdout
    assert max(map(len, query.stdout.splitlines())) <= 80
    assert "..." not in whole.stdout.partition("Commands:")[2]
    assert medret("query", "--text", "a", "-k", 0).stderr.splitlines()[-1] == "Error: Invalid value for '-k': 0 is not in the range x>=1."


def test_an_index_may_be_named_to_verify_as_shards_are(home):
    for folder in (home / "index", home / "index" / "shards"):
        done = medret("verify", folder)

        assert (done.returncode, "every checksum right" in done.stdout) == (0, True), done.stderr
        assert str(folder) in done.stdout
