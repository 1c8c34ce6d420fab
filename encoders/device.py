"""Where tensors are computed."""

from pathlib import Path

from encoders.errors import MedretError

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")  # written by the kernel module, whatever is installed beside it


def choose_device(name: str | None = None) -> str:
    """Return the device to compute on: the one named, else a GPU where torch can use one, else the CPU.

    Args:
        name: "cpu", "cuda", "cuda:1", ... or None to choose.

    Raises:
        MedretError: If torch cannot use the device that was named.
    """
    if name == "cpu" or (name is None and not NVIDIA_DRIVER.exists()):  # torch takes a second to import: not for this
        return "cpu"
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MedretError(f"--device {name}: torch cannot use it ({reason}). Run 'medret doctor', or use cpu.") from error
    return name
