"""Memory types from outside: one that keeps its contract, and one that breaks it at each hook.

What a hook does wrong is met at the boundary: who called gets a breach of contract, which names
the hook and the rule, and everything is as before the call.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from msgspec.structs import replace

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls import Descriptor
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import Area, World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.kernel.modes import Mode
from userfault.model.errors import ContractBreach, Refused
from userfault.model.files.folio import LOCKED, UPTODATE, Folio, Object
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import Facts, MemoryOps, UffdOps, Where

_PAGE = 4096
_ZEROS = b"\0\0\0"

GOOD = MemoryOps(
    name="driver",
    uffd=UffdOps(
        can_userfault=lambda facts: facts.shared,
        get_folio_noalloc=pagecache.lookup,
        alloc_folio=pagecache.allocate,
        filemap_add=pagecache.add,
        filemap_remove=pagecache.remove,
    ),
    fault_folio=pagecache.fault,
    guest_folio=pagecache.fault,
    cached=pagecache.cached,
    preallocate=pagecache.preallocate,
    size_checked_at_entry=True,
    can_private=False,
)


def told(call: Callable[[], object]) -> object:
    """What the call came to, or the hook whose mistake ended it: a breach here is no violation."""
    try:
        return call()
    except ContractBreach as breach:
        return f"breach of {breach.hook}"


def _told(me: Caller, call: Callable[[], object]) -> object:
    found = told(call)
    me.task.process.machine.spaces.breaches.clear()
    return found


def _serve(me: Caller, call: Callable[[], object], uffd: Descriptor, area: Area) -> object:
    """A fill whose hooks may break their contract; whoever waits looks again."""
    done = _told(me, call)
    me.wake(uffd, area[0])
    return done


# --- a type that keeps it ------------------------------------------------------------------------


@scenario(group="drivers", types=(GOOD,))
def driver_copy_and_punch(world: World) -> None:
    """A driver's own memory: a page is copied in while its file gets a hole: whole or not there."""
    area = world.map("driver")
    uffd = world.uffd(area)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("puncher", lambda me: me.punch(file, 0))
    only(world, reader, b"new", WAITS)


@scenario(group="drivers", types=(GOOD,))
def driver_continue_and_truncate(world: World) -> None:
    """A driver's own memory: a cached page is mapped while its file is cut: bytes or SIGBUS."""
    area = world.map("driver")
    alias = world.map(file=area.file)
    world.store(alias[0], b"old")
    uffd = world.uffd(area, mode=Mode.MINOR)
    file = world.open(area.file)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    handler = world.task("handler", lambda me: me.continue_(uffd, area[0]))
    world.task("truncater", lambda me: me.truncate(file, 0))
    only(world, reader, b"old", "SIGBUS", WAITS)
    only(world, handler, _PAGE, "EFAULT", "EINVAL")


# --- types that break it -------------------------------------------------------------------------


def _unlocked(target: Object, index: int) -> Folio:
    folio = pagecache.lookup(target, index)
    folio.flags &= ~LOCKED
    return folio


def _uncounted(target: Object, index: int) -> Folio:
    folio = pagecache.lookup(target, index)
    folio.refs -= 1
    return folio


def _retrying(target: Object, index: int) -> Folio:
    del target, index
    raise Refused(errno.EAGAIN)


def _stale(target: Object, index: int) -> Folio:
    folio = pagecache.lookup(target, index)
    folio.flags &= ~UPTODATE
    return folio


def _visible(where: Where) -> Folio | None:
    if where.object is None or where.index in where.object.cache:
        return pagecache.allocate(where)
    return pagecache.created(where, UPTODATE)


def _locked(where: Where) -> Folio | None:
    folio = pagecache.allocate(where)
    if folio is not None:
        folio.flags |= LOCKED
    return folio


def _raises(where: Where, folio: Folio) -> None:
    raise KeyError(where.index, folio.index)


def _adds_nothing(folio: Folio, where: Where) -> None:
    del where
    folio.flags |= LOCKED


