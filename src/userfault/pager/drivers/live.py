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
from userfault.linux import pidfd
from userfault.linux.libc import madvise, mmap
from userfault.linux.pagemap import Pagemap
from userfault.linux.uffd import MESSAGE_SIZE, LiveUserfaultfd, decode
from userfault.pager.core import actions
from userfault.pager.core.actions import COPY, POISON, ZERO, Fetch, Fill
from userfault.pager.core.states import Pages
from userfault.pager.drivers import messages
from userfault.pager.drivers.messages import MAX_FAILURES, Failure
from userfault.pager.drivers.readers import Answered, Readers
from userfault.pager.drivers.served import Context, Descriptors, Served
from userfault.pager.drivers.workers import Worker, Workers
from userfault.uapi import mman
from userfault.uapi.userfaultfd import UFFD_EVENT_PAGEFAULT, uffd_msg_pagefault

BATCH = 64  # messages a read; 64 threads waiting at once are rare, and more come with the next
_FIRST_PAUSE_S = 20e-6
_LONGEST_PAUSE_S = 1e-3
_SOURCE_CHECK_S = 0.05
_CHILD_CHECK_S = 1.0

_unpack_fault = uffd_msg_pagefault.struct.unpack_from
_clock = time.monotonic


class LiveDriver:
    """Serves mappings of one client until it, and every child that a fork added, has ended.

    `channel`: the socket to the client.  `client`: its pidfd.
    """

    def __init__(self, channel: socket.socket, client: int) -> None:
        self._channel = channel
        self._client = client
        self._client_alive = True
        self._served: dict[int, Served] = {}
        self._busy: dict[Context, None] = {}  # may have background work; in turn
        self._deferring: dict[Context, None] = {}  # have fills that met EAGAIN
        self._ahead: dict[Served, None] = {}  # sources not yet looked at as a whole
        self._timed: dict[Context, None] = {}  # have fetches with deadlines, or pauses
        self._buffer = bytearray(BATCH * MESSAGE_SIZE)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._zeros = 0  # address of a page of zeros, for types without ZEROPAGE
        self._zeros_length = 0
        self._open = True
        self._serial = 0  # of the request being answered
        self._children: dict[Context, None] = {}  # contexts of forked children
        self._children_checked = 0.0
        self._pagemap: Pagemap | None = None
        self._watch(channel.fileno(), self._request)
        self._watch(client, self._client_ended)
        self._watch(self._bell, self._ring)
        _raise_descriptor_limit()

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there is nobody left to serve."""
        try:
            while self._open or self._served:
                ready = self._epoll.poll(self._timeout())
                for fd, _ in ready:
                    handler = self._handlers.get(fd)
                    if handler is not None:
                        handler()
                if self._timed or self._children:
                    self._timers(_clock())
                if self._deferring:
                    self._retry(bool(ready))
                elif not ready:
                    self._idle()
                elif self._busy:
                    # A client on this CPU goes first: it may fault again at once.
                    os.sched_yield()
        finally:
            self._close_all()

    def _timeout(self) -> float:
        """How long epoll may sleep, in seconds (-1: until something happens)."""
        if self._busy or self._deferring or self._ahead:
            return 0
        times = []
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
        while self._busy:
            context = next(iter(self._busy))
            del self._busy[context]
            if context.core.idle_work():
                # `_perform` puts it to the end of the queue: everybody gets a turn.
                self._perform(context)
                return
        for served in list(self._ahead):
            if served.origin.look_ahead():
                return
            del self._ahead[served]

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
            count = os.readv(context.fd, [buffer])
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
            context.core.fault(fault.address, fault.flags)
            self._perform(context)

    def _event(
        self, context: Context, event: Fork[LiveUserfaultfd] | Remap | Remove | Unmap
    ) -> None:
        core = context.core
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
            self._end_client("the pager has no descriptor left for a forked child")
        else:
            self._end_client(f"reading faults failed: {os.strerror(error.errno or 0)}")

    # --- actions ---------------------------------------------------------------------------------

    def _perform(self, context: Context) -> None:
        """Do everything the core asks for, until it asks for nothing more."""
        out = context.core.out
        while out:
            action = out.popleft()
            if type(action) is Fill:
                self._fill(context, action)
            else:
                _PERFORM[type(action)](self, context, action)
        core = context.core
        if core.deferred:
            self._deferring[context] = None
        if core.timed:
            self._timed[context] = None
        if core.eager and not context.closed:
            self._busy[context] = None
        if len(context.served.contexts) > 1:
            self._perform_siblings(context)

    def _perform_siblings(self, context: Context) -> None:
        for sibling in context.served.contexts:
            if sibling is not context and sibling.core.out:
                self._perform(sibling)

    def _fill(self, context: Context, fill: Fill) -> None:
        """One ioctl; the core hears what became of it."""
        served = context.served
        kind = fill.kind
        length = fill.count * served.page_size
        try:
            if kind == COPY:
                if fill.data is None:
                    if _clock() > served.sound_until and not self._still_sound(context, fill):
                        return
                    source = served.origin.address(fill.page * served.page_size, length)
                    if not source:
                        context.core.not_ready(fill)
                        return
                    context.uffd.copy(fill.address, source, length)
                else:
                    start = (fill.page - fill.data_page) * served.page_size
                    context.uffd.copy(fill.address, fill.data[start : start + length], length)
            elif kind == ZERO:
                self._zero(context, fill, length)
            elif kind == POISON:
                context.uffd.poison(fill.address, length)
            else:
                context.uffd.continue_(fill.address, length)
        except KernelError as error:
            self._refused(context, fill, error)
        else:
            context.core.done(fill)

    def _still_sound(self, context: Context, fill: Fill) -> bool:
        """Look every now and then whether the source is what it was; if not, `fill` has failed."""
        served = context.served
        now = _clock()
        changed = served.origin.changed()
        if changed:
            context.core.source_failed(fill, changed, now)
            return False
        served.origin.forget(now)
        served.sound_until = now + _SOURCE_CHECK_S
        return True

    def _zero(self, context: Context, fill: Fill, length: int) -> None:
        if context.served.zeropage:
            context.uffd.zeropage(fill.address, length)
        else:
            context.uffd.copy(fill.address, self._zeros_of(length), length)

    def _zeros_of(self, length: int) -> int:
        """The address of `length` zero bytes that cost no memory: pages never written.

        They are mapped beforehand: a COPY whose source is not would need a second huge page
        while it faults the source in (measured on 6.18 with 1 GiB pages).
        """
        if length > self._zeros_length:
            flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
            self._zeros = mmap(0, length, mman.PROT_READ, flags, -1, 0)
            with contextlib.suppress(OSError):  # before 5.14: the copy does it
                madvise(self._zeros, length, mman.MADV_POPULATE_READ)
            self._zeros_length = length
        return self._zeros

    def _refused(self, context: Context, fill: Fill, error: KernelError) -> None:
        """The kernel refused (part of) a fill: tell the core, and what EFAULT was about."""
        if error.errno != errno.EFAULT or error.done:
            context.core.failed(fill, error.errno, error.done, _clock())
            return
        served = context.served
        size = served.memory_size()
        changed = served.origin.changed() if fill.kind == COPY and fill.data is None else ""
        if changed:
            context.core.source_failed(fill, changed, _clock())
        elif 0 <= size < (fill.page + fill.count) * served.page_size:
            context.core.beyond_end(fill, size // served.page_size)
        elif fill.kind == actions.CONTINUE:
            context.core.not_cached(fill)
        else:
            context.core.failed(fill, error.errno, 0, _clock())

    def _fetch(self, context: Context, fetch: Fetch) -> None:
        """Start a read away from the fault path."""
        served = context.served
        fetcher = served.origin.fetcher
        assert fetcher is not None, "a source without a reader is never fetched from"
        context.core.started(fetch, _clock())
        fetch.owner = context
        size = served.page_size
        fetcher.start(fetch, fetch.page * size, fetch.count * size)
        if isinstance(fetcher, Workers):
            self._watch_workers(fetcher)
            self._take_answers(fetcher)

    def _abandon(self, context: Context, action: actions.Abandon) -> None:
        fetcher = context.served.origin.fetcher
        if isinstance(fetcher, Workers):
            for worker in fetcher.workers:
                if worker.fetch is not None and worker.fetch.number == action.number:
                    self._forget(worker.channel.fileno())
            fetcher.stop(action.number)

    def _wake(self, context: Context, action: actions.Wake) -> None:
        with contextlib.suppress(KernelError):
            context.uffd.wake(action.start, action.length)

    def _inspect(self, context: Context, action: actions.Inspect) -> None:
        """Ask the client's page tables; if they may not be read, believe EEXIST."""
        mapped = True
        with contextlib.suppress(OSError):
            self._pagemap = self._pagemap or Pagemap(pidfd.pid_of(self._client))
            mapped = self._pagemap.present(action.address)
        context.core.inspected(action.page, mapped, _clock())

    def _report(self, context: Context, action: actions.Report) -> None:
        """Tell the client's standard error, and remember for `check()`."""
        served = context.served
        offset = action.page * served.page_size
        served.failed += 1
        if len(served.failures) < MAX_FAILURES:
            served.failures.append(Failure(offset, action.cause, action.cure))
            _say(f"page at offset {offset:#x} given up: {action.cause} (cure: {action.cure})")
        elif served.failed == MAX_FAILURES + 1:
            _say("more pages were given up; they are counted, not listed")

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
            self._report(context, actions.Report(0, changed, "restore again from an intact copy"))
        for start, length in action.segments:
            with contextlib.suppress(KernelError):
                context.uffd.unregister(start, length)
        self._busy.pop(context, None)
        if context is served.main:
            served.finish()

    def _end_client(self, message: str) -> None:
        """Kill the client: it must not go on with memory that nobody can fill."""
        _say(f"{message}; ending process {pidfd.pid_of(self._client)}")
        pidfd.kill(self._client)

    def _end(self, _context: Context, action: actions.EndClient) -> None:
        self._end_client(action.message)

    # --- what met EAGAIN -------------------------------------------------------------------------

    def _retry(self, something_was_read: bool) -> None:
        """Try fills again whose context had an event pending, after a pause if nothing was read."""
        longest = max((context.pause_s for context in self._deferring), default=0.0)
        if not something_was_read and longest:
            time.sleep(longest)
        deferring, self._deferring = self._deferring, {}
        for context in deferring:
            if context.closed:
                continue
            context.core.retry()
            self._perform(context)
            if context in self._deferring:
                context.pause_s = min(max(context.pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            else:
                context.pause_s = 0.0

    # --- fetches ---------------------------------------------------------------------------------

    def _ring(self) -> None:
        """Reader threads have answered."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        for served in list(self._served.values()):
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
            context = answer.fetch.owner
            if context.closed:
                continue
            if answer.data is not None:
                context.core.fetched(answer.fetch, answer.data)
            else:
                context.core.fetch_failed(answer.fetch, answer.cause, _clock())
            self._perform(context)

    # --- the client ------------------------------------------------------------------------------

    def _request(self) -> None:
        """One request, one reply."""
        try:
            self._serial, request, fds = messages.receive_request(self._channel)
        except messages.BadRequestError as error:
            self._serial = error.serial
            self._reply(messages.Refused(error.what, error.cause, error.cure))
            return
        except OSError:
            request, fds = None, []
        if request is None or isinstance(request, messages.Quit):
            self._hang_up(quit_now=request is not None)
            return
        if isinstance(request, messages.Attach):
            self._attach(request, fds)
            return
        served = self._served.get(request.number)
        if served is None:
            self._reply(messages.Done())
            return
        self._reply(_REQUESTS[type(request)](self, served, request))
        if request.number in self._served:
            self._perform(served.main)

    def _reply(self, reply: messages.Reply) -> None:
        with contextlib.suppress(OSError):  # the client has gone: its pidfd will tell
            messages.send(self._channel, self._serial, reply)

    def _attach(self, request: messages.Attach, fds: list[int]) -> None:
        try:
            served = Served(request, Descriptors.of(request, fds), self._bell)
        except (OSError, ValueError) as error:
            self._reply(messages.Refused("the pager cannot take the mapping", str(error), ""))
            return
        self._served[request.number] = served
        if request.policy.background:
            served.origin.scout()
        else:
            self._ahead[served] = None
        self._watch_context(served.main)
        self._reply(messages.Done())

    def _watch_context(self, context: Context) -> None:
        self._watch(context.fd, functools.partial(self._readable, context))
        if context.core.eager:
            self._busy[context] = None

    def _detach(self, served: Served, request: messages.Detach) -> messages.Reply:
        del request
        self._drop(served)
        return messages.Done()

    def _prefetch(self, served: Served, request: messages.Prefetch) -> messages.Reply:
        served.main.core.want(request.page, request.count)
        return messages.Done()

    def _complete(self, served: Served, request: messages.Complete) -> messages.Reply:
        del request
        served.main.core.complete()
        served.origin.scout()
        return messages.Done()

    def _give_up(self, served: Served, request: messages.GiveUp) -> messages.Reply:
        served.main.core.give_up(request.cause, "")
        return messages.Done()

    def _answer(self, served: Served, request: messages.Ask) -> messages.Reply:
        del request
        return messages.Answer(
            counters=served.main.core.counters,
            failures=served.failures,
            failed=served.failed,
            finished=served.main.core.finished,
            contexts=len(served.contexts),
            memory_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )

    def _hang_up(self, *, quit_now: bool) -> None:
        """The client asked us to end, or closed its end: serve on while it still lives."""
        self._forget(self._channel.fileno())
        self._open = False
        if quit_now:
            for served in list(self._served.values()):
                self._drop(served)

    def _client_ended(self) -> None:
        """The client is dead: only children that it forked may still need us."""
        self._forget(self._client)
        self._client_alive = False
        self._open = False
        for served in list(self._served.values()):
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
            self._drop(served)

    def _drop_context(self, context: Context) -> None:
        if context.closed:
            return
        self._forget(context.fd)
        self._busy.pop(context, None)
        self._deferring.pop(context, None)
        self._timed.pop(context, None)
        self._children.pop(context, None)
        context.core.leave()
        context.uffd.close()

    def _drop(self, served: Served) -> None:
        """Forget a mapping altogether."""
        for context in served.contexts:
            self._drop_context(context)
        fetcher = served.origin.fetcher
        if isinstance(fetcher, Workers):
            for worker in fetcher.workers:
                self._forget(worker.channel.fileno())
        self._served.pop(served.number, None)
        self._ahead.pop(served, None)
        served.close()

    def _close_all(self) -> None:
        for served in list(self._served.values()):
            self._drop(served)
        self._epoll.close()
        os.close(self._bell)
        os.close(self._client)
        self._channel.close()


_PERFORM: dict[type, Callable[..., None]] = {
    Fetch: LiveDriver._fetch,
    actions.Abandon: LiveDriver._abandon,
    actions.Wake: LiveDriver._wake,
    actions.Inspect: LiveDriver._inspect,
    actions.Report: LiveDriver._report,
    actions.Finish: LiveDriver._finish,
    actions.EndClient: LiveDriver._end,
}

_REQUESTS: dict[type, Callable[..., messages.Reply]] = {
    messages.Detach: LiveDriver._detach,
    messages.Prefetch: LiveDriver._prefetch,
    messages.Complete: LiveDriver._complete,
    messages.GiveUp: LiveDriver._give_up,
    messages.Ask: LiveDriver._answer,
}


def _say(text: str) -> None:
    """A line on the client's standard error, which this process inherited."""
    with contextlib.suppress(OSError):
        os.write(2, f"userfault: {text}\n".encode())


def _raise_descriptor_limit() -> None:
    """As many descriptors as this user may have: each mapping takes about ten."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
