"""hugetlb: pages of 2 MiB or 1 GiB from a pool, promised to a mapping when it is made.

A promise is an index in a set: the object's for shared mappings, the mapping's own for private
ones.  Taking a page for a promised index uses the promise up; `undo_alloc` restores it.
"""

from __future__ import annotations

import errno

from userfault.model.errors import Refused
from userfault.model.files.folio import ANON, LOCKED, UPTODATE, Folio, Object
from userfault.model.files.memory import Memory
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import MemoryOps, UffdOps, Where
from userfault.model.tasks.recorder import RECORD

_FROM_PROMISE = 1 << 16  # a folio flag of this type: undo restores the promise


def _promised(where: Where) -> set[int] | None:
    return where.object.promised if where.shared and where.object else where.promised


def _alloc(where: Where) -> Folio | None:
    if where.shared and where.object is not None and where.index in where.object.cache:
        raise Refused(errno.EEXIST)
    promised = _promised(where)
    use = promised is not None and where.index in promised
    folio = where.memory.allocate_huge(where.shift, use)
    if folio is None:
        return None
    if use and promised is not None:
        promised.discard(where.index)
        folio.flags |= _FROM_PROMISE
    if not where.shared:
        folio.flags |= ANON
    return folio


def _undo_alloc(where: Where, folio: Folio) -> None:
    promised = _promised(where)
    if folio.flags & _FROM_PROMISE and promised is not None:
        if RECORD.on:
            RECORD.writes.add(("pool", where.shift))
        promised.add(where.index)
        where.memory.pools[where.shift].reserved += 1


def _add(folio: Folio, where: Where) -> None:
    target = where.object
    assert target is not None
    if where.index >= target.size >> target.shift:
        raise Refused(errno.EFAULT)
    pagecache.add(folio, where)


def _zeroed(where: Where) -> Folio:
    """A new page that can be shown, locked; refuses with ENOSPC."""
    folio = _alloc(where)
    if folio is None:
        raise Refused(errno.ENOSPC)
    folio.flags |= UPTODATE | LOCKED
    return folio


def _fault(where: Where) -> Folio:
    target = where.object
    folio = target.cache.get(where.index) if target is not None else None
    if folio is not None:
        return pagecache.taken(folio)
    if target is not None and where.index >= target.size >> target.shift:
        raise Refused(errno.EFAULT)
    folio = _zeroed(where)
    if where.shared:
        _add(folio, where)
    return folio


def _preallocate(where: Where) -> Folio:
    # hugetlb zeroes what it preallocates, also a page that reaches beyond the end of the file.
    target = where.object
    assert target is not None
    folio = target.cache.get(where.index)
    if folio is not None:
        return pagecache.taken(folio)
    folio = _zeroed(where)
    pagecache.add(folio, where)
    return folio


def _reserve(
    memory: Memory, target: Object | None, own: set[int] | None, index: int, pages: int
) -> bool:
    """Promise the pages [index, index + pages): of the object, or of the mapping (`own`)."""
    if own is not None:
        wanted = range(index, index + pages)
        shift = target.shift if target else 21
        if not memory.pools[shift].reserve(pages):
            return False
        own.update(wanted)
        return True
    assert target is not None
    fresh = [
        at
        for at in range(index, index + pages)
        if at not in target.cache and at not in target.promised
    ]
    if not memory.pools[target.shift].reserve(len(fresh)):
        return False
    target.promised.update(fresh)
    return True


def _unreserve(
    memory: Memory, target: Object | None, own: set[int] | None, index: int, pages: int
) -> None:
    promised = own if own is not None else target.promised if target is not None else set()
    shift = target.shift if target is not None else 21
    if RECORD.on:
        RECORD.writes.add(("pool", shift))
    gone = [at for at in promised if index <= at < index + pages]
    promised.difference_update(gone)
    memory.pools[shift].reserved -= len(gone)


def _add_anywhere(folio: Folio, where: Where) -> None:
    """Without a look at the size, as an old bug had it."""
    pagecache.add(folio, where)


HUGETLB = MemoryOps(
    name="hugetlb",
    uffd=UffdOps(
        can_userfault=pagecache.every_mode,
        get_folio_noalloc=pagecache.lookup,
        alloc_folio=_alloc,
        filemap_add=_add,
        filemap_remove=pagecache.remove,
    ),
    private_folio=_alloc,
    undo_alloc=_undo_alloc,
    fault_folio=_fault,
    cached=pagecache.cached,
    preallocate=_preallocate,
    reserve=_reserve,
    unreserve=_unreserve,
    zeropage=False,
    can_write=False,
    pool=True,
    mmap_grows=True,
    occupied_first=True,
    punch_takes_copies=True,
    truncate_drops_markers=True,
)

HUGETLB_UNCHECKED = HUGETLB.with_uffd(filemap_add=_add_anywhere)
