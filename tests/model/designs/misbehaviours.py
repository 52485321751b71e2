"""Drivers that misbehave, one mistake each, and how each design lets the mistake be made.

A mistake belongs to a *slot*: a hook, the answer on registration, or an operation that the type
runs by itself.  A design that has no such slot does not let a type make it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from userfault.model.designs import closed_choice, get_folio_only, per_operation, uffd_copy
from userfault.model.errors import Refused
from userfault.model.files.folio import LOCKED, UPTODATE, Folio, Object
from userfault.model.files.ops import Where
from userfault.model.machine import Machine
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import Facts, MemoryOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.mm import pgtable as pt
from userfault.model.tasks.sched import Wait
from userfault.model.uffd.hand import Hand, Run, through

# A driver has its globals: a hook that tries what it must not gets at the machine through this.
KERNEL: list[Machine] = []
NAME = "driver"
LOOKUP, ALLOC, ADD, REMOVE = "get_folio_noalloc", "alloc_folio", "filemap_add", "filemap_remove"
DECIDES, RUNS, CHOICE = "can_userfault", "the whole operation", "the choice"


class Misbehaviour(msgspec.Struct, frozen=True, eq=False):
    """One mistake: in which slot, and what stands there."""

    name: str
    slot: str
    hook: Any


MISBEHAVIOURS: dict[str, Misbehaviour] = {}


def misbehaves(slot: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A mistake; the function's docstring tells it."""

    def add(hook: Callable[..., Any]) -> Callable[..., Any]:
        name = (hook.__doc__ or "").rstrip(".")
        MISBEHAVIOURS[hook.__name__] = Misbehaviour(name, slot, hook)
        return hook

    return add


# --- a lookup that ------------------------------------------------------------------------------


@misbehaves(LOOKUP)
def unlocked(target: Object, index: int) -> Folio:
    """It returns an unlocked folio."""
    folio = pagecache.lookup(target, index)
    folio.flags &= ~LOCKED
    return folio


@misbehaves(LOOKUP)
def of_another_page(target: Object, index: int) -> Folio:
    """It returns the folio of another index."""
    return pagecache.lookup(target, index + 1)


@misbehaves(LOOKUP)
def beyond_the_end(target: Object, index: int) -> Folio:
    """It does not look at i_size."""
    folio = target.cached(index)
    if folio is None:
        folio = target.cached(index - 1)
    if folio is None:
        raise Refused(errno.EFAULT)
    return pagecache.taken(folio)


@misbehaves(LOOKUP)
def mapped_elsewhere(target: Object, index: int) -> Folio:
    """It returns a private page that is mapped elsewhere."""
    del target, index
    _, entry = _private()
    assert entry[1] is not None
    entry[1].refs += 1
    entry[1].flags |= LOCKED
    return entry[1]


def _private() -> tuple[int, pt.Entry]:
    """A private page of somebody, and where it is mapped."""
    space = next(iter(KERNEL[0].spaces.all))
    for address, vma in space.vmas.items():
        entry = space.table.get(address)
        if vma.object is None and entry is not None and entry[1] is not None:
            return address, entry
    raise Refused(errno.EFAULT)


@misbehaves(LOOKUP)
def drops_the_reference(target: Object, index: int) -> Folio:
    """It takes no reference."""
    folio = pagecache.lookup(target, index)
    folio.refs -= 1
    return folio


@misbehaves(LOOKUP)
def keeps_a_reference(target: Object, index: int) -> Folio:
    """It takes one reference more."""
    folio = pagecache.lookup(target, index)
    folio.refs += 1
    return folio


@misbehaves(LOOKUP)
def stale(target: Object, index: int) -> Folio:
    """It returns what nobody has cleared (flaw a)."""
    folio = pagecache.lookup(target, index)
    folio.flags &= ~UPTODATE
    return folio


@misbehaves(LOOKUP)
def creates(target: Object, index: int) -> Folio:
    """It allocates where there is nothing."""
    if index in target.cache:
        return pagecache.lookup(target, index)
    where = Where(KERNEL[0].memory, target, index, True, 12, None)
    return pagecache.created(where, UPTODATE)


@misbehaves(LOOKUP)
def sleeps(target: Object, index: int) -> Folio:
    """It sleeps while the core holds its locks."""
    KERNEL[0].sched.block(Wait("lock", lambda: "a driver's own lock"))
    return pagecache.lookup(target, index)


