"""/proc/PID/pagemap: what the page tables say, and PAGEMAP_SCAN (6.7).

The independent witness of the tests: nothing here asks userfaultfd.  Reading another process's
pagemap takes ptrace access to it (the same user is enough where Yama allows it).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

import msgspec

from userfault.kernel.errors import KernelError
from userfault.uapi import pagemap as abi

PAGE = 4096


class Entry(msgspec.Struct, frozen=True):
    """One word of pagemap, decoded (bits measured on 6.1 to 7.3)."""

    present: bool
    swap: bool  # also set for a marker (wp or poison) in place of a page
    file: bool
    uffd_wp: bool
    exclusive: bool

    @property
    def empty(self) -> bool:
        """Neither a page nor a marker."""
        return not (self.present or self.swap or self.uffd_wp)


class Region(msgspec.Struct, frozen=True):
    """A run of pages that PAGEMAP_SCAN reports: [start, end) and its categories (PAGE_IS_*)."""

    start: int
    end: int
    categories: int


class Pagemap:
    """The page tables of one process (default: this one); close it when done."""

    def __init__(self, pid: int | str = "self") -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    @classmethod
    def adopt(cls, fd: int) -> Pagemap:
        """Take over an open file."""
        made = cls.__new__(cls)
        made._fd = fd
        return made

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Pagemap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def words(self, address: int, pages: int) -> tuple[int, ...]:
        """The raw words of `pages` 4 KiB pages from `address` (zeros where nothing is mapped)."""
        data = os.pread(self._fd, 8 * pages, address // PAGE * 8)
        return struct.unpack(f"={len(data) // 8}Q", data) + (0,) * (pages - len(data) // 8)

    def entries(self, address: int, pages: int) -> list[Entry]:
        """The same, decoded."""
        return [
            Entry(
                bool(word & abi.PM_PRESENT),
                bool(word & abi.PM_SWAP),
                bool(word & abi.PM_FILE),
                bool(word & abi.PM_UFFD_WP),
                bool(word & abi.PM_MMAP_EXCLUSIVE),
            )
            for word in self.words(address, pages)
        ]

    def present(self, address: int) -> bool:
        """Whether a page is mapped at `address` (hugetlb: at the huge page's first 4 KiB)."""
        return bool(self.words(address, 1)[0] & abi.PM_PRESENT)

    def there(self, address: int) -> bool:
        """Whether a page is mapped or swapped out at `address`; a marker or guard is not a page."""
        word = self.words(address, 1)[0]
        marked = abi.PM_GUARD_REGION | abi.PM_UFFD_WP
        return bool(word & abi.PM_PRESENT or (word & abi.PM_SWAP and not word & marked))

    def scan(
        self,
        start: int,
        end: int,
        *,
        any_of: int = 0,
        all_of: int = 0,
        inverted: int = 0,
        report: int = abi.PAGE_IS_WRITTEN | abi.PAGE_IS_PRESENT,
        protect: bool = False,
        check_wp_async: bool = False,
        max_regions: int = 1024,
    ) -> list[Region]:
        """PAGEMAP_SCAN [start, end) to its end: the regions that match, in address order.

        `any_of`, `all_of`, `inverted`: category masks; `report`: categories to give back.
        `protect`: write-protect what matches, in the same step.  Raises KernelError (EPERM with
        `check_wp_async` on a mapping that does not track writes).
        """
        vector = ctypes.create_string_buffer(abi.page_region.size * max_regions)
        flags = (abi.PM_SCAN_WP_MATCHING if protect else 0) | (
            abi.PM_SCAN_CHECK_WPASYNC if check_wp_async else 0
        )
        found: list[Region] = []
        layout = abi.pm_scan_arg
        while start < end:
            argument = bytearray(
                layout.struct.pack(
                    layout.size, flags, start, end, 0, ctypes.addressof(vector), max_regions, 0,
                    inverted, all_of | inverted, any_of, report,
                )
            )  # fmt: skip
            try:
                count = fcntl.ioctl(self._fd, abi.PAGEMAP_SCAN, argument)
            except OSError as error:
                raise KernelError.of(
                    "PAGEMAP_SCAN", error.errno or 0, start=start, length=end - start
                ) from None
            for at in range(count):
                found.append(Region(*abi.page_region.struct.unpack_from(vector, 24 * at)))
            # With room left it is at the end, whatever walk_end says: that may be where the kernel
            # emptied its own buffer, of 512 regions, last (measured on 6.18).
            walked = layout.struct.unpack(argument)[layout.names.index("walk_end")]
            if count < max_regions or walked <= start:
                break
            start = walked
        return found
