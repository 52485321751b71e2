"""What a refusal of the kernel means for a fill, and what is done about it: a table by errno.

Facts: ioctl_userfaultfd(2); EAGAIN after an event, and that it hides the errno of a partial fill,
measured on 6.1 to 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from userfault.pager.core.actions import (
    COPY,
    POISON,
    UNPROTECT,
    ZERO,
    EndClient,
    Fill,
    Finish,
    Found,
    Inspect,
    Wake,
)
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.pauses import Pauses
from userfault.pager.core.poverty import Poverty
from userfault.pager.core.put_aside import PutAside, wake_range
from userfault.pager.core.states import CACHED, FILLING, MISSING, PRESENT, REMOVED, SPILLED


class Refusals:
    """What the kernel refused one mapping.  `deferred`: fills that met EAGAIN, put aside.

    `leave`: to be called when its process has ended.  `early`: see `Plan`.
    """

    def __init__(
        self,
        ledger: Ledger,
        pauses: Pauses,
        leave: Callable[[], None],
    ) -> None:
        self.put_aside = PutAside(ledger)
        self.deferred = self.put_aside.fills
        self._ledger = ledger
        self._poverty = Poverty(ledger, pauses)
        self._leave = leave
        self.early = ledger.plan.early

    def release_owner(self) -> None:
        """Its core was released, and is not to be kept by this."""
        self._leave = _nothing

    def failed(self, fill: Fill, code: int, done_bytes: int, now: float) -> None:
        """`fill` stopped with errno `code` after `done_bytes`; decide about the rest."""
        ledger = self._ledger
        done = done_bytes >> ledger.shift
        if done:
            ledger.counters.partial += 1
            ledger.done(
                Fill(fill.kind, fill.page, done, fill.address, fill.demand, protect=fill.protect)
            )
            fill = fill.rest(done, ledger.shift)
            if not fill.count:
                return
            if code == errno.EAGAIN:  # it hides the real error, which the rest will show
                ledger.out.appendleft(fill)
                return
        _REFUSALS.get(code, Refusals._refused)(self, fill, code, now)

    def inspected(self, look: Inspect, found: Found, now: float) -> None:
        """The answer to `Inspect`: whose page it is, or that no page could be allocated.

        The look may have met what mremap has moved there, and whose event is not read yet.  So it
        counts once the fill was refused again: that begins with a look for events.
        """
        ledger = self._ledger
        page = look.page
        if ledger.pages.states[page] != FILLING:
            return
        if found is Found.NOTHING and ledger.plan.exists_is_ambiguous:
            self._poverty.hidden(page, now)
            return
        again = Fill(
            look.kind, page, 1, look.address, look.demand, look.data, look.data_page, found
        )
        ledger.out.appendleft(again)

    def beyond_end(self, fill: Fill, held: int) -> None:
        """The client cut the file behind the memory to `held` pages: beyond is SIGBUS."""
        inside = max(min(held - fill.page, fill.count), 0)
        if inside:
            first = fill.rest(0, self._ledger.shift)
            first.count = inside
            self._ledger.out.appendleft(first)
        for index in range(inside, fill.count):
            self._gone(fill.single(index, self._ledger.shift), errno.EFAULT, 0.0)

    def not_cached(self, fill: Fill) -> None:
        """CONTINUE found no page: it was dropped a moment ago.  Who waits is decided anew."""
        ledger = self._ledger
        # A minor fault on a MISSING page said that the client had written it: so it dropped it too.
        # (Under a budget nobody else writes, and the page may have been taken out since.)
        foreign = fill.demand and ledger.budget is None
        dropped = () if fill.page < 0 else (CACHED, MISSING) if foreign else (CACHED,)
        for state in dropped:
            for page, count in ledger.pages.runs(fill.page, fill.count, state):
                ledger.pages.move(page, count, REMOVED)
        inspecting = not fill.demand and ledger.pages.states[fill.page] == FILLING
        if inspecting:
            self._poverty.not_cached(fill.page)
        wake_range(ledger, fill)
        ledger.finish_if_settled()

    def _event_pending(self, fill: Fill, _code: int, _now: float) -> None:
        """EAGAIN: an event waits to be read, or its thread has not run since."""
        ledger = self._ledger
        ledger.counters.again += 1
        fill.found = None
        if self._is_watchdogs(fill):
            return
        self.deferred.append(fill)
        if fill.page >= 0:
            ledger.put_off(fill.page, fill.count)
        else:  # only faults ask for what is none of our pages
            ledger.watch.wait(-fill.address)
            ledger.timed = True

    def _page_exists(self, fill: Fill, _code: int, _now: float) -> None:
        """EEXIST: the first page is there.  Wake its waiters and go on behind it."""
        ledger = self._ledger
        ledger.counters.exists += 1
        page, plan = fill.page, ledger.plan
        if fill.kind == POISON and plan.evicts and fill.found is None:
            self._marked(fill)
            return
        filling = page >= 0 and ledger.pages.states[page] == FILLING
        ours = not plan.shared and not plan.restored  # then nobody else fills it
        if filling and fill.kind in (COPY, ZERO) and (plan.exists_is_ambiguous or ours):
            self._there(fill)
        else:
            if page >= 0 and ledger.pages.states[page] in (FILLING, CACHED, SPILLED):
                ledger.settle(page, 1, PRESENT)
            else:
                ledger.watch.served(page if page >= 0 else -fill.address, 1)
            ledger.out.append(Wake(fill.address, 1 << ledger.shift))
        rest = fill.rest(1, ledger.shift)
        if rest.count:
            ledger.out.append(rest)
        ledger.finish_if_settled()

    def _marked(self, fill: Fill) -> None:
        """A page that was protected, and was taken out, leaves that mark behind in the page table,
        where POISON takes it for a page (mfill_atomic_pte_poison, measured on 6.18).  So it is
        lifted first; what is there then is one."""
        out = self._ledger.out
        fill.found = Found.NOTHING
        out.appendleft(fill)
        out.appendleft(Fill(UNPROTECT, fill.page, fill.count, fill.address))

    def _there(self, fill: Fill) -> None:
        """It has to be looked at; or it was, and no event says that anything has moved since."""
        ledger, page, found = self._ledger, fill.page, fill.found
        shared = ledger.plan.shared
        if found in (None, Found.NO_MAPPING):
            look = Inspect(page, fill.address, not shared, fill.kind, fill.data, fill.data_page,
                           fill.demand)  # fmt: skip
            ledger.out.append(look)
        elif shared or found in (Found.SAME, Found.NOTHING):
            # Nothing, and yet no room: a guard region (7.2).  Once that is lifted it reads zero.
            ledger.settle(page, 1, PRESENT)
            ledger.wake(page, 1)
        else:
            self._not_ours(page, found)

    def _not_ours(self, page: int, found: Found) -> None:
        """Private memory holds a page that we did not fill, and its owner cannot have written."""
        cause = "a page was there that the pager had not filled"
        cure = "look for what else fills this memory; report it if it is nothing of yours"
        if found is Found.OTHER:
            text = f"page {page} of lazily filled memory: {cause} ({cure})"
            self._ledger.out.append(EndClient(text))
        else:
            self._ledger.poison(page, 1, cause, cure)

    def _not_mapped(self, fill: Fill, _code: int, _now: float) -> None:
        """ENOENT: no one mapping holds the range: cut it, or the page is mapped no more.

        That an event has moved it says EAGAIN; but a fill that mremap overtakes has looked for
        events before, and finds its mapping gone (since 6.9).  So a page has gone where nothing is
        mapped and no event is pending: a second fill tells, since nobody reads in between.
        """
        ledger = self._ledger
        if fill.count > 1:  # mprotect or munmap split the mapping: halves find the border
            half = fill.count // 2
            rest = fill.rest(half, ledger.shift)
            fill.count = half
            ledger.out.appendleft(rest)
            ledger.out.appendleft(fill)
            return
        if self.early:  # it is perhaps yet to be registered
            self._event_pending(fill, _code, _now)
            return
        if fill.found is not Found.NO_MAPPING:
            fill.found = Found.NO_MAPPING
            ledger.out.appendleft(fill)
            return
        ledger.not_mapped(fill.address)
        ledger.out.append(Wake(fill.address, 1 << ledger.shift))
        if fill.page >= 0 and ledger.pages.states[fill.page] in (FILLING, CACHED):
            ledger.forsake(fill.page, 1)
            if ledger.pages.states[fill.page] == FILLING:  # another mapping shows it, asks again
                ledger.pages.revert(fill.page, 1)
                ledger.wake(fill.page, 1)

    def _gone(self, fill: Fill, _code: int, _now: float) -> None:
        """The page is no longer there to be filled; whoever waits learns it from the kernel."""
        ledger = self._ledger
        if fill.page >= 0 and ledger.pages.states[fill.page] in (FILLING, CACHED):
            ledger.settle(fill.page, 1, REMOVED)
        ledger.out.append(Wake(fill.address, 1 << ledger.shift))
        ledger.finish_if_settled()

    def _owner_gone(self, fill: Fill, _code: int, _now: float) -> None:
        """ESRCH: the process has ended; nobody waits any more."""
        ledger = self._ledger
        ledger.finished = True
        self.deferred.append(fill)
        self._leave()
        ledger.out.clear()
        self.deferred.clear()
        ledger.out.append(Finish((), owner_gone=True))  # in place of any other

    def _no_memory(self, fill: Fill, code: int, now: float) -> None:
        """ENOMEM: try again a little later, a bounded number of times."""
        ledger = self._ledger
        if self._is_watchdogs(fill):
            return
        if fill.count > 1:
            ledger.out.appendleft(fill.rest(1, ledger.shift))
            self._no_memory(fill.single(0, self._ledger.shift), code, now)
            return
        if fill.page < 0 or ledger.pages.states[fill.page] != FILLING:
            self.deferred.append(fill)
            return
        self._poverty.refused(fill.page, now)

    def _is_watchdogs(self, fill: Fill) -> bool:
        """Poison that the watchdog tried: what is under way for the page goes on without it."""
        if fill.kind != POISON or fill.demand:
            return False
        self._ledger.watch.again(fill.page)
        self._ledger.timed = True
        return True

    def _refused(self, fill: Fill, code: int, _now: float) -> None:
        """Any other errno: nothing we know of helps, so give the pages up with that cause."""
        ledger = self._ledger
        if fill.page < 0 and code == errno.EFAULT:  # the file ends before it, or it was dropped
            wake_range(ledger, fill)
            return
        name = errno.errorcode.get(code, str(code))
        if fill.kind == POISON or fill.page < 0:
            ledger.out.append(EndClient(f"{name} while giving up a page"))
            return
        cause = f"the kernel refused to fill it: {name}"
        ledger.poison(fill.page, fill.count, cause, "report this")


_REFUSALS = {
    errno.EAGAIN: Refusals._event_pending,
    errno.EEXIST: Refusals._page_exists,
    errno.ENOENT: Refusals._not_mapped,
    errno.ESRCH: Refusals._owner_gone,
    errno.ENOMEM: Refusals._no_memory,
}


def _nothing() -> None:
    """There is no core to leave any more."""
