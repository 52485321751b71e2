"""What files ask of a memory type: the lower half of its table, without userfaultfd and mappings.

`memtypes.ops.MemoryOps` is the whole table, with the rules that hooks keep.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.model.files.folio import Cgroup, Folio, Object
from userfault.model.files.memory import Memory


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


class FileOps(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the files of one memory type can do, and what is peculiar to them."""

    name: str
    # A plain fault: the folio locked and referenced, made if need be.  None: no page cache.
    fault_folio: Callable[[Where], Folio] | None = None
    # What a guest's own access maps, where that does not go through a host mapping.
    guest_folio: Callable[[Where], Folio] | None = None
    # Whether the cache has the page, without side effects.
    cached: Callable[[Object, int], bool] | None = None
    # fallocate: make the page; its content may stay unwritten and not up to date.
    preallocate: Callable[[Where], Folio] | None = None
    # mmap, before a mapping of `pages` from `index` exists: reservations.  Returns success.
    reserve: Callable[[Memory, Object | None, set[int] | None, int, int], bool] | None = None
    unreserve: Callable[[Memory, Object | None, set[int] | None, int, int], None] | None = None
    can_resize: bool = True  # ftruncate
    can_write: bool = True  # write(2)
    can_private: bool = True  # MAP_PRIVATE
    mappable: Callable[[Object], bool] | None = None  # mmap(2), else ENODEV (None: every object)
    mmap_grows: bool = False  # a writable mapping makes the file as long as it needs
    punch_drops_wp: bool = False  # punching a hole leaves no wp marker
    punch_takes_copies: bool = False  # ... and takes copies of private mappings away too
    # A hole that ends inside of the first page unmaps everything behind its start: the last byte
    # to unmap is computed as -1 (measured on 6.18; no content is lost).
    small_hole_unmaps_all: bool = False
    truncate_drops_markers: bool = False
    touchable: Callable[[Object], bool] | None = None
    segment: bool = False  # its objects are SysV segments: shmdt takes them off
    accounts_blocks: bool = True  # st_blocks counts its pages
