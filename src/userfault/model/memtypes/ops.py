"""The table of a memory type, and the contract of its hooks.

The core asks the table; it never asks "is it shmem?".  A hook that is absent (None) makes the
operations that need it unsupported: there is no second place that says so.

What every hook must keep (the boundary checks it, see `boundary.py`):

1. `can_userfault` is pure: it depends on its arguments only.
2. `get_folio_noalloc` never creates.  It returns the folio locked and referenced, of this object
   and index, inside the size, up to date (it clears what nobody has written), and refuses
   (EFAULT) where there is none or where user space may not see it now.
3. `alloc_folio` returns a new folio, charged, visible to nobody; None beyond the end of the file
   or when there is no memory.
4. `filemap_add` is all or nothing: the folio is locked, in the cache and accounted, or the call
   is refused (EEXIST: there is one) and nothing has changed.
5. `filemap_remove` is its exact inverse and unlocks; `undo_alloc` gives back what `alloc_folio`
   took beyond the folio itself.
6. No hook sleeps, retries (EAGAIN is not an answer), calls the core, or touches the lock of a
   folio that it does not return.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.model.files.folio import Cgroup, Folio, Memory, Object


class Facts(msgspec.Struct, frozen=True):
    """What a type may know of a mapping when it decides on registration."""

    object: Object | None
    shared: bool
    modes: int


class Where(msgspec.Struct, frozen=True, gc=False):
    """For which page a folio is wanted, and on whose account."""

    memory: Memory
    object: Object | None
    index: int
    shared: bool
    shift: int
    cgroup: Cgroup | None
    promised: set[int] | None = None  # hugetlb: indexes that hold a reservation

    def look(self) -> None:
        """A hook is about to look at the place and the size of its object (for the recorder)."""
        if self.object is not None:
            self.object.cached(self.index)
            self.object.pages()


class MemoryOps(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One memory type."""

    name: str
    # None: userfaultfd does not know this type (no vm_uffd_ops)
    can_userfault: Callable[[Facts], bool] | None = None
    get_folio_noalloc: Callable[[Object, int], Folio] | None = None
    alloc_folio: Callable[[Where], Folio | None] | None = None
    undo_alloc: Callable[[Where, Folio], None] | None = None
    filemap_add: Callable[[Folio, Where], None] | None = None
    filemap_remove: Callable[[Folio, Object], None] | None = None
    # A plain fault: the folio locked and referenced, made if need be.  None: no page cache.
    fault_folio: Callable[[Where], Folio] | None = None
    # What a guest's own access maps, where that does not go through a host mapping.
    guest_folio: Callable[[Where], Folio] | None = None
    # Whether the cache has the page, without side effects.
    cached: Callable[[Object, int], bool] | None = None
    # fallocate: make the page; its content may stay unwritten and not up to date.
    preallocate: Callable[[Where], Folio] | None = None
    preallocate_clears: bool = False  # ... but of a page that is there it zeroes what is stale
    # mmap, before a mapping of `pages` from `index` exists: reservations.  Returns success.
    reserve: Callable[[Memory, Object | None, set[int] | None, int, int], bool] | None = None
    unreserve: Callable[[Memory, Object | None, set[int] | None, int, int], None] | None = None
    # The table for the private pages of a private mapping (None: this one).
    private: MemoryOps | None = None
    zero_page: bool = False  # its private pages may be the shared zero page
    zeropage: bool = True  # UFFDIO_ZEROPAGE
    movable: bool = False  # UFFDIO_MOVE
    size_checked_at_entry: bool = False  # index < i_size is checked where the entry is installed
    can_resize: bool = True  # ftruncate
    can_write: bool = True  # write(2)
    can_private: bool = True  # MAP_PRIVATE
    mappable: Callable[[Object], bool] | None = None  # mmap(2), else ENODEV (None: every object)
    fault_around: bool = False  # a read fault maps its cached neighbours
    pool: bool = False  # pages of a hugetlb pool: the profile says what an empty one means
    punch_drops_wp: bool = False  # punching a hole leaves no wp marker
    punch_takes_copies: bool = False  # ... and takes copies of private mappings away too
    # A hole that ends inside of the first page unmaps everything behind its start: the last byte
    # to unmap is computed as -1 (measured on 6.18; no content is lost).
    small_hole_unmaps_all: bool = False
    mmap_grows: bool = False  # a writable mapping makes the file as long as it needs
    occupied_first: bool = False  # COPY looks at the entry before it touches the source
    truncate_drops_markers: bool = False
    touchable: Callable[[Object], bool] | None = None
    segment: bool = False  # its objects are SysV segments: shmdt takes them off
    accounts_blocks: bool = True  # st_blocks counts its pages

    @property
    def for_private(self) -> MemoryOps:
        return self.private or self