@misbehaves(LOOKUP)
def retries(target: Object, index: int) -> Folio:
    """It asks for a retry."""
    del target, index
    raise Refused(errno.EAGAIN)


@misbehaves(LOOKUP)
def raises(target: Object, index: int) -> Folio:
    """It follows a bad pointer."""
    raise KeyError(target.name, index)


# --- an allocation that ---------------------------------------------------------------------------


@misbehaves(ALLOC)
def gives_a_locked_one(where: Where) -> Folio | None:
    """It returns a new folio locked."""
    folio = pagecache.allocate(where)
    if folio is not None:
        folio.flags |= LOCKED
    return folio


@misbehaves(ALLOC)
def gives_a_visible_one(where: Where) -> Folio | None:
    """It inserts the new folio before it has its content."""
    assert where.object is not None
    if where.index in where.object.cache:
        return pagecache.allocate(where)
    folio = pagecache.created(where, UPTODATE)
    folio.flags &= ~LOCKED
    return folio


@misbehaves(ALLOC)
def gives_somebodys(where: Where) -> Folio | None:
    """It returns a folio that somebody has."""
    assert where.object is not None
    return next(iter(where.object.cache.values()), None)


@misbehaves(ALLOC)
def leaks(where: Where) -> Folio | None:
    """It allocates twice and forgets one."""
    pagecache.allocate(where)
    return pagecache.allocate(where)


# --- an insertion that ----------------------------------------------------------------------------


@misbehaves(ADD)
def adds_nothing(folio: Folio, where: Where) -> None:
    """It says yes and inserts nothing."""
    del where
    folio.flags |= LOCKED


@misbehaves(ADD)
def adds_unlocked(folio: Folio, where: Where) -> None:
    """It inserts the folio unlocked."""
    pagecache.add(folio, where)
    folio.flags &= ~LOCKED


@misbehaves(ADD)
def adds_elsewhere(folio: Folio, where: Where) -> None:
    """It inserts at another index."""
    assert where.object is not None
    if where.index + 2 in where.object.cache:
        raise Refused(errno.EEXIST)
    folio.flags |= LOCKED
    where.object.insert(folio, where.index + 2)


@misbehaves(ADD)
def refuses_half_way(folio: Folio, where: Where) -> None:
    """It refuses and leaves the folio in the cache."""
    pagecache.add(folio, where)
    raise Refused(errno.ENOMEM)


@misbehaves(ADD)
def replaces(folio: Folio, where: Where) -> None:
    """It replaces the page that is there."""
    target = where.object
    assert target is not None
    old = target.cache.get(where.index)
    if old is not None:
        target.remove(old)
        target.uncharge()
        where.memory.put(old)
    pagecache.add(folio, where)


@misbehaves(ADD)
def meddles(folio: Folio, where: Where) -> None:
    """It writes a page table."""
    pagecache.add(folio, where)
    address, _ = _private()
    next(iter(KERNEL[0].spaces.all)).table.set(address, 12, pt.MARKER_POISON)


@misbehaves(ADD)
def changes_the_mapping(folio: Folio, where: Where) -> None:
    """It changes the mapping: it takes its registration away."""
    pagecache.add(folio, where)
    for mm in KERNEL[0].spaces.all:
        for vma in mm.vmas.values():
            if vma.modes and vma.object is where.object:
                vma.context = None


@misbehaves(REMOVE)
def removes_nothing(folio: Folio, target: Object) -> None:
    """It undoes nothing."""
    del folio, target


@misbehaves(REMOVE)
def removes_without_accounts(folio: Folio, target: Object) -> None:
    """It takes the folio out and keeps the block charged."""
    target.remove(folio)
    folio.refs -= 1
    folio.flags &= ~LOCKED


# --- an answer that -------------------------------------------------------------------------------


MOOD = [False]


@misbehaves(DECIDES)
def changes_its_mind(facts: Facts) -> bool:
    """It answers differently the second time."""
    del facts
    MOOD[0] = not MOOD[0]
    return MOOD[0]


@misbehaves(CHOICE)
def promises_too_much() -> None:
    """It says that it serves MINOR and has nothing to look a page up with."""


@misbehaves(CHOICE)
def picks_what_does_not_fit() -> None:
    """It picks the core's handler of another type of memory."""


# --- an operation that ----------------------------------------------------------------------------


