"""How much of one mapping may be in memory, and which pages go when it is more.

Why no byte is lost between "clean" and "gone" (the essay is docs/residency.md):

* CLEAN is said of a page only if it has the source's bytes and every mapping of it is protected:
  it was filled with the protect flag, and mapped again with it.  So a write to it asks first, and
  it is PRESENT, in memory that outlives this process, before the writer runs on.
* A page leaves memory only from EVICTING, which only CLEAN leads to, or from SPILLED, which only
  SPILLING leads to: protected, then written to the spill file, then said.
* Nobody decides while the page is taken out, since who decides is who takes it out; and a process
  that is killed meanwhile leaves EVICTING behind, so that its successor does it once more.

Which go: what streams have left behind, then the rest in the order in which it came.  What comes
back soon after it went (within as many evictions as there is room for: it would have stayed with
at most twice the room) is kept apart, and goes last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from userfault.pager.core.actions import Action, Evict, Spill
from userfault.pager.core.order import BATCH, FLOOR, Order, Queue, share_of
from userfault.pager.core.plan import UNLIMITED, Counters, Plan
from userfault.pager.core.segments import Segments
from userfault.pager.core.states import CLEAN, EVICTING, MISSING, PRESENT, SPILLED, SPILLING, Pages

_BLOCK = 16  # pages: what has gone in larger runs is remembered by so many
_REMEMBERED = 1 << 16
_PATIENCE = 1024  # pages filled until a spill that failed is tried again
_RECENT = 4096  # pages filled that `crowded` is about


class Books(Protocol):
    """What is known of one of the mappings that share the pages."""

    out: deque[Action]
    counters: Counters
    segments: Segments
    left: Segments
    room: int

    @property
    def peers(self) -> Sequence[Books]:
        """All of them, this one among them."""
        ...

    def wake(self, page: int, count: int) -> None:
        """Whoever waits for these pages faults again."""
        ...


class Residency:
    """The budget of one mapping, or of those that share its pages (a process and its children).

    `limit`: pages that may be in.  `hidden`: pages in memory that the states do not tell of, as
    measured.  `stopped`: why nothing is taken out any more, if so.  `spill_failed`: why the spill
    file took nothing, the last time it was tried.
    """

    def __init__(self, plan: Plan, pages: Pages) -> None:
        self.limit = plan.resident or UNLIMITED
        self.hidden = 0
        self.lifted = False  # all of it was asked for, and none can be taken out
        self.stopped = ""
        self.spill_failed = ""
        self.refaulted = 0  # of the last pages filled, decaying
        self._pages = pages
        self._room = 4 * plan.window_pages  # for what comes with a fault, once pages go for it
        self._evicts = plan.evicts
        self._spills = plan.spills
        self._order = Order(pages)
        self._written = Queue()
        self._leaving = 0  # pages on their way out
        self._clock = 0  # pages that have gone so far
        self._gone: dict[int, int] = {}  # by `_keys`: the clock when it went, oldest first
        self._asked: set[int] = set()  # somebody waits for these, which are on their way out
        self._filled = 0
        self._spill_at = 0  # how much was filled when a spill is to be tried again

    @property
    def room(self) -> int:
        """Pages that may come in without any going."""
        return max((UNLIMITED if self.lifted else self.limit) - self._pages.held - self.hidden, 0)

    @property
    def turns(self) -> bool:
        """Pages have gone for others that came: what nobody asked for is not worth that."""
        return self._clock > 0

    @property
    def pressed(self) -> bool:
        """Much of what may be in is on its way out still: no more of it can wait."""
        return self._leaving * 4 > self.limit

    @property
    def crowded(self) -> bool:
        """Of the pages filled of late more than a quarter had been in a short time before."""
        return self.refaulted * 4 > _RECENT

    # --- what comes in ---------------------------------------------------------------------------

    def filled(self, books: Books, page: int, count: int, *, clean: bool) -> None:
        """These pages are in; make room for the next ones."""
        self._filled += count
        came_back = self._came_back(page, count)
        self.refaulted += (
            ((_RECENT if came_back else 0) - self.refaulted) * min(count, _RECENT) // _RECENT
        )
        if not clean:
            self.written(page, count)
        else:
            self._order.came(page, count, self.limit, kept=came_back)
        if came_back:
            books.counters.refaults += count
        self.make_room(books)

    def written(self, page: int, count: int) -> None:
        """These clean pages are about to be written."""
        self._written.push(page, count)
        self._written.tidy(self._pages, PRESENT)

    def _came_back(self, page: int, count: int) -> bool:
        """Whether one of these pages had gone a short time ago."""
        gone, long_ago = self._gone, self._clock - self.limit
        return any(gone.pop(key, long_ago - 1) >= long_ago for key in _keys(page, count)) or (
            count < _BLOCK and gone.get(~(page // _BLOCK), long_ago - 1) >= long_ago
        )

    # --- what goes -------------------------------------------------------------------------------

    def make_room(self, books: Books) -> None:
        """Have pages go, if more are in than may be."""
        over = self._pages.held - self._leaving + self.hidden - self.limit
        if over <= 0 or not self._evicts or self.stopped or _moved(books):
            return
        batch = share_of(self.limit)
        left = self._evict(books, over + batch)
        if (
            left > batch
            and self._spills
            and len(books.peers) == 1
            and self._filled >= self._spill_at
        ):
            self._spill(books, left)

    def _evict(self, books: Books, left: int) -> int:
        """Clean pages, oldest first; how many should have gone and have not."""
        pages = self._pages
        books.room = self._room  # from now on what comes in takes the place of something
        while left > 0 and (run := self._order.oldest(left, self.limit)) is not None:
            page, count = run
            for first, length in pages.runs(page, count, CLEAN):
                pages.move(first, length, EVICTING)
                books.out.append(Evict(first, length))
                self._leaving += length
                left -= length
        return left

    def _spill(self, books: Books, left: int) -> None:
        """Pages that were written, oldest first."""
        pages, written = self._pages, self._written
        tries, floor = len(written.runs), max(min(FLOOR, self.limit // 2), 1)
        while left > 0 and tries and written.pages > floor:
            tries -= 1
            page, count = written.pop(min(left, BATCH))
            for first, length in pages.runs(page, count, PRESENT):
                left -= self._spill_run(books, first, length)

    def _spill_run(self, books: Books, page: int, count: int) -> int:
        end, asked = page + count, 0
        while page < end:
            reach = min(books.segments.reach(page), end - page)
            if not reach:  # mapped nowhere: it stays
                page += 1
                continue
            self._pages.move(page, reach, SPILLING)
            books.out.append(Spill(page, reach, books.segments.address_of(page)))
            page, asked = page + reach, asked + reach
        return asked

    def dropped(self, books: Books, page: int, count: int) -> None:
        """The client drops these pages: what it has not written need not stay for it."""
        if self._evicts and not self.stopped and not _moved(books):
            for first, length in self._pages.runs(page, count, CLEAN):
                books.out.append(Evict(first, length, dropped=True))

    def wait(self, page: int) -> None:
        """A thread waits for a page that is on its way out."""
        self._asked.add(page)

    # --- what became of it -----------------------------------------------------------------------

    def evicted(self, books: Books, action: Evict) -> None:
        """They are out of memory."""
        self._leaving -= 0 if action.dropped else action.count
        for page, count in self._pages.runs(action.page, action.count, EVICTING):
            self._pages.move(page, count, MISSING)
            self._went(books, page, count)
        self._wake(books, action)

    def not_evicted(self, books: Books, action: Evict, cause: str) -> None:
        """They are as they were, and so it will be with others."""
        self.stopped = cause
        self._leaving -= 0 if action.dropped else action.count
        self._back(action, EVICTING, CLEAN)
        self._wake(books, action)

    def spilled(self, books: Books, action: Spill) -> None:
        """The spill file has them: they may be taken out of memory."""
        self.spill_failed = ""
        for page, count in self._pages.runs(action.page, action.count, SPILLING):
            self._pages.move(page, count, SPILLED)
            books.counters.spilled += count
            self._went(books, page, count)

    def not_spilled(self, books: Books, action: Spill, cause: str) -> None:
        """They stay in memory.  `cause`: empty where it may work the next time."""
        if cause:
            self.spill_failed = cause
            self._spill_at = self._filled + _PATIENCE
        self._back(action, SPILLING, PRESENT)
        for page, count in self._pages.runs(action.page, action.count, PRESENT):
            self._written.back(page, count)
        self._wake(books, action)

    def out(self, books: Books, action: Spill) -> None:
        """What was spilled is out of memory."""
        self._wake(books, action)

    def _back(self, action: Evict | Spill, old: int, new: int) -> None:
        for page, count in self._pages.runs(action.page, action.count, old):
            self._pages.move(page, count, new)

    def _went(self, books: Books, page: int, count: int) -> None:
        books.counters.evicted += count
        self._clock += count
        gone, clock = self._gone, self._clock
        for key in _keys(page, count):
            gone.pop(key, None)
            gone[key] = clock
        while len(gone) > min(self.limit, _REMEMBERED):
            del gone[next(iter(gone))]

    def _wake(self, books: Books, action: Evict | Spill) -> None:
        for page in [each for each in self._asked if 0 <= each - action.page < action.count]:
            self._asked.discard(page)
            books.wake(page, 1)

    # --- after a takeover ------------------------------------------------------------------------

    def resume(self, books: Books) -> None:
        """A worker was killed: what was on its way out goes, what was being spilled stays."""
        pages = self._pages
        for page, count in pages.runs(0, pages.count, SPILLING):
            pages.move(page, count, PRESENT)
        for page, count in pages.runs(0, pages.count, EVICTING):
            books.out.append(Evict(page, count))
            self._leaving += count
        if self._evicts:
            for page, count in pages.runs(0, pages.count, CLEAN):
                self._order.found(page, count)
            for page, count in pages.runs(0, pages.count, PRESENT):
                self._written.push(page, count)


def _keys(page: int, count: int) -> Iterable[int]:
    """What a run is remembered by: its pages, or the blocks of it below zero."""
    if count < _BLOCK:
        return range(page, page + count)
    return range(~((page + count - 1) // _BLOCK), ~(page // _BLOCK) + 1)


def _moved(books: Books) -> bool:
    """Whether a page may be shown, unprotected, at a place that mremap has moved it from."""
    return any(len(peer.left) for peer in books.peers)
