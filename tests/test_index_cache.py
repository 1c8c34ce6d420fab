import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from encoders.errors import MedretError
from encoders.pixels import read_image
from encoders.preprocess import Preprocessing
from index import cache, cache_file
from index.cache import build_image_cache, cached_squares
from index.cache_file import forget
from index.corpora.record import Record
from index.squares import decode_square, decode_squares, make_ahead

WAY = Preprocessing(size=16)


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    random = np.random.default_rng(0)
    made = []
    for number in range(7):
        path = folder / f"film{number}.png"
        Image.fromarray(random.integers(0, 256, (20 + number, 30), np.uint8)).save(path)
        made.append(Record(id=f"r{number}", image=path))
    return [*made, Record(id="text only", image=None)]


def test_the_cache_holds_what_decoding_each_image_gives(records, tmp_path):
    held = build_image_cache(records, WAY, tmp_path / "cache", workers=3)

    assert held.ids == [f"r{number}" for number in range(7)]
    assert (held.images.shape, held.images[0].dtype, held.images[0].flags.writeable) == ((7, 16, 16), np.uint8, False)
    for row in range(7):
        np.testing.assert_array_equal(held.images[row], WAY.square(read_image(records[row].image)))


def test_the_cache_is_a_plain_arrow_stream(records, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_AT_ONCE", 3)
    records[1].image.write_text("no image")
    build_image_cache(records, WAY, tmp_path / "cache", size=24)

    table = pa.ipc.open_stream(next((tmp_path / "cache").glob("*.arrows")).read_bytes()).read_all()

    kept = [0, 2, 3, 4, 5, 6]
    assert [len(chunk) for chunk in table["pixels"].chunks] == [2, 3, 1]
    np.testing.assert_array_equal(
        np.array(table["pixels"].to_pylist()).reshape(6, 24, 24), [WAY.square(read_image(records[row].image), 24) for row in kept]
    )
    described = table.drop(["pixels", "crc32"]).to_pylist()
    assert described == [{"id": f"r{row}", "width": 30, "height": 20 + row} for row in kept]
    assert table["crc32"].to_pylist() == [zlib.crc32(bytes(film)) for film in table["pixels"].combine_chunks().storage.to_pylist()]


def test_a_bad_image_has_no_row_but_a_reason_without_its_path(records, tmp_path):
    records[2].image.write_text("no image")
    records[4].image.unlink()

    held = build_image_cache(records, WAY, tmp_path / "cache")

    assert held.ids == ["r0", "r1", "r3", "r5", "r6"]
    assert list(held.failures) == ["r2", "r4"]
    assert not any("Doe_Jane" in reason or "film" in reason for reason in held.failures.values())
    np.testing.assert_array_equal(held.images[2], WAY.square(read_image(records[3].image)))


def no_decoding(*args, **kwargs):
    raise AssertionError("decoded again")


def test_the_cache_is_reused_for_the_same_images(records, tmp_path, monkeypatch):
    first = build_image_cache(records, WAY, tmp_path / "cache")
    monkeypatch.setattr(cache, "decode_square", no_decoding)

    np.testing.assert_array_equal(build_image_cache(records, WAY, tmp_path / "cache").images[:], first.images[:])


@pytest.mark.parametrize("change", ["size", "preprocessing", "records", "image", "decoders"])
def test_the_cache_is_made_anew_when_anything_changes(records, tmp_path, monkeypatch, change):
    build_image_cache(records, WAY, tmp_path / "cache")
    if change == "decoders":
        monkeypatch.setitem(sys.modules, "gdcm", None)  # as if it were not installed
    if change == "image":
        Image.fromarray(np.zeros((30, 30), np.uint8)).save(records[0].image)
    changed = records[1:] if change == "records" else records
    way = Preprocessing(size=16, fit="crop") if change == "preprocessing" else WAY

    held = build_image_cache(changed, way, tmp_path / "cache", size=20 if change == "size" else None)

    expected = way.square(read_image(changed[0].image), 20 if change == "size" else None)
    np.testing.assert_array_equal(held.images[0], expected)
    assert len(list((tmp_path / "cache").glob("*.arrows"))) == 2


class StoppedError(Exception):
    pass


def test_a_film_that_could_not_be_read_is_decoded_once_it_can_be(records, tmp_path, monkeypatch):
    """Its size and time stay the same."""
    allowed, read = os.access, Path.read_bytes
    locked = records[3].image
    monkeypatch.setattr("os.access", lambda path, mode: path != locked and allowed(path, mode))
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path if path != locked else tmp_path))  # raises OSError
    before = build_image_cache(records, WAY, tmp_path / "cache")
    monkeypatch.undo()

    held = build_image_cache(records, WAY, tmp_path / "cache")

    assert list(before.failures) == ["r3"]
    assert (len(held.ids), held.failures) == (7, {})


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_stopped_run_goes_on_where_it_was_stopped(records, tmp_path, monkeypatch, stop):
    monkeypatch.setattr(cache, "_AT_ONCE", 2)
    records[1].image.write_text("no image")
    expected = build_image_cache(records, WAY, tmp_path / "whole")

    def stop_there(done, total):
        if done == stop:
            raise StoppedError

    with pytest.raises(StoppedError):
        build_image_cache(records, WAY, tmp_path / "cache", progress=stop_there)
    assert list((tmp_path / "cache").glob("*.arrows")) == []
    done = []
    held = build_image_cache(records, WAY, tmp_path / "cache", progress=lambda count, total: done.append(count))

    assert done == list(range((stop - stop % 2 if stop < 7 else 7) + 1, 8))
    assert (held.ids, held.failures) == (expected.ids, expected.failures)
    assert held.sizes == expected.sizes == [(30, 20 + number) for number in (0, 2, 3, 4, 5, 6)]
    np.testing.assert_array_equal(held.images[:], expected.images[:])


