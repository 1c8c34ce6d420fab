"""Random numbers of a run: each stream a function of the seed and the place, so that a run can resume anywhere."""

import numpy as np
import torch

# One stream per purpose, so that a change to one leaves the others as they were
ORDER, SENTENCES, AUGMENTATION, DROPOUT, VALIDATION, WORDS, DRAWS, PROMPTS, FURTHER, IMAGE_DROPOUT = range(10)


def seeded(seed: int, *where: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the place (purpose, epoch, step) alone."""
    return np.random.default_rng([seed, *where])


def seeded_torch(seed: int, *where: int) -> torch.Generator:
    """As `seeded`, for torch, on the CPU."""
    return torch.Generator().manual_seed(int(seeded(seed, *where).integers(2**63)))
