"""How long to poll for the next fault before going to sleep: within a budget, while it pays."""

from __future__ import annotations

LONGEST_S = 100e-6  # one wait: a thread that runs through memory faults again sooner than that
_MISSES = 4  # waits in vain after which only sleep is tried
_SAVED_S = 1.0  # what was not used of so much time may be used at once


class _Purse:
    """Seconds, earned with time at the rate `share`.  `used_s`: what was spent."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._most = self._credit = share * _SAVED_S
        self._earned_at = 0.0
        self.used_s = 0.0

    def credit(self, now: float) -> float:
        earned = self._share * (now - self._earned_at)
        self._credit = min(self._credit + earned, self._most)
        self._earned_at = now
        return self._credit

    def spend(self, seconds: float, saved: float) -> None:
        self._credit -= max(seconds - saved, 0.0)
        self.used_s += seconds


class Polling:
    """Seconds of polling, earned with time at the rate `share` (0 to 1 of a CPU)."""

    def __init__(self, share: float) -> None:
        self._purse = _Purse(share)
        self._misses = 0

    def another(self) -> Polling:
        """Polling for something else, out of the same budget."""
        made = Polling(0.0)
        made._purse = self._purse
        return made

    @property
    def used_s(self) -> float:
        """Seconds polled so far, for whatever."""
        return self._purse.used_s

    def allowance(self, now: float) -> float:
        """How long to poll from `now` on: seconds, 0 when the budget is used up or it is vain."""
        credit = self._purse.credit(now)
        if self._misses >= _MISSES or credit <= 0:
            return 0.0
        return min(credit, LONGEST_S)

    def waited(self, took_s: float, polled_s: float, saved_s: float = 0.0) -> None:
        """A wait is over: so long it took, so much of it was polled.

        `saved_s`: CPU time that any other way of waiting would have taken.
        """
        self._purse.spend(polled_s, saved_s)
        self._misses = 0 if took_s < LONGEST_S else self._misses + 1
