"""In which order clean pages go: behind streams first, what came back soon last, the newest not.

The kernel does not tell what was read, so what counts is when pages came in, and with what.
"""

from __future__ import annotations

from collections import deque

from userfault.pager.core.states import CLEAN, Pages

BATCH = 256  # pages
FLOOR = 32  # of the newest pages at least so many stay: one instruction may touch several
# Of a budget, what is taken out at once, and what stays, is one page in so many at most.
_SHARE = 8
_ENDS = 32  # streams remembered


def share_of(limit: int) -> int:
    """Of so many pages that may be in, how many are taken out at once, at most."""
    return min(BATCH, limit // _SHARE)


class Queue:
    """Runs of pages, oldest first; some of them have changed their state since."""

    def __init__(self) -> None:
        self.runs: deque[tuple[int, int]] = deque()
        self.pages = 0

    def push(self, page: int, count: int) -> None:
        self.pages += count
        if self.runs:
            first, length = self.runs[-1]
            if first + length == page and length < BATCH:  # so streams make few runs
                self.runs[-1] = (first, length + count)
                return
        self.runs.append((page, count))

    def pop(self, most: int) -> tuple[int, int]:
        """The oldest, at most so many pages of it."""
        page, count = self.runs.popleft()
        if count > most:
            self.runs.appendleft((page + most, count - most))
            count = most
        self.pages -= count
        return page, count

    def back(self, page: int, count: int) -> None:
        """It is the oldest again."""
        self.runs.appendleft((page, count))
        self.pages += count

    def tidy(self, pages: Pages, state: int) -> None:
        """Forget what is in it twice: pages that were dropped and touched time and again."""
        if self.pages > 2 * pages.count:
            self.runs.clear()
            self.pages = 0
            for page, count in pages.runs(0, pages.count, state):
                self.push(page, count)


class Order:
    """The clean pages of `pages`.  `limit`: how many pages may be in, as it is now."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._behind, self._new, self._kept = Queue(), Queue(), Queue()
        self._young: deque[tuple[int, int, Queue]] = deque()  # the newest
        self._young_pages = 0
        self._ends: dict[int, None] = {}  # pages at which a stream would go on

    def came(self, page: int, count: int, limit: int, *, kept: bool) -> None:
        """These have come in; `kept`: again, soon after they had gone."""
        streams = self._streams(page, count)
        queue = self._kept if kept else self._behind if streams else self._new
        self._grow_up(page, count, queue, limit)

    def found(self, page: int, count: int) -> None:
        """These were in when a worker took over."""
        self._new.push(page, count)

    def oldest(self, most: int, limit: int) -> tuple[int, int] | None:
        """The run that goes next, of so many pages at most; None where what is left stays."""
        queue = self._next(limit)
        return None if queue is None else queue.pop(most)

    def _next(self, limit: int) -> Queue | None:
        """Whose oldest go next."""
        behind, new, kept = self._behind, self._new, self._kept
        if behind.runs:
            return behind
        # What was in once only has a quarter of the room, if there is better to keep.
        if new.runs and (new.pages > limit >> 2 or not kept.runs):
            return new
        return kept if kept.runs else None

    def _grow_up(self, page: int, count: int, queue: Queue, limit: int) -> None:
        """These are the newest, which stay; older ones may go from now on, each from its queue."""
        young = self._young
        young.append((page, count, queue))
        self._young_pages += count
        stay = max(min(max(min(limit // _SHARE, BATCH), FLOOR), limit // 2), 1)
        while self._young_pages - young[0][1] >= stay:
            page, count, queue = young.popleft()
            self._young_pages -= count
            queue.push(page, count)
            queue.tidy(self._pages, CLEAN)

    def _streams(self, page: int, count: int) -> bool:
        """Whether they go on where others ended, up or down."""
        ends = self._ends
        goes_on = page in ends or page + count in ends
        if goes_on:
            ends.pop(page, None)
            ends.pop(page + count, None)
        ends[page + count] = ends[page] = None
        while len(ends) > 2 * _ENDS:
            del ends[next(iter(ends))]
        return goes_on
