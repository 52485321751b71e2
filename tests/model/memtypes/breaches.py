"""Memory types that break their contract, one rule each, made from shmem."""

from __future__ import annotations

import errno
from collections.abc import Callable

from msgspec.structs import replace

from userfault.model.errors import Refused
from userfault.model.files.folio import LOCKED, UPTODATE, Folio, Object
from userfault.model.machine import Machine
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import MemoryOps, Where
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.tasks.sched import Wait

# A hook that tries what it must not gets at the machine through this (a driver has its globals).
KERNEL: list[Machine] = []


def _type(name: str, **hooks: object) -> MemoryOps:
    return replace(SHMEM.with_uffd(**hooks), name=name)


def unlocked(target: Object, index: int) -> Folio:
    folio = pagecache.lookup(target, index)
    folio.flags &= ~LOCKED
    return folio


def uncounted(target: Object, index: int) -> Folio:
    folio = pagecache.lookup(target, index)
    folio.refs -= 1
    return folio


def stale(target: Object, index: int) -> Folio:
    folio = pagecache.lookup(target, index)
    folio.flags &= ~UPTODATE
    return folio


def of_another_index(target: Object, index: int) -> Folio:
    return pagecache.lookup(target, index + 1)


def beyond_the_end(target: Object, index: int) -> Folio:
    folio = target.cache[index]
    target.size = index << target.shift
    return pagecache.taken(folio)


def creating(target: Object, index: int) -> Folio:
    where = Where(KERNEL[0].memory, target, index + 1, True, 12, None)
    return pagecache.created(where, UPTODATE)


def retrying(target: Object, index: int) -> Folio:
    assert index < target.pages()
    raise Refused(errno.EAGAIN)


def raising(target: Object, index: int) -> Folio:
    raise ZeroDivisionError(target.name, index)


def sleeping(target: Object, index: int) -> Folio:
    KERNEL[0].sched.block(Wait("pipe", lambda: "a driver's own queue"))
    return pagecache.lookup(target, index)


LOOKUPS: dict[str, tuple[Callable[[Object, int], Folio], str]] = {
    "unlocked": (unlocked, "unlocked"),
    "uncounted": (uncounted, "without taking one reference"),
    "stale": (stale, "not up to date"),
    "of-another-index": (of_another_index, "another object or index"),
    "beyond-the-end": (beyond_the_end, "beyond the end"),
    "retrying": (retrying, "only the core retries"),
    "raising": (raising, "ZeroDivisionError"),
    "sleeping": (sleeping, "must not sleep"),
}


def adds_nothing(folio: Folio, where: Where) -> None:
    assert where.object is not None
    folio.flags |= LOCKED


def adds_unlocked(folio: Folio, where: Where) -> None:
    pagecache.add(folio, where)
    folio.flags &= ~LOCKED


def adds_elsewhere(folio: Folio, where: Where) -> None:
    assert where.object is not None
    where.object.insert(folio, where.index + 1)


def refuses_half_way(folio: Folio, where: Where) -> None:
    pagecache.add(folio, where)
    raise Refused(errno.ENOMEM)


def add_raises(folio: Folio, where: Where) -> None:
    pagecache.add(folio, where)
    raise KeyError(where.index)


ADDS: dict[str, tuple[Callable[[Folio, Where], None], str]] = {
    "adds-nothing": (adds_nothing, "did not insert"),
    "adds-unlocked": (adds_unlocked, "unlocked"),
    "adds-elsewhere": (adds_elsewhere, "did not insert"),
    "refuses-half-way": (refuses_half_way, "left something behind"),
    "add-raises": (add_raises, "KeyError"),
}


def gives_a_locked_one(where: Where) -> Folio | None:
    folio = pagecache.allocate(where)
    if folio is not None:
        folio.flags |= LOCKED
    return folio


def gives_a_cached_one(where: Where) -> Folio | None:
    assert where.object is not None
    return next(iter(where.object.cache.values()))


def gives_a_visible_one(where: Where) -> Folio | None:
    return pagecache.created(where, UPTODATE)


ALLOCS: dict[str, tuple[Callable[[Where], Folio | None], str]] = {
    "gives-a-locked-one": (gives_a_locked_one, "visible, locked or counted"),
    "gives-a-visible-one": (gives_a_visible_one, "visible, locked or counted"),
    "gives-a-cached-one": (gives_a_cached_one, "somebody has"),
}


def types() -> list[MemoryOps]:
    """All of them."""
    made = [_type(name, get_folio_noalloc=hook) for name, (hook, _) in LOOKUPS.items()]
    made += [_type(name, filemap_add=hook) for name, (hook, _) in ADDS.items()]
    made += [_type(name, alloc_folio=hook) for name, (hook, _) in ALLOCS.items()]
    return made
