"""How fast the background may be: so many bytes a second, and no more than a piece at once.

There is no clock here: `tick` tells the time, and what was not used by then is not saved up.
"""

from __future__ import annotations

from userfault.pager.core.ledger import Ledger
from userfault.pager.core.plan import UNLIMITED


class Pace:
    """Of one mapping.  `pages`: how many the background may fill now."""

    def __init__(self, ledger: Ledger) -> None:
        plan = ledger.plan
        rate = plan.policy.bandwidth_bytes
        self._ledger = ledger
        self._rate = None if rate is None else rate / plan.page_size  # pages a second
        self._most = plan.chunk_pages
        self.pages = UNLIMITED if rate is None else self._most
        self._free_at = 0.0  # when the next piece may come
        self._now = 0.0

    def spent(self, count: int) -> None:
        """So many pages are filled in the background; how long that has to last, `tick` begins to
        count."""
        if self._rate is not None:
            self.pages = 0
            self._free_at = max(self._free_at, self._now) + count / self._rate
            self._ledger.timed = True

    def lift(self) -> None:
        """Everything is asked for: as fast as it goes."""
        self._rate, self.pages = None, UNLIMITED

    def next_time(self) -> float | None:
        """When there is more; None while there is some."""
        return None if self.pages else self._free_at

    def tick(self, now: float) -> None:
        """Time has come to `now`."""
        self._now = now
        if now >= self._free_at:
            self.pages = self.pages or self._most
