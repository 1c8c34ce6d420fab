import threading

import numpy as np
import pytest
from shard_folders import unit

from encoders.errors import MedretError
from index.faiss_stage import build_faiss, count_lists, load_faiss_stage
from index.kinds import KINDS, find_kind
from index.quantiser import fit_quantiser

ROWS, DIMENSION = 3000, 64
GRAPHS = ("hnsw", "HNSW16,Flat")
FAISS_KINDS = [name for name, kind in KINDS.items() if kind.factory is not None]


def clustered(rows, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(30, DIMENSION))
    return unit(centres[random.integers(0, 30, rows)] + 0.5 * random.normal(size=(rows, DIMENSION)) + 1)


VECTORS, QUERIES = clustered(ROWS, 1), clustered(25, 2)


def build(name, vectors=VECTORS, seed=0):
    kind = find_kind(name)
    quantiser = fit_quantiser([vectors], len(vectors)) if kind.compact else None
    return build_faiss(kind, quantiser, [vectors[:1000], vectors[1000:]], len(vectors), DIMENSION, seed)


def nearest(query, count, allowed=None):
    scores = VECTORS @ query
    if allowed is not None:
        scores[~allowed] = -np.inf
    return set(np.argsort(-scores)[:count].tolist())


def test_with_all_lists_ivf_finds_what_an_exact_search_finds():
    stage = build("ivf-flat")

    found = stage.candidates(QUERIES, 10, stage.lists, None)

    assert [set(rows.tolist()) for rows in found] == [nearest(query, 10) for query in QUERIES]


@pytest.mark.parametrize("name", [*FAISS_KINDS, "Flat", "SQ8", "IVF16,PQ16x4", "HNSW16,Flat", "PCA48,IVF{lists},SQ8"])
def test_masks_never_leak_and_nothing_is_found_twice(name):
    stage = build(name)
    random = np.random.default_rng(0)
    for share in (0.0, 0.002, 0.3):
        allowed = random.random(ROWS) < share
        for effort in {stage.efforts()[0], stage.efforts()[-1]}:
            for rows in stage.candidates(QUERIES, 30, effort, allowed):
                assert allowed[rows].all()
                assert len(set(rows.tolist())) == len(rows) <= 30
                assert rows.dtype == np.int64


def test_a_mask_may_have_any_length():
    for rows in (1, 7, 8, 9, 17):
        allowed = np.zeros(rows, bool)
        allowed[-1] = True
        assert build("Flat", VECTORS[:rows]).candidates(QUERIES[:1], 5, None, allowed)[0].tolist() == [rows - 1]


@pytest.mark.parametrize("name", FAISS_KINDS)
def test_few_rows_can_be_indexed_and_found(name):
    for rows in (1, 5, 40) if name != "ivf-pq" else (5, 40):  # see the next test
        stage = build(name, VECTORS[:rows])
        assert [len(found) for found in stage.candidates(QUERIES[:2], 100, stage.efforts()[-1], None)] == [rows, rows]


@pytest.mark.parametrize("name", FAISS_KINDS)
def test_identical_vectors_can_be_indexed_and_found(name):
    """Where nothing spreads, a product quantiser tells nothing apart and proposes none: the index then searches exactly."""
    stage = build(name, np.repeat(VECTORS[:1], 500, axis=0))

    assert len(stage.candidates(QUERIES[:1], 10, stage.efforts()[-1], None)[0]) == (10 if name != "ivf-pq" else 0)


def test_the_effort_ladder_rises_to_all_lists_and_goes_with_the_call():
    stage = build("ivf-flat")
    assert stage.efforts() == (1, 2, 4, 8, 16, 32, 64)

    def recall(effort):
        found = stage.candidates(QUERIES, 10, effort, None)
        return np.mean([len(nearest(query, 10) & set(rows.tolist())) / 10 for query, rows in zip(QUERIES, found, strict=True)])

    recalls = [recall(effort) for effort in (1, 64, 1)]

    assert recalls[0] == recalls[2] < recalls[1] == 1


