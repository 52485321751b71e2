"""Memory over a shared copy: the page cache has what was dropped, and it must not be back."""

from __future__ import annotations

import errno

from pager_core.hands import START, core_of, fault, fill_of
from pager_core.simstate import PAGE
from userfault.pager.core.actions import CONTINUE, COPY, ZERO, Finish
from userfault.pager.core.core import MappingCore
from userfault.pager.core.states import PRESENT, REMOVED
from userfault.uapi.userfaultfd import UFFD_PAGEFAULT_FLAG_MINOR as MINOR

_REMAPPED = START + 64 * PAGE


def _filled(core: MappingCore, page: int) -> None:
    fault(core, page, MINOR)
    core.done(fill_of(core))


def _fault(core: MappingCore, page: int, flags: int) -> tuple[int, int]:
    """What one fault is answered with, in a batch of its own: kind and page."""
    core.batch()
    fault(core, page, flags)
    fill = fill_of(core)
    core.done(fill)
    return fill.kind, fill.page


def test_a_page_that_others_have_brought_is_filled_as_any_other() -> None:
    """The driver maps it from the copy; who is asked does not depend on the kind of fault."""
    core = core_of(over_copy=True)
    assert [_fault(core, page, flags) for page, flags in ((1, 0), (2, MINOR))] == [
        (COPY, 1),
        (COPY, 2),
    ]


def test_a_page_that_the_kernel_has_unmapped_is_mapped_again() -> None:
    """Reclaim unmaps pages of files; nobody is told."""
    core = core_of(over_copy=True)
    _filled(core, 2)
    assert _fault(core, 2, MINOR) == (CONTINUE, 2)
    assert core.pages.states[2] == PRESENT


def test_a_dropped_page_reads_zero_however_often_it_is_dropped() -> None:
    core = core_of(over_copy=True)
    _filled(core, 2)
    for _ in range(3):
        core.remove(START + 2 * PAGE, START + 3 * PAGE)
        for flags in (MINOR, 0, MINOR):  # these zeros may go with the pages, and no event tells
            assert _fault(core, 2, flags) == (ZERO, 2)
            assert core.pages.states[2] == REMOVED


def test_a_page_that_was_dropped_without_an_event_reads_zero_from_then_on() -> None:
    core = core_of(over_copy=True)
    _filled(core, 2)
    assert [_fault(core, 2, flags) for flags in (0, MINOR)] == [(ZERO, 2), (ZERO, 2)]


def test_a_fill_that_a_drop_overtakes_is_followed_by_zeros() -> None:
    core = core_of(over_copy=True)
    fault(core, 2, MINOR)
    core.failed(fill_of(core), errno.EAGAIN, 0, 0.0)
    core.remove(START + 2 * PAGE, START + 3 * PAGE)
    core.retry()
    core.out.clear()  # who waits is woken
    assert _fault(core, 2, MINOR) == (ZERO, 2)


def test_places_that_are_none_of_its_pages_read_zero() -> None:
    """What MREMAP_DONTUNMAP left behind: the copy has the page, and it is not for this place."""
    core = core_of(over_copy=True)
    core.remap(START, _REMAPPED, 4 * PAGE)
    core.out.clear()
    core.fault(START + PAGE, MINOR)
    assert fill_of(core).kind == ZERO
    core.fault(_REMAPPED + PAGE, MINOR)
    fill = fill_of(core)
    assert (fill.kind, fill.page, fill.address) == (COPY, 1, _REMAPPED + PAGE)


def test_it_stays_registered_once_everything_is_in() -> None:
    core = core_of(count=2, over_copy=True)
    for page in range(2):
        _filled(core, page)
    assert core.finished
    assert core.out.popleft() == Finish(())
    core.remove(START, START + PAGE)
    assert _fault(core, 0, MINOR) == (ZERO, 0)


def test_other_private_memory_is_as_it_was() -> None:
    core = core_of()
    _filled(core, 2)
    core.remove(START + 2 * PAGE, START + 3 * PAGE)
    assert _fault(core, 2, 0) == (ZERO, 2)
    assert core.pages.states[2] == PRESENT
