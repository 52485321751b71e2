"""Messages in: faults and events are read, events are recorded, cores decide.

What the kernel does that one would not expect, and what is done about it here:

* Of one read, faults come before events whatever their order in time (measured on 6.1 to 7.3);
  so within a batch events are applied first.
* After an event was read, fills fail with EAGAIN until the thread that raised it has run again,
  with nothing left to read.  So fills that met EAGAIN are repeated after pauses that grow
  (`deferring.py`).
* The death of a client shows neither as event nor as hang-up: its pidfd and ESRCH tell.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Protocol

from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.linux.descriptors import allow_all, keep_reserve
from userfault.linux.uffd import LiveUserfaultfd, decode
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record.journal import MESSAGE, Journal
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.deferring import Deferring
from userfault.pager.drivers.serving.evicting import Evictor
from userfault.pager.drivers.serving.latency import Latency
from userfault.pager.drivers.serving.loop import Loop
from userfault.uapi.userfaultfd import UFFD_EVENT_PAGEFAULT, uffd_msg_pagefault

Event = Fork[LiveUserfaultfd] | Remap | Remove | Unmap

_unpack_fault = uffd_msg_pagefault.struct.unpack_from


class Service(Protocol):
    """Whoever serves."""

    deferring: Deferring
    evictor: Evictor
    latency: Latency | None

    @property
    def fault(self) -> Callable[[Context, int, int], None]:
        """A thread waits at an address, with these flags."""

    def perform(self, context: Context) -> None:
        """Everything that the core of `context` asks for, until it asks for nothing more."""

    def forked(self, context: Context, event: Fork[LiveUserfaultfd]) -> None:
        """Serve a child."""

    def context_ended(self, context: Context) -> None:
        """Its process has ended."""

    def commit(self, changed: Served) -> bool:
        """Record what is served, `changed` anew."""

    def lose(self, served: Served, error: Exception) -> None:
        """An error of ours costs this mapping and no other."""


class Intake:
    """Reads messages into the journal's ring, and has cores decide on them."""

    def __init__(self, loop: Loop, journal: Journal, service: Service, calls: Calls) -> None:
        self._loop = loop
        self._placement = loop.placement
        self._journal = journal
        self._service = service
        self._short_of_descriptors: Context | None = None  # to read a FORK event with
        self._calls = calls
        self._read: Callable[[int, list[memoryview]], int] = calls.read

    def readable(self, context: Context) -> None:
        """Read and serve one batch of messages."""
        journal = self._journal
        try:
            at, view = journal.batch(context.number, self._loop.turn)
            try:
                count = self._read(context.fd, [view])
            except BlockingIOError:
                return  # the page was resolved before its message was read
            except OSError as error:
                self._not_read(context, error)
                return
            if context is self._short_of_descriptors:
                self._short_of_descriptors = None
                keep_reserve()
            owner = context.served.owner
            owner.heard = True
            core = context.core
            core.batch()
            latency = self._service.latency
            if latency is not None and not latency.due():
                latency = None
            if latency is not None:
                began = self._calls.clock()
                before = core.counters.faults, core.counters.minor
            ring = journal.ring
            event, flags, address, thread = _unpack_fault(ring, at)
            if count == MESSAGE and event == UFFD_EVENT_PAGEFAULT:
                self._service.fault(context, address, flags)
                if owner.has_our_ids:
                    self._placement.thread = thread
            else:
                self.batch(context, at, count)
            journal.batch_done(count)
            if latency is not None:
                latency.answered(context, before, self._calls.clock() - began)
        except Exception as error:
            self._service.lose(context.served, error)

    def batch(self, context: Context, start: int, size: int) -> None:
        """Several messages: events first, since a page that was dropped must not be filled."""
        faults: list[PageFault] = []
        events: list[tuple[int, Event]] = []
        for at in range(start, start + size, MESSAGE):
            event = decode(self._journal.ring, at)
            if isinstance(event, PageFault):
                faults.append(event)
            else:
                events.append((len(events), event))
        self.events(context, events)
        for fault in faults:
            if context.served.owner.has_our_ids:
                self._placement.thread = fault.thread_id
            if context.closed:  # the process ended in the middle of the batch
                return
            self._service.fault(context, fault.address, fault.flags)

    def events(self, context: Context, events: list[tuple[int, Event]]) -> None:
        """Apply events of a batch; each with how many came before it."""
        served = context.served
        served.read_from = True
        try:
            for before, event in events:
                # A process that ends in the middle may have forked before: its child lives.
                if not context.closed or isinstance(event, Fork):
                    self._event(context, event, before)
        finally:
            served.read_from = False
        if context.closed:  # and perhaps no child of it is there
            self._service.context_ended(context)

    def _event(self, context: Context, event: Event, before: int) -> None:
        """Apply an event, the `before`th of its batch; record it unless it may be applied twice."""
        core = context.core
        service = self._service
        service.evictor.settle()
        service.deferring.event_read(context)
        if isinstance(event, Remove):
            core.remove(event.start, event.end)
        else:
            if isinstance(event, Unmap):
                core.unmap(event.start, event.end)
            elif isinstance(event, Remap):
                core.remap(event.old, event.new, event.length)
            else:
                service.forked(context, event)
            self._journal.applied = before + 1
            service.commit(context.served)  # before anything is filled by what the event changed
        service.perform(context)

    def _not_read(self, context: Context, error: OSError) -> None:
        if error.errno == errno.EOPNOTSUPP and self._read is not self._calls.readv:
            self._read = self._calls.readv  # before 6.10, where O_NONBLOCK is all there is
        else:
            self._unreadable(context, error)

    def _unreadable(self, context: Context, error: OSError) -> None:
        """A read failed: only a FORK event without a free descriptor is known to do that.

        The kernel keeps the event, and a child must not wait: it may have one of the reserve.
        """
        owner = context.served.owner
        if error.errno == errno.EMFILE and context is not self._short_of_descriptors:
            self._short_of_descriptors = context
            allow_all()
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            owner.end("the pager has no descriptor left for a forked child")
        else:
            owner.end(f"reading faults failed: {os.strerror(error.errno or 0)}")
