"""What is said and done about faults that have waited for too long (docs/pager.md, "Watchdog").

Each is told with what it waits for.  By policy its page is given up, or the client is ended.

What has been filled meanwhile is left alone: only a page that is FILLING is given up, by a POISON
with `demand=False`, made at once or not at all.  Other poison is put aside when it meets EAGAIN;
this one must not be, since the bytes may come while it waits.  Until it has worked, what is under
way for the page goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from userfault.pager.core.actions import POISON, EndClient, Fetch, Overdue, Report, Wake
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.states import FILLING, NAMES
from userfault.pager.core.watch import Wait

_INTERRUPT_CURE = "Policy(on_interrupt='wait') waits on"
_CURE = "look at what it waits for; Policy(fault_deadline_s=...) sets how long is too long"


class Cause(NamedTuple):
    """What a wait is for.  `settling`: it is being decided in this moment.  `gate`: an event.
    `read`: a read of several pages under way, and whose it is.
    """

    text: str
    settling: bool = False
    gate: bool = False
    read: tuple[Peer, Fetch] | None = None


class Peer(Protocol):
    """A mapping that shares the pages: what is under way for them is under way there, too."""

    def awaited(self, page: int, now: float) -> Cause | None:
        """What a fault on the page waits for; None where nothing is under way for it."""
        ...

    def read_alone(self, fetch: Fetch, cause: str, now: float) -> None:
        """Stop a read of several pages, and read each alone."""
        ...

    def stop(self, page: int) -> None:
        """Stop what is under way for the page alone."""
        ...


class Sharing(Protocol):
    """Whose pages they are."""

    @property
    def peers(self) -> Sequence[Peer]:
        """The mapping itself, and those that share its pages."""
        ...


class Overseer:
    """The watchdog of one mapping; `sharing` tells who shares its pages."""

    def __init__(self, ledger: Ledger, sharing: Sharing) -> None:
        self._ledger = ledger
        self._sharing = sharing
        self._interrupted: dict[int, str] = {}  # pages that are being given up, and why

    def tick(self, now: float) -> None:
        """Note the time of new waits; report the old ones."""
        watch = self._ledger.watch
        watch.stamp(now)
        for page, wait in watch.due(now):
            cause = self._awaited(page, now)
            if cause is None:  # it was woken, and never came back: a signal, or it has ended
                watch.served(page, 1)
                self._wake_waiter(page)
            elif not cause.settling:
                watch.told(page)
                self._too_long(page, wait, cause, now)

    def interrupted(self, now: float) -> None:
        """The client was interrupted and goes on waiting: give up what its threads wait for."""
        ledger = self._ledger
        for page in ledger.watch.pages():
            if page < 0 or ledger.pages.states[page] != FILLING:
                continue
            cause = self._awaited(page, now)
            if cause is None or cause.settling or cause.gate:
                continue
            what = f"a thread that waited for it, for {cause.text}, was interrupted twice"
            if ledger.plan.has_poison:
                self._interrupted[page] = what
                ledger.act(POISON, page, 1, demand=False)
            else:
                ledger.out.append(EndClient(f"page {page}: {what} ({_INTERRUPT_CURE})"))

    def gave_up(self, page: int) -> None:
        """The poison has worked: say so, and stop what is under way for the page alone."""
        cause, cure = self._interrupted.pop(page, ""), _INTERRUPT_CURE
        if not cause:
            deadline = self._ledger.plan.policy.fault_deadline_s
            cause, cure = f"a thread waited for longer than {deadline} s", _CURE
        self._ledger.out.append(Report(page, cause, cure))
        for peer in self._sharing.peers:
            peer.stop(page)

    def _too_long(self, page: int, wait: Wait, cause: Cause, now: float) -> None:
        ledger = self._ledger
        ledger.counters.overdue += 1
        state = NAMES[ledger.pages.states[page]] if page >= 0 else "not ours"
        answer = self.answer(page, cause)
        address = ledger.segments.address_of(page) if page >= 0 else -page
        age = now - wait.since
        ledger.out.append(Overdue(page, address, state, age, wait.faults, cause.text, answer))
        if answer == "poison":
            ledger.act(POISON, page, 1, demand=False)
        elif answer == "alone" and cause.read is not None:
            peer, fetch = cause.read
            peer.read_alone(fetch, cause.text, now)
            ledger.watch.again(page)
        elif answer == "kill":
            text = f"a fault at {address:#x} has waited for {age:.1f} s, for {cause.text}"
            ledger.out.append(EndClient(f"{text} ({_CURE})"))

    def answer(self, page: int, cause: Cause) -> str:
        """What is done about it.  While an event is pending no fill works, poison neither.

        A read of several pages that lasts says nothing about any one of them: each is read alone
        first, and has as much time again.
        """
        plan = self._ledger.plan
        policy = plan.policy.on_overdue
        if policy != "poison":
            return policy
        if page < 0 or self._ledger.pages.states[page] != FILLING or cause.gate:
            return "report"
        if cause.read is not None:
            return "alone"
        return "poison" if plan.has_poison else "kill"

    def _awaited(self, page: int, now: float) -> Cause | None:
        for peer in self._sharing.peers:
            found = peer.awaited(page, now)
            if found is not None:
                return found
        return None

    def _wake_waiter(self, page: int) -> None:
        ledger = self._ledger
        address = ledger.segments.address_of(page) if page >= 0 else -page
        if address >= 0:
            ledger.out.append(Wake(address, 1 << ledger.shift))
