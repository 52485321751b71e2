"""Bugs to plant in the decision core or its driver, to see that the simulation finds them.

Each is a mistake that somebody could make in good faith: a wake left out, an order changed, a case
forgotten.  `plant` puts it in; `examples` says within how many random programs it must be found.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from pager_core.simparts import MINOR
from pager_core.simstate import State
from userfault.pager.core import put_aside
from userfault.pager.core import refusals as module
from userfault.pager.core.actions import POISON, ZERO, Fill, Finish, Found, Wake
from userfault.pager.core.core import MappingCore
from userfault.pager.core.filling import Filling
from userfault.pager.core.ledger import Ledger
from userfault.pager.core.overdue import Overseer
from userfault.pager.core.put_aside import PutAside
from userfault.pager.core.reads import Reads
from userfault.pager.core.refusals import Refusals
from userfault.pager.core.states import FILLING, MISSING, POISONED, PRESENT, REMOVED, Pages
from userfault.pager.core.under_way import UnderWay

Plant = Callable[[pytest.MonkeyPatch], None]


class Bug(NamedTuple):
    """A mistake, what programs to look for it in, and how many of them are enough."""

    name: str
    plant: Plant
    theme: str
    examples: int


def _remove_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    def drop(self: Ledger, page: int, count: int) -> None:
        self.pages.move(page, count, REMOVED)
        self.finish_if_settled()

    patch.setattr(Ledger, "drop", drop)


def _present_is_filled_again(patch: pytest.MonkeyPatch) -> None:
    """A missing fault on a page that is marked as filled takes the source, not zeros."""
    fault = MappingCore.fault

    def planted(self: MappingCore, address: int, flags: int) -> None:
        page = self.segments.page_of(address)
        if page >= 0 and not flags & MINOR and self.pages.states[page] == PRESENT:
            self.pages.states[page] = MISSING
            self.pages.unsettled += 1
        fault(self, address, flags)

    patch.setattr(MappingCore, "fault", planted)


def _faults_before_events(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "applies_events_first", False)


def _deferred_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PutAside, "retry", lambda aside: aside.fills.clear())


def _deferred_repeated_blindly(patch: pytest.MonkeyPatch) -> None:
    """What met EAGAIN is repeated as it was, whatever the events said."""

    def again(self: PutAside, fill: Fill) -> None:
        ledger = self._ledger
        if fill.page >= 0 and fill.kind not in (ZERO, POISON):
            for page in range(fill.page, fill.page + fill.count):
                if ledger.pages.states[page] == REMOVED:
                    ledger.pages.states[page] = PRESENT
        ledger.out.append(fill)

    patch.setattr(PutAside, "_again", again)


def _exists_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    exists = Refusals._page_exists

    def planted(self: Refusals, fill: Fill, code: int, now: float) -> None:
        exists(self, fill, code, now)
        out = self._ledger.out
        for wake in [action for action in out if isinstance(action, Wake)]:
            if wake.start == fill.address:
                out.remove(wake)

    patch.setitem(module._REFUSALS, errno.EEXIST, planted)


def _exists_is_believed(patch: pytest.MonkeyPatch) -> None:
    """EEXIST of huge pages may mean that there was no memory."""
    exists = Refusals._page_exists

    def planted(self: Refusals, fill: Fill, code: int, now: float) -> None:
        ledger = self._ledger
        ledger.plan = msgspec.structs.replace(ledger.plan, exists_is_ambiguous=False)
        exists(self, fill, code, now)

    patch.setitem(module._REFUSALS, errno.EEXIST, planted)


def _missing_mapping_is_believed(patch: pytest.MonkeyPatch) -> None:
    """ENOENT of a fill that a move has overtaken means that the page is mapped no more."""
    missed = Refusals._not_mapped

    def planted(self: Refusals, fill: Fill, code: int, now: float) -> None:
        fill.found = Found.NO_MAPPING
        missed(self, fill, code, now)

    patch.setitem(module._REFUSALS, errno.ENOENT, planted)


def _partial_is_whole(patch: pytest.MonkeyPatch) -> None:
    failed = MappingCore.failed

    def planted(self: MappingCore, fill: Fill, code: int, done: int, now: float) -> None:
        if done:
            self.done(fill)
        else:
            failed(self, fill, code, done, now)

    patch.setattr(MappingCore, "failed", planted)


def _child_waits_for_parent(patch: pytest.MonkeyPatch) -> None:
    """The child of a fork believes that its parent's fills will reach it."""
    fork = MappingCore.fork

    def planted(self: MappingCore, pages: Pages | None = None) -> MappingCore:
        filling = pages.runs(0, pages.count, FILLING) if pages else []
        child = fork(self, pages)
        for page, count in filling:
            child.pages.move(page, count, FILLING)
        return child

    patch.setattr(MappingCore, "fork", planted)


def _siblings_sleep_on(patch: pytest.MonkeyPatch) -> None:
    """A fill wakes the waiters of its own mapping only, not those of a child that shares it."""
    patch.setattr(Ledger, "wake_here", lambda *_: None)


def _unmap_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    unmap = MappingCore.unmap

    def planted(self: MappingCore, start: int, end: int) -> None:
        unmap(self, start, end)
        for wake in [action for action in self.out if isinstance(action, Wake)]:
            self.out.remove(wake)

    patch.setattr(MappingCore, "unmap", planted)


def _remap_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    def planted(self: MappingCore, old: int, new: int, length: int) -> None:
        self.segments.remap(old, new, length)
        self.ledger.straight = 0

    patch.setattr(MappingCore, "remap", planted)


def _unmap_drops_for_all(patch: pytest.MonkeyPatch) -> None:
    """munmap in one process drops pages that another one still maps."""
    patch.setattr(Ledger, "forsake", Ledger.drop)


