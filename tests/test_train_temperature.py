import math

import pytest
import torch

from train.objectives.temperature import LearnedTemperature
from train.objectives.umcl import umcl_loss


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_it_begins_where_it_is_told_and_stores_the_logarithm_of_the_scale(temperature):
    learned = LearnedTemperature(temperature)

    assert learned().item() == pytest.approx(temperature)
    assert learned.log_scale.item() == pytest.approx(math.log(1 / temperature), abs=1e-7)
    assert list(learned.state_dict()) == ["log_scale"]


@pytest.mark.parametrize(("moved_to", "expected"), [(9.0, 0.01), (-3.0, 1.0), (2.0, math.exp(-2))])
def test_the_scale_is_brought_back_into_1_to_100(moved_to, expected):
    learned = LearnedTemperature(0.07)
    with torch.no_grad():
        learned.log_scale.fill_(moved_to)

    learned.clamp_()

    assert learned().item() == pytest.approx(expected, rel=1e-5)
    assert learned.log_scale.requires_grad


@pytest.mark.parametrize("right", [True, False])
def test_pairs_that_fit_lower_it_and_pairs_that_do_not_raise_it(right):
    pairs = torch.eye(4)
    learned = LearnedTemperature(0.2)
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.1)

    umcl_loss(pairs, pairs if right else pairs.flip(0), torch.eye(4), learned()).backward()
    optimizer.step()

    assert (learned().item() < 0.2) == right


@pytest.mark.parametrize("wrong", [0.0, 0.005, 1.5, float("nan")])
def test_a_start_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected 0\.01 to 1"):
        LearnedTemperature(wrong)
