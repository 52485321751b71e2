"""The steps that types with a page cache of base pages share; a type's file picks from them."""

from __future__ import annotations

import errno

from userfault.model.errors import Errno, Refused
from userfault.model.files.folio import LOCKED, SWAPPED, UPTODATE, Folio, Object
from userfault.model.memtypes.ops import Facts, Where
from userfault.model.tasks.recorder import RECORD


def every_mode(facts: Facts) -> bool:
    """Userfaultfd serves the type in every mode."""
    del facts
    return True


def cached(target: Object, index: int) -> bool:
    """Whether there is a page, without touching it."""
    return index in target.cache


def lookup(target: Object, index: int) -> Folio:
    """The cached folio, locked, referenced and up to date; refuses with EFAULT."""
    folio = target.cache.get(index)
    if folio is None or index >= target.pages():
        raise Refused(errno.EFAULT)
    return taken(folio)


def taken(folio: Folio) -> Folio:
    """Lock and reference a cached folio; what nobody has written reads as zero from now on."""
    folio.refs += 1
    folio.flags |= LOCKED
    folio.flags &= ~SWAPPED  # read back, if it was in swap
    if not folio.flags & UPTODATE:
        folio.clear()
        folio.flags |= UPTODATE
    return folio


def allocate(where: Where) -> Folio | None:
    """A new base page for the cache; None beyond the end."""
    if where.object is not None and where.index >= where.object.pages():
        return None
    return where.memory.allocate(0, 0, where.cgroup)


def add(folio: Folio, where: Where) -> None:
    """Into the cache, locked, one block charged; refuses with EEXIST, or ENOMEM when full."""
    target = where.object
    assert target is not None
    if where.index in target.cache:
        raise Refused(errno.EEXIST)
    mount = target.mount
    if mount is not None:
        if RECORD.on:
            mount.record()
        if mount.limit is not None and mount.used >= mount.limit:
            raise Refused(errno.ENOMEM)
        mount.used += 1
        target.blocks += 1
    folio.flags |= LOCKED
    target.insert(folio, where.index)


def remove(folio: Folio, target: Object) -> None:
    """Undo `add`: out of the cache, unlocked, the block given back."""
    target.remove(folio)
    folio.refs -= 1
    folio.flags &= ~LOCKED
    target.uncharge()


def fault(where: Where) -> Folio:
    """A plain fault: the cached folio, or a new one of zeros."""
    target = where.object
    assert target is not None
    if where.index >= target.pages():
        raise Refused(errno.EFAULT)
    folio = target.cache.get(where.index)
    if folio is not None:
        return taken(folio)
    return created(where, UPTODATE)


def created(where: Where, flags: int) -> Folio:
    """A new cached folio, locked and referenced; zeroed if it is to be up to date."""
    folio = where.memory.allocate(0, flags, where.cgroup)
    if folio is None:
        raise Refused(errno.ENOMEM)
    if flags & UPTODATE:
        folio.clear()
    try:
        add(folio, where)
    except (Refused, Errno) as refusal:
        where.memory.put(folio)
        full = refusal.code == errno.ENOMEM
        raise Refused(errno.ENOSPC if full else refusal.code) from None
    return folio


def preallocate(where: Where) -> Folio:
    """fallocate: a folio that nobody has written and nobody has zeroed."""
    target = where.object
    assert target is not None
    folio = target.cache.get(where.index)
    if folio is not None:
        folio.refs += 1
        folio.flags |= LOCKED
        return folio
    return created(where, 0)


def preallocate_again(where: Where) -> Folio:
    """The same, but the second fallocate of a page zeroes what is stale (measured on 6.18)."""
    target = where.object
    assert target is not None
    folio = target.cache.get(where.index)
    return taken(folio) if folio is not None else created(where, 0)
