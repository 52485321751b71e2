"""Folios, the page cache and what holds it: files, segments, descriptors."""