def test_a_damaged_cache_says_what_to_remove(records, tmp_path):
    build_image_cache(records, WAY, tmp_path / "cache")
    file = next((tmp_path / "cache").glob("*.arrows"))
    os.truncate(file, 500)

    with pytest.raises(MedretError, match=f"the image cache is damaged.*Remove {file.stem}"):
        build_image_cache(records, WAY, tmp_path / "cache")


@pytest.mark.parametrize("content", ["{", '{"ids": []}'])
def test_a_damaged_note_says_what_to_remove(records, tmp_path, content):
    """Not the folder: other caches lie there."""
    build_image_cache(records, WAY, tmp_path / "cache")
    (note,) = (tmp_path / "cache").glob("*.json")
    note.write_text(content)

    with pytest.raises(MedretError, match=rf"cannot be read from it\. Remove {note.stem}\.\* in .*; they are made anew"):
        build_image_cache(records, WAY, tmp_path / "cache")


def test_a_cache_with_the_films_of_another_is_refused(records, tmp_path):
    build_image_cache(records[:5], WAY, tmp_path / "cache")
    (own,) = (tmp_path / "cache").glob("*.arrows")
    build_image_cache(records[1:6], WAY, tmp_path / "cache")
    (other,) = {*(tmp_path / "cache").glob("*.arrows")} - {own}
    other.replace(own)

    with pytest.raises(MedretError, match="holds 5 films that are not the 5 it should hold"):
        build_image_cache(records[:5], WAY, tmp_path / "cache")


@pytest.mark.parametrize("by", ["what fills a cache", "what forgets films"])
def test_caches_of_the_layout_before_are_removed(records, tmp_path, by):
    """Finished or not; what medret did not name stays."""
    older = [f"{'0a' * 16}.npy", f"{'0a' * 16}.json", f"{'0b' * 16}.npy.part", f"{'0b' * 16}.part.json"]
    build_image_cache(records[:2], WAY, tmp_path / "cache")
    for name in (*older, "mine.npy"):
        (tmp_path / "cache" / name).write_text('{"records": [["r0", 1, 2]], "failures": {}}')

    if by == "what fills a cache":
        build_image_cache(records, WAY, tmp_path / "cache")
    else:
        assert forget(tmp_path / "cache", ["r0"]) == 1

    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert "mine.npy" in left and not left & set(older)


def test_no_image_at_all_is_an_error(records, tmp_path):
    with pytest.raises(MedretError, match="none of the records has an image"):
        build_image_cache(records[-1:], WAY, tmp_path / "cache")
    for record in records[:-1]:
        record.image.unlink()
    with pytest.raises(MedretError, match="none of 7 images can be decoded; the first: "):
        build_image_cache(records, WAY, tmp_path / "cache")


def test_after_all_failed_a_mended_image_of_the_same_size_and_time_is_decoded(records, tmp_path):
    """As after a fault of the disk or of permissions: nothing in the file's status tells."""
    path = records[0].image
    good, times = path.read_bytes(), (1_600_000_000, 1_600_000_000)
    path.write_bytes(bytes(len(good)))
    os.utime(path, times)
    with pytest.raises(MedretError, match="none of 1 images can be decoded"):
        build_image_cache(records[:1], WAY, tmp_path / "cache")
    path.write_bytes(good)
    os.utime(path, times)

    assert build_image_cache(records[:1], WAY, tmp_path / "cache").ids == ["r0"]


