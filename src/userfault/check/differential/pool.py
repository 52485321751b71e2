"""Free huge pages for one program at a time, whatever other programs take and give back.

A pool is the system's: pages that were free when a run began may have been added by somebody who
takes them away again.
"""

from __future__ import annotations

import contextlib

from userfault.check.differential.areas import HUGE_PAGES
from userfault.kernel.calls import HUGE
from userfault.linux.hugepool import PoolShare, growing, read_pool


class Pool:
    """What a run adds to the pool of 2 MiB pages, until `close()`."""

    def __init__(self) -> None:
        self._added = contextlib.ExitStack()

    def fill_up(self) -> bool:
        """See to enough free pages for a program; whether there were too few.

        Raises MemoryUnavailable where they cannot be had (any more).
        """
        if read_pool(HUGE).available >= HUGE_PAGES:
            return False
        with growing(HUGE):
            self._added.callback(PoolShare(HUGE, 2 * HUGE_PAGES, grow=True).close)
        return True

    def close(self) -> None:
        """Give back what was added."""
        self._added.close()
