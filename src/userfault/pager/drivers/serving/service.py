"""What is done for those who are served: actions out, and who is served from when to when.

One process serves the mappings of all clients.  What an error of ours costs is one mapping
(`losing.py`); what a client does, or how it ends, touches no other.

This process may be killed at any instruction, and another one of its family goes on
(`clients/takeover.py`).  What that one must know is in the journal before it can matter: messages
and the fill under way by themselves, everything else by `commit`, at the places that say so.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from userfault.kernel.events import Fork
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core import actions
from userfault.pager.core.actions import Fetch, Fill
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import Pages
from userfault.pager.drivers.mappings.served import Context, Served
from userfault.pager.drivers.record.journal import Journal
from userfault.pager.drivers.serving import finishing, losing, watchdog
from userfault.pager.drivers.serving.acting import Book
from userfault.pager.drivers.serving.at_once import AtOnce
from userfault.pager.drivers.serving.background import Background
from userfault.pager.drivers.serving.budgets import Budgets
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.deferring import Deferring
from userfault.pager.drivers.serving.evicting import Evictor
from userfault.pager.drivers.serving.fills import Performer
from userfault.pager.drivers.serving.intake import Intake
from userfault.pager.drivers.serving.latency import Latency
from userfault.pager.drivers.serving.loop import Loop
from userfault.pager.drivers.serving.rations import Rations
from userfault.pager.drivers.serving.reads import Reads
from userfault.pager.drivers.serving.recordings import Recordings
from userfault.pager.drivers.serving.timed import Children, Timed
from userfault.pager.drivers.serving.together import Series
from userfault.pager.drivers.wire.messages import MAX_FAILURES

if TYPE_CHECKING:
    from userfault.pager.drivers.mappings.unpackers import Unpackers


class Service:
    """Serves contexts on `loop`.  `book`: whose they are.  `in_flight`: reads under way at once.

    `calls`: those of the kernel that is served on.
    """

    def __init__(
        self, loop: Loop, journal: Journal, book: Book, in_flight: int, calls: Calls | None = None
    ) -> None:
        calls = calls or Calls()
        self._clock = calls.clock
        self.loop = loop
        self.journal = journal
        self.book = book
        self.timed = Timed(loop.timers, self)
        self.children = Children(loop.timers, self.context_ended)
        self.deferring = Deferring(loop.timers, self)
        self.background = Background(self)
        self.budgets = Budgets(self)
        loop.look_at(self.budgets)
        self.intake = Intake(loop, journal, self, calls)
        self.reads = Reads(loop, self, self.timed, in_flight, calls)
        self.recordings = Recordings(loop, self)
        self.commit = book.commit
        self.latency: Latency | None = None  # how long faults wait, if it is wanted
        self.rations: Rations | None = None  # a share of a CPU for each client, if there is one
        self.dropped: Callable[[Served], None] = _nothing  # to be told of a mapping that goes
        self.let_go: Callable[[Context], None] = _nothing  # and of memory that needs nobody
        self._unpackers: Unpackers | None = None
        performer = Performer(journal, calls)
        self.evictor = Evictor(loop, journal, calls, self)
        series = Series(journal, calls, performer, loop.pressing)
        self._fill = performer.fill
        self.fault = AtOnce(loop, journal, calls, self, performer.refused).fault
        self._report_page = performer.report
        self._rare: dict[type, Callable[..., None]] = {
            actions.Together: series.perform,
            Fetch: self.reads.ask,
            actions.Abandon: self.reads.abandon,
            actions.Hasten: self.reads.hasten,
            actions.Wake: performer.wake,
            actions.WakeAll: performer.wake_all,
            actions.Inspect: performer.inspect,
            actions.Report: self.report,
            actions.Overdue: watchdog.tell,
            actions.EndClient: performer.end,
            actions.Evict: self.evictor.evict,
            actions.Spill: self.evictor.spill,
            actions.Finish: functools.partial(finishing.finish, self),
        }

    # --- actions ---------------------------------------------------------------------------------

    def perform(self, context: Context) -> None:
        """Do everything the core asks for, until it asks for nothing more."""
        out = context.core.out
        while out:
            action = out.popleft()
            if type(action) is Fill:
                self._fill(context, action)
            else:
                self._rare[type(action)](context, action)
        core = context.core
        if core.watch.ends and self.latency is not None:
            self.latency.ended(context, self._clock())
        if not context.closed:  # by one of those actions: it waits for nothing then
            if core.deferred:
                self.deferring.add(context, self._clock())
            if core.timed:
                self.timed.add(context)
            if core.eager:
                self.background.add(context)
        if len(context.served.contexts) > 1:
            self._perform_siblings(context)

    def _perform_siblings(self, context: Context) -> None:
        for sibling in context.served.contexts:
            if sibling is context or sibling.closed:
                continue
            if sibling.core.out:
                self.perform(sibling)
            elif sibling.core.eager:  # what was under way for it here may be its to begin again
                self.background.add(sibling)

    @contextlib.contextmanager
    def costs(self, served: Served) -> Iterator[None]:
        """An error of ours within it costs this mapping and no other."""
        try:
            yield
        except Exception as error:
            self.lose(served, error)

    def lose(self, served: Served, error: Exception) -> None:
        """Give up a mapping in whose service `error` was raised."""
        losing.lose(self, self.journal, served, error)

    def end_recording(self, served: Served) -> None:
        """First touches of it are recorded no more."""
        self.recordings.end(served, self._clock())

    def report(self, context: Context, action: actions.Report) -> None:
        """A page was given up: told at once, and recorded as long as each is listed."""
        self._report_page(context, action)
        if context.served.failed <= MAX_FAILURES:
            self.commit(context.served)

    # --- from when -------------------------------------------------------------------------------

    def begin(self, served: Served) -> None:
        """Serve a mapping that is recorded, with every context that it has."""
        if served.origin.store is not None:  # have chunks unpacked in advance
            if self._unpackers is None:
                # It brings zstd and BLAKE3 along, which a pager of files has no use for.
                from userfault.pager.drivers.mappings.unpackers import Unpackers  # noqa: PLC0415

                self._unpackers = Unpackers(self.loop)
            self._unpackers.attach(served)
        self.recordings.begin(served, self._clock())
        self.budgets.add(served)
        if served.main.core.finished:
            served.finish()
        if served.lost:
            served.tell()
        for context in served.contexts:
            if not context.closed:
                self._watch(context)
        self.loop.look_soon()

    def _watch(self, context: Context) -> None:
        if self.latency is not None:
            context.core.watch.ends = []
        if self.rations is not None:
            self.rations.watch(context, self.intake.readable)
        else:
            self.loop.watch(context.fd, functools.partial(self.intake.readable, context))
        if context is not context.served.main:
            self.children.add(context)
        if context.core.eager:
            self.background.add(context)

    def forked(self, context: Context, event: Fork[LiveUserfaultfd]) -> None:
        """Serve the child: private memory from a copy of the states, shared memory from ours."""
        served = context.served
        states, pages = context.states, None
        if not served.attach.shared and not served.lost:
            states, pages = self._copy_states(context)
        core = context.core.fork(pages)
        if served.attach.restored and context.core.planner.background:
            core.complete()  # until then each first touch of its zeros, too, has to be answered
        uffd = served.adopted(event.userfaultfd.fileno())
        child = Context(served, self.book.number(), core, uffd, states)
        served.contexts.append(child)
        self._watch(child)

    def joined(self, served: Served, fd: int, shown: Segments) -> Context:
        """Serve another process that maps the same shared memory, by its userfaultfd `fd`; the
        caller records it."""
        core = served.main.core.fork(None, shown)
        context = Context(served, self.book.number(), core, served.adopted(fd), served.main.states)
        served.contexts.append(context)
        self._watch(context)
        return context

    def _copy_states(self, context: Context) -> tuple[int, Pages]:
        served = context.served
        try:
            return served.copy_states(context.core.pages)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            served.owner.end(f"no page states for a forked child: {why}")
            held = context.core.pages
            states = served.main.states
            return states, Pages(bytearray(held.states[0 : held.count]), held.count)

    # --- to when ---------------------------------------------------------------------------------

    def context_ended(self, context: Context) -> None:
        """Its process has ended.  Descriptors are closed when no record names them any more."""
        served = context.served
        if not context.closed:
            self._let_go(context)
            if context is not served.main:
                # Anew: whoever goes over them has found that by what it did for one.
                served.contexts = [each for each in served.contexts if each is not context]
            if self.commit(served):
                context.close()
        if served.deserted:
            self.drop(served)
            return
        with self.costs(served):
            self._perform_siblings(context)  # they ask anew for what it had under way for them

    def drop(self, served: Served) -> None:
        """Forget a mapping altogether."""
        self.dropped(served)
        for context in served.contexts:
            self._let_go(context)
        self.let_rest(served)
        if self.book.forget(served):
            served.close()

    def let_rest(self, served: Served) -> None:
        """Nothing is under way for a mapping any more: no reads, timers, background work."""
        self.end_recording(served)
        self.budgets.discard(served)
        for context in served.contexts:
            self._rest(context)
        self.reads.end_workers(served)
        self.evictor.rest()
        if self._unpackers is not None:
            self._unpackers.detach(served)

    def _let_go(self, context: Context) -> None:
        if not context.closed:
            self.loop.forget(context.fd)
            context.core.leave()
        context.closed = True
        if self.rations is not None:
            self.rations.discard(context)
        self.children.discard(context)
        self._rest(context)

    def _rest(self, context: Context) -> None:
        self.background.discard(context)
        self.deferring.discard(context)
        self.timed.discard(context)
        self.reads.forget(context)

    def close(self) -> None:
        """Let go of what this worker opened for itself."""
        if self._unpackers is not None:
            self._unpackers.close()
        self.evictor.close()
        self.reads.close()


def _nothing(_: object) -> None:
    """Nobody wants to know."""
