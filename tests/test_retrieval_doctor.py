import pytest

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from retrieval.doctor import check_cuda, check_decoders, check_encoder, check_faiss, check_package, examine, render_checks


def test_this_installation_is_examined_whole_and_without_a_fatal_fault():
    checks = list(examine())

    names = [check.name for check in checks]
    assert {"python", "medret", "torch", "faiss", "dicom", "encoder", "gpu"} <= set(names)
    assert [check for check in checks if check.fatal] == []


def test_no_faiss_is_fatal_and_names_the_extra():
    check = check_faiss([])

    assert check.fatal
    assert "medret[cpu]" in (check.remedy or "")


def test_two_faiss_distributions_are_fatal_and_both_are_named():
    check = check_faiss(["faiss-cpu", "faiss-gpu"])

    assert check.fatal
    assert "faiss-cpu" in check.found
    assert "faiss-gpu" in check.found
    assert (check.remedy or "").startswith("pip uninstall -y faiss-cpu faiss-gpu")


@pytest.mark.parametrize("pair", [("faiss-cpu", "faiss-gpu-cuvs"), ("faiss-gpu", "faiss-gpu-cuvs")])
def test_the_build_with_cuvs_conflicts_with_the_others(pair):
    check = check_faiss(list(pair))

    assert check.fatal
    assert (check.remedy or "").startswith(f"pip uninstall -y {' '.join(pair)}")


@pytest.mark.parametrize(("torch_cuda", "faiss_cuda", "named"), [("13.0", 12, "faiss-gpu-cuvs"), ("12.8", 13, "faiss-gpu (CUDA 12)")])
def test_where_cuda_majors_differ_the_faiss_for_that_of_torch_is_named(torch_cuda, faiss_cuda, named):
    remedy = next(check.remedy for check in check_cuda(True, torch_cuda, True, faiss_cuda) if check.fault)

    assert named in (remedy or "")


def test_a_faiss_without_gpu_code_beside_a_gpu_is_said():
    assert "FAISS searches on the CPU alone" in next(iter(check_cuda(True, "13.0", True, None))).found


def test_a_missing_package_is_fatal():
    assert check_package("medret-does-not-exist").fatal


def test_missing_decoders_are_named_but_not_fatal():
    check = check_decoders(["python-gdcm"])

    assert "python-gdcm" in check.found
    assert check.fault
    assert not check.fatal


def test_the_encoder_that_is_taken_where_none_is_given_is_named(tmp_path):
    mark = save_checkpoint(build_encoder(texts=["The heart is enlarged."], size=32), tmp_path / "run" / "best")

    check = check_encoder(tmp_path / "run")

    assert not check.fault
    assert mark in check.found
    assert str(tmp_path / "run" / "best") in check.found


def test_an_encoder_that_is_not_there_is_a_fault_but_not_fatal(tmp_path):
    check = check_encoder(tmp_path / "nowhere")

    assert not check.fatal
    assert "nowhere" in (check.fault or "")
    assert "MEDRET_ENCODER" in (check.remedy or "")


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "sees", "faiss_cuda", "faults"),
    [
        (False, None, False, None, []),
        (True, None, False, None, ["torch is a CPU build beside a GPU"]),
        (True, "13.0", True, None, []),
        (True, "13.0", True, 13, []),
        (True, "13.0", True, 12, ["the CUDA majors differ"]),
        (True, "13.0", False, None, ["torch for CUDA 13.0 cannot use the GPU"]),
    ],
)
def test_driver_torch_and_faiss_are_compared(driver, torch_cuda, sees, faiss_cuda, faults):
    found = [check.fault for check in check_cuda(driver, torch_cuda, sees, faiss_cuda) if check.fault]

    assert len(found) == len(faults)
    assert all(text.startswith(start) for text, start in zip(found, faults, strict=True))


def test_a_fault_is_printed_with_its_remedy():
    text = render_checks([check_faiss([]), check_decoders([])])

    assert text.splitlines()[0].startswith("! faiss")
    assert "pip install 'medret[cpu]'" in text.splitlines()[1]
    assert text.splitlines()[2].startswith("  dicom")
