"""Contrastive objectives: tensors in, a loss out."""
