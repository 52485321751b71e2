"""What is said and done about faults that have waited for too long (docs/pager.md, "Watchdog").

Each is told with what it waits for.  By policy its page is given up, or the client is ended.

What has been filled meanwhile is left alone: only a page that is FILLING is given up, by a POISON
with `demand=False`, made at once or not at all.  Other poison is put aside when it meets EAGAIN;
this one must not be, since the bytes may come while it waits.  Until it has worked, what is under
way for the page goes on.
"""

from __future__ import annotations

from typing import NamedTuple

from userfault.pager.core.actions import (
    POISON,
    Abandon,
    EndClient,
    Fetch,
    Fill,
    Inspect,
    Overdue,
    Report,
    Wake,
)
from userfault.pager.core.refusals import Refusing
from userfault.pager.core.states import FILLING, NAMES
from userfault.pager.core.watch import Wait

_CURE = "look at what it waits for; Policy(fault_deadline_s=...) sets how long is too long"


class Cause(NamedTuple):
    """What a wait is for.  `settling`: it is being decided in this moment.  `gate`: an event.
    `read`: a read of several pages under way, and whose it is.
    """

    text: str
    settling: bool = False
    gate: bool = False
    read: tuple[Overseeing, Fetch] | None = None


class Overseeing(Refusing):
    """Adds the answers to waits that are too long."""

    def _oversee(self, now: float) -> None:
        """Note the time of new waits; report the old ones."""
        watch = self.watch
        watch.stamp(now)
        for page, wait in watch.due(now):
            cause = self._awaited(page, now)
            if cause is None:  # it was woken, and never came back: a signal, or it has ended
                watch.served(page, 1)
                self._wake_waiter(page)
            elif not cause.settling:
                watch.told(page)
                self._too_long(page, wait, cause, now)

    def _too_long(self, page: int, wait: Wait, cause: Cause, now: float) -> None:
        watch = self.watch
        self.counters.overdue += 1
        state = NAMES[self.pages.states[page]] if page >= 0 else "not ours"
        answer = self._answer(page, cause)
        address = self.segments.address_of(page) if page >= 0 else -page
        age = now - wait.since
        self.out.append(Overdue(page, address, state, age, wait.faults, cause.text, answer))
        if answer == "poison":
            self._act(POISON, page, 1, demand=False)
        elif answer == "alone" and cause.read is not None:
            core, fetch = cause.read
            core.out.append(Abandon(fetch.number))
            core.fetch_failed(fetch, cause.text, now)
            fetch.abandoned = True
            watch.again(page)
        elif answer == "kill":
            text = f"a fault at {address:#x} has waited for {age:.1f} s, for {cause.text}"
            self.out.append(EndClient(f"{text} ({_CURE})"))

    def _answer(self, page: int, cause: Cause) -> str:
        """What is done about it.  While an event is pending no fill works, poison neither.

        A read of several pages that lasts says nothing about any one of them: each is read alone
        first, and has as much time again.
        """
        policy = self.plan.policy.on_overdue
        if policy != "poison":
            return policy
        if page < 0 or self.pages.states[page] != FILLING or cause.gate:
            return "report"
        if cause.read is not None:
            return "alone"
        return "poison" if self.plan.has_poison else "kill"

    def _gave_up(self, page: int) -> None:
        """The poison has worked: say so, and stop what is under way for the page alone."""
        cause = f"a thread waited for longer than {self.plan.policy.fault_deadline_s} s"
        self.out.append(Report(page, cause, _CURE))
        for core in self._siblings:
            core._pauses = [each for each in core._pauses if each[1] != page]
            core._stop_reading(page)

    def _awaited(self, page: int, now: float) -> Cause | None:
        """What the fault waits for; None where nothing is under way for it."""
        for core in self._siblings:
            found = core._fill_awaited(page) or core._read_awaited(page, now)
            if found is not None:
                return found
        return None

    def _fill_awaited(self, page: int) -> Cause | None:
        for action in self.out:
            if isinstance(action, Fill) and _fills(action, page):
                return Cause("a fill that is being made", settling=True)
            if isinstance(action, Inspect) and action.page == page:
                return Cause("a look at the page tables", settling=True)
        for fill in self.deferred:
            if _fills(fill, page):
                return Cause(
                    "a thread of the client that raised an event (madvise, munmap, mremap or fork)"
                    " and has not run since: until then the kernel refuses fills (EAGAIN)",
                    gate=True,
                )
        return None

    def _read_awaited(self, page: int, now: float) -> Cause | None:
        policy = self.plan.policy
        tries = f"attempt {self._failures.get(page, 0) + 1} of {policy.retries + 1}"
        for when, paused, _ in self._pauses:
            if paused == page:
                refused = self._refusals.get(page, 0)
                if refused:
                    return Cause(f"memory for the page (refused {refused} times, ENOMEM)")
                return Cause(f"a read of the source ({tries}, in {max(when - now, 0):.2f} s)")
        for fetch in self._fetches.values():
            if fetch.page <= page < fetch.page + fetch.count:
                if fetch.deadline == float("inf"):
                    return Cause(f"read {fetch.number} of the source, which waits for its turn")
                age = now - (fetch.deadline - policy.deadline_s)
                text = f"read {fetch.number} of the source ({tries}, begun {age:.1f} s ago)"
                return Cause(text, read=(self, fetch) if fetch.count > 1 else None)
        for first, count, _ in self._waiting:
            if first <= page < first + count:
                return Cause(f"one of {policy.fetches} reads of the source to end")
        return None

    def _stop_reading(self, page: int) -> None:
        for fetch in list(self._fetches.values()):
            pages = range(fetch.page, fetch.page + fetch.count)
            if page in pages and self.pages.find(FILLING, fetch.page, pages.stop) < 0:
                fetch.abandoned = True
                del self._fetches[fetch.number]
                self.out.append(Abandon(fetch.number))
                self._start_waiting()

    def _wake_waiter(self, page: int) -> None:
        address = self.segments.address_of(page) if page >= 0 else -page
        if address >= 0:
            self.out.append(Wake(address, 1 << self._shift))


def _fills(fill: Fill, page: int) -> bool:
    """Whether `fill` is for the page (below zero: minus an address)."""
    if page < 0:
        return fill.page < 0 and fill.address == -page
    return fill.page <= page < fill.page + fill.count
