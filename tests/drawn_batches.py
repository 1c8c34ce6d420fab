"""Vectors, labels and partners of a batch as the objectives take them, drawn by a seed, in double precision."""

import torch
import torch.nn.functional as F


def unit_rows(seed: int, rows: int, dimension: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=-1)


def drawn_labels(seed: int, rows: int, findings: int = 4) -> torch.Tensor:
    return (torch.rand(rows, findings, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def drawn_partners(seed: int, images: int, texts: int) -> torch.Tensor:
    """At most one partner each, as studies have them."""
    order = torch.randperm(max(images, texts), generator=torch.Generator().manual_seed(seed))
    return torch.eye(max(images, texts), dtype=torch.bool)[order][:images, :texts]