def test_a_second_run_waits_and_takes_what_the_first_decoded(records, tmp_path):
    calls = []

    def build(_):
        return build_image_cache(records * 20, WAY, tmp_path / "cache", progress=lambda done, total: calls.append(done))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build, range(2))

    assert calls == list(range(1, 141))
    np.testing.assert_array_equal(first.images[:], second.images[:])


def test_a_cache_is_for_its_owner_alone_while_it_is_written(records, tmp_path):
    modes = set()
    (tmp_path / "cache").mkdir(mode=0o755)

    def look(done, total):
        modes.update(path.stat().st_mode & 0o077 for path in (tmp_path / "cache").glob("*.arrows*"))

    build_image_cache(records, WAY, tmp_path / "cache", progress=look)
    look(7, 7)

    assert modes == {0}


def test_squares_come_in_the_order_of_the_records(records):
    many = records[:-1] * 60
    names = [record.id for record, _ in decode_squares(many, WAY, 16, workers=4)]

    assert names == [record.id for record in many]


def test_as_many_films_as_are_taken_at_a_time_are_made_meanwhile(monkeypatch):
    """By a thread for each core that the process may use."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3})
    pool = Mock(wraps=ThreadPoolExecutor)
    monkeypatch.setattr("index.squares.ThreadPoolExecutor", pool)
    begun = []
    made = make_ahead(begun_by(begun, 1000), lambda number: number, None, ahead=300)

    assert [next(made)[1] for _ in range(3)] == [0, 1, 2]
    assert len(begun) == 3 + 300 + 2
    assert pool.call_args.args == (1,)
    made.close()


def begun_by(begun, count):
    for number in range(count):
        begun.append(number)
        yield number


def test_what_another_cache_holds_is_not_decoded_again(records, tmp_path, monkeypatch):
    """Fewer films, more films, a film that was mended: only what is new is decoded."""
    good = records[2].image.read_bytes()
    records[2].image.write_text("no image")
    build_image_cache(records, WAY, tmp_path / "cache")
    records[2].image.write_bytes(good)
    expected = build_image_cache(records, WAY, tmp_path / "fresh")
    decoded = []
    monkeypatch.setattr(cache, "decode_square", lambda *args: decoded.append(args[-1].id) or decode_square(*args))

    held = build_image_cache(records, WAY, tmp_path / "cache")
    build_image_cache(records[1:5], WAY, tmp_path / "cache")

    assert decoded == ["r2"]
    assert held.sizes == expected.sizes
    np.testing.assert_array_equal(held.images[:], expected.images[:])


def test_a_cache_serves_every_encoder_that_fits_films_alike(records, tmp_path, monkeypatch):
    build_image_cache(records, WAY, tmp_path / "cache", size=24)
    monkeypatch.setattr(cache, "decode_square", no_decoding)
    other = Preprocessing(size=12, mean=(0.1, 0.2, 0.3))

    squares = list(cached_squares(((record.id, record) for record in records[3:5]), records, other, tmp_path / "cache", 24))

    assert [record.id for record, _ in squares] == ["r3", "r4"]
    film = Image.fromarray(other.square(read_image(records[3].image), 24)).crop((0, 3, 24, 3 + 18))  # 30 x 23, padded
    expected = np.zeros((12, 12), np.uint8)
    expected[1 : 1 + 9] = film.resize((12, 9), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(squares[0][1], expected)
    with pytest.raises(ValueError, match="squares of 30 pixels from such of 24"):
        list(cached_squares([], records, Preprocessing(size=30), tmp_path / "cache", 24))


def test_a_forgotten_film_is_in_no_cache_and_the_rest_is_not_decoded_again(records, tmp_path, monkeypatch):
    records[1].image.write_text("no image")
    build_image_cache(records, WAY, tmp_path / "cache")
    build_image_cache(records[3:], WAY, tmp_path / "cache", size=20)
    build_image_cache(records[5:], WAY, tmp_path / "cache", size=20)
    (tmp_path / "cache" / f"{'0c' * 16}.arrows.part").write_bytes(b"unfinished: pixels of anyone")
    gone = WAY.square(read_image(records[3].image)).tobytes()
    left = [record for record in records if record.id not in ("r1", "r3", "r4")]

    assert forget(tmp_path / "cache", ["r1", "r3", "r4", "never seen"]) == 4
    assert forget(tmp_path / "cache", ["r1", "r3", "r4", "never seen"]) == 0

    for file in (tmp_path / "cache").iterdir():
        assert gone not in file.read_bytes()
        assert not any(id in file.read_text(errors="replace") for id in ('"r1"', '"r3"', '"r4"'))
    monkeypatch.setattr(cache, "decode_square", no_decoding)
    for size in (16, 20):
        chosen = left if size == 16 else left[2:]
        held = build_image_cache(chosen, WAY, tmp_path / "cache", size=size)
        assert held.ids == [record.id for record in chosen if record.image]
        assert held.sizes == [Image.open(record.image).size for record in chosen if record.image]
        np.testing.assert_array_equal(held.images[len(held.ids) - 1], WAY.square(read_image(records[6].image), size))


def test_a_forgotten_film_goes_from_a_cache_that_calls_it_by_another_id(records, tmp_path, monkeypatch):
    """Also where the first run was killed when one cache was done."""
    place = tmp_path / "cache"
    build_image_cache(records, WAY, place)
    build_image_cache([replace(record, id=f"hidden {record.id}") for record in records], WAY, place)
    squares = [WAY.square(read_image(records[number].image)).tobytes() for number in (3, 4)]

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(cache_file, "sync", Mock(side_effect=KeyboardInterrupt))
        forget(place, ["hidden r3"])
    forget(place, ["hidden r3"])

    for pixels in place.glob("*.arrows"):
        assert squares[0] not in pixels.read_bytes() and squares[1] in pixels.read_bytes()
    assert [pa.ipc.open_stream(pixels.read_bytes()).read_all().num_rows for pixels in place.glob("*.arrows")] == [6, 6]
    assert not any('r3"' in note.read_text() for note in place.glob("*.json"))


def test_a_cache_that_cannot_be_written_says_so(records, tmp_path):
    build_image_cache(records, WAY, tmp_path / "cache")
    (tmp_path / "cache" / f"{'0c' * 16}.arrows.part").mkdir()

    with pytest.raises(MedretError, match=r"cache: cannot be written \("):
        forget(tmp_path / "cache", ["r3"])


@pytest.mark.parametrize("suffix", [".arrows", ".json"])
def test_a_damaged_cache_does_not_hinder_another(records, tmp_path, suffix):
    build_image_cache(records, WAY, tmp_path / "cache")
    for file in (tmp_path / "cache").glob(f"*{suffix}"):
        os.truncate(file, 100)

    held = build_image_cache(records[3:], WAY, tmp_path / "cache")

    np.testing.assert_array_equal(held.images[0], WAY.square(read_image(records[3].image)))


def test_a_film_whose_pixels_were_flipped_is_not_served(records, tmp_path):
    build_image_cache(records, WAY, tmp_path / "cache")
    file = next((tmp_path / "cache").glob("*.arrows"))
    content, film = file.read_bytes(), WAY.square(read_image(records[3].image)).tobytes()
    assert content.count(film) == 1
    file.write_bytes(content.replace(film, film[:-1] + bytes([film[-1] ^ 1])))

    held = build_image_cache(records, WAY, tmp_path / "cache")

    np.testing.assert_array_equal(held.images[2], WAY.square(read_image(records[2].image)))
    with pytest.raises(MedretError, match=rf"{file.name}: the film of r3 is damaged.*Remove {file.stem}"):
        held.images[np.array([2, 3])]
    beside = build_image_cache(records[3:], WAY, tmp_path / "cache")  # copies what is whole there, and decodes what is not
    np.testing.assert_array_equal(beside.images[0], WAY.square(read_image(records[3].image)))


def test_a_cache_of_forgotten_films_alone_goes(records, tmp_path):
    build_image_cache(records[:2], WAY, tmp_path / "cache")
    (tmp_path / "cache" / "settings.json").write_text("{}")  # somebody else's

    assert forget(tmp_path / "cache", ["r0", "r1"]) == 2
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != ".lock"] == ["settings.json"]
    assert forget(tmp_path / "nowhere", ["r0"]) == 0


def test_a_film_is_forgotten_though_it_was_interrupted(records, tmp_path, monkeypatch):
    place = tmp_path / "cache"
    build_image_cache(records, WAY, place)
    removing = Path.unlink

    def stop_after_the_first(path, missing_ok=False):
        removing(path, missing_ok=missing_ok)
        if path.parent == place and not path.name.startswith("."):
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Path, "unlink", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            forget(place, ["r3"])

    forget(place, ["r3"])

    (pixels,) = place.glob("*.arrows")
    assert pa.ipc.open_stream(pixels.read_bytes()).read_all()["id"].to_pylist() == ["r0", "r1", "r2", "r4", "r5", "r6"]
    (note,) = place.glob("*.json")
    assert "r3" not in note.read_text()
