"""How long to poll for the next fault before going to sleep: within a budget, while it pays."""

from __future__ import annotations

LONGEST_S = 100e-6  # one wait: a thread that runs through memory faults again sooner than that
_MISSES = 4  # waits in vain after which only sleep is tried
_SAVED_S = 1.0  # what was not used of so much time may be used at once


class Polling:
    """Seconds of polling, earned with time at the rate `share` (0 to 1 of a CPU)."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._most = share * _SAVED_S
        self._credit = self._most
        self._earned_at = 0.0
        self._misses = 0
        self.used_s = 0.0

    def allowance(self, now: float) -> float:
        """How long to poll from `now` on: seconds, 0 when the budget is used up or it is vain."""
        earned = self._share * (now - self._earned_at)
        self._credit = min(self._credit + earned, self._most)
        self._earned_at = now
        if self._misses >= _MISSES or self._credit <= 0:
            return 0.0
        return min(self._credit, LONGEST_S)

    def waited(self, took_s: float, polled_s: float) -> None:
        """A wait is over: so long it took, so much of it was polled."""
        self._credit -= polled_s
        self.used_s += polled_s
        self._misses = 0 if took_s < LONGEST_S else self._misses + 1