@misbehaves(RUNS)
def installs_over(hand: Hand) -> None:
    """It installs by itself, over what is there."""
    folio = pagecache.allocate(hand.place)
    if folio is None:
        hand.no_folio()
    folio.content = b"over"
    folio.flags |= UPTODATE
    hand.mm.unmap(hand.vma, hand.address)
    hand.mm.map_folio(hand.vma, hand.address, 0, folio)


@misbehaves(RUNS)
def shows_it_first(hand: Hand) -> None:
    """It inserts and installs the page, and copies then."""
    folio = pagecache.allocate(hand.place)
    if folio is None:
        hand.no_folio()
    try:
        pagecache.add(folio, hand.place)
    except Refused:
        hand.mm.memory.put(folio)
        raise
    hand.install(folio)
    hand.mm.sched.point("fill.page")
    folio.content = hand.content()
    folio.flags |= UPTODATE
    hand.unlock(folio)


@misbehaves(RUNS)
def wakes_early(hand: Hand) -> None:
    """It wakes who waits, and fails then."""
    hand.job.context.wake(hand.address, 4096)
    raise Refused(errno.ENOMEM)


@misbehaves(RUNS)
def drops_the_lock(hand: Hand) -> None:
    """It lets the mapping go while it works, and does not look again."""
    hand.mm.leave(hand.vma)
    hand.mm.sched.point("copy.user")
    hand.vma.lock.read_at_once()
    through(SHMEM)(hand)


@misbehaves(RUNS)
def installs_unregistered(hand: Hand) -> None:
    """It fills the page beside the one it was asked for."""
    beside = Hand(hand.job, hand.vma, hand.address, hand.operation)
    beside.address = hand.address + 4096
    through(SHMEM)(beside)


# --- what a driver with the mistake says in each design -------------------------------------------

_HOOKS = (LOOKUP, ALLOC, ADD, REMOVE, DECIDES)


def driver(found: Misbehaviour, design: str) -> MemoryOps | None:
    """The type as that design has it say it; None where the mistake cannot be made."""
    bad = SHMEM
    if found.slot in _HOOKS:
        bad = SHMEM.with_uffd(**{found.slot: found.hook})
    maker = _MAKERS.get(design)
    return maker(found, replace(bad, name=NAME)) if maker is not None else None


def _five_hooks(found: Misbehaviour, bad: MemoryOps) -> MemoryOps | None:
    if found.hook is promises_too_much:
        return bad.with_uffd(get_folio_noalloc=None)
    return bad if found.slot in _HOOKS else None


def _one_hook(found: Misbehaviour, bad: MemoryOps) -> MemoryOps | None:
    find = None if found.hook is promises_too_much else bad.uffd.get_folio_noalloc
    if found.slot != LOOKUP and find is not None:
        return None
    table = get_folio_only.Table(
        uffd_features=get_folio_only.EVERY_MODE, uffd_ioctls=-1, uffd_get_folio=find
    )
    return replace(bad, says={"get_folio_only": table})


def _whole_copy(found: Misbehaviour, bad: MemoryOps) -> MemoryOps | None:
    if found.slot == DECIDES or found.hook is picks_what_does_not_fit:
        return None
    table = uffd_copy.table(bad)
    if found.hook is promises_too_much:
        table = replace(table, uffd_get_folio=None)
    if found.slot == RUNS:
        table = replace(table, uffd_copy=found.hook)
    return replace(bad, says={"uffd_copy": table})


def _each_operation(found: Misbehaviour, bad: MemoryOps) -> MemoryOps | None:
    if found.slot == CHOICE:
        return None  # what has no function is not supported: there is nothing to lie about
    table = per_operation.table(bad)
    if found.slot == RUNS:
        run: Run = found.hook
        table = replace(table, copy=run)
    return replace(bad, says={"per_operation": table})


def _choice(found: Misbehaviour, bad: MemoryOps) -> MemoryOps | None:
    if found.hook is not picks_what_does_not_fit:
        return None
    table = closed_choice.Table(
        handler=closed_choice.Handler.HUGETLB,
        actions=closed_choice.Action.FILL | closed_choice.Action.CONTINUE,
    )
    return replace(bad, says={"closed_choice": table})


_MAKERS: dict[str, Callable[[Misbehaviour, MemoryOps], MemoryOps | None]] = {
    "uffd_copy": _whole_copy,
    "get_folio_only": _one_hook,
    "per_operation": _each_operation,
    "closed_choice": _choice,
    "merged": _five_hooks,
    "ours": _five_hooks,
}
