"""Refused clients are told in the log, but not without end: a disk must not fill with that."""

from __future__ import annotations

import time

from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.processes.watching import Timer

_AT_ONCE = 100.0  # lines
_A_SECOND = 2.0
_SUMMARY_S = 5.0


class Refusals:
    """Counts them, and tells of most.  `timers`: of the loop."""

    def __init__(self, timers: dict[Timer, None]) -> None:
        self._timers = timers
        self.count = 0
        self._room = _AT_ONCE
        self._since = time.monotonic()
        self._untold = 0
        self._tell_at = 0.0

    def tell(self, about: str, why: Exception | str) -> None:
        """One more."""
        self.count += 1
        now = time.monotonic()
        self._room = min(_AT_ONCE, self._room + (now - self._since) * _A_SECOND)
        self._since = now
        if self._room >= 1:
            self._room -= 1
            say(f"refused: {why}", about)
            return
        if not self._untold:
            self._tell_at = now + _SUMMARY_S
            self._timers[self] = None
        self._untold += 1

    def next_time(self) -> float | None:
        """When to tell of those that were not told of."""
        return self._tell_at if self._untold else None

    def tick(self, now: float) -> None:
        """Tell how many there were."""
        if self._untold and now >= self._tell_at:
            say(f"{self._untold} more were refused, for causes such as those above")
            self._untold = 0
