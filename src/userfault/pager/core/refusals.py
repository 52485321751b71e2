"""What a refusal of the kernel means for a fill, and what is done about it: a table by errno.

Facts: ioctl_userfaultfd(2); EAGAIN after an event, and that it hides the errno of a partial fill,
measured on 6.1 to 7.3.
"""

from __future__ import annotations

import errno
from collections import deque

from userfault.pager.core.actions import (
    CONTINUE,
    COPY,
    POISON,
    ZERO,
    EndClient,
    Fill,
    Finish,
    Inspect,
    Wake,
)
from userfault.pager.core.reading import FIRST_PAUSE_S, Reading
from userfault.pager.core.states import CACHED, FILLING, MISSING, POISONED, PRESENT, REMOVED

# Refusals for want of memory are repeated this often, with growing pauses, before giving up.
MEMORY_RETRIES = 8


class Refusing(Reading):
    """Adds the answers to refusals."""

    def failed(self, fill: Fill, code: int, done_bytes: int, now: float) -> None:
        """`fill` stopped with errno `code` after `done_bytes`; decide about the rest."""
        done = done_bytes >> self._shift
        if done:
            self.counters.partial += 1
            first = Fill(fill.kind, fill.page, done, fill.address, fill.demand)
            self.done(first)
            fill = self._rest(fill, done)
            if not fill.count:
                return
            if code == errno.EAGAIN:  # it hides the real error, which the rest will show
                self.out.appendleft(fill)
                return
        _REFUSALS.get(code, Refusing._refused)(self, fill, code, now)

    def retry(self) -> None:
        """Events were read: try again what met EAGAIN, as far as it is still to be filled."""
        deferred, self.deferred = self.deferred, deque()
        for fill in deferred:
            self._again(fill)
        self._finish_if_settled()

    def inspected(self, page: int, mapped: bool, now: float) -> None:
        """The answer to `Inspect`: EEXIST was true, or hid that no page could be allocated."""
        if self.pages.states[page] != FILLING:
            return
        if mapped:
            self._settle(page, 1, PRESENT)
            self._wake(page, 1)
        elif self.plan.shared:  # perhaps cached: the client wrote it through another mapping
            self._pause(now + FIRST_PAUSE_S * 2 ** (self._refusals.get(page, 0) + 1), page)
            self._act(CONTINUE, page, 1, demand=False)
        else:
            address = self.segments.address_of(page)
            self._no_memory(Fill(COPY, page, 1, address), errno.ENOMEM, now)

    def beyond_end(self, fill: Fill, held: int) -> None:
        """The client cut the file behind the memory to `held` pages: beyond is SIGBUS."""
        inside = max(min(held - fill.page, fill.count), 0)
        if inside:
            first = self._rest(fill, 0)
            first.count = inside
            self.out.appendleft(first)
        for index in range(inside, fill.count):
            self._gone(self._single(fill, index), errno.EFAULT, 0.0)

    def not_cached(self, fill: Fill) -> None:
        """CONTINUE found no page: it was dropped a moment ago.  Who waits is decided anew."""
        # A minor fault on a MISSING page said that the client had written it: so it dropped it too.
        dropped = () if fill.page < 0 else (CACHED, MISSING) if fill.demand else (CACHED,)
        for state in dropped:
            for page, count in self.pages.runs(fill.page, fill.count, state):
                self.pages.move(page, count, REMOVED)
        inspecting = not fill.demand and self.pages.states[fill.page] == FILLING
        if inspecting and self._refused_memory(fill.page) > MEMORY_RETRIES:  # see `inspected`
            self._pauses = [each for each in self._pauses if each[1] != fill.page]
            self._no_memory_left(fill.page)
        self.out.append(Wake(fill.address, fill.count << self._shift))
        self._finish_if_settled()

    def _event_pending(self, fill: Fill, _code: int, _now: float) -> None:
        """EAGAIN: an event waits to be read, or its thread has not run since."""
        self.counters.again += 1
        if self._is_watchdogs(fill):
            return
        self.deferred.append(fill)
        if fill.page >= 0:
            self._put_off(fill.page, fill.count)
        else:  # only faults ask for what is none of our pages
            self.watch.wait(-fill.address)
            self.timed = True

    def _page_exists(self, fill: Fill, _code: int, _now: float) -> None:
        """EEXIST: the first page is there.  Wake its waiters and go on behind it."""
        self.counters.exists += 1
        page = fill.page
        filling = page >= 0 and self.pages.states[page] == FILLING
        if filling and self.plan.exists_is_ambiguous and fill.kind in (COPY, ZERO):
            self.out.append(Inspect(page, fill.address))
        else:
            if page >= 0 and self.pages.states[page] in (FILLING, CACHED):
                self._settle(page, 1, PRESENT)
            else:
                self.watch.served(page if page >= 0 else -fill.address, 1)
            self.out.append(Wake(fill.address, 1 << self._shift))
        rest = self._rest(fill, 1)
        if rest.count:
            self.out.append(rest)
        self._finish_if_settled()

    def _not_mapped(self, fill: Fill, _code: int, _now: float) -> None:
        """ENOENT: no one mapping holds the range: cut it, or the page is mapped no more."""
        if fill.count > 1:  # mprotect or munmap split the mapping: halves find the border
            half = fill.count // 2
            rest = self._rest(fill, half)
            fill.count = half
            self.out.appendleft(rest)
            self.out.appendleft(fill)
            return
        self.segments.unmap(fill.address, fill.address + (1 << self._shift))
        self._straight = 0
        self.out.append(Wake(fill.address, 1 << self._shift))
        if fill.page >= 0 and self.pages.states[fill.page] in (FILLING, CACHED):
            self._forsake(fill.page, 1)
            if self.pages.states[fill.page] == FILLING:  # another mapping shows it, and asks again
                self._revert(fill.page, 1)
                self._wake(fill.page, 1)

    def _gone(self, fill: Fill, _code: int, _now: float) -> None:
        """The page is no longer there to be filled; whoever waits learns it from the kernel."""
        if fill.page >= 0 and self.pages.states[fill.page] in (FILLING, CACHED):
            self._settle(fill.page, 1, REMOVED)
        self.out.append(Wake(fill.address, 1 << self._shift))
        self._finish_if_settled()

    def _owner_gone(self, fill: Fill, _code: int, _now: float) -> None:
        """ESRCH: the process has ended; nobody waits any more."""
        self.finished = True
        self.deferred.append(fill)
        self.leave()
        self.out.clear()
        self.deferred.clear()
        self.out.append(Finish((), owner_gone=True))  # in place of any other

    def _no_memory(self, fill: Fill, code: int, now: float) -> None:
        """ENOMEM: try again a little later, a bounded number of times."""
        if self._is_watchdogs(fill):
            return
        if fill.count > 1:
            self.out.appendleft(self._rest(fill, 1))
            self._no_memory(self._single(fill, 0), code, now)
            return
        if fill.page < 0 or self.pages.states[fill.page] != FILLING:
            self.deferred.append(fill)
            return
        tries = self._refused_memory(fill.page)
        if tries > MEMORY_RETRIES:
            self._no_memory_left(fill.page)
        else:
            self._pause(now + FIRST_PAUSE_S * 2**tries, fill.page)

    def _is_watchdogs(self, fill: Fill) -> bool:
        """Poison that the watchdog tried: what is under way for the page goes on without it."""
        if fill.kind != POISON or fill.demand:
            return False
        self.watch.again(fill.page)
        self.timed = True
        return True

    def _refused_memory(self, page: int) -> int:
        """Count one more refusal for want of memory; how many there were."""
        tries = self._refusals[page] = self._refusals.get(page, 0) + 1
        return tries

    def _no_memory_left(self, page: int) -> None:
        self._poison(
            page,
            1,
            "the kernel has no memory for the page",
            "raise the limit that is hit: memory cgroup, tmpfs size or hugetlb pool",
        )

    def _refused(self, fill: Fill, code: int, _now: float) -> None:
        """Any other errno: nothing we know of helps, so give the pages up with that cause."""
        if fill.page < 0 and code == errno.EFAULT:  # the file ends before it, or it was dropped
            self.out.append(Wake(fill.address, 1 << self._shift))
            return
        if fill.kind == POISON or fill.page < 0:
            self.out.append(EndClient(f"{errno.errorcode.get(code, code)} while giving up a page"))
            return
        name = errno.errorcode.get(code, str(code))
        self._poison(fill.page, fill.count, f"the kernel refused to fill it: {name}", "report this")

    def _again(self, fill: Fill) -> None:
        """Repeat a deferred fill as far as its pages still wait; wake who waits at others."""
        page, states = fill.page, self.pages.states
        settled = page < 0 or states[page] in (MISSING, PRESENT, REMOVED)
        if settled and fill.count == 1 and fill.kind in (ZERO, CONTINUE):
            self.out.append(fill)  # zeros of a dropped page, a page of the client's: right always
            return
        left = fill.count
        for state in _REPEATED[fill.kind, fill.demand]:
            for first, count in self.pages.runs(page, fill.count, state):
                self._act(fill.kind, first, count, fill.demand, fill.data, fill.data_page)
                left -= count
        if left:
            self.out.append(Wake(fill.address, fill.count << self._shift))

    def _abandon(self, fill: Fill) -> None:
        """Forget a fill; its pages are the source's again, its waiters fault again."""
        if fill.page >= 0:
            self._revert(fill.page, fill.count)
            self._wake(fill.page, fill.count)
        self.out.append(Wake(fill.address, fill.count << self._shift))

    def _single(self, fill: Fill, index: int) -> Fill:
        rest = self._rest(fill, index)
        rest.count = 1
        return rest


# Which pages of a fill that met EAGAIN still want it, by kind and demand.  (A CONTINUE that nobody
# waits for asks whether a page that could not be filled is cached.)
_REPEATED = {
    (COPY, True): (FILLING,),
    (COPY, False): (FILLING,),
    (ZERO, True): (FILLING,),
    (ZERO, False): (FILLING,),
    (CONTINUE, True): (CACHED,),
    (CONTINUE, False): (CACHED, FILLING),
    (POISON, True): (FILLING, POISONED),
}

_REFUSALS = {
    errno.EAGAIN: Refusing._event_pending,
    errno.EEXIST: Refusing._page_exists,
    errno.ENOENT: Refusing._not_mapped,
    errno.ESRCH: Refusing._owner_gone,
    errno.ENOMEM: Refusing._no_memory,
}
