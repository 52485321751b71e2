"""Clones over one shared copy, each with a pager of its own: none of them sees what is not right.

docs/sharing.md and decision 24 say why; here every order of a few steps is run.  The copy's keeper
does nothing, or ends.
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.copies import Copy
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.serving import QUIET, Serving, Terms, serve
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.pager import allow, killer
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.pager.core.policy import Policy
from userfault.uapi import mman

_GROUP = "sharing"
_SOURCE = b"source 0"
_ZEROS = bytes(8)
_EAGER = Policy(window_bytes=1, chunk_bytes=1, fault_deadline_s=None)


def _clone(
    world: World, copy: Copy, policy: Policy = QUIET, *, mortal: bool = False
) -> tuple[Area, Serving]:
    area = copy.clone()
    return area, serve(world, area, Terms(policy=policy, copy=copy, mortal=mortal))


def _reader(world: World, area: Area, name: str) -> Caller:
    return world.task(name, lambda me: me.read(area[0], 8), process=area.process)


def _drops_and_reads(world: World, area: Area) -> None:
    """Somebody drops the page and touches it again: it is zeros."""

    def drop(me: Caller) -> object:
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return me.read(area[0], 8)

    allow(world, world.task("dropper", drop, process=area.process), _ZEROS)


def _copy_is_right(world: World, copy: Copy) -> None:
    """A page that has a mark is the source's."""

    def complaint() -> str | None:
        if not copy.marks.held[0] or copy.page(0)[:8] == _SOURCE:
            return None
        return f"the copy has {copy.page(0)[:8]!r}, and a mark for it"

    world.check(complaint)


@scenario(group=_GROUP)
def shared_page_of_two_pagers(world: World) -> None:
    """Two clones touch one page at once, and each has a pager of its own that fills it."""
    copy = Copy(world)
    for name in ("first", "second"):
        area, _ = _clone(world, copy)
        allow(world, _reader(world, area, name), _SOURCE)
    _copy_is_right(world, copy)


@scenario(group=_GROUP)
def shared_page_against_drop(world: World) -> None:
    """One clone drops a page and touches it again while another one's pager fills it."""
    copy = Copy(world)
    area, _ = _clone(world, copy)
    allow(world, _reader(world, area, "reader"), _SOURCE)
    dropped, _ = _clone(world, copy)

    _drops_and_reads(world, dropped)
    _copy_is_right(world, copy)


@scenario(group=_GROUP)
def shared_fault_against_drop(world: World) -> None:
    """Two threads of one clone: a page that another touches meanwhile is dropped, and stays so.

    The touch may be answered by zeros between REMOVE and the moment when the pages go.  These zeros
    go, too, and what comes then is a minor fault, as the copy has the page.
    """
    copy = Copy(world, _SOURCE)
    area, _ = _clone(world, copy)
    allow(world, _reader(world, area, "toucher"), _SOURCE, _ZEROS)

    _drops_and_reads(world, area)
    _copy_is_right(world, copy)


@scenario(group=_GROUP)
def shared_page_against_a_stranger(world: World) -> None:
    """Somebody touches a hole of the copy where nobody has registered: an empty page is there."""
    copy = Copy(world)
    area, _ = _clone(world, copy)
    allow(world, _reader(world, area, "reader"), _SOURCE)
    hostile = copy.clone()
    allow(world, _reader(world, hostile, "stranger"), _SOURCE, _ZEROS)
    _copy_is_right(world, copy)


@scenario(group=_GROUP)
def shared_page_against_kill(world: World) -> None:
    """The worker that fills the copy is killed at any of its steps, and another takes over."""
    copy = Copy(world)
    area, serving = _clone(world, copy, mortal=True)
    killer(world, serving)
    allow(world, _reader(world, area, "reader"), _SOURCE)
    _copy_is_right(world, copy)


@scenario(group=_GROUP)
def shared_drop_against_kill(world: World) -> None:
    """The worker is killed at any of its steps while a page of the copy is dropped and touched."""
    copy = Copy(world)
    area, serving = _clone(world, copy, mortal=True)
    killer(world, serving)

    def drop(me: Caller) -> object:
        before = me.read(area[0], 8)
        me.madvise(area[0], PAGE, mman.MADV_DONTNEED)
        return before, me.read(area[0], 8)

    allow(world, world.task("dropper", drop, process=area.process), (_SOURCE, _ZEROS))


@scenario(group=_GROUP)
def shared_page_against_the_end_of_the_keeper(world: World) -> None:
    """The keeper ends while its copy is filled: whoever wants the page gets one."""
    copy = Copy(world)
    area, _ = _clone(world, copy)
    world.task("keeper", lambda me: me.exit(), process=copy.keeper)
    allow(world, _reader(world, area, "reader"), _SOURCE)
    _copy_is_right(world, copy)


@scenario(group=_GROUP)
def shared_drop_once_everything_is_in(world: World) -> None:
    """A page is dropped, and read, while the pager says that it needs nothing more."""
    copy = Copy(world)
    area, _ = _clone(world, copy, _EAGER)

    _drops_and_reads(world, area)
