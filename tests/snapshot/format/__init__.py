"""Manifests, chunks and pieces of the index."""
