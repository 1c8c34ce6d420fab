import pytest
import torch

from encoders.device import NVIDIA_DRIVER, choose_device
from encoders.errors import MedretError


def test_the_cpu_can_always_be_asked_for():
    assert choose_device("cpu") == "cpu"


def test_a_gpu_is_chosen_exactly_where_torch_can_use_one():
    assert choose_device() == ("cuda" if NVIDIA_DRIVER.exists() and torch.cuda.is_available() else "cpu")


def test_a_device_that_torch_cannot_use_is_refused_by_name():
    with pytest.raises(MedretError, match="--device cuda:99"):
        choose_device("cuda:99")
    with pytest.raises(MedretError, match="--device abacus"):
        choose_device("abacus")
