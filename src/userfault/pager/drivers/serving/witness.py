"""What lies where a fill met EEXIST: the client's page tables and memory, seen from outside.

As far as ptrace(2) access to it allows: reading page tables takes PTRACE_MODE_READ, reading memory
PTRACE_MODE_ATTACH, which Yama may keep to a process's ancestors.  A page that cannot be read is
UNSEEN.
"""

from __future__ import annotations

import contextlib
import os

from userfault.kernel.errors import SourceError
from userfault.pager.core.actions import ZERO, Found, Inspect
from userfault.pager.drivers.mappings.served import Context

_STEP = 1 << 20  # bytes compared at once: a page may have a gigabyte


def look(context: Context, action: Inspect) -> Found:
    """What is at the action's address.

    Which process a forked child is we do not know: there EEXIST that may be lack of memory is
    taken for it, and tried again, since a page wrongly called present would read zero later.
    """
    served = context.served
    if context is not served.main:
        return Found.NOTHING if served.plan.exists_is_ambiguous else Found.UNSEEN
    with contextlib.suppress(OSError):
        if not served.owner.pagemap().there(action.address):
            return Found.NOTHING
        if action.compare:
            return _compared(context, action)
    return Found.UNSEEN


def _compared(context: Context, action: Inspect) -> Found:
    """Whether the page has the bytes that were to be filled in."""
    size = context.served.page_size
    memory = os.open(f"/proc/{context.served.owner.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for at in range(0, size, _STEP):
            length = min(_STEP, size - at)
            expected = _expected(context, action, at, length)
            if expected is None:
                return Found.UNSEEN
            if os.pread(memory, length, action.address + at) != expected:
                return Found.OTHER
    finally:
        os.close(memory)
    return Found.SAME


def _expected(context: Context, action: Inspect, at: int, length: int) -> bytes | bytearray | None:
    """Bytes [at, at + length) of the page, of what was to be filled in; None: not to be had now."""
    served = context.served
    if action.kind == ZERO:
        return bytes(length)
    if action.data is not None:
        start = (action.page - action.data_page) * served.page_size + at
        return bytes(action.data[start : start + length])
    offset = action.page * served.page_size + at
    if served.copy is not None and served.copy.run(action.page, 1) > 0:
        return os.pread(served.memory, length, offset)
    if served.origin.store is not None:
        unpacked = served.origin.store.at_hand(offset, length, urgent=True)
        return None if unpacked is None else bytes(unpacked)
    with contextlib.suppress(SourceError):
        if served.origin.file is not None:
            return served.origin.file.read(offset, length)
    return None
