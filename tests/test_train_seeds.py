import torch

from train.seeds import seeded, seeded_torch


def test_random_numbers_depend_on_the_seed_and_the_place_alone():
    draws = {seeded(seed, purpose, step).integers(2**62) for seed in range(3) for purpose in range(3) for step in range(3)}

    assert len(draws) == 27
    assert seeded(1, 2, 3).integers(2**62) == seeded(1, 2, 3).integers(2**62)
    assert torch.equal(torch.rand(3, generator=seeded_torch(1, 2)), torch.rand(3, generator=seeded_torch(1, 2)))
