import math

import pytest
import torch

from train.schedule import Plateau, WarmupCosine, build_schedule


def test_the_rate_rises_linearly_and_then_falls_along_half_a_cosine():
    schedule = build_schedule("cosine", 110, warmup_fraction=0.1, shrink=0.5, patience=5)
    factors = [schedule.factor(step) for step in range(111)]

    assert factors[:11] == pytest.approx([(step + 1) / 12 for step in range(11)])
    assert factors[11:] == pytest.approx([(1 + math.cos(math.pi * step / 99)) / 2 for step in range(100)])


def test_the_cosine_equals_torchs_own():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    ours = WarmupCosine(20)
    for step in range(20):
        assert ours.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        torchs.step()


def test_a_run_without_warm_up_starts_at_the_full_rate():
    assert WarmupCosine(10).factor(0) == 1.0
    assert Plateau().factor(0) == 1.0


def test_the_rate_is_halved_when_five_validations_in_a_row_bring_nothing():
    schedule = build_schedule("plateau", 10**6, warmup_fraction=0, shrink=0.5, patience=5)
    scales = []
    for loss in [3.0, 2.0, *[2.5] * 5, 1.9, *[1.9] * 10]:
        schedule.observe(loss)
        scales.append(schedule.factor(500))

    assert scales == [1] * 6 + [0.5] * 6 + [0.25] * 5 + [0.125]


def test_a_restored_plateau_goes_on_counting():
    losses = [3.0, 2.0, 2.1, 2.2, 2.0, 2.4, 2.5, 2.6, 1.0, 1.1]
    whole, first, second = Plateau(patience=3), Plateau(patience=3), Plateau(patience=3)
    for loss in losses:
        whole.observe(loss)
    for loss in losses[:4]:
        first.observe(loss)
    second.restore(first.state())
    for loss in losses[4:]:
        second.observe(loss)

    assert second == whole
    assert whole.scale < 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="linear"):
        build_schedule("linear", 10, 0, 0.5, 5)
