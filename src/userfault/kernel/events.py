"""What `read()` on a userfaultfd yields: one struct a kind of message.

Each says which system call raises it, and when relative to the change it reports
(userfaultfd(2); order and blocking measured on 6.1 to 7.3).  The thread that raises a fork,
remap, remove or unmap event sleeps until the event was *read*; until it has run again, fills on
that context fail with EAGAIN.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from userfault.uapi import userfaultfd as abi

Handle = TypeVar("Handle")


class PageFault(msgspec.Struct, frozen=True, gc=False):
    """A thread touched a page and sleeps until it is woken.

    `address`: page aligned (huge-page aligned for hugetlb), exact with EXACT_ADDRESS.
    `flags`: bits of `modes.FaultFlag`.  `thread_id`: 0 without the THREAD_ID feature.
    """

    address: int
    flags: int
    thread_id: int = 0

    @property
    def minor(self) -> bool:
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_MINOR)

    @property
    def wp(self) -> bool:
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_WP)

    @property
    def rwp(self) -> bool:
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_RWP)

    @property
    def write(self) -> bool:
        return bool(self.flags & abi.UFFD_PAGEFAULT_FLAG_WRITE)

    @property
    def missing(self) -> bool:
        return not self.flags & ~abi.UFFD_PAGEFAULT_FLAG_WRITE


class Fork(msgspec.Struct, Generic[Handle], frozen=True):
    """The process forked; `userfaultfd` serves the child's registered ranges.

    The new context has its features already; it belongs to the reader, who closes it.
    """

    userfaultfd: Handle


class Remap(msgspec.Struct, frozen=True):
    """mremap moved [old, old + length) to `new`: raised after the move, with the old length."""

    old: int
    new: int
    length: int


class Remove(msgspec.Struct, frozen=True):
    """madvise (DONTNEED, FREE, REMOVE) is about to drop [start, end).

    Raised *before* the pages go: they go once the event was read.
    """

    start: int
    end: int


class Unmap(msgspec.Struct, frozen=True):
    """munmap, MAP_FIXED or mremap took [start, end) away.  Raised after the fact."""

    start: int
    end: int
