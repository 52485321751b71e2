"""What the driver of the simulated kernel does for each action of a core."""

from __future__ import annotations

import errno

from pager_core.simparts import SHIFT, ZEROS, Violation, source
from pager_core.simstate import PAGE, Context, State
from userfault.pager.core import actions
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
from userfault.pager.core.recorded import FillRecord
from userfault.pager.core.states import FILLING, NAMES


class Actions:
    """One action at a time."""

    def __init__(self, state: State) -> None:
        self._state = state

    def perform(self, context: Context, odd: str, at: int) -> None:
        core = context.core
        action = core.out.popleft()
        if context.closed and not self._state.reads_on:
            return
        if isinstance(action, Fill):
            self._fill(context, action, odd, at)
        elif isinstance(action, Fetch):
            core.started(action, self._state.now)
            self._state.flights.append((context, action))
        elif isinstance(action, WakeAll | actions.Wake):
            self._wake(context, action)
        elif isinstance(action, actions.Inspect):
            core.inspected(action, self._found(context, action), self._state.now)
        elif isinstance(action, actions.Report):
            dropped_since = any((said.page, said.answer) == (action.page, "poison")
                                for said in self._state.overdue)  # fmt: skip
            if not context.mm.truths[action.page].given_up and not dropped_since:
                raise Violation(f"page {action.page} reported as given up: {action.cause}")
        elif isinstance(action, Overdue):
            self._too_long(context, action)
        elif isinstance(action, EndClient):
            given_up = any(truth.given_up for truth in context.mm.truths)
            if not given_up and not any(said.answer == "kill" for said in self._state.overdue):
                raise Violation(f"the client is ended: {action.message}")
            self._state.over = True
        elif isinstance(action, Finish):
            self._finish(context, action)
        else:
            # Nothing queues here; whoever reads cannot be stopped: it answers late.
            assert isinstance(action, Abandon | actions.Hasten)

    def _wake(self, context: Context, action: WakeAll | actions.Wake) -> None:
        self._state.store.fuse.point()
        if isinstance(action, WakeAll):
            self._state.kernel.uffd.wake_all(context.mm)
        else:
            self._state.kernel.uffd.wake(context.mm, action.start >> SHIFT, action.length >> SHIFT)

    def _too_long(self, context: Context, action: Overdue) -> None:
        """The watchdog has spoken: it must be about something, and may then give the page up."""
        self._state.overdue.append(action)
        if action.age_s < (self._state.config.fault_deadline or 0) - 1e-9:  # of rounding
            raise Violation(f"overdue after {action.age_s} s")
        if action.answer == "poison":
            if action.state != NAMES[FILLING]:
                raise Violation(f"page {action.page} is given up, and it is {action.state}")
            context.mm.truths[action.page].given_up = True

    def _fill(self, context: Context, fill: Fill, odd: str, at: int) -> None:
        kernel, core, kind = self._state.kernel, context.core, actions.KINDS[fill.kind]
        contents = [ZEROS] * fill.count
        if fill.kind == ZERO and not self._state.config.kind.zeropage:
            kind = "copy"
        if fill.kind == COPY:
            if fill.data is None and self._unreadable(context, fill, odd):
                return
            main = self._state.main
            if self._state.gave_up and main and core.pages is main.core.pages:
                raise Violation(f"page {fill.page} comes from the source, which was given up")
            first = fill.page - fill.data_page
            held = fill.data or bytes(range(self._state.config.pages))[fill.data_page :]
            contents = [source(page) for page in held[first : first + fill.count]]
        stop = at % fill.count if odd == "stop" else -1
        store = self._state.store
        record = FillRecord(context.number, fill.kind, fill.page, fill.count, 0)
        store.arm(record, reset=self._state.resets_result)
        code, done = kernel.uffd.fill(
            context.mm, kind, fill.address >> SHIFT, contents, stop=stop,
            result=lambda pages: store.result(pages * PAGE),
        )  # fmt: skip
        store.fuse.fill_made()
        if not code:
            core.done(fill)
        elif code != errno.EFAULT:
            core.failed(fill, code, done * PAGE, self._state.now)
        elif self._state.config.kind.shared and 0 <= kernel.file.size < fill.page + fill.count:
            core.beyond_end(fill, kernel.file.size)
        elif fill.kind == actions.CONTINUE:
            core.not_cached(fill)
        else:
            core.failed(fill, code, 0, self._state.now)

    def _found(self, context: Context, action: actions.Inspect) -> Found:
        """What the driver sees there."""
        content = self._state.kernel.uffd.shown(context.mm, action.address >> SHIFT)
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
        if odd != "unreadable" and not self._state.config.bad & set(
            range(fill.page, fill.page + fill.count)
        ):
            return False
        self.count_failure(context, fill.page, fill.count)
        context.core.source_failed(fill, "cannot be read", self._state.now)
        return True

    def count_failure(self, context: Context, page: int, count: int) -> None:
        if count == 1:
            truth = context.mm.truths[page]
            truth.failures += 1
            truth.given_up |= truth.failures > self._state.config.retries

    def count_late(self, context: Context) -> None:
        for owner, fetch in self._state.flights:
            if owner is context and fetch.deadline <= self._state.now and not fetch.abandoned:
                self.count_failure(context, fetch.page, fetch.count)

    def _finish(self, context: Context, action: Finish) -> None:
        if action.owner_gone:
            self._state.left(context)
            return
        if self._state.finishes_once:
            self._state.commit()
        context.mm.finishes += 1
        for start, length in action.segments:
            self._state.kernel.uffd.unregister(context.mm, start >> SHIFT, length >> SHIFT)
            self._state.store.fuse.point()
        held = [slot for slot in context.mm.slots.values() if slot.registered]
        told = context.mm.alive and not context.mm.changing  # else an event is still to be read
        if told and action.segments and any(slot.truth.page >= 0 for slot in held):
            raise Violation("finished, and a page that was to be served is registered still")
        context.closed = not self._state.reads_on
        self._state.commit()
