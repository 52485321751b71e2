"""The table of a memory type, and the contract of its hooks.

The core asks the table; it never asks "is it shmem?".  A hook that is absent (None) makes the
operations that need it unsupported: there is no second place that says so.

What its files do is the lower half of the table (`files.ops.FileOps`); what userfaultfd asks is
a table of its own (`UffdOps`), since the rest describes the memory and not userfaultfd.

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

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from userfault.model.files.folio import Folio, Object
from userfault.model.files.ops import FileOps, Where

__all__ = ["Facts", "MemoryOps", "UffdOps", "Where"]


class Facts(msgspec.Struct, frozen=True):
    """What a type may know of a mapping when it decides on registration."""

    object: Object | None
    shared: bool
    modes: int


class UffdOps(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What userfaultfd asks of a memory type, and all of it: the kernel's `vm_uffd_ops` of 7.1.

    Its members are upstream's, by upstream's names (docs/designs.md has the two side by side).
    """

    # None: userfaultfd does not know this type
    can_userfault: Callable[[Facts], bool] | None = None
    get_folio_noalloc: Callable[[Object, int], Folio] | None = None
    alloc_folio: Callable[[Where], Folio | None] | None = None
    filemap_add: Callable[[Folio, Where], None] | None = None
    filemap_remove: Callable[[Folio, Object], None] | None = None


class MemoryOps(FileOps, frozen=True, kw_only=True, eq=False):
    """One memory type: what its files do, and what mappings and userfaultfd ask of it."""

    uffd: UffdOps = UffdOps()
    # What it says where the core is built after another design, by the design's name (`designs`).
    says: Mapping[str, Any] = msgspec.field(default_factory=dict)
    # Operations that it runs itself, by name, where a design lets it: (job, mapping, address).
    runs: Mapping[str, Callable[..., None]] = msgspec.field(default_factory=dict)
    unchecked: bool = False  # its hooks are called as Linux calls them: nothing is looked at
    # A new page for a private mapping (None: it has no private pages of its own).
    private_folio: Callable[[Where], Folio | None] | None = None
    # Give back what `alloc_folio` or `private_folio` took beyond the folio itself.
    undo_alloc: Callable[[Where, Folio], None] | None = None
    # The table for the private pages of a private mapping (None: this one).
    private: MemoryOps | None = None
    zero_page: bool = False  # its private pages may be the shared zero page
    zeropage: bool = True  # UFFDIO_ZEROPAGE
    ioctls: int = -1  # bits that a registration may answer, where a design has the type say them
    movable: bool = False  # UFFDIO_MOVE
    size_checked_at_entry: bool = False  # index < i_size is checked where the entry is installed
    fault_around: bool = False  # a read fault maps its cached neighbours
    pool: bool = False  # pages of a hugetlb pool: the profile says what an empty one means
    occupied_first: bool = False  # COPY looks at the entry before it touches the source

    @property
    def can_continue(self) -> bool:
        """Whether there is something that finds its pages."""
        return self.uffd.get_folio_noalloc is not None or "continue" in self.runs

    @property
    def for_private(self) -> MemoryOps:
        return self.private or self

    def with_uffd(self, **members: Any) -> MemoryOps:
        """The same type with other members of its userfaultfd table."""
        return replace(self, uffd=replace(self.uffd, **members))
