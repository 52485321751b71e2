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
  keeps a duplicate, and the life line (`linux.lifeline`) ends it if this process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import select
import socket
import time
from collections.abc import Callable

from userfault.kernel.errors import KernelError
from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.linux.uffd import MESSAGE_SIZE, LiveUserfaultfd, decode
from userfault.pager.core import actions
from userfault.pager.core.actions import Fetch, Fill
from userfault.pager.core.shares import Shares
from userfault.pager.core.states import Pages
from userfault.pager.core.turns import Turns
from userfault.pager.drivers import watchdog
from userfault.pager.drivers.conversation import Conversation
from userfault.pager.drivers.deferring import Deferring
from userfault.pager.drivers.fills import Performer
from userfault.pager.drivers.readers import Answered, Readers
from userfault.pager.drivers.served import Context, Served
from userfault.pager.drivers.workers import Worker, Workers
from userfault.uapi.userfaultfd import UFFD_EVENT_PAGEFAULT, uffd_msg_pagefault

BATCH = 64  # messages a read; 64 threads waiting at once are rare, and more come with the next
_FEW = 4  # messages a read while others wait for their turn
_TICK_S = 1e-3  # what epoll can tell apart
_CHILD_CHECK_S = 1.0

_unpack_fault = uffd_msg_pagefault.struct.unpack_from
_clock = time.monotonic


