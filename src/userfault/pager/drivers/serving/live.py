"""The driver for Linux: one loop that reads faults, performs what the core decides, and sleeps.

The way of one fault on a page of a cached file is: epoll_wait, one read, one UFFDIO_COPY.  What
is rare (events, requests, fetches, timers) hangs on the same epoll.

What the kernel does that one would not expect, and what is done about it here:

* Of one read, faults come before events whatever their order in time (measured on 6.1 to 7.3);
  so within a batch events are applied first.
* After an event was read, fills fail with EAGAIN until the thread that raised it has run again,
  with nothing left to read.  So fills that met EAGAIN are repeated after pauses that grow.
* The death of a client shows neither as event nor as hang-up: its pidfd and ESRCH tell.
* When the last descriptor of a context closes, faults turn into silent zero pages; the client
  keeps a duplicate, and the life line (`linux.lifeline`) ends it if the whole family is killed.

This process may be killed at any instruction, and another one of its family goes on
(`takeover.py`).  What that one must know is in the journal before it can matter: messages and the
fill under way by themselves, everything else by `commit()`, at the places that say so.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from userfault.kernel.errors import KernelError, PagerError
from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.linux.descriptors import allow_all, keep_reserve
from userfault.linux.refused import calling
from userfault.linux.uffd import LiveUserfaultfd, decode
from userfault.pager.core import actions
from userfault.pager.core.actions import Fetch, Fill
from userfault.pager.core.states import Pages
from userfault.pager.core.turns import Turns
from userfault.pager.drivers.clients.conversation import Conversation
from userfault.pager.drivers.clients.interrupts import Interrupts
from userfault.pager.drivers.clients.reach import Reach
from userfault.pager.drivers.clients.takeover import take_over
from userfault.pager.drivers.family.stall import WORKER_LOOK_S
from userfault.pager.drivers.family.succession import Succession, Told
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record.journal import BATCH, MESSAGE, Journal, Word
from userfault.pager.drivers.record.records import FamilyRecord, ServedRecord, encode
from userfault.pager.drivers.serving import watchdog
from userfault.pager.drivers.serving.deferring import Deferring
from userfault.pager.drivers.serving.departing import CHILD_CHECK_S, Departing
from userfault.pager.drivers.serving.fills import Performer
from userfault.pager.drivers.serving.losing import lose
from userfault.pager.drivers.serving.placement import Placement
from userfault.pager.drivers.serving.reads import Reads
from userfault.pager.drivers.wire.messages import MAX_FAILURES
from userfault.uapi.userfaultfd import UFFD_EVENT_PAGEFAULT, uffd_msg_pagefault

if TYPE_CHECKING:
    from userfault.pager.drivers.mappings.unpackers import Unpackers

_PIECES = 16  # background fills between two looks at the queue; small ones take 10 µs each
_FEW = 4  # messages a read while others wait for their turn
_TICK_S = 1e-3  # what epoll can tell apart

_unpack_fault = uffd_msg_pagefault.struct.unpack_from
_clock = time.monotonic


class LiveDriver(Departing):
    """Serves mappings of one client until it, and every child that a fork added, has ended.

    `journal` names the socket to the client and its pidfd; `family` is the record found there.
    """

    def __init__(self, journal: Journal, family: FamilyRecord) -> None:
        self._journal = journal
        self._family = family
        self._channel = socket.socket(fileno=journal.words[Word.CHANNEL_FD])
        self._client = journal.words[Word.CLIENT_FD]
        self._client_alive = True
        self.served: dict[int, Served] = {}
        self._numbers = family.numbers  # of contexts
        self._busy: Turns[Context] = Turns()  # may have background work
        self._deferring = Deferring()  # have fills that met EAGAIN
        self._timed: dict[Context, None] = {}  # have fetches with deadlines, or pauses
        self._turn = BATCH  # how many messages one context may read now
        with calling("eventfd2"):
            self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with calling("epoll_create1"):
            self._epoll = select.epoll()
        self.placement = Placement(self._epoll, family.hello.placing, self._client)
        self._handlers: dict[int, Callable[[], None]] = {}
        self._open = True
        self._short_of_descriptors: Context | None = None  # to read a FORK event with
        self._children: dict[Context, None] = {}  # contexts of forked children
        self._children_checked = 0.0
        self._performer = Performer(self._client, journal)
        self._reach = Reach(self._client)
        self._interrupts = Interrupts(self.perform)
        self._reads = Reads(self, family.hello.in_flight)
        self._unpackers: Unpackers | None = None
        self._rare: dict[type, Callable[..., None]] = {
            Fetch: self._reads.ask,
            actions.Abandon: self._reads.abandon,
            actions.Hasten: self._reads.hasten,
            actions.Wake: self._performer.wake,
            actions.WakeAll: self._performer.wake_all,
            actions.Inspect: self._performer.inspect,
            actions.Report: self._report,
            actions.Overdue: watchdog.tell,
            actions.EndClient: self._performer.end,
            actions.Finish: self._finish,
        }
        self._conversation = Conversation(self._channel, self, journal)
        self.watch(self._channel.fileno(), self._conversation.request)
        self.watch(self._client, self._client_ended)
        self._succession = Succession(self, journal)

    def resume(self, mappings: list[ServedRecord]) -> None:
        """Go on with what another worker served."""
        take_over(self, self._journal, self._family, mappings)

    def greet(self) -> None:
        """Tell the client that a worker serves."""
        keep_reserve()
        self._conversation.resumed()

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there is nobody left to serve."""
        while self._open or self.served:
            ready = self.placement.wait(self._slept(), working=bool(self._busy))
            self._turn = _FEW if len(ready) > 1 else BATCH
            for fd, _ in ready:
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            if self._timed or self._children or self._succession.next_time() is not None:
                self._timers(_clock())
            if self._deferring:
                self._retry(_clock())
            now = _clock()
            if now >= self._reach.due:
                self._reach.look(now, self.served.values())
            if self._timed:
                self._interrupts.look(self._timed)
            if not ready:
                self._succession.look_for_stalls(_clock())
            if not ready or (self._busy and self._busy.disturbed()):
                self._idle()
            elif self._busy:
                # A client on this CPU goes first: it may fault again at once.
                os.sched_yield()
        self.close()

    def close(self) -> None:
        """Let go of everything that is served, and of what this worker opened."""
        for served in list(self.served.values()):
            self.drop(served)
        self._conversation.close()
        if self._unpackers is not None:
            self._unpackers.close()
        self._performer.close()
        self._succession.close()
        self._epoll.close()
        os.close(self.bell)
        self._channel.close()

    def _slept(self) -> float:
        """How long epoll may sleep, in seconds.

        What is shorter than epoll can tell apart has passed already, unless something happened.
        """
        timeout = self._timeout()
        if 0 < timeout < _TICK_S:
            select.select([self._epoll], [], [], timeout)
            return 0
        return timeout

    def _timeout(self) -> float:
        if self._busy:
            return 0
        succession = self._succession.next_time()
        at_most = min(self._reach.idle_s, WORKER_LOOK_S)
        if succession is None and not (self._timed or self._children or self._deferring):
            return at_most  # without a look at the clock: so it is for nearly every fault
        times = [] if succession is None else [succession]
        if self._deferring:
            times.append(self._deferring.next_time())
        for context in list(self._timed):
            when = context.core.next_time()
            if when is None:
                del self._timed[context]
            else:
                times.append(when)
        if self._timed:
            times.append(self._interrupts.next_time())
        if self._children:
            times.append(self._children_checked + CHILD_CHECK_S)
        return min(max(min(times) - _clock(), 0), at_most) if times else at_most

    def _idle(self) -> None:
        """Nothing waits: one chunk of background work of whoever is next."""
        while (turn := self._busy.next()) is not None:
            context, noisy = turn
            if noisy:
                context.core.disturb()
            with self.costs(context.served):
                if self._work(context):
                    # `perform` puts it to the end of the queue: everybody gets a turn.
                    return

    def _work(self, context: Context) -> bool:
        """A chunk of background work, in one piece or in several that are small; whether any."""
        core = context.core
        left = core.plan.chunk_pages
        pieces = 0
        while pieces < _PIECES and left > 0 and (count := core.idle_work()):
            left -= count
            pieces += 1
            self.perform(context)
        return pieces > 0

    def _timers(self, now: float) -> None:
        """Deadlines of fetches, pauses, children that may have ended."""
        self._succession.tick(now)
        if self._children:
            self._check_children(now)
        for context in list(self._timed):
            when = context.core.next_time()
            if when is not None and when <= now:
                with self.costs(context.served):
                    context.core.tick(now)
                    self.perform(context)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call `handler` when `fd` is readable."""
        self._epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """No more."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # closed: it has left the epoll set by that
                self._epoll.unregister(fd)

    # --- faults and events -----------------------------------------------------------------------

    def _readable(self, context: Context) -> None:
        """Read and serve one batch of messages."""
        try:
            at, view = self._journal.batch(context.number, self._turn)
            try:
                count = os.readv(context.fd, [view])
            except BlockingIOError:
                return  # the page was resolved before its message was read
            except OSError as error:
                self._unreadable(context, error)
                return
            if context is self._short_of_descriptors:
                self._short_of_descriptors = None
                keep_reserve()
            core = context.core
            core.batch()
            ring = self._journal.ring
            if count == MESSAGE and ring[at] == UFFD_EVENT_PAGEFAULT:
                _, flags, address, self.placement.thread = _unpack_fault(ring, at)
                core.fault(address, flags)
                self.perform(context)
            else:
                self._batch(context, at, count)
            self._journal.batch_done(count)
        except Exception as error:
            lose(self, self._journal, context.served, error)

    @contextlib.contextmanager
    def costs(self, served: Served) -> Iterator[None]:
        """An error of ours within it costs this mapping and no other."""
        try:
            yield
        except Exception as error:
            lose(self, self._journal, served, error)

    def _batch(self, context: Context, start: int, size: int) -> None:
        """Several messages: events first, since a page that was dropped must not be filled."""
        faults, applied = [], 0
        for at in range(start, start + size, MESSAGE):
            event = decode(self._journal.ring, at)
            if isinstance(event, PageFault):
                faults.append(event)
            else:
                self.event(context, event, applied)
                applied += 1
        for fault in faults:
            self.placement.thread = fault.thread_id
            if context.closed:  # the process ended in the middle of the batch
                return
            context.core.fault(fault.address, fault.flags)
            self.perform(context)

    def event(
        self,
        context: Context,
        event: Fork[LiveUserfaultfd] | Remap | Remove | Unmap,
        before: int,
    ) -> None:
        """Apply an event, the `before`th of its batch; record it unless it may be applied twice."""
        core = context.core
        self._deferring.event_read(context)
        if isinstance(event, Remove):
            core.remove(event.start, event.end)
        else:
            if isinstance(event, Unmap):
                core.unmap(event.start, event.end)
            elif isinstance(event, Remap):
                core.remap(event.old, event.new, event.length)
            else:
                self.forked(context, event)
            self._journal.applied = before + 1
            self.commit(context.served)  # before anything is filled by what the event changed
        self.perform(context)

    def forked(self, context: Context, event: Fork[LiveUserfaultfd]) -> None:
        """Serve the child: private memory from a copy of the states, shared memory from ours."""
        served = context.served
        states, pages = context.states, None
        if not served.attach.shared and not served.lost:
            states, pages = self._copy_states(context)
        core = context.core.fork(pages)
        child = Context(served, self.number(), core, event.userfaultfd, states)
        served.contexts.append(child)
        self._watch_context(child)

    def _copy_states(self, context: Context) -> tuple[int, Pages]:
        try:
            return context.served.copy_states(context.core.pages)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            self._performer.end_client(f"no page states for a forked child: {why}")
            held = context.core.pages
            states = context.served.main.states
            return states, Pages(bytearray(held.states[0 : held.count]), held.count)

    def _unreadable(self, context: Context, error: OSError) -> None:
        """A read failed: only a FORK event without a free descriptor is known to do that.

        The kernel keeps the event, and a child must not wait: it may have one of the reserve.
        """
        if error.errno == errno.EMFILE and context is not self._short_of_descriptors:
            self._short_of_descriptors = context
            allow_all()
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            self._performer.end_client("the pager has no descriptor left for a forked child")
        else:
            self._performer.end_client(f"reading faults failed: {os.strerror(error.errno or 0)}")

    # --- actions ---------------------------------------------------------------------------------

    def perform(self, context: Context) -> None:
        """Do everything the core asks for, until it asks for nothing more."""
        out = context.core.out
        while out:
            action = out.popleft()
            if type(action) is Fill:
                self._performer.fill(context, action)
            else:
                self._rare[type(action)](context, action)
        core = context.core
        if core.deferred:
            self._deferring.add(context, _clock())
        if core.timed:
            self._timed[context] = None
        if core.eager and not context.closed:
            self._busy.add(context)
        if len(context.served.contexts) > 1:
            self._perform_siblings(context)

    def _perform_siblings(self, context: Context) -> None:
        for sibling in context.served.contexts:
            if sibling is not context and sibling.core.out:
                self.perform(sibling)

    @property
    def most_in_flight(self) -> int:
        """Reads under way at once, at the highest."""
        return self._reads.most

    def has_deadlines(self, context: Context) -> None:
        """The core has deadlines from now on."""
        self._timed[context] = None

    def _report(self, context: Context, action: actions.Report) -> None:
        """A page was given up: told at once, and recorded as long as each is listed."""
        self._performer.report(context, action)
        if context.served.failed <= MAX_FAILURES:
            self.commit(context.served)

    def _finish(self, context: Context, action: actions.Finish) -> None:
        """Everything is in: check the source a last time, then let go of the memory.

        The context stays and its events are read on: a thread may have raised one just before
        its range was unregistered, and it sleeps until somebody reads it.
        """
        if action.owner_gone:
            self._drop_context(context)
            self._drop_if_deserted(context.served)  # of a dead client this was perhaps the last
            return
        served = context.served
        changed = served.origin.changed()
        if changed:
            self._performer.report(
                context, actions.Report(0, changed, "restore again from an intact copy")
            )
        self.commit(served)  # a successor must not unregister what the client maps there later
        for start, length in action.segments:
            with contextlib.suppress(KernelError):
                context.uffd.unregister(start, length)
        self._busy.discard(context)
        served.origin.rest()
        if context is served.main:
            served.finish()

    # --- what met EAGAIN -------------------------------------------------------------------------

    def _retry(self, now: float) -> None:
        """Try fills again whose context had an event pending."""
        for context in self._deferring.due(now):
            if context.closed:
                continue
            with self.costs(context.served):
                context.core.retry()
                self.perform(context)
            if context.core.deferred:
                self._deferring.failed_again(context, now)
            else:
                self._deferring.discard(context)

    # --- whom we serve ---------------------------------------------------------------------------

    def number(self) -> int:
        """A number for a new context."""
        self._numbers += 1
        return self._numbers

    def commit(self, changed: Served | None = None) -> None:
        """Record what is served, `changed` anew: a successor starts from here."""
        try:
            self._commit(changed)
        except PagerError as error:
            self._performer.end_client(str(error))

    def _commit(self, changed: Served | None) -> None:
        if changed is not None:
            changed.changed()
        record = FamilyRecord(
            hello=self._family.hello,
            batch=self._journal.head,
            applied=self._journal.applied,
            numbers=self._numbers,
            served=[served.record() for served in self.served.values()],
        )
        self._journal.commit(encode(record))

    def take(self, served: Served) -> None:
        """Serve a new mapping.  Raises PagerError when it cannot be recorded."""
        self.served[served.number] = served
        try:
            self._commit(served)
        except PagerError:
            del self.served[served.number]
            raise
        self._take_up(served)
        self._reach.take()
        self._watch_context(served.main)

    def restore(self, served: Served) -> None:
        """Serve a mapping of the record again."""
        self.served[served.number] = served
        self._take_up(served)
        if served.main.core.finished:
            served.finish()
        if served.lost:
            served.tell()
        for context in served.contexts:
            if not context.closed:
                self._watch_context(context)

    def _take_up(self, served: Served) -> None:
        """Have chunks unpacked in advance where the source is a snapshot."""
        if served.origin.store is None:
            return
        if self._unpackers is None:
            # It brings zstd and BLAKE3 along, which a pager of files has no use for.
            from userfault.pager.drivers.mappings.unpackers import Unpackers  # noqa: PLC0415

            self._unpackers = Unpackers(self)
        self._unpackers.attach(served)

    def _watch_context(self, context: Context) -> None:
        self.watch(context.fd, functools.partial(self._readable, context))
        if context is not context.served.main:
            self._children[context] = None
        if context.core.eager:
            self._busy.add(context)

    def go_on(self, served: Served) -> None:
        """Perform what a request made the core ask for."""
        self.perform(served.main)

    def replace(self, serial: int, told: Told) -> None:
        """Hand over to another family for request `serial`; `told` hears how it ended."""
        self._succession.replace(serial, told, _clock())

    def hang_up(self, *, quit_now: bool) -> None:
        """The client asked us to end, or closed its end: serve on while it still lives."""
        self.forget(self._channel.fileno())
        self._open = False
        if quit_now:
            for served in list(self.served.values()):
                self.drop(served)