def _adds_unlocked(folio: Folio, where: Where) -> None:
    pagecache.add(folio, where)
    folio.flags &= ~LOCKED


def _refuses_half_way(folio: Folio, where: Where) -> None:
    pagecache.add(folio, where)
    raise Refused(errno.ENOMEM)


def _removes_nothing(folio: Folio, target: Object) -> None:
    del folio, target


def _faults_unlocked(where: Where) -> Folio:
    folio = pagecache.fault(where)
    folio.flags &= ~LOCKED
    return folio


def _faults_for_ever(where: Where) -> Folio:
    del where
    raise Refused(errno.EAGAIN)


def _decides_by_mood() -> Callable[[Facts], bool]:
    moods = [True]

    def decide(facts: Facts) -> bool:
        moods[0] = not moods[0]
        return facts.shared and moods[0]

    return decide


_CONTINUES = {
    "get-folio-unlocked": _unlocked,
    "get-folio-uncounted": _uncounted,
    "get-folio-retrying": _retrying,
    "get-folio-stale": _stale,
}
_COPIES: dict[str, tuple[str, dict[str, object]]] = {
    "alloc-folio-visible": ("alloc_folio", {"alloc_folio": _visible}),
    "alloc-folio-locked": ("alloc_folio", {"alloc_folio": _locked}),
    "filemap-add-nothing": ("filemap_add", {"filemap_add": _adds_nothing}),
    "filemap-add-unlocked": ("filemap_add", {"filemap_add": _adds_unlocked}),
    "filemap-add-half-way": ("filemap_add", {"filemap_add": _refuses_half_way}),
}


def _bad_continue(name: str, hook: Callable[[Object, int], Folio]) -> None:
    kind = replace(GOOD.with_uffd(get_folio_noalloc=hook), name=name)

    def build(world: World) -> None:
        area = world.map(name)
        alias = world.map(file=area.file)
        world.store(alias[0], b"old")
        uffd = world.uffd(area, mode=Mode.MINOR)
        file = world.open(area.file)
        reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
        handler = world.task(
            "handler", lambda me: _serve(me, lambda: me.continue_(uffd, area[0]), uffd, area)
        )
        world.task("puncher", lambda me: me.punch(file, 0))
        only(world, handler, "breach of get_folio_noalloc", "EFAULT")
        only(world, reader, _ZEROS, WAITS)

    build.__doc__ = (
        f"A driver's lookup ({name.replace('-', ' ')}) in CONTINUE beside a hole: a breach of"
        " contract, and nothing of the page is mapped, kept or left locked."
    )
    scenario(name=f"driver-{name}", group="drivers", types=(kind,))(build)


def _bad_copy(name: str, breached: str, hooks: dict[str, object]) -> None:
    kind = replace(GOOD.with_uffd(**hooks), name=name)

    def build(world: World) -> None:
        area = world.map(name)
        alias = world.map(file=area.file)
        uffd = world.uffd(area)
        reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
        handler = world.task(
            "handler", lambda me: _serve(me, lambda: me.copy(uffd, area[0], b"new"), uffd, area)
        )
        other = world.task("other", lambda me: me.read(alias[0], 3))
        only(world, handler, f"breach of {breached}", "EEXIST")
        only(world, reader, _ZEROS, WAITS)
        only(world, other, _ZEROS)

    build.__doc__ = (
        f"A driver's hook ({name.replace('-', ' ')}) in COPY beside a plain fault: a breach of"
        " contract, and no byte of the source is seen."
    )
    scenario(name=f"driver-{name}", group="drivers", types=(kind,))(build)


for _name, _hook in _CONTINUES.items():
    _bad_continue(_name, _hook)
for _name, (_breached, _hooks) in _COPIES.items():
    _bad_copy(_name, _breached, _hooks)


