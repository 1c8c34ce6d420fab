from pathlib import Path

import numpy as np
import pytest

from encoders.errors import MedretError
from index import kinds


@pytest.mark.parametrize(
    ("name", "effort"), [("Flat", None), ("PQ96", None), ("PCA64,IVF{lists},SQ8", "nprobe"), ("HNSW16,Flat", "efSearch")]
)
def test_any_other_kind_is_a_faiss_factory_string(name, effort):
    kind = kinds.find_kind(name)

    assert (kind.name, kind.factory, kind.effort, kind.exact, kind.compact) == (name, name, effort, False, False)


def test_what_faiss_cannot_make_is_refused_in_one_line():
    with pytest.raises(MedretError, match=r"index kind 'sacn' is not known.*Choose one of: flat, scan, ivf-scan") as raised:
        kinds.find_kind("sacn")

    assert "\n" not in str(raised.value)


def test_a_second_ranking_by_faiss_is_refused():
    """It would look into one list and take no selector, and the shards' vectors rank its candidates anyway."""
    with pytest.raises(MedretError, match=r"'IVF16,PQ16x4fs,RFlat' refines what .* Leave out its last part"):
        kinds.find_kind("IVF16,PQ16x4fs,RFlat")


def test_a_fault_of_faiss_is_told_without_its_source():
    faiss = kinds.load_faiss()
    index = faiss.IndexFlatIP(512)
    index.add(np.zeros((2000, 512), np.float32))  # more than is buffered
    with pytest.raises(RuntimeError) as full:
        faiss.write_index(index, "/dev/full")
    with pytest.raises(RuntimeError) as bogus:
        faiss.index_factory(512, "bogus")
    with pytest.raises(RuntimeError) as uneven:
        faiss.index_factory(512, "PQ7")

    assert kinds.faiss_fault(full.value) == "No space left on device"
    assert kinds.faiss_fault(bogus.value) == "could not parse index string bogus"
    assert kinds.faiss_fault(uneven.value).startswith("The dimension of the vector (d) should be a multiple")


def test_every_kind_is_one_that_faiss_can_make():
    faiss = kinds.load_faiss()
    for kind in kinds.KINDS.values():
        if kind.factory is not None:
            made = faiss.index_factory(128, kinds.fill_factory(kind.factory, 128, 16), faiss.METRIC_INNER_PRODUCT)
            assert made.metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize(("installed", "message"), [([], "FAISS is not installed"), (["faiss-cpu", "faiss-gpu"], "2 FAISS packages")])
def test_no_faiss_or_two_is_a_clear_error(tmp_path, monkeypatch, installed, message):
    """Real distributions: metadata folders as pip leaves them, on a path of their own."""
    for name in installed:
        info = tmp_path / f"{name.replace('-', '_')}-1.15.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.15.1\n")
        (info / "top_level.txt").write_text("faiss\n")
        (info / "RECORD").write_text("faiss/__init__.py,,\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    assert kinds.faiss_distributions() == installed
    with pytest.raises(MedretError, match=message):
        kinds.load_faiss.__wrapped__()


def test_importing_the_index_package_does_not_load_faiss():
    import subprocess
    import sys

    code = "import index.folder, sys; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(kinds.__file__).parents[1]).returncode == 0
