"""Embeddings and exact nearest neighbours over FAISS shards."""