def _one_retry_too_few(patch: pytest.MonkeyPatch) -> None:
    failed = Reads.read_failed

    def planted(self: Reads, page: int, cause: str, now: float, *, demand: bool) -> None:
        failures = self._ledger.failures
        failures[page] = failures.get(page, 0) + 1
        failed(self, page, cause, now, demand=demand)

    patch.setattr(Reads, "read_failed", planted)


def _finish_repeated(patch: pytest.MonkeyPatch) -> None:
    def planted(self: Ledger) -> None:
        if not self.pages.unsettled:
            self.out.append(Finish(self.done_with()))

    patch.setattr(Ledger, "finish_if_settled", planted)


def _leaving_keeps_work(patch: pytest.MonkeyPatch) -> None:
    """A process ends, and what was under way in its name is waited for by the others."""
    patch.setattr(UnderWay, "pages", lambda _: iter(()))


def _poison_unregistered(patch: pytest.MonkeyPatch) -> None:
    """The finish lets go of shared pages whose poison a child forked later would not inherit."""

    def planted(self: Ledger) -> tuple[tuple[int, int], ...]:
        return tuple((held.start, held.end - held.start) for held in self.segments)

    patch.setattr(Ledger, "done_with", planted)


def _giving_up_leaves_fetches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UnderWay, "stop_filling", lambda _: None)


def _bytes_of_another_page(patch: pytest.MonkeyPatch) -> None:
    """The rest of a fill takes its bytes from the beginning of what was fetched."""
    rest = Fill.rest

    def planted(self: Fill, done: int, shift: int) -> Fill:
        left = rest(self, done, shift)
        left.data_page += done if self.data is not None else 0
        return left

    patch.setattr(Fill, "rest", planted)


def _grown_memory_unserved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Filling, "unowned", lambda *_: None)


def _neighbours_poisoned(patch: pytest.MonkeyPatch) -> None:
    """A read of several pages fails, and all of them are given up."""

    def planted(self: Reads, page: int, count: int) -> None:
        self._ledger.poison(page, count, "one of them was bad", "")

    patch.setattr(Reads, "suspect", planted)


def _stops_reading(patch: pytest.MonkeyPatch) -> None:
    """The driver closes a context as soon as everything is in."""
    patch.setattr(State, "reads_on", False)


def _poisoned_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A fault on a page given up is left alone: it is settled, after all."""
    fault = MappingCore.fault

    def planted(self: MappingCore, address: int, flags: int) -> None:
        page = self.segments.page_of(address)
        if page < 0 or self.pages.states[page] != POISONED:
            fault(self, address, flags)

    patch.setattr(MappingCore, "fault", planted)


def _watchdog_poison_is_put_aside(patch: pytest.MonkeyPatch) -> None:
    """The watchdog's poison waits behind an event, while the bytes come."""

    def planted(self: Refusals, fill: Fill, _code: int, _now: float) -> None:
        self.deferred.append(fill)

    patch.setitem(module._REFUSALS, errno.EAGAIN, planted)
    patch.setitem(put_aside._REPEATED, (POISON, False), (FILLING, POISONED))


def _watchdog_poisons_whatever_waits(patch: pytest.MonkeyPatch) -> None:
    """A page whose fault waits is given up whatever became of it, or is becoming of it."""
    patch.setattr(Overseer, "answer", lambda _, page, _cause: "poison" if page >= 0 else "")


BUGS = (
    Bug("remove wakes nobody", _remove_wakes_nobody, "drops", 3000),
    Bug("a page marked as filled is filled again", _present_is_filled_again, "drops", 500),
    Bug("faults are applied before events", _faults_before_events, "drops", 500),
    Bug("deferred fills are forgotten", _deferred_forgotten, "drops", 200),
    Bug("deferred fills are repeated blindly", _deferred_repeated_blindly, "drops", 200),
    Bug("EEXIST wakes nobody", _exists_wakes_nobody, "drops", 4000),
    Bug("an ambiguous EEXIST is believed", _exists_is_believed, "poverty", 300),
    Bug("ENOENT is believed", _missing_mapping_is_believed, "everything", 1500),
    Bug("partial progress counts as whole", _partial_is_whole, "everything", 1000),
    Bug("a child waits for its parent's fills", _child_waits_for_parent, "forks", 200),
    Bug("waiters of a sharing child sleep on", _siblings_sleep_on, "forks", 200),
    Bug("unmap wakes nobody", _unmap_wakes_nobody, "everything", 300),
    Bug("remap wakes nobody", _remap_wakes_nobody, "everything", 800),
    Bug("unmap drops what others map", _unmap_drops_for_all, "forks", 200),
    Bug("one retry too few", _one_retry_too_few, "failures", 200),
    Bug("Finish is repeated", _finish_repeated, "everything", 100),
    Bug("who leaves keeps its work", _leaving_keeps_work, "forks", 1000),
    Bug("poisoned shared pages are unregistered", _poison_unregistered, "forks", 300),
    Bug("giving up leaves fetches under way", _giving_up_leaves_fetches, "failures", 2000),
    Bug("the rest of a fill takes other bytes", _bytes_of_another_page, "everything", 1000),
    Bug("memory that grew is not served", _grown_memory_unserved, "everything", 300),
    Bug("one bad page poisons its neighbours", _neighbours_poisoned, "failures", 200),
    Bug("reading stops at the finish", _stops_reading, "everything", 300),
    Bug("poison of the watchdog is put aside", _watchdog_poison_is_put_aside, "drops", 8000),
    Bug("the watchdog poisons dropped pages", _watchdog_poisons_whatever_waits, "drops", 500),
    Bug("faults on poisoned pages are ignored", _poisoned_is_ignored, "forks", 300),
)
