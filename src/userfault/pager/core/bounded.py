"""What is filled with a fault once pages go for it: no more than a stream will want.

A planner reckons that what it fills in advance is filled once and for all.  When as much is in as
may be, it takes the place of something that is as likely to be touched; but what a stream comes to
next is surer than anything.
"""

from __future__ import annotations

from userfault.pager.core.bycost import CostPlanner
from userfault.pager.core.outer import Outer
from userfault.pager.core.plan import UNLIMITED
from userfault.pager.core.planner import Books, Load, Planner, Run, Work


class Bounded(Outer):
    """As `inner` is, and as `full` once there is no room but what others leave."""

    def __init__(self, inner: Planner, full: CostPlanner, books: Books) -> None:
        super().__init__(inner)
        self._full = full
        self._full.background = False
        self._books = books

    @property
    def _is_full(self) -> bool:
        return self._books.room < UNLIMITED

    def fault(self, page: int) -> Run:
        """See `Planner`.  A stream that is under way has its next window filled while it reads."""
        if not self._is_full:
            return self.inner.fault(page)
        first, count = self._full.fault(page)
        if count >= self._books.room:
            self._full.go_on(first, count, up=first == page)
        return first, count

    @property
    def along(self) -> list[Run]:
        """See `Planner`."""
        return (self._full if self._is_full else self.inner).along

    @property
    def eager(self) -> bool:
        """See `Planner`."""
        return self.inner.eager or self._full.eager

    @property
    def more(self) -> bool:
        """See `Planner`."""
        return self.inner.more or self._full.more

    def forget(self) -> None:
        """See `Planner`."""
        self.inner.forget()
        self._full.forget()

    def idle(self, load: Load) -> Work | None:
        """See `Planner`."""
        ahead = self._full.idle(load) if self._is_full else None
        if ahead is not None:
            self.inner.why = self._full.why
        return ahead if ahead is not None else self.inner.idle(load)
