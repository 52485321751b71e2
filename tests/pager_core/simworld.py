"""A driver for the simulated kernel, and the judgement of what becomes of it.

It does what the driver for Linux does, one action of the core at a time, so that steps of the
client may come between any two of them.  `check` is run after every step, `finale` at the end.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pager_core.simkernel import (
    ANON,
    SHIFT,
    ZEROS,
    Call,
    Event,
    Fault,
    Kernel,
    Kind,
    Mm,
    Thread,
    Violation,
    source,
)
from pager_core.simlayout import SimLayout
from pager_core.simstore import Killed, States, Store
from userfault.pager.core import actions, recovery
from userfault.pager.core.actions import (
    COPY,
    ZERO,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Finish,
    Found,
    Overdue,
    WakeAll,
)
from userfault.pager.core.core import MappingCore
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.pager.core.recorded import FillRecord, Snapshot
from userfault.pager.core.refusals import MEMORY_RETRIES
from userfault.pager.core.states import CACHED, FILLING, MISSING, NAMES, UNSETTLED, Pages

PAGE = 1 << SHIFT
CALM = 20_000  # steps within which everything must have come to rest


class Config(NamedTuple):
    """One mapping and its pager.  `origin`: file, function, zero, or known (see `SimLayout`).
    `bad`: unreadable pages."""

    kind: Kind = ANON
    pages: int = 8
    origin: str = "file"
    prepared: bool = False
    background: bool = True
    retries: int = 1
    window: int = 4
    chunk: int = 3
    fetches: int = 2
    has_poison: bool = True
    on_failure: str = "poison"
    bad: frozenset[int] = frozenset()
    fault_deadline: float | None = None
    on_overdue: str = "report"


@dataclass(eq=False)
class Context:
    """One address space and the core that serves it."""

    core: MappingCore
    mm: Mm
    number: int
    states: int
    closed: bool = False

    @property
    def finishes(self) -> int:
        return self.mm.finishes


class _Mortal:
    """Takes note of the worker's death."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is Killed:
            self._world.die()
        return kind is Killed


