"""Holes made by a thread: while it frees the pages of one batch, the loop fills the next.

To free a page costs nearly as much as to fill one (measured on 6.18), and both would be the loop's.
"""

from __future__ import annotations

import os
from _queue import Empty, SimpleQueue  # what `queue` has them from, without `threading`
from collections import deque
from collections.abc import Callable

import msgspec

from userfault.pager.core.actions import Evict
from userfault.pager.drivers.mappings.served import Context
from userfault.pager.drivers.serving.calls import Calls
from userfault.pager.drivers.serving.loop import Loop

_MOST = 8  # under way at once: beyond that the loop waits for its own sake


class Hole(msgspec.Struct):
    """One that is asked for, and why it was not made."""

    context: Context
    action: Evict
    refused: int = 0


class Puncher:
    """Makes holes and tells `done`, in the loop."""

    def __init__(self, loop: Loop, calls: Calls, done: Callable[[Hole], None]) -> None:
        self._loop = loop
        self._calls = calls
        self._done = done
        self._asked: SimpleQueue[Hole | None] = SimpleQueue()
        self._made: SimpleQueue[Hole] = SimpleQueue()
        self._late: deque[Hole] = deque()  # made while somebody waited for others
        self._under_way = 0
        self._bell = calls.bell()
        loop.watch(self._bell, self._hear)
        import threading  # noqa: PLC0415  # for mappings with a budget; a pager's start does without

        self._thread = threading.Thread(target=self._run, name="holes", daemon=True)
        with loop.lifted():
            self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether another one is better made by whoever asks."""
        return self._under_way >= _MOST

    def ask(self, context: Context, action: Evict) -> None:
        """Have a hole made."""
        self._under_way += 1
        self._asked.put(Hole(context, action))

    def rest(self) -> None:
        """Wait until none is under way.  What became of them is told in the next round."""
        while self._under_way:
            self._late.append(self._made.get())
            self._under_way -= 1
        if self._late:
            os.eventfd_write(self._bell, 1)

    def settle(self) -> None:
        """The same, and tell of them now."""
        self.rest()
        while self._late:
            self._done(self._late.popleft())

    def close(self) -> None:
        """No more; what is under way is waited for."""
        self._asked.put(None)
        self._thread.join()
        self._loop.forget(self._bell)
        self._calls.close(self._bell)

    def _run(self) -> None:
        while (hole := self._asked.get()) is not None:
            served, action = hole.context.served, hole.action
            size = served.page_size
            try:
                self._calls.punch(served, action.page * size, action.count * size)
            except OSError as error:
                hole.refused = error.errno or -1
            self._made.put(hole)
            os.eventfd_write(self._bell, 1)

    def _hear(self) -> None:
        self._calls.hear(self._bell)
        while self._late:
            self._done(self._late.popleft())
        while True:
            try:
                hole = self._made.get_nowait()
            except Empty:
                return
            self._under_way -= 1
            self._done(hole)
