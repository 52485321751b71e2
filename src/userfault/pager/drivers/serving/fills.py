"""Performing what the core asks for: one ioctl a fill, and what to tell when something fails."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from userfault.kernel.errors import KernelError
from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    UNPROTECT,
    UNSPILL,
    ZERO,
    EndClient,
    Fill,
    Inspect,
    Report,
    Wake,
    WakeAll,
)
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.processes.texts import clipped
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.sharing import in_copy, publish
from userfault.pager.drivers.wire.messages import MAX_FAILURES, Failure
from userfault.uapi.userfaultfd import (
    UFFDIO_CONTINUE,
    UFFDIO_CONTINUE_MODE_WP,
    UFFDIO_COPY,
    UFFDIO_COPY_MODE_WP,
    UFFDIO_POISON,
    UFFDIO_WRITEPROTECT,
    UFFDIO_ZEROPAGE,
)

if TYPE_CHECKING:
    from userfault.snapshot.serving.source import SnapshotSource

_SOURCE_CHECK_S = 0.05  # how often a file is looked at while it is copied from
_SHORT = {
    ZERO: UFFDIO_ZEROPAGE,
    CONTINUE: UFFDIO_CONTINUE,
    POISON: UFFDIO_POISON,
    UNPROTECT: UFFDIO_WRITEPROTECT,
}


class Performer:
    """Fills pages, wakes, inspects and reports."""

    def __init__(self, journal: Journal, calls: Calls) -> None:
        self._journal = journal
        self._calls = calls
        self._clock, self._ioctl = calls.clock, calls.ioctl
        self._made = 0

    def fill(self, context: Context, fill: Fill) -> None:
        """One ioctl; the core hears what became of it."""
        served = context.served
        kind = fill.kind
        if kind == COPY and served.copy is not None and in_copy(context, fill, served.copy):
            self._map_copy(context, fill)
            return
        length = fill.count * served.page_size
        if kind == COPY:
            if fill.data is None:
                if served.origin.store is not None:
                    self._copy_stored(context, fill, served.origin.store, length)
                    return
                if self._clock() > served.sound_until and not self._still_sound(context, fill):
                    return
                source = served.origin.address(fill.page * served.page_size, length)
                if source:
                    self._copy(context, fill, source, length)
                else:
                    context.core.not_ready(fill)
            else:
                data = fill.data
                if len(data) != length:  # a part of what was read
                    start = (fill.page - fill.data_page) * served.page_size
                    data = data[start : start + length]
                    assert len(data) == length, "what lies behind these bytes is nobody's business"
                with self._calls.place(data) as pinned:
                    self._copy(context, fill, pinned.address, length)
        elif kind == ZERO and (fill.protect or not served.zeropage):
            self._copy_zeros(context, fill, length)
        elif kind == UNSPILL:
            self._copy_spilled(context, fill, length)
        else:
            self._short(context, fill, length)

    def _copy_stored(
        self, context: Context, fill: Fill, store: SnapshotSource, length: int
    ) -> None:
        """From a chunk that is unpacked, or can be at once; else it is read by a thread."""
        offset = fill.page * context.served.page_size
        data = store.at_hand(offset, length, urgent=fill.demand)
        if data is None:
            context.core.not_ready(fill)
        else:
            with self._calls.place(data) as pinned:
                self._copy(context, fill, pinned.address, length)

    def _copy_spilled(self, context: Context, fill: Fill, length: int) -> None:
        """What the client wrote, and is in the spill file since."""
        try:
            data = context.served.spill.read(fill.page * context.served.page_size, length)
        except OSError as error:
            cause = f"the spill file cannot be read: {os.strerror(error.errno or 0)}"
            cure = "repair the disk of the spill file"
            context.core.ledger.poison(fill.page, fill.count, cause, cure)
            return
        with self._calls.place(data) as pinned:
            self._copy(context, fill, pinned.address, length)

    def _copy(self, context: Context, fill: Fill, source: int, length: int) -> None:
        served = context.served
        if served.copy is not None and fill.kind == COPY:
            if publish(context, fill, served.copy, source):
                self._map_copy(context, fill)
                return
            length = fill.count * served.page_size
        journal = self._journal
        mode = UFFDIO_COPY_MODE_WP if fill.protect else 0
        journal.copying(
            context.number, fill.kind, fill.page, fill.count, fill.address, source, length, mode
        )
        self._make(context, fill, UFFDIO_COPY, journal.copy_argument)

    def _short(self, context: Context, fill: Fill, length: int) -> None:
        journal = self._journal
        mode = UFFDIO_CONTINUE_MODE_WP if fill.protect else 0
        journal.filling(
            context.number, fill.kind, fill.page, fill.count, fill.address, length, mode
        )
        self._make(context, fill, _SHORT[fill.kind], journal.short_argument)

    def _make(self, context: Context, fill: Fill, request: int, argument: memoryview) -> None:
        """The ioctl whose argument lies in the journal."""
        self._made += 1
        # Two of sixteen are timed, one after the other: a look at the clock costs, too.  Bytes that
        # had to be read first cost more than their fill, which would count as cheap.
        timed = fill.demand and fill.data is None and not self._made & 14
        began = self._clock() if timed else 0.0
        try:
            self._ioctl(context.fd, request, argument)
        except OSError as error:
            self.refused(context, fill, error.errno or 0, self._journal.done_bytes())
        else:
            if timed:
                costs = context.core.ledger.costs
                costs.took(began, self._clock(), fill.count, self._made)
            context.core.done(fill)

    def _map_copy(self, context: Context, fill: Fill) -> None:
        """Pages that are in the shared copy: map them from there."""
        journal = self._journal
        length = fill.count * context.served.page_size
        journal.filling(context.number, CONTINUE, fill.page, fill.count, fill.address, length)
        try:
            self._ioctl(context.fd, UFFDIO_CONTINUE, journal.short_argument)
        except OSError as error:
            self.refused(context, fill, error.errno or 0, journal.done_bytes())
        else:
            fill.kind = CONTINUE
            context.core.done(fill)

    def _copy_zeros(self, context: Context, fill: Fill, length: int) -> None:
        """Zeros for a memory type without ZEROPAGE."""
        try:
            zeros = self._calls.zeros(length)
        except OSError as error:
            context.core.failed(fill, error.errno or errno.ENOMEM, 0, self._clock())
        else:
            self._copy(context, fill, zeros, length)

    def _still_sound(self, context: Context, fill: Fill) -> bool:
        """Look every now and then whether the source is what it was; if not, `fill` has failed."""
        served = context.served
        now = self._clock()
        changed = served.origin.changed()
        if changed:
            context.core.source_failed(fill, changed, now)
            return False
        served.origin.forget(now)
        served.sound_until = now + _SOURCE_CHECK_S
        return True

    def refused(self, context: Context, fill: Fill, code: int, done: int) -> None:
        """The kernel refused (part of) a fill: tell the core, and what EFAULT was about."""
        if code == errno.EINVAL and fill.kind == CONTINUE and fill.protect:
            assert context.core.guard is not None
            context.core.guard.cannot_protect(fill)  # before 6.4
            return
        if code != errno.EFAULT or done:
            context.core.failed(fill, code, done, self._clock())
            return
        served = context.served
        if served.copy is not None and fill.kind == COPY and served.copy.run(fill.page, 1) > 0:
            served.copy.forsake()  # its marks lie: who has written there?
            context.core.out.appendleft(fill)
            return
        size = served.memory_size()
        changed = served.origin.changed() if fill.kind == COPY and fill.data is None else ""
        if changed:
            context.core.source_failed(fill, changed, self._clock())
        elif 0 <= size < (fill.page + fill.count) * served.page_size:
            context.core.beyond_end(fill, size // served.page_size)
        elif fill.kind == CONTINUE:
            context.core.not_cached(fill)
        else:
            context.core.failed(fill, code, 0, self._clock())

    def wake(self, context: Context, action: Wake) -> None:
        with contextlib.suppress(KernelError):
            context.uffd.wake(action.start, action.length)

    def wake_all(self, context: Context, _action: WakeAll) -> None:
        context.uffd.wake_all()

    def inspect(self, context: Context, action: Inspect) -> None:
        """Look at what is there."""
        context.core.inspected(action, self._calls.look(context, action), self._clock())

    def report(self, context: Context, action: Report) -> None:
        """Tell the client's standard error, and remember for `check()`."""
        served = context.served
        offset = action.page * served.page_size
        served.failed += 1
        cause, cure = clipped(action.cause), clipped(action.cure)
        if len(served.failures) < MAX_FAILURES:
            served.failures.append(Failure(offset, cause, cure))
        if cause in served.told or len(served.told) > MAX_FAILURES:
            return
        # One line for each cause: a source that fails as a whole fails for every page.
        served.told.add(cause)
        if len(served.told) <= MAX_FAILURES:
            served.owner.say(
                f"page at offset {offset:#x} given up: {cause} (cure: {cure});"
                " more pages with this cause are counted, not listed"
            )
        else:
            served.owner.say(
                "more pages were given up, for other causes; they are counted, not listed"
            )

    def end(self, context: Context, action: EndClient) -> None:
        """End the client."""
        context.served.owner.end(action.message)
