"""guest_memfd: memory of a virtual machine, mapped shared by its host.

Unlike the hooks posted in March 2026, a page is cleared before it is shown (so nobody sees what
it held before, and nothing is cleared after a host has written), beyond the end of the file is
SIGBUS, an index that only the guest may see is refused under the lock that conversion takes, and
a refused insertion is undone once, here.
"""

from __future__ import annotations

import errno

from msgspec.structs import replace

from userfault.model.errors import Refused
from userfault.model.files.folio import LOCKED, Folio, Object
from userfault.model.memtypes import pagecache
from userfault.model.memtypes.ops import Facts, MemoryOps, UffdOps, Where

# Flags of creation (GUEST_MEMFD_FLAG_*), kept as the object's traits.
MMAP = 1
INIT_SHARED = 2
# Of the model: pages are prepared before a guest has them (out of the direct map, encrypted).
PREPARED = 1 << 30


def _touchable(target: Object) -> bool:
    return bool(target.traits & INIT_SHARED)


def _shared(target: Object, index: int) -> bool:
    return _touchable(target) and index not in target.private_indexes


def _can_userfault(facts: Facts) -> bool:
    return facts.object is not None and _touchable(facts.object)


def _get(target: Object, index: int) -> Folio:
    if not _shared(target, index):
        raise Refused(errno.EFAULT)
    return pagecache.lookup(target, index)


def _get_posted(target: Object, index: int) -> Folio:
    """As posted in March 2026: what the memory held before is shown."""
    folio = target.cached(index)
    if folio is None or not _shared(target, index) or index >= target.pages():
        raise Refused(errno.EFAULT)
    folio.refs += 1
    folio.flags |= LOCKED
    return folio


def _alloc(where: Where) -> Folio | None:
    if where.object is not None and not _shared(where.object, where.index):
        return None
    return pagecache.allocate(where)


def prepare(where: Where) -> None:
    """Prepare a page that comes into the file, where that is needed; refuses where it fails."""
    assert where.object is not None
    if where.object.traits & PREPARED and where.memory.prepare_fails:
        raise Refused(errno.ENOMEM)


def _add(folio: Folio, where: Where) -> None:
    assert where.object is not None
    # Converted while the content was copied: looked at again under the lock.
    if not _shared(where.object, where.index):
        raise Refused(errno.EFAULT)
    prepare(where)  # before anybody can find the page: a refusal has changed nothing
    pagecache.add(folio, where)


def _fault(where: Where) -> Folio:
    assert where.object is not None
    if not _shared(where.object, where.index):
        raise Refused(errno.EACCES)
    return _guest(where)


def _guest(where: Where) -> Folio:
    assert where.object is not None
    if where.index not in where.object.cache:
        prepare(where)
    return pagecache.fault(where)


def _mappable(target: Object) -> bool:
    return bool(target.traits & MMAP)


# As in every released kernel (6.18 to 7.3): mappable, but userfaultfd does not know it.
GUEST_MEMFD_RELEASED = MemoryOps(
    name="guest_memfd",
    fault_folio=_fault,
    guest_folio=_guest,
    cached=pagecache.cached,
    preallocate=pagecache.preallocate,
    can_resize=False,
    can_write=False,
    can_private=False,
    mappable=_mappable,
    punch_drops_wp=True,
    touchable=_touchable,
    accounts_blocks=False,
)

GUEST_MEMFD = replace(
    GUEST_MEMFD_RELEASED,
    uffd=UffdOps(
        can_userfault=_can_userfault,
        get_folio_noalloc=_get,
        alloc_folio=_alloc,
        filemap_add=_add,
        filemap_remove=pagecache.remove,
    ),
    size_checked_at_entry=True,
)

GUEST_MEMFD_POSTED = GUEST_MEMFD.with_uffd(get_folio_noalloc=_get_posted)
