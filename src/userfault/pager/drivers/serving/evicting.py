"""Taking pages out of memory: a hole in the file behind it, after a copy to the spill file.

The order is what keeps the bytes (docs/residency.md): the states say where a page will be found
before it leaves memory, and nothing is decided between.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Protocol

from userfault.kernel.errors import KernelError
from userfault.pager.core.actions import Evict, Spill
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving.budgets import Budgets
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.loop import Loop
from userfault.pager.drivers.serving.punching import Hole, Puncher

_LARGE = 32  # pages: fewer are out before a thread is told of them


class Acting(Protocol):
    """Whoever serves."""

    budgets: Budgets

    def perform(self, context: Context) -> None:
        """Everything that the core of `context` asks for."""

    def costs(self, served: Served) -> contextlib.AbstractContextManager[None]:
        """An error of ours within it costs this mapping and no other."""


class Evictor:
    """Carries out `Evict` and `Spill`."""

    def __init__(self, loop: Loop, journal: Journal, calls: Calls, acting: Acting) -> None:
        self._loop = loop
        self._journal = journal
        self._calls = calls
        self._acting = acting
        self._puncher: Puncher | None = None  # once it is needed

    def evict(self, context: Context, action: Evict) -> None:
        """Take pages out that the source has, or that the client dropped."""
        # A successor must not take pages for filled because the last fill did fill them.
        self._journal.forget_fill()
        if action.count >= _LARGE and not action.dropped and self._calls.threads:
            if self._puncher is None:
                self._puncher = Puncher(self._loop, self._calls, self._made)
            if not self._puncher.busy and not context.core.residency.pressed:
                self._puncher.ask(context, action)
                return
        self._evicted(context, action, self._punch(context, action))

    def _made(self, hole: Hole) -> None:
        """A thread has made a hole, or not."""
        context = hole.context
        if context.served.lost or context.served not in self._acting.budgets:
            return  # the mapping has gone meanwhile
        with self._acting.costs(context.served):
            refused = errno.errorcode.get(hole.refused, str(hole.refused)) if hole.refused else ""
            self._evicted(context, hole.action, refused)
            self._acting.perform(context)

    def _evicted(self, context: Context, action: Evict, refused: str) -> None:
        core = context.core
        if refused:
            cause = f"the kernel takes no page out of it ({refused})"
            core.residency.not_evicted(core.ledger, action, cause)
            context.served.owner.say(f"the residency budget is not kept any more: {cause}")
        else:
            core.residency.evicted(core.ledger, action)

    def rest(self) -> None:
        """Wait until no hole is under way: a file is about to be closed, or handed over."""
        if self._puncher is not None:
            self._puncher.rest()

    def settle(self) -> None:
        """What is on its way out is out.

        Before an event is applied: a page that the client drops may be touched again at once, and a
        hole that is made then would take what was written to it.
        """
        if self._puncher is not None:
            self._puncher.settle()

    def close(self) -> None:
        """Let go of the thread."""
        if self._puncher is not None:
            self._puncher.close()

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