class LiveDriver:
    """Serves mappings of one client until it, and every child that a fork added, has ended.

    `channel`: the socket to the client.  `client`: its pidfd.  `in_flight`: reads of sources under
    way at once.
    """

    def __init__(self, channel: socket.socket, client: int, in_flight: int = 32) -> None:
        self._channel = channel
        self._client = client
        self._client_alive = True
        self.served: dict[int, Served] = {}
        self._busy: Turns[Context] = Turns()  # may have background work
        self._deferring = Deferring()  # have fills that met EAGAIN
        self._shares: Shares[Fetch] = Shares(in_flight)
        self._timed: dict[Context, None] = {}  # have fetches with deadlines, or pauses
        self._buffer = bytearray(BATCH * MESSAGE_SIZE)
        self._few = memoryview(self._buffer)[: _FEW * MESSAGE_SIZE]
        self._turn: bytearray | memoryview = self._buffer  # as much as one context may read now
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._open = True
        self._children: dict[Context, None] = {}  # contexts of forked children
        self._children_checked = 0.0
        self._performer = Performer(client)
        self._rare: dict[type, Callable[..., None]] = {
            Fetch: self._fetch,
            actions.Abandon: self._abandon,
            actions.Wake: self._performer.wake,
            actions.Inspect: self._performer.inspect,
            actions.Report: self._performer.report,
            actions.Overdue: watchdog.tell,
            actions.EndClient: self._performer.end,
            actions.Finish: self._finish,
        }
        self._watch(channel.fileno(), Conversation(channel, self).request)
        self._watch(client, self._client_ended)
        self._watch(self.bell, self._ring)
        _raise_descriptor_limit()

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there is nobody left to serve."""
        try:
            while self._open or self.served:
                ready = self._epoll.poll(self._slept())
                self._turn = self._few if len(ready) > 1 else self._buffer
                for fd, _ in ready:
                    handler = self._handlers.get(fd)
                    if handler is not None:
                        handler()
                if self._timed or self._children:
                    self._timers(_clock())
                if self._deferring:
                    self._retry(_clock())
                if not ready or (self._busy and self._busy.disturbed()):
                    self._idle()
                elif self._busy:
                    # A client on this CPU goes first: it may fault again at once.
                    os.sched_yield()
        finally:
            self._close_all()

    def _slept(self) -> float:
        """How long epoll may sleep, in seconds (-1: until something happens).

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
        if not self._timed and not self._children and not self._deferring:
            return -1
        times = []
        if self._deferring:
            times.append(self._deferring.next_time())
        for context in list(self._timed):
            when = context.core.next_time()
            if when is None:
                del self._timed[context]
            else:
                times.append(when)
        if self._children:
            times.append(self._children_checked + _CHILD_CHECK_S)
        return max(min(times) - _clock(), 0) if times else -1

    def _idle(self) -> None:
        """Nothing waits: one chunk of background work of whoever is next."""
        while (turn := self._busy.next()) is not None:
            context, noisy = turn
            if noisy:
                context.core.disturb()
            if context.core.idle_work():
                # `_perform` puts it to the end of the queue: everybody gets a turn.
                self._perform(context)
                return

    def _timers(self, now: float) -> None:
        """Deadlines of fetches, pauses, children that may have ended."""
        if self._children:
            self._check_children(now)
        for context in list(self._timed):
            when = context.core.next_time()
            if when is not None and when <= now:
                context.core.tick(now)
                self._perform(context)

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # --- faults and events -----------------------------------------------------------------------

    def _readable(self, context: Context) -> None:
        """Read and serve one batch of messages."""
        buffer = self._buffer
        try:
            count = os.readv(context.fd, [self._turn])
        except BlockingIOError:
            return  # the page was resolved before its message was read
        except OSError as error:
            self._unreadable(error)
            return
        core = context.core
        core.batch()
        if count == MESSAGE_SIZE and buffer[0] == UFFD_EVENT_PAGEFAULT:
            _, flags, address, _ = _unpack_fault(buffer)
            core.fault(address, flags)
            self._perform(context)
        else:
            self._batch(context, count)

    def _batch(self, context: Context, count: int) -> None:
        """Several messages: events first, since a page that was dropped must not be filled."""
        faults = []
        for at in range(0, count, MESSAGE_SIZE):
            event = decode(self._buffer, at)
            if isinstance(event, PageFault):
                faults.append(event)
            else:
                self._event(context, event)
        for fault in faults:
            if context.closed:  # the process ended in the middle of the batch
                return
            context.core.fault(fault.address, fault.flags)
            self._perform(context)

    def _event(
        self, context: Context, event: Fork[LiveUserfaultfd] | Remap | Remove | Unmap
    ) -> None:
        core = context.core
        self._deferring.event_read(context)
        if isinstance(event, Remove):
            core.remove(event.start, event.end)
        elif isinstance(event, Unmap):
            core.unmap(event.start, event.end)
        elif isinstance(event, Remap):
            core.remap(event.old, event.new, event.length)
        else:
            self._forked(context, event)
        self._perform(context)

    def _forked(self, context: Context, event: Fork[LiveUserfaultfd]) -> None:
        """Serve the child: private memory from a copy of the states, shared memory from ours."""
        served = context.served
        pages = None
        if not served.attach.shared:
            held = context.core.pages
            pages = Pages(bytearray(held.states[0 : held.count]), held.count)
        child = Context(served, context.core.fork(pages), event.userfaultfd)
        served.contexts.append(child)
        self._children[child] = None
        self._watch_context(child)

    def _unreadable(self, error: OSError) -> None:
        """A read failed: only a FORK event without a free descriptor is known to do that."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            self._performer.end_client("the pager has no descriptor left for a forked child")
        else:
            self._performer.end_client(f"reading faults failed: {os.strerror(error.errno or 0)}")

    # --- actions ---------------------------------------------------------------------------------

    def _perform(self, context: Context) -> None:
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
                self._perform(sibling)

    def _fetch(self, context: Context, fetch: Fetch) -> None:
        """A read away from the fault path, as soon as there is a place for it."""
        fetch.owner = context
        self._shares.ask(context.served.number, fetch)
        self._start_reads()

    def _start_reads(self) -> None:
        """Start the reads that have a place now."""
        while (fetch := self._shares.grant()) is not None:
            context: Context = fetch.owner
            fetcher = context.served.origin.fetcher
            assert fetcher is not None, "a source without a reader is never fetched from"
            context.core.started(fetch, _clock())
            self._timed[context] = None
            size = context.served.page_size
            fetcher.start(fetch, fetch.page * size, fetch.count * size)
            if isinstance(fetcher, Workers):
                self._watch_workers(fetcher)
                self._take_answers(fetcher)

    @property
    def most_in_flight(self) -> int:
        """Reads under way at once, at the highest."""
        return self._shares.most

    def _abandon(self, context: Context, action: actions.Abandon) -> None:
        """Kill the worker that is late.  (A reader thread goes on, its answer is ignored.)"""
        served = context.served
        fetcher = served.origin.fetcher
        for fetch in self._shares.reads_of(served.number):
            # Each context numbers its own fetches, and those of a fork share their workers.
            if fetch.owner is context and fetch.number == action.number:
                self._shares.forget(served.number, [fetch])
                if isinstance(fetcher, Workers):
                    self._end_worker(fetcher, fetch)
        self._start_reads()

    def _end_worker(self, workers: Workers, fetch: Fetch) -> None:
        for worker in list(workers.workers):
            if worker.fetch is fetch:
                self._forget(worker.channel.fileno())
                workers.drop(worker)

    def _finish(self, context: Context, action: actions.Finish) -> None:
        """Everything is in: check the source a last time, then let go of the memory.

        The context stays and its events are read on: a thread may have raised one just before
        its range was unregistered, and it sleeps until somebody reads it.
        """
        if action.owner_gone:
            self._drop_context(context)
            return
        served = context.served
        changed = served.origin.changed()
        if changed:
            self._performer.report(
                context, actions.Report(0, changed, "restore again from an intact copy")
            )
        for start, length in action.segments:
            with contextlib.suppress(KernelError):
                context.uffd.unregister(start, length)
        self._busy.discard(context)
        if context is served.main:
            served.finish()

    # --- what met EAGAIN -------------------------------------------------------------------------

    def _retry(self, now: float) -> None:
        """Try fills again whose context had an event pending."""
        for context in self._deferring.due(now):
            if context.closed:
                continue
            context.core.retry()
            self._perform(context)
            if context.core.deferred:
                self._deferring.failed_again(context, now)
            else:
                self._deferring.discard(context)

    # --- fetches ---------------------------------------------------------------------------------

    def _ring(self) -> None:
        """Reader threads have answered."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        for served in list(self.served.values()):
            if isinstance(served.origin.fetcher, Readers):
                self._take_answers(served.origin.fetcher)

    def _watch_workers(self, workers: Workers) -> None:
        while workers.fresh:
            worker = workers.fresh.pop()
            self._watch(worker.channel.fileno(), functools.partial(self._worker, workers, worker))

    def _worker(self, workers: Workers, worker: Worker) -> None:
        fd = worker.channel.fileno()
        if not workers.readable(worker):
            self._handlers.pop(fd, None)  # closing it took it out of the epoll set
        self._take_answers(workers)

    def _take_answers(self, fetcher: Readers | Workers) -> None:
        while fetcher.answers:
            answer: Answered = fetcher.answers.popleft()
            self._shares.end(answer.fetch)
            context = answer.fetch.owner
            if context.closed:
                continue
            if answer.data is not None:
                context.core.fetched(answer.fetch, answer.data)
            else:
                context.core.fetch_failed(answer.fetch, answer.cause, _clock())
            self._perform(context)
        self._start_reads()

    # --- whom we serve ---------------------------------------------------------------------------

    def take(self, served: Served) -> None:
        """Serve a new mapping."""
        self.served[served.number] = served
        self._watch_context(served.main)

    def _watch_context(self, context: Context) -> None:
        self._watch(context.fd, functools.partial(self._readable, context))
        if context.core.eager:
            self._busy.add(context)

    def go_on(self, served: Served) -> None:
        """Perform what a request made the core ask for."""
        self._perform(served.main)

    def hang_up(self, *, quit_now: bool) -> None:
        """The client asked us to end, or closed its end: serve on while it still lives."""
        self._forget(self._channel.fileno())
        self._open = False
        if quit_now:
            for served in list(self.served.values()):
                self.drop(served)

    def _client_ended(self) -> None:
        """The client is dead: only children that it forked may still need us."""
        self._forget(self._client)
        self._client_alive = False
        self._open = False
        for served in list(self.served.values()):
            self._drop_context(served.main)
            self._drop_if_deserted(served)

    def _check_children(self, now: float) -> None:
        """Children of forks have no pidfd here: ask whether their memory still exists."""
        if now - self._children_checked < _CHILD_CHECK_S:
            return
        self._children_checked = now
        for context in list(self._children):
            if context.uffd.owner_gone():
                served = context.served
                self._drop_context(context)
                served.contexts.remove(context)
                self._drop_if_deserted(served)

    def _drop_if_deserted(self, served: Served) -> None:
        if not self._client_alive and all(context.closed for context in served.contexts):
            self.drop(served)

    def _drop_context(self, context: Context) -> None:
        if context.closed:
            return
        self._forget(context.fd)
        self._busy.discard(context)
        self._deferring.discard(context)
        self._timed.pop(context, None)
        number = context.served.number
        reads = [fetch for fetch in self._shares.reads_of(number) if fetch.owner is context]
        self._shares.forget(number, reads)
        self._children.pop(context, None)
        context.core.leave()
        context.uffd.close()

    def drop(self, served: Served) -> None:
        """Forget a mapping altogether."""
        for context in served.contexts:
            self._drop_context(context)
        fetcher = served.origin.fetcher
        if isinstance(fetcher, Workers):
            for worker in fetcher.workers:
                self._forget(worker.channel.fileno())
        self.served.pop(served.number, None)
        served.close()

    def _close_all(self) -> None:
        for served in list(self.served.values()):
            self.drop(served)
        self._performer.close()
        self._epoll.close()
        os.close(self.bell)
        os.close(self._client)
        self._channel.close()


def _raise_descriptor_limit() -> None:
    """As many descriptors as this user may have: each mapping takes about ten."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
