"""Comparing, exporting, collecting and removing snapshots."""