class World:
    """Kernel, client and pager, whose worker may be killed at any point of the `Store`'s fuse.

    What a driver must do, and a planted mistake does not: see the attributes of the class.
    """

    applies_events_first = True
    reads_on = True  # after Finish: events may be queued still, and memory that grew may fault
    resets_result = True  # in the record of a fill, before it is that of another one
    commits_each = True  # a snapshot after each event but REMOVE, not one after the batch
    finishes_once = True  # a snapshot before memory is unregistered, not after it

    def __init__(self, config: Config) -> None:
        self.config = config
        layout = SimLayout(config.pages) if config.origin == "known" else None
        zeros = layout.zeros if layout else frozenset[int]()
        if config.origin == "zero":
            zeros = frozenset(range(config.pages))
        self.kernel = Kernel(config.kind, config.pages, prepared=config.prepared, zeros=zeros)
        self.kernel.memory_retries = MEMORY_RETRIES
        policy = Policy(
            background=config.background,
            window_bytes=config.window * PAGE,
            chunk_bytes=config.chunk * PAGE,
            retries=config.retries,
            deadline_s=1.0,
            fetches=config.fetches,
            on_failure=config.on_failure,
            fault_deadline_s=config.fault_deadline,
            on_overdue=config.on_overdue,
        )
        plan = Plan(
            start=self.kernel.start * PAGE,
            page_size=PAGE,
            policy=policy,
            source_zero=config.origin == "zero",
            source_fetches=config.origin == "function",
            exists_is_ambiguous=config.kind.ambiguous,
            has_poison=config.has_poison,
            shared=config.kind.shared,
            layout=layout,
        )
        self.plan = plan
        self.store = store = Store()
        states = bytes([CACHED if config.prepared else MISSING]) * config.pages
        store.states[0] = States(states, store.fuse)
        core = MappingCore(plan, Pages(store.states[0], config.pages))
        store.owners[0] = self.kernel.mms[0]
        self.contexts = [Context(core, store.owners[0], 0, 0)]
        self.batch: deque[tuple[Context, Fault | Event]] = deque()
        self.applied = 0  # events of the batch
        self.flights: list[tuple[Context, Fetch]] = []
        self.successor: Iterator[None] | None = None  # taking over
        self.now = 0.0
        self.limit = 64
        self.overdue: list[Overdue] = []
        self.over = False  # the client was ended
        self.excused: set[Mm] = set()  # killed after the finish was written down, before it
        self.completed = config.background  # everything was asked for,
        self.gave_up = False  # or nothing more, and the client was told so
        self.commit()

    @property
    def main(self) -> Context | None:
        """The context of the process that the mapping was made in."""
        first = self.kernel.mms[0]
        return next((c for c in self.contexts if c.mm is first and not c.closed), None)

    # --- the pager: one micro-step ---------------------------------------------------------------

    def step(self, odd: str = "", at: int = 0) -> bool:
        """What a driver would do next; False when there is nothing.  `odd`: how it goes wrong."""
        try:
            with self._mortal():
                if self.successor is None:
                    return self._step(odd, at)
                if next(self.successor, self) is self:
                    self.successor = None
            return True
        finally:
            for mm in self.kernel.mms:
                mm.overtaking = False

    def _step(self, odd: str, at: int) -> bool:
        for context in self.contexts:
            if context.core.out:
                self._perform(context, odd, at)
                return True
        if self.batch:
            self._message(*self.batch.popleft())
            return True
        for context in self.contexts:
            if context.mm.readable and not context.closed:
                self._read(context)
                return True
        return self.retry() or self.tick() or self.idle()

    def drained(self) -> None:
        """Perform everything that was asked for: drivers do before they tell the core more."""
        while self.successor or self.batch or any(context.core.out for context in self.contexts):
            self.step()

    def retry(self) -> bool:
        self.drained()
        deferring = [context for context in self.contexts if context.core.deferred]
        with self._mortal():
            for context in deferring:
                context.core.retry()
        return bool(deferring)

    def tick(self) -> bool:
        self.drained()
        for context in self.contexts:
            when = context.core.next_time()
            if not context.closed and when is not None and when <= self.now:
                self._count_late(context)
                with self._mortal():
                    context.core.tick(self.now)
                return True
        return False

    def idle(self) -> bool:
        self.drained()
        with self._mortal():
            return any(each.core.idle_work() for each in self.contexts if not each.closed)
        return True

    def complete(self) -> None:
        """The client asks for everything."""
        self.drained()
        with self._mortal():
            if self.main:
                self.main.core.complete()
                self.commit()
                self.completed = True

    def give_up(self) -> None:
        """The client asks for nothing more from the source."""
        self.drained()
        with self._mortal():
            if self.main:
                self.completed = False  # also if the worker is killed before it answers
                for truth in self.main.mm.truths:
                    state = self.main.core.pages.states[truth.page]
                    truth.given_up |= state in (MISSING, FILLING)
                self.main.core.give_up("asked to", "")
                self.commit()
                self.gave_up = True

    def _read(self, context: Context) -> None:
        self.store.announce(context.number)
        messages = self.store.messages = self.kernel.read(context.mm, self.limit)
        self.store.fuse.point()
        if self.applies_events_first:
            messages = sorted(messages, key=lambda message: isinstance(message, Fault))
        context.core.batch()
        self.applied = 0
        self.batch.extend((context, message) for message in messages)

    def _message(self, context: Context, message: Fault | Event) -> None:
        core = context.core
        if isinstance(message, Fault):
            if not context.closed:
                core.fault(message.vpn * PAGE, message.flags)
        else:
            self._event(context, message)

    def _event(self, context: Context, message: Event) -> None:
        core = context.core
        if message.kind == "remove":
            core.remove(message.start * PAGE, message.end * PAGE)
        elif message.kind == "unmap":
            core.unmap(message.start * PAGE, message.end * PAGE)
        elif message.kind == "remap":
            length = (message.end - message.start) * PAGE
            core.remap(message.start * PAGE, message.new * PAGE, length)
        else:
            assert message.child is not None
            self._forked(context, message.child)
        self.applied += 1
        more = any(isinstance(left, Event) for _, left in self.batch)
        if message.kind != "remove" and (self.commits_each or not more):
            self.commit()  # what was changed must not be changed again

    def _forked(self, context: Context, child: Mm) -> None:
        pages, store = None, self.store
        number = max(store.owners) + 1 if child not in store.owners.values() else max(store.owners)
        states = context.states
        if not self.config.kind.shared:
            held = context.core.pages
            states = number
            store.states[states] = States(bytes(held.states[0 : held.count]), store.fuse)
            pages = Pages(store.states[states], held.count)
        store.owners[number] = child
        self.contexts.append(Context(context.core.fork(pages), child, number, states))

    # --- killed workers and their successors -----------------------------------------------------

    def _mortal(self) -> _Mortal:
        """The worker may be killed while it does this."""
        return _Mortal(self)

    def die(self) -> None:
        """The worker is killed: what only it knew is lost."""
        for record in self.store.snapshot.contexts:
            owner = self.store.owners[record.number]
            if record.finished and not owner.finishes:
                self.excused.add(owner)
        self.contexts = []
        self.batch.clear()
        self.flights.clear()
        self.successor = self._take_over()

    def commit(self) -> None:
        """Replace the snapshot: all contexts, and how much of the batch is in it."""
        store = self.store
        store.fuse.point()
        store.snapshot = Snapshot(
            batch=store.batch,
            applied=self.applied,
            contexts=tuple(
                recovery.record(each.core, each.number, each.states)
                for each in self.contexts
                if not each.closed
            ),
        )
        store.fuse.point()

    def _take_over(self) -> Iterator[None]:
        """What a successor does before it serves, step by step."""
        store, count = self.store, self.config.pages
        cores = recovery.rebuild(
            store.snapshot.contexts,
            lambda _: self.plan,
            lambda record: Pages(store.states[record.states], count),
        )
        self.contexts = [
            Context(cores[each.number], store.owners[each.number], each.number, each.states)
            for each in store.snapshot.contexts
        ]
        yield
        if store.fill.context in cores:
            recovery.settle(cores[store.fill.context], store.fill)
        yield
        for context in self.contexts:
            if context.number == store.reader:
                yield from self._replay(context)
        recovery.resume([context.core for context in self.contexts])

    def _replay(self, context: Context) -> Iterator[None]:
        store = self.store
        for before, event in recovery.unapplied(store.snapshot, store.batch, store.events):
            self.applied = before
            self._event(context, event)
            yield

    # --- actions ---------------------------------------------------------------------------------

    def _perform(self, context: Context, odd: str, at: int) -> None:
        core = context.core
        action = core.out.popleft()
        if context.closed and not self.reads_on:
            return
        if isinstance(action, Fill):
            self._fill(context, action, odd, at)
        elif isinstance(action, Fetch):
            core.started(action, self.now)
            self.flights.append((context, action))
        elif isinstance(action, WakeAll | actions.Wake):
            self._wake(context, action)
        elif isinstance(action, actions.Inspect):
            core.inspected(action.page, self._found(context, action), self.now)
        elif isinstance(action, actions.Report):
            dropped_since = any((said.page, said.answer) == (action.page, "poison")
                                for said in self.overdue)  # fmt: skip
            if not context.mm.truths[action.page].given_up and not dropped_since:
                raise Violation(f"page {action.page} reported as given up: {action.cause}")
        elif isinstance(action, Overdue):
            self._too_long(context, action)
        elif isinstance(action, EndClient):
            given_up = any(truth.given_up for truth in context.mm.truths)
            if not given_up and not any(said.answer == "kill" for said in self.overdue):
                raise Violation(f"the client is ended: {action.message}")
            self.over = True
        elif isinstance(action, Finish):
            self._finish(context, action)
        else:
            # Nothing queues here; whoever reads cannot be stopped: it answers late.
            assert isinstance(action, Abandon | actions.Hasten)

    def _wake(self, context: Context, action: WakeAll | actions.Wake) -> None:
        self.store.fuse.point()
        if isinstance(action, WakeAll):
            self.kernel.wake_all(context.mm)
        else:
            self.kernel.wake(context.mm, action.start >> SHIFT, action.length >> SHIFT)

    def _too_long(self, context: Context, action: Overdue) -> None:
        """The watchdog has spoken: it must be about something, and may then give the page up."""
        self.overdue.append(action)
        if action.age_s < (self.config.fault_deadline or 0) - 1e-9:  # of rounding
            raise Violation(f"overdue after {action.age_s} s")
        if action.answer == "poison":
            if action.state != NAMES[FILLING]:
                raise Violation(f"page {action.page} is given up, and it is {action.state}")
            context.mm.truths[action.page].given_up = True

    def _fill(self, context: Context, fill: Fill, odd: str, at: int) -> None:
        kernel, core, kind = self.kernel, context.core, actions.KINDS[fill.kind]
        contents = [ZEROS] * fill.count
        if fill.kind == ZERO and not self.config.kind.zeropage:
            kind = "copy"
        if fill.kind == COPY:
            if fill.data is None and self._unreadable(context, fill, odd):
                return
            if self.gave_up and self.main and core.pages is self.main.core.pages:
                raise Violation(f"page {fill.page} comes from the source, which was given up")
            first = fill.page - fill.data_page
            held = fill.data or bytes(range(self.config.pages))[fill.data_page :]
            contents = [source(page) for page in held[first : first + fill.count]]
        stop = at % fill.count if odd == "stop" else -1
        store = self.store
        record = FillRecord(context.number, fill.kind, fill.page, fill.count, 0)
        store.arm(record, reset=self.resets_result)
        code, done = kernel.fill(
            context.mm, kind, fill.address >> SHIFT, contents, stop=stop,
            result=lambda pages: store.result(pages * PAGE),
        )  # fmt: skip
        store.fuse.fill_made()
        if not code:
            core.done(fill)
        elif code != errno.EFAULT:
            core.failed(fill, code, done * PAGE, self.now)
        elif self.config.kind.shared and 0 <= kernel.file.size < fill.page + fill.count:
            core.beyond_end(fill, kernel.file.size)
        elif fill.kind == actions.CONTINUE:
            core.not_cached(fill)
        else:
            core.failed(fill, code, 0, self.now)

    def _found(self, context: Context, action: actions.Inspect) -> Found:
        """What the driver sees there."""
        content = self.kernel.shown(context.mm, action.address >> SHIFT)
        if content is None:
            return Found.NOTHING
        if not action.compare:
            return Found.UNSEEN
        expected = ZEROS if action.kind == ZERO else source(action.page)
        return Found.SAME if content == expected else Found.OTHER

    def _unreadable(self, context: Context, fill: Fill, odd: str) -> bool:
        """A file that is not in memory, or cannot be read."""
        if odd == "not ready":
            context.core.not_ready(fill)
            return True
        if odd != "unreadable" and not self.config.bad & set(
            range(fill.page, fill.page + fill.count)
        ):
            return False
        self._count_failure(context, fill.page, fill.count)
        context.core.source_failed(fill, "cannot be read", self.now)
        return True

    def _count_failure(self, context: Context, page: int, count: int) -> None:
        if count == 1:
            truth = context.mm.truths[page]
            truth.failures += 1
            truth.given_up |= truth.failures > self.config.retries

    def _count_late(self, context: Context) -> None:
        for owner, fetch in self.flights:
            if owner is context and fetch.deadline <= self.now and not fetch.abandoned:
                self._count_failure(context, fetch.page, fetch.count)

    def _finish(self, context: Context, action: Finish) -> None:
        if action.owner_gone:
            self._left(context)
            return
        if self.finishes_once:
            self.commit()
        context.mm.finishes += 1
        for start, length in action.segments:
            self.kernel.unregister(context.mm, start >> SHIFT, length >> SHIFT)
            self.store.fuse.point()
        held = [slot for slot in context.mm.slots.values() if slot.registered]
        told = context.mm.alive and not context.mm.changing  # else an event is still to be read
        if told and action.segments and any(slot.truth.page >= 0 for slot in held):
            raise Violation("finished, and a page that was to be served is registered still")
        context.closed = not self.reads_on
        self.commit()

    def answer(self, number: int, *, works: bool = True) -> bool:
        """One fetch that is under way is answered."""
        self.drained()
        if not self.flights:
            return False
        context, fetch = self.flights.pop(number % len(self.flights))
        if context.closed:
            return True
        pages = range(fetch.page, fetch.page + fetch.count)
        with self._mortal():
            if works and not self.config.bad & set(pages):
                context.core.fetched(fetch, memoryview(bytes(pages)))
            else:
                if not fetch.abandoned:
                    self._count_failure(context, fetch.page, fetch.count)
                context.core.fetch_failed(fetch, "the read failed", self.now)
        return True

    def reap(self) -> None:
        """The driver notices processes that have ended."""
        self.drained()
        while gone := [each for each in self.contexts if not each.mm.alive and not each.closed]:
            with self._mortal():
                self._left(gone[0])
            self.drained()

    def _left(self, context: Context) -> None:
        """A process has ended: its context is closed."""
        context.core.leave()
        context.core.out.clear()
        context.core.deferred.clear()
        context.closed = True
        self.commit()

    # --- judgement -------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds after every step."""
        for context in self.contexts:
            pages = context.core.pages
            held = bytes(pages.states[0 : pages.count])
            if any(state >= len(NAMES) for state in held):
                raise Violation(f"no such state: {held!r}")
            unsettled = sum(held.count(bytes([state])) for state in UNSETTLED)
            if unsettled != pages.unsettled:
                raise Violation(f"{unsettled} pages are unsettled, {pages.unsettled} are counted")
            if context.finishes > 1:
                raise Violation(f"{context.mm.name} was finished {context.finishes} times")

    def calm(self) -> None:
        """Let everything that is under way come to its end."""
        for _ in range(CALM):
            if self.over or not self._progress():
                break
            self.check()
        else:
            raise Violation("it never comes to rest")

    def _progress(self) -> bool:
        kernel = self.kernel
        for mm in kernel.mms:
            for call in mm.calls:
                if call.stage != "asleep":
                    kernel.resume(call)
                    return True
            for thread in mm.threads:
                if thread.state == "woken":
                    kernel.run(thread)
                    return True
        if self.step() or self.answer(0):
            return True
        times = [c.core.next_time() for c in self.contexts if not c.closed]
        waits = [when for when in times if when is not None]
        if waits:
            self.now = max(self.now, min(waits))
        return self.tick()

    def finale(self) -> None:
        """Everything comes to rest; nobody waits; every page shows what it must."""
        self.kernel.poor = 0
        self.reap()
        self.calm()
        self._nobody_waits()
        self._everything_in()
        for mm in [mm for mm in self.kernel.mms if mm.alive]:
            for vpn in sorted(mm.slots):
                if self.over:
                    return
                self.kernel.touch(mm.threads[0], vpn)
                self.calm()
                self._nobody_waits()
        for context in self.contexts:
            self._finished_rightly(context)

    def _nobody_waits(self) -> None:
        if self.over:
            return
        for mm in self.kernel.mms:
            for thread in mm.threads:
                if thread.state != "idle":
                    raise Violation(f"{thread.name} is {thread.state} at {thread.vpn:#x} for ever")
            for call in mm.calls:
                raise Violation(f"{call.name} of {mm.name} sleeps for ever")

    def _everything_in(self) -> None:
        """What was asked for comes without a touch."""
        wanted = self.completed and not self.over
        if wanted and self.main and self.main.mm.alive and self.main.core.pages.unsettled:
            held = self.main.core.pages.counts()
            raise Violation(f"everything was asked for, but there is {held}")

    def _finished_rightly(self, context: Context) -> None:
        if self.over or not context.mm.alive:
            return
        core = context.core
        held = core.pages.counts()
        if core.background and core.pages.unsettled:
            raise Violation(f"everything was to be filled, but there is {held}")
        if core.pages.states.find(bytes([FILLING]), 0, core.pages.count) >= 0:
            raise Violation(f"nothing is under way, but there is {held}")
        finishes = context.finishes or int(context.mm in self.excused)
        if (core.pages.unsettled == 0) != (finishes == 1):
            raise Violation(f"{held}, and finished {finishes} times")

    # --- what is there, for programs to choose from ----------------------------------------------

    def threads(self, state: str) -> list[Thread]:
        return [thread for mm in self.kernel.mms for thread in mm.threads if thread.state == state]

    def ready(self) -> list[Call]:
        return [call for mm in self.kernel.mms for call in mm.calls if call.stage != "asleep"]

    def place(self, a: int, b: int, *, alone: bool = False) -> tuple[Mm, int, int] | None:
        """A process, a page of it and a small number; None if its calls forbid another one."""
        mms = [mm for mm in self.kernel.mms if mm.alive and mm.threads and mm.slots]
        if not mms:
            return None
        mm = mms[a % len(mms)]
        busy = bool(mm.calls) if alone else any(call.name == "mremap" for call in mm.calls)
        if busy:  # moves of address space exclude other calls: their events have no order
            return None
        vpns = sorted(mm.slots)
        return mm, vpns[b % len(vpns)], a // len(mms)
