"""A read that the disk is about to answer: asked for again and again, instead of going to sleep.

A disk in the machine, or of its host, answers in less time than it takes to have a thread wait for
it: that one is woken, wakes us, and while all sleep the CPU does, too.  (Measured on 6.18 in a
virtual machine, whose disk answers in 50 µs: a touch took 58 µs with a handler that asks again, 76
with one in pread(2), 83 with one that has a thread read.)  So for a moment the page is asked for by
RWF_NOWAIT, and the queue of faults looked at in between.  When that moment is over, or anything
else is to be done, a thread takes the read over: what hangs, hangs there.

What is polled so is paid from the budget that polling for faults has, but for the CPU time that a
thread would have taken; and it is given up for a while where it was vain a few times
(`pager/core/polling.py`): slower disks, networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from userfault.pager.core.polling import Polling

_THREAD_S = 25e-6  # CPU time of a thread that reads instead, to be woken and to wake


class Read(Protocol):
    """Of a few pages, which a thread of the client waits for."""

    def now(self) -> bool:
        """Whether it is answered by now.  Never waits."""
        ...

    def hand_over(self) -> None:
        """To a thread that may wait."""
        ...


class Momentary:
    """At most one read, between two looks at the queue.  `clock`: that of `polling`."""

    def __init__(self, polling: Polling, clock: Callable[[], float]) -> None:
        self._polling = polling
        self._clock = clock
        self._held: Read | None = None
        self._answered: Callable[[], object] = bool
        self._since = 0.0

    def __bool__(self) -> bool:
        return self._held is not None

    @property
    def pays(self) -> bool:
        """Whether a read is worth to be held."""
        return self._polling.allowance(self._clock()) > 0

    def hold(self, read: Read, answered: Callable[[], object]) -> None:
        """Wait for it in the next moment; `answered` is called if it was answered in time."""
        self.let_go()
        self._held, self._answered = read, answered
        self._since = self._clock()

    def let_go(self) -> None:
        """There is no time for it: a thread goes on."""
        held, self._held = self._held, None
        if held is not None:
            held.hand_over()

    def took(self, seconds: float) -> None:
        """So long took a read that a thread waited for in our place."""
        self._polling.waited(seconds, 0.0)

    def wait(
        self, look: Callable[[], list[tuple[int, int]]], *, working: bool
    ) -> list[tuple[int, int]]:
        """Until it is answered, or `look` finds something to be done, or the moment is over.

        `working`: there is other work.  Returns what `look` found.
        """
        read = self._held
        assert read is not None
        clock = self._clock
        began = now = clock()
        stop = now if working else now + self._polling.allowance(now)
        ready = look()
        there = False
        while not ready and not (there := read.now()) and now < stop:
            ready = look()
            now = clock()
        now = clock()
        if there or not ready:
            self._polling.waited(now - self._since, now - began, _THREAD_S if there else 0.0)
        if there:
            self._held = None
            self._answered()
        else:
            self.let_go()
        return ready
