"""Corpora on disk, Arrow shards of embeddings, and the FAISS indexes over them."""
