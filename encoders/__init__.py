"""Pixels and words in, unit vectors out."""
