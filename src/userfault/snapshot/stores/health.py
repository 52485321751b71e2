"""Whether a store answers: one that does not is left alone for a time that grows.

A read that waits for a store which hangs would wait for all its tries.  So a store that has been
asked and has said nothing for SILENT_S, or that could not be reached, is *left*: reads go to the
others at once.  When its time is over one read tries it again, beside the others.  An answer, be it
right or wrong, ends all that.
"""

from __future__ import annotations

import threading
import time

SILENT_S = 1.0
FIRST_S = 2.0
MOST_S = 60.0


class Health:
    """Of one store.  For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard = float("-inf")
        self._unanswered: float | None = None  # since when a request has been out, overtaken
        self._until = float("-inf")  # it is left until then
        self._next = FIRST_S  # how long it is left the next time

    def usable(self) -> bool:
        """Whether it is not left.  Asking changes nothing."""
        with self._lock:
            return self._looked_at(time.monotonic()) >= self._until

    def try_it(self) -> bool:
        """The same, for a read that begins now: of those that come when its time is over, one."""
        with self._lock:
            now = self._looked_at(time.monotonic())
            if now < self._until:
                return False
            if self._next > FIRST_S:  # nobody knows yet whether it answers again
                self._until = now + SILENT_S
            return True

    def heard(self) -> None:
        """It answered."""
        with self._lock:
            self._heard = time.monotonic()
            self._unanswered = None
            self._until = float("-inf")
            self._next = FIRST_S

    def overtaken(self, began: float) -> None:
        """A request that was sent at `began` has no answer yet, and another store had one."""
        with self._lock:
            if self._unanswered is None and self._heard < began:
                self._unanswered = began

    def failed(self, began: float) -> None:
        """A request that was sent at `began` had no answer, and will have none."""
        with self._lock:
            if self._heard < began:  # else it answers others
                self._leave(time.monotonic())

    def _looked_at(self, now: float) -> float:
        """`now`, with what that means for a request that is out."""
        if self._unanswered is not None and now - self._unanswered >= SILENT_S:
            self._leave(now)
        return now

    def _leave(self, now: float) -> None:
        self._unanswered = None
        if now < self._until - SILENT_S:
            return  # it is left already: several requests fail at once
        self._until = now + self._next
        self._next = min(2 * self._next, MOST_S)
