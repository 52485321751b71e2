"""Snapshots and the stores that they are in, a command a file."""
