"""One fault, from its message to what answers it: nearly always one ioctl, with no action between.

The way is as short as it can be, because it is taken for every fault: what is Python here costs as
much as what the kernel does.

Where the threads of many clients wait at once, those whose pages have come are woken together: to
wake a CPU that sleeps takes 3 to 4 µs of the worker's time on a virtual machine (measured on 6.18),
and once it is awake the next ones cost nothing.  All are woken by the end of the round, so before
anything more is read of their userfaultfds: no message is met of a thread whose page is there.  A
worker that is killed before that has a successor that wakes everybody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from userfault.pager.core.actions import COPY, Fill
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving.background import Background
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.loop import Loop
from userfault.uapi.userfaultfd import (
    UFFDIO_COPY,
    UFFDIO_COPY_MODE_DONTWAKE,
    UFFDIO_COPY_MODE_WP,
    UFFDIO_WAKE,
    uffdio_range,
)

_pack_range = uffdio_range.struct.pack_into

_TOGETHER = 16  # threads
_TIMED = 14  # two fills of sixteen are timed: see `Performer`


class Acting(Protocol):
    """Whoever serves."""

    background: Background

    def perform(self, context: Context) -> None:
        """Everything that the core of `context` asks for, until it asks for nothing more."""


class AtOnce:
    """Answers faults.  `refused`: to be told of a fill that the kernel has refused."""

    def __init__(
        self,
        loop: Loop,
        journal: Journal,
        calls: Calls,
        acting: Acting,
        refused: Callable[[Context, Fill, int, int], None],
    ) -> None:
        self._loop = loop
        self._asleep: list[tuple[int, int, int]] = []  # descriptor, start and length
        loop.called = self._wake
        self._journal = journal
        self._acting = acting
        self._refused = refused
        self._clock, self._ioctl = calls.clock, calls.ioctl
        self._argument = journal.copy_argument
        self._range = memoryview(bytearray(uffdio_range.size))
        self._made = 0

    def fault(self, context: Context, address: int, flags: int) -> None:
        """A thread waits at `address`."""
        core = context.core
        quick = core.quick
        run = quick.asks(address, flags)
        if run is None:
            core.fault(address, flags)
            self._acting.perform(context)
            return
        if not self._copy(context, run) or core.out:
            self._acting.perform(context)
        elif not quick.alone and core.eager:
            self._acting.background.add(context)

    def _copy(self, context: Context, run: tuple[int, int]) -> bool:
        """The run that was asked for, from a source that is mapped.  False: there is more to do."""
        page, count = run
        served, core = context.served, context.core
        offset, length = page * served.page_size, count * served.page_size
        now = self._clock()
        source = served.origin.address(offset, length) if now <= served.sound_until else 0
        if not source:
            core.quick.put_off(page, count)
            return False
        journal = self._journal
        to = core.ledger.base + offset
        wakes = not self._loop.crowded
        mode = 0 if wakes else UFFDIO_COPY_MODE_DONTWAKE
        if core.quick.protect:
            mode |= UFFDIO_COPY_MODE_WP
        journal.copying(context.number, COPY, page, count, to, source, length, mode)
        self._made = made = self._made + 1
        try:
            self._ioctl(context.fd, UFFDIO_COPY, self._argument)
        except OSError as error:
            fill = core.quick.refused(page, count)
            self._refused(context, fill, error.errno or 0, journal.done_bytes())
            return False
        if not made & _TIMED:
            core.ledger.costs.took(now, self._clock(), count, made)
        core.quick.copied(page, count)
        if not wakes:
            self._asleep.append((context.fd, to, length))
            if len(self._asleep) >= _TOGETHER:
                self._wake()
        return True

    def _wake(self) -> None:
        """Wake those whose pages have come."""
        argument = self._range
        for fd, start, length in self._asleep:
            _pack_range(argument, 0, start, length)
            with contextlib.suppress(OSError):
                self._ioctl(fd, UFFDIO_WAKE, argument)
        self._asleep.clear()
