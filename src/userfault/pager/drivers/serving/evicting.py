"""Taking pages out of memory: a hole in the file behind it, after a copy to the spill file.

The order is what keeps the bytes (docs/residency.md): the states say where a page will be found
before it leaves memory, and nothing is decided between.
"""

from __future__ import annotations

import errno
import os

from userfault.kernel.errors import KernelError
from userfault.pager.core.actions import Evict, Spill
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving.calls import Calls


class Evictor:
    """Carries out `Evict` and `Spill`."""

    def __init__(self, journal: Journal, calls: Calls) -> None:
        self._journal = journal
        self._calls = calls

    def evict(self, context: Context, action: Evict) -> None:
        """Take pages out that the source has, or that the client dropped."""
        # A successor must not take pages for filled because the last fill did fill them.
        self._journal.forget_fill()
        core = context.core
        refused = self._punch(context, action)
        if refused:
            cause = f"the kernel takes no page out of it ({refused})"
            core.residency.not_evicted(core.ledger, action, cause)
            context.served.owner.say(f"the residency budget is not kept any more: {cause}")
        else:
            core.residency.evicted(core.ledger, action)

    def spill(self, context: Context, action: Spill) -> None:
        """Protect pages, write them to the spill file, then take them out."""
        served, residency, ledger = context.served, context.core.residency, context.core.ledger
        offset, length = action.page * served.page_size, action.count * served.page_size
        self._journal.forget_fill()
        try:
            context.uffd.writeprotect(action.address, length, protect=True)
        except KernelError:  # an event is pending, or they are mapped in another way by now
            residency.not_spilled(ledger, action, "")
            return
        try:
            served.spill.write(offset, self._calls.held(served, offset, length))
        except OSError as error:
            cause = f"the spill file takes no more: {os.strerror(error.errno or errno.EIO)}"
            if not residency.spill_failed:
                served.owner.say(f"{cause}; what was written stays in memory, over the budget")
            residency.not_spilled(ledger, action, cause)
            return
        residency.spilled(ledger, action)
        self._punch(context, action)  # refused: they stay, and the fill will find them
        residency.out(ledger, action)

    def _punch(self, context: Context, action: Evict | Spill) -> str:
        """A hole in the file.  Why there is none; empty if there is."""
        served = context.served
        size = served.page_size
        try:
            self._calls.punch(served, action.page * size, action.count * size)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error.errno))
        return ""
