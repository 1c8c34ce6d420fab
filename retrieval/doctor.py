"""What is installed, and what is wrong with it."""

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from encoders.errors import MedretError

_PACKAGES = ("medret", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: What was looked at.
        found: What is there.
        fault: What is wrong with it, or None.
        remedy: What to do about the fault.
        fatal: Whether medret cannot do its main work with the fault.
    """

    name: str
    found: str
    fault: str | None = None
    remedy: str | None = None
    fatal: bool = False


def examine(encoder: Path | None = None) -> Iterator[Check]:
    """Yield every check of this installation, the harmless ones included.

    Args:
        encoder: The checkpoint or training run that stands for the default encoder; None for the one that came along.
    """
    yield Check(name="python", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in _PACKAGES:
        yield check_package(package)
    from index.kinds import faiss_distributions

    distributions = faiss_distributions()
    yield check_faiss(distributions)
    from encoders.pixels import missing_decoders

    yield check_decoders(missing_decoders())
    yield check_encoder(encoder)
    yield from _examine_cuda(distributions)


def check_package(package: str) -> Check:
    """Say which version of a package is installed; missing is a fatal fault."""
    try:
        return Check(name=package, found=version(package))
    except PackageNotFoundError:
        return Check(name=package, found="not installed", fault="medret needs it", remedy=f"pip install {package}", fatal=True)


def check_faiss(distributions: Sequence[str]) -> Check:
    """Exactly one distribution may own the folder `faiss/`: two overwrite each other's files."""
    if not distributions:
        return Check(
            name="faiss", found="none", fault="no FAISS, so nothing can be searched", remedy="pip install 'medret[cpu]'", fatal=True
        )
    found = ", ".join(f"{name} {_version(name)}" for name in distributions)
    if len(distributions) > 1:
        remedy = f"pip uninstall -y {' '.join(distributions)} && pip install {distributions[0]}"
        return Check(name="faiss", found=found, fault="they overwrite each other's files; keep one", remedy=remedy, fatal=True)
    return Check(name="faiss", found=found)


def check_decoders(missing: Sequence[str]) -> Check:
    """DICOM is an extra: without a decoder, films in its encoding cannot be read."""
    if not missing:
        return Check(name="dicom", found="pydicom with every decoder")
    return Check(
        name="dicom", found=f"missing {', '.join(missing)}", fault="some DICOM films cannot be read", remedy="pip install 'medret[dicom]'"
    )


def check_encoder(named: Path | None) -> Check:
    """Say which encoder is taken where none is given; without one, encoding has to be told.

    Args:
        named: A checkpoint or training run instead of the one that came with medret.
    """
    from encoders.checkpoint import default_checkpoint, read_fingerprint

    try:
        folder = default_checkpoint(named)
        return Check(name="encoder", found=f"{read_fingerprint(folder)} at {folder}, where none is given")
    except MedretError as error:
        fault = "none came with this installation, so --encoder must be given" if named is None else str(error).rstrip(".")
        remedy = "medret train CORPUS --out RUN, then MEDRET_ENCODER=RUN in the environment" if named is None else "correct MEDRET_ENCODER"
        return Check(name="encoder", found="no default encoder", fault=fault, remedy=remedy)


def check_cuda(driver: bool, torch_cuda: str | None, torch_sees_gpu: bool, faiss_cuda: int | None) -> Iterator[Check]:
    """Compare the driver, torch's CUDA and FAISS's CUDA.

    Args:
        driver: Whether the kernel has an NVIDIA driver loaded.
        torch_cuda: The CUDA version torch was built for ("13.0"), or None for a CPU build.
        torch_sees_gpu: `torch.cuda.is_available()`.
        faiss_cuda: The CUDA major that faiss-gpu (12) or faiss-gpu-cuvs (13) asks for, or None for faiss-cpu.
    """
    if not driver:
        yield Check(name="gpu", found="no NVIDIA driver: everything runs on the CPU")
        return
    if torch_cuda is None:
        yield Check(
            name="gpu", found="NVIDIA driver", fault="torch is a CPU build beside a GPU", remedy="pip install --force-reinstall torch"
        )
    elif not torch_sees_gpu:
        fault = f"torch for CUDA {torch_cuda} cannot use the GPU (driver too old, or no permission)"
        yield Check(name="gpu", found="NVIDIA driver", fault=fault, remedy="compare nvidia-smi's CUDA version with torch's")
    else:
        searches = "FAISS searches on the CPU alone" if faiss_cuda is None else f"FAISS for CUDA {faiss_cuda}"
        yield Check(name="gpu", found=f"NVIDIA driver, torch for CUDA {torch_cuda}, {searches}")
    if torch_cuda is not None and faiss_cuda is not None and int(torch_cuda.split(".")[0]) != faiss_cuda:
        found = f"torch CUDA {torch_cuda}, faiss CUDA {faiss_cuda}"
        fault = "the CUDA majors differ: two CUDA runtimes are loaded side by side (more memory, slower start)"
        other = "faiss-gpu-cuvs (CUDA 13)" if torch_cuda.startswith("13.") else "faiss-gpu (CUDA 12)"
        remedy = f"harmless where both work; else uninstall that FAISS and pip install {other}, or faiss-cpu"
        yield Check(name="cuda", found=found, fault=fault, remedy=remedy)


def render_checks(checks: Sequence[Check]) -> str:
    """Lay the checks out as aligned lines, faults with their remedy below them."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'!' if check.fault else ' '} {check.name:<{width}}  {check.found}")
        if check.fault:
            lines.append(f"  {'':<{width}}  {check.fault}: {check.remedy}")
    return "\n".join(lines)


def _examine_cuda(distributions: Sequence[str]) -> Iterator[Check]:
    import torch

    from encoders.device import NVIDIA_DRIVER

    yield from check_cuda(NVIDIA_DRIVER.exists(), torch.version.cuda, torch.cuda.is_available(), _cuda_major(distributions))


def _cuda_major(distributions: Sequence[str]) -> int | None:
    """The CUDA major among the requirements of the installed FAISS ("nvidia-cublas-cu12" says 12)."""
    for name in distributions:
        for requirement in requires(name) or ():
            if major := re.search(r"-cu(\d+)", requirement):
                return int(major.group(1))
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(unknown version)"
