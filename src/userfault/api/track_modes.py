"""The ways of seeing which pages are written that the kernel offers: `Async`, and `Messages`.

`Compare`, which needs nothing of the kernel, is in `track_compare`.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Protocol

from userfault.api.helper import Helper
from userfault.kernel.errors import KernelError, PagerError, TrackingLost, Unavailable
from userfault.kernel.modes import Feature, Mode
from userfault.linux.pagemap import PAGE, Pagemap
from userfault.linux.uffd import LiveUserfaultfd
from userfault.linux.written import Run, add, unprotected, written

RANGE = struct.Struct("=QQ")

_RANGES_AT_ONCE = 1 << 16


class Way(Protocol):
    """How writes to a range are seen."""

    name: str

    def take(self) -> list[Run]:
        """What was written since the last call, as runs of addresses of whole pages.

        A write that has ended is in it; one under way is in it or in the next.
        """
        ...

    def close(self) -> None:
        """See nothing any more, and leave the memory as it was."""
        ...

    def forked(self) -> None:
        """In a child of fork(2): close what is the parent's."""
        ...


def of_ourselves(name: str) -> int:
    """Open a file of /proc/self.  Raises Unavailable."""
    try:
        return os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(
            f"cannot open /proc/self/{name}",
            cause=os.strerror(error.errno or 0),
            cure="mount /proc, and leave the process dumpable (prctl(2), PR_SET_DUMPABLE)",
        ) from None


def own_pagemap() -> Pagemap:
    """Our own page tables.  Raises Unavailable."""
    return Pagemap.adopt(of_ourselves("pagemap"))


class Async:
    """WP_ASYNC: the kernel marks a page at its first write, and nobody waits (6.7).

    A descriptor for faults of user mode only does as well: no fault is ever delivered.
    """

    name = "async"

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self.pagemap = own_pagemap()
        try:
            self._uffd = LiveUserfaultfd.open(Feature.WP_ASYNC)
            try:
                self._uffd.register(start, end - start, Mode.WP)
                self._uffd.writeprotect(start, end - start, protect=True)
            except BaseException:
                self._uffd.close()
                raise
        except BaseException:
            self.pagemap.close()
            raise

    def take(self) -> list[Run]:
        """See `Way`.  Raises TrackingLost where something else was mapped there."""
        try:
            return written(self.pagemap, self._start, self._end, protect=True)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
            raise TrackingLost(
                f"the writes to [{self._start:#x}, {self._end:#x})",
                cause="a part of it was moved, or something else was mapped there",
                cure="take all of it for written, and track() it again",
            ) from None

    def close(self) -> None:
        """The last descriptor: with it the registration goes, and all protection."""
        self._uffd.close()
        self.pagemap.close()

    def forked(self) -> None:
        """What they refer to is the parent's memory."""
        self.close()


class Messages:
    """Write-protect faults that a process of ours answers: it lifts the protection of the page
    (5.14; shared memory 5.19).  What is not protected any more was written.

    A thread that writes holds Python's lock while it waits, so no thread of this process could
    answer.  The other one has the only descriptor: when it is killed, the kernel lifts all
    protection, nobody waits for ever, and that is told.
    """

    name = "messages"

    def __init__(self, start: int, end: int, page_size: int, *, shared: bool) -> None:
        self._start, self._end = start, end
        wanted = Feature.PAGEFAULT_FLAG_WP
        if shared or page_size > PAGE:
            wanted |= Feature.WP_HUGETLBFS_SHMEM
        # For user mode only, a read(2) into the memory would fail with EFAULT.
        uffd = LiveUserfaultfd.open(wanted, optional=Feature.WP_UNPOPULATED, user_mode_only=False)
        try:
            self._marks_empty = shared or Feature.WP_UNPOPULATED in uffd.features
            uffd.register(start, end - start, Mode.WP)
            self.pagemap = own_pagemap()
            self._helper = Helper("userfault.api.track_main")
            try:
                self._ask(RANGE.pack(page_size, 0), [uffd.fileno()])
                uffd.close()
                self._protect([(start, end)])
                self._empty = set(self._empty_pages([(start, end)]))
            except BaseException:
                self.close()
                raise
        finally:
            uffd.close()

    def take(self) -> list[Run]:
        """See `Way`.  Raises TrackingLost where the other process was killed."""
        found = unprotected(self.pagemap, self._start, self._end)
        if not self._marks_empty:
            found = self._without_empty(found)
        # What is written between that look and this is in the answer already.
        self._protect(found)
        return found

    def close(self) -> None:
        """With the other process its descriptor goes, and all protection."""
        self._helper.close()
        self.pagemap.close()

    def forked(self) -> None:
        """The other process is the parent's."""
        self._helper.forked()
        self.pagemap.close()

    def _protect(self, runs: list[Run]) -> None:
        for at in range(0, len(runs), _RANGES_AT_ONCE):
            part = runs[at : at + _RANGES_AT_ONCE]
            self._ask(b"".join(RANGE.pack(start, end - start) for start, end in part))

    def _ask(self, data: bytes, fds: list[int] | None = None) -> None:
        try:
            reply, _ = self._helper.ask(data, fds or [])
        except PagerError as error:
            raise TrackingLost(
                f"the writes to [{self._start:#x}, {self._end:#x})",
                cause=f"process {self._helper.pid}, which answered the faults, was killed",
                cure="take all of it for written, and track() it again",
            ) from error
        if code := int.from_bytes(reply, "little"):
            raise KernelError.of(
                "UFFDIO_WRITEPROTECT", code, start=self._start, length=self._end - self._start
            )

    def _without_empty(self, runs: list[Run]) -> list[Run]:
        """Empty pages cannot be protected before 6.4.  One that was empty at the last look reads
        the same zeros as then."""
        empty = set(self._empty_pages(runs))
        found: list[Run] = []
        for start, end in runs:
            for page in range(start, end, PAGE):
                if page not in empty or page not in self._empty:
                    add(found, page, page + PAGE)
        self._empty = empty
        return found

    def _empty_pages(self, runs: list[Run]) -> list[int]:
        if self._marks_empty:
            return []
        return [
            start + number * PAGE
            for start, end in runs
            for number, word in enumerate(self.pagemap.words(start, (end - start) // PAGE))
            if not word
        ]
