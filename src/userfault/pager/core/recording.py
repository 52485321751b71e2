"""What a restored program touches first: noted as faults come, and nothing filled that would hide
it.

A page that was filled before it is touched raises no fault, so nobody sees its first touch.  While
it is recorded, therefore, a fault brings its page and no neighbours, and nothing is filled in the
background.  The exception are streams: where a fault comes right behind what the last one of a
stream brought, all of that was touched, or the stream would not have come there.  So streams may
have small windows; of the last one of each only the page that was asked for is noted
(docs/decisions/0023-what-a-recording-costs.md).

Notes are bytes in memory that outlives a worker: one that is killed loses nothing that it had
noted.
"""

from __future__ import annotations

from collections import deque

from userfault.pager.core.outer import Outer
from userfault.pager.core.planner import Books, Load, Planner, Run, Work
from userfault.pager.core.states import CACHED, MISSING
from userfault.pager.core.touches import Touches

_STREAMS = 32  # that are remembered; the oldest is forgotten first
# Of a stream while it is recorded.  Twice as much would save half of the faults that are left, and
# leave twice as many pages at its end of which nobody knows whether they were touched.
_WINDOW_BYTES = 32 << 10


class Recording(Outer):
    """The planner of a mapping whose first touches are recorded; when that is over, `inner`."""

    def __init__(self, inner: Planner, books: Books, touches: Touches) -> None:
        super().__init__(inner)
        self._books = books
        self._touches = touches
        self._most = max(_WINDOW_BYTES // books.plan.page_size, 1)
        self._ends: dict[int, Run] = {}  # where the next fault of a stream comes -> what it has had
        self._wanted: deque[Run] = deque()

    def fault(self, page: int) -> Run:
        """The page, or the next window of its stream."""
        return self.inner.fault(page) if self._touches.over else self._noted(page, MISSING)

    def minor(self, page: int) -> Run:
        """The same of pages that are complete."""
        return self.inner.minor(page) if self._touches.over else self._noted(page, CACHED)

    def _noted(self, page: int, state: int) -> Run:
        ends = self._ends
        before = ends.pop(page, None)
        window = 1
        if before is not None:
            self._touches.note(*before)
            window = min(2 * before[1], self._most)
        self._touches.note(page)
        if page in self._books.failures:
            return page, 1
        count = self._books.pages.run(page, window, state)
        ends[page + count] = page, count
        if len(ends) > _STREAMS:
            del ends[next(iter(ends))]
        return page, count

    def want(self, page: int, count: int) -> None:
        """Whoever asks knows what will be touched: that is noted, and filled at once."""
        if self._touches.over:
            self.inner.want(page, count)
        else:
            self._touches.note(page, count)
            self._wanted.append((page, count))

    def forget(self) -> None:
        """Nothing more in advance."""
        self._wanted.clear()
        self.inner.forget()

    @property
    def eager(self) -> bool:
        """What was asked for; the rest when the recording is over."""
        return bool(self._wanted) or (self._touches.over and self.inner.eager)

    def idle(self, load: Load) -> Work | None:
        """What was asked for; the rest when the recording is over."""
        while self._wanted and not load.full:
            page, count = self._wanted.popleft()
            books = self._books
            start = books.pages.find(MISSING, page, page + count)
            if start < 0:
                continue
            most = 1 if books.failures else min(books.plan.chunk_pages, load.room)
            length = books.pages.run(start, min(page + count - start, most), MISSING)
            if length == 0:  # no room
                return None
            length = books.reachable(start, length)
            self._wanted.appendleft((start + length, page + count - start - length))
            return start, length
        return self.inner.idle(load) if self._touches.over else None