@pytest.mark.parametrize("name", FAISS_KINDS)
def test_a_graph_or_lists_searched_by_four_threads_find_what_one_finds(name):
    stage = build(name)
    allowed = np.random.default_rng(1).random(ROWS) < 0.5
    settings = [
        (20, stage.efforts()[2], None),
        (35, stage.efforts()[-1], None),
        (20, stage.efforts()[-2], allowed),
        (5, stage.efforts()[3], None),
    ]
    expected = [[stage.candidates(query[None], *setting)[0].tolist() for query in QUERIES] for setting in settings]
    found = [None] * len(settings)

    def search(number):
        for _ in range(3):
            found[number] = [stage.candidates(query[None], *settings[number])[0].tolist() for query in QUERIES]

    threads = [threading.Thread(target=search, args=(number,)) for number in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == expected


@pytest.mark.parametrize("name", [*FAISS_KINDS, "SQ8", "PCA48,IVF16,SQ8"])
def test_a_saved_stage_finds_the_same_and_grows(name, tmp_path):
    stage = build(name, VECTORS[:2000])
    files = stage.save(tmp_path, "images-joint")
    quantiser = tmp_path / "images-joint.quantiser.npz" if stage.quantiser is not None else None

    cells = tmp_path / "images-joint.cells.npz" if stage.kind.cells else None
    loaded = load_faiss_stage(stage.kind, tmp_path / files[0], quantiser, 2000, DIMENSION, cells)
    again = loaded.candidates(QUERIES, 20, loaded.efforts()[-1], None)
    loaded.add([VECTORS[2000:2600], VECTORS[2600:]])

    for rows, expected in zip(again, stage.candidates(QUERIES, 20, stage.efforts()[-1], None), strict=True):
        assert rows.tolist() == expected.tolist()
    assert loaded.rows == ROWS
    own = loaded.candidates(VECTORS[2000::50], 30, loaded.efforts()[-1], None)
    assert np.mean([row in rows for row, rows in zip(range(2000, ROWS, 50), own, strict=True)]) >= 0.9


@pytest.mark.parametrize("name", [name for name in FAISS_KINDS if name not in GRAPHS])
def test_a_build_repeats_and_its_seed_counts(name, tmp_path):
    files = [build(name, seed=seed).save(tmp_path, f"build-{number}")[0] for number, seed in enumerate((5, 5, 6))]
    first, second, other = [(tmp_path / file).read_bytes() for file in files]

    assert first == second != other


@pytest.mark.parametrize(("name", "rows", "message"), [("IVF64,Flat", 20, "20 vectors"), ("PQ7", 300, "length 64")])
def test_what_faiss_cannot_build_is_refused_in_one_line(name, rows, message):
    kind = KINDS["ivf-flat"]
    kind = type(kind)(name=name, factory=name, effort="nprobe" if "IVF" in name else None)

    with pytest.raises(MedretError, match=message) as raised:
        build_faiss(kind, None, [VECTORS[:rows]], rows, DIMENSION, 0)

    assert "\n" not in str(raised.value)


def test_what_faiss_cannot_grow_is_refused_in_one_line():
    stage = build("NSG8,Flat", VECTORS[:300])

    with pytest.raises(MedretError, match=r"'NSG8,Flat' takes no more rows \(.*incremental addition"):
        stage.add([VECTORS[300:310]])


def test_a_file_that_is_cut_or_of_other_rows_is_refused(tmp_path):
    path = tmp_path / build("ivf-flat").save(tmp_path, "x")[0]

    with pytest.raises(MedretError, match="holds 3000 vectors of length 64, expected 3001 of 64"):
        load_faiss_stage(KINDS["ivf-flat"], path, None, 3001, DIMENSION)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(MedretError, match="cannot be read"):
        load_faiss_stage(KINDS["ivf-flat"], path, None, 3000, DIMENSION)


def test_the_number_of_lists_is_a_power_of_two_near_1_3_times_the_root_or_twice_that():
    assert [count_lists(rows) for rows in (1, 10, 100, 10_000, 601_000, 10**7, 10**10)] == [1, 10, 16, 128, 1024, 4096, 65_536]
    assert [count_lists(rows, cells=True) for rows in (1, 20, 10_000, 601_000)] == [1, 20, 256, 2048]
