"""Bytes in words."""

from __future__ import annotations

from userfault.kernel.memtypes import GIB, KIB, MIB


def size(count: float) -> str:
    """Bytes in words."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} bytes"
