"""A driver for the simulated kernel.

It does what the driver for Linux does, one action of the core at a time, so that steps of the
client may come between any two of them.  `simjudge` says whether what becomes of it is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pager_core.simactions import Actions
from pager_core.simparts import Call, Event, Fault, Mm, Thread
from pager_core.simstate import PAGE, Config, Context, State
from pager_core.simstore import Killed, States
from userfault.pager.core import recovery
from userfault.pager.core.states import FILLING, MISSING, Pages


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
    """Kernel, client and pager, whose worker may be killed at any point of the `Store`'s fuse."""

    def __init__(self, config: Config) -> None:
        self.state = state = State(config)
        self.actions = Actions(state)
        self.config, self.kernel, self.store = config, state.kernel, state.store
        self.contexts, self.flights = state.contexts, state.flights
        self.batch: deque[tuple[Context, Fault | Event]] = deque()
        self.successor: Iterator[None] | None = None  # taking over
        self.limit = 64

    # --- the pager: one micro-step ----------------------------------------------------------------

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
                self.actions.perform(context, odd, at)
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
            if not context.closed and when is not None and when <= self.state.now:
                self.actions.count_late(context)
                with self._mortal():
                    context.core.tick(self.state.now)
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
            if self.state.main:
                self.state.main.core.complete()
                self.state.commit()
                self.state.completed = True

    def give_up(self) -> None:
        """The client asks for nothing more from the source."""
        self.drained()
        with self._mortal():
            if self.state.main:
                self.state.completed = False  # also if the worker is killed before it answers
                for truth in self.state.main.mm.truths:
                    state = self.state.main.core.pages.states[truth.page]
                    truth.given_up |= state in (MISSING, FILLING)
                self.state.main.core.give_up("asked to", "")
                self.state.commit()
                self.state.gave_up = True

    def _read(self, context: Context) -> None:
        self.store.announce(context.number)
        messages = self.store.messages = self.kernel.uffd.read(context.mm, self.limit)
        self.store.fuse.point()
        if self.state.applies_events_first:
            messages = sorted(messages, key=lambda message: isinstance(message, Fault))
        context.core.batch()
        self.state.applied = 0
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
        self.state.applied += 1
        more = any(isinstance(left, Event) for _, left in self.batch)
        if message.kind != "remove" and (self.state.commits_each or not more):
            self.state.commit()  # what was changed must not be changed again

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

    # --- killed workers and their successors ------------------------------------------------------

    def _mortal(self) -> _Mortal:
        """The worker may be killed while it does this."""
        return _Mortal(self)

    def die(self) -> None:
        """The worker is killed: what only it knew is lost."""
        for record in self.store.snapshot.contexts:
            owner = self.store.owners[record.number]
            if record.finished and not owner.finishes:
                self.state.excused.add(owner)
        self.contexts.clear()
        self.batch.clear()
        self.flights.clear()
        self.successor = self._take_over()

    def _take_over(self) -> Iterator[None]:
        """What a successor does before it serves, step by step."""
        store, count = self.store, self.config.pages
        cores = recovery.rebuild(
            store.snapshot.contexts,
            lambda _: self.state.plan,
            lambda record: Pages(store.states[record.states], count),
        )
        self.contexts.extend(
            Context(cores[each.number], store.owners[each.number], each.number, each.states)
            for each in store.snapshot.contexts
        )
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
            self.state.applied = before
            self._event(context, event)
            yield

    # --- what becomes of fetches and processes ----------------------------------------------------

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
                    self.actions.count_failure(context, fetch.page, fetch.count)
                context.core.fetch_failed(fetch, "the read failed", self.state.now)
        return True

    def reap(self) -> None:
        """The driver notices processes that have ended."""
        self.drained()
        while gone := [each for each in self.contexts if not each.mm.alive and not each.closed]:
            with self._mortal():
                self.state.left(gone[0])
            self.drained()

    # --- what is there, for programs to choose from -----------------------------------------------

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