@scenario(group="drivers", types=(replace(GOOD, name="undo-raises", undo_alloc=_raises),))
def driver_undo_alloc_raises(world: World) -> None:
    """A driver's undo_alloc raises where COPY comes too late: a breach, and nothing is leaked."""
    area = world.map("undo-raises")
    alias = world.map(file=area.file)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    handler = world.task(
        "handler", lambda me: _serve(me, lambda: me.copy(uffd, area[0], b"new"), uffd, area)
    )
    other = world.task("other", lambda me: me.read(alias[0], 3))
    only(world, handler, _PAGE, "EEXIST", "breach of undo_alloc")
    only(world, reader, b"new", _ZEROS, WAITS)
    only(world, other, b"new", _ZEROS)


@scenario(
    group="drivers",
    types=(replace(GOOD.with_uffd(filemap_remove=_removes_nothing), name="removes-nothing"),),
)
def driver_filemap_remove_nothing(world: World) -> None:
    """A driver's filemap_remove does nothing where COPY is undone: a breach, no page is left."""
    area = world.map("removes-nothing")
    uffd = world.uffd(area)
    file = world.open(area.file)
    handler = world.task(
        "handler", lambda me: _serve(me, lambda: me.copy(uffd, area[0], b"new"), uffd, area)
    )
    world.task("poisoner", lambda me: me.poison(uffd, area[0]))
    world.task("truncater", lambda me: me.truncate(file, 0))
    only(world, handler, _PAGE, "ENOMEM", "EFAULT", "EEXIST", "breach of filemap_remove")
    both(world, "a page is left", lambda: not area.file.cache)


@scenario(
    group="drivers", types=(replace(GOOD, name="faults-unlocked", fault_folio=_faults_unlocked),)
)
def driver_fault_folio_unlocked(world: World) -> None:
    """A driver's fault returns an unlocked page beside COPY: a breach, and it is not mapped."""
    area = world.map("faults-unlocked")
    alias = world.map(file=area.file)
    uffd = world.uffd(area)
    world.task("reader", lambda me: _told(me, lambda: me.read(area[0], 3)), may_wait=True)
    world.task("handler", lambda me: _serve(me, lambda: me.copy(uffd, area[0], b"new"), uffd, area))
    other = world.task("other", lambda me: _told(me, lambda: me.read(alias[0], 3)))
    only(world, other, "breach of fault_folio")


@scenario(
    group="drivers", types=(replace(GOOD, name="faults-again", fault_folio=_faults_for_ever),)
)
def driver_fault_folio_retrying(world: World) -> None:
    """A driver's fault asks for a retry beside COPY: a breach, since only the core retries."""
    area = world.map("faults-again")
    alias = world.map(file=area.file)
    uffd = world.uffd(area)
    reader = world.task("reader", lambda me: _told(me, lambda: me.read(area[0], 3)))
    world.task("handler", lambda me: _serve(me, lambda: me.copy(uffd, area[0], b"new"), uffd, area))
    other = world.task("other", lambda me: _told(me, lambda: me.read(alias[0], 3)))
    only(world, reader, b"new", "breach of fault_folio")
    only(world, other, "breach of fault_folio")


@scenario(
    group="drivers", types=(replace(GOOD, name="guest-unlocked", guest_folio=_faults_unlocked),)
)
def driver_guest_folio_unlocked(world: World) -> None:
    """A driver's guest fault returns an unlocked page beside COPY: a breach, no guest has it."""
    area = world.map("guest-unlocked")
    uffd = world.uffd(area)
    vm = world.guest(area)
    guest = world.task("guest", lambda me: _told(me, lambda: me.guest_read(vm, 0, 3)))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    only(world, guest, "breach of guest_folio")


@scenario(
    group="drivers",
    types=(replace(GOOD.with_uffd(can_userfault=_decides_by_mood()), name="moody"),),
)
def driver_can_userfault_by_mood(world: World) -> None:
    """A driver decides on registration by mood: a breach, and nothing is registered."""
    area = world.map("moody")
    uffd = world.uffd()
    mode = int(Mode.MISSING)
    one = world.task(
        "registerer", lambda me: _told(me, lambda: me.register(uffd, area[0], area.length, mode))
    )
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("mover", lambda me: me.mprotect(area[0], area.length, 3))
    only(world, one, "breach of can_userfault")
    only(world, reader, _ZEROS)
