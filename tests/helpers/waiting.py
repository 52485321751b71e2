"""Waiting for something to happen, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(happened: Callable[[], bool], timeout_s: float = 30) -> None:
    """AssertionError where it has not happened by then."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_text(path: Path, timeout_s: float = 30) -> str:
    """What was written to a file, once anything was.  TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise TimeoutError(f"nothing in {path}")
