"""The commands add, remove, compact and verify; faults end in one line and exit code 1."""

import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from index.corpora.phantom import write_phantoms
from retrieval import cli


def medret(*arguments: object, code: int = 0) -> tuple[str, str]:
    """Run a command in this process, where all it needs is loaded; return what goes to stdout and to stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["medret", *map(str, arguments)])
        cli.main()
        raise SystemExit(0)
    assert (ended.value.code or 0) == code, (ended.value.code, out.getvalue(), err.getvalue())
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two corpora, an encoder nobody trained, an index of the first corpus whose shards lie inside of it, a key file."""
    home = tmp_path_factory.mktemp("home")
    write_phantoms(home / "first", 6, 1)
    write_phantoms(home / "second", 4, 2)
    save_checkpoint(build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=32), home / "encoder")
    (home / "key").write_text("0123456789abcdef0123456789abcdef")
    (home / "key").chmod(0o600)
    return home


def patients_of(corpus: Path) -> list[str]:
    return sorted(folder.name.removeprefix("p") for folder in corpus.glob("files/p*/p*"))


@pytest.mark.parametrize("first", ["direct", "cached"])
def test_adding_films_that_became_squares_in_another_way_is_said_once(home, tmp_path, first):
    cached = ("--cache", tmp_path / "cache", "--cache-size", 48)
    ways: dict[str, tuple[object, ...]] = {"direct": (), "cached": cached}
    second = "cached" if first == "direct" else "direct"
    index = tmp_path / "index"
    said = {
        way: medret("encode", home / corpus, "--encoder", home / "encoder", "--out", tmp_path / way, *ways[way])[1]
        for way, corpus in ((first, "first"), (second, "second"))
    }
    medret("build-index", tmp_path / first, "--out", index, "--kind", "flat")

    notes = medret("add", tmp_path / second, "--index", index)[1]

    assert (said["direct"].count("cache of 48-pixel squares"), said["cached"].count("cache of 48-pixel squares")) == (0, 1)
    assert notes.count("films by several ways") == 1


def test_an_archive_lives(home, tmp_path):
    index = tmp_path / "index"
    medret("build-index", home / "first", "--encoder", home / "encoder", "--out", index, "--kind", "flat", "--text-unit", "report,sentence")
    patient, keeper = (str(patient) for patient in patients_of(home / "first")[:2])
    before = json.loads(medret("query", "--text", "effusion", "--index", index, "-k", 500, "--format", "json")[0])

    out, err = medret("add", home / "second", "--index", index)
    assert "several ways" not in err
    assert re.search(r"parts/00002-1: \d+ images, \d+ reports, \d+ sentences", out)
    after = json.loads(medret("query", "--text", "effusion", "--index", index, "-k", 500, "--format", "json")[0])
    assert {hit["id"] for hit in after} > {hit["id"] for hit in before}
    fault = medret("add", home / "second", "--index", index, code=1)[1].splitlines()
    assert len(fault) >= 1 and "is in the index already (images)" in fault[-1]

    out, _ = medret("remove", "--index", index, "--patient", patient)
    assert re.fullmatch(r"\S+: removed \d+ images, \d+ reports, \d+ sentences\. To erase them .*\n", out) and patient not in out
    assert "Nothing was removed" in medret("remove", "--index", index, "--patient", keeper, "--patient", patient, code=1)[1]
    medret("remove", "--index", index, code=2)
    found = json.loads(medret("query", "--text", "effusion", "--index", index, "-k", 500, "--format", "json")[0])
    owners = {hit["patient_id"] for hit in found}
    assert patient not in owners and keeper in owners

    out, err = medret("compact", "--index", index)
    assert "erased" in out and not err and not (index / "shards").exists()
    assert not [path for path in index.rglob("*") if path.is_file() and patient.encode() in path.read_bytes()]
    left = json.loads(medret("query", "--text", "effusion", "--index", index, "-k", 500, "--format", "json")[0])
    measured_anew = {"percentile": None}  # by other pairs
    assert [hit | measured_anew for hit in left] == [hit | measured_anew for hit in found]

    out, _ = medret("verify", "--index", index)
    assert "every checksum right" in out
    shard = next(index.rglob("images-00000.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    out, err = medret("verify", "--index", index, code=1)
    assert not out and len(err.splitlines()) == 1 and "images-00000.arrow: the shard is damaged" in err
    assert "images-00000.arrow" in medret("verify", shard.parent, code=1)[1]


def test_a_pseudonymised_archive_is_changed_with_its_key_alone(home, tmp_path):
    """Its films come from a cache of real ids, which compaction takes them out of."""
    index, key, cache = tmp_path / "index", home / "key", tmp_path / "cache"
    told = (home / "first", "--encoder", home / "encoder", "--out")
    medret("cache", *told, cache, "--size", 48)
    medret("build-index", *told, index, "--pseudonymise", key, "--cache", cache, "--cache-size", 48)
    patient = patients_of(home / "first")[0]
    films = [film.stem for film in (home / "first").glob(f"files/p*/p{patient}/*/*.jpg")]
    (note,) = cache.glob("*.json")
    assert films and all(film in note.read_text() for film in films)
    (tmp_path / "other").write_text("another key, another key")
    (tmp_path / "other").chmod(0o600)

    assert "is pseudonymised. Give the key" in medret("add", home / "second", "--index", index, code=1)[1]
    assert "with another key" in medret("add", home / "second", "--index", index, "--pseudonymise", tmp_path / "other", code=1)[1]
    medret("add", home / "second", "--index", index, "--pseudonymise", key)
    assert "has no patient" in medret("remove", "--index", index, "--patient", patient, code=1)[1]
    assert "removed" in medret("remove", "--index", index, "--patient", patient, "--pseudonymise", key)[0]
    assert f"and {len(films)} decoded images" in medret("compact", "--index", index)[0]

    assert not [note for note in cache.glob("*.json") if any(film in note.read_text() for film in films)]
    assert "every checksum right" in medret("verify", "--index", index)[0]
    assert not [path for path in index.rglob("*.csv") if f"p{patient}/" in path.read_text()]
    assert "with another key" in medret("add", home / "second", "--index", index, "--pseudonymise", tmp_path / "other", code=1)[1]
