"""A line on the client's standard error, which the pager's processes inherit."""

from __future__ import annotations

import contextlib
import os


def say(text: str) -> None:
    """One write, so that lines of several processes do not mix; a closed standard error is none of
    our business."""
    with contextlib.suppress(OSError):
        os.write(2, f"userfault: {text}\n".encode())
