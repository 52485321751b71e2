"""Waiting for something to happen, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOK_S = 0.002


def wait_until(happened: Callable[[], object], most_s: float, otherwise: str) -> None:
    """TimeoutError, which says what there is `otherwise`, where it has not happened by then."""
    deadline = time.monotonic() + most_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(_LOOK_S)
