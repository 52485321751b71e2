"""What is known of a Python by its name alone; this module loads nothing that takes time."""

from __future__ import annotations

import os
import sys

VARIABLE = "USERFAULT_PYTHON"  # names the Python that a pager's processes run


def looks_like_python(path: str) -> bool:
    """Whether the program at `path` is named as a Python is, and this one is not frozen."""
    if not path or getattr(sys, "frozen", False):
        return False
    name = os.path.basename(os.path.realpath(path)).lower()
    return "python" in name or "pypy" in name
