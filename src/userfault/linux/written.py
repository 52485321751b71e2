"""Which pages were written since they were protected: by PAGEMAP_SCAN, and by the words of pagemap.

A page counts as written when its entry has no write-protect mark of userfaultfd.  A page that was
dropped (MADV_DONTNEED) has lost the mark, and counts too (anonymous memory; measured on 6.18).
Runs are (start, end) addresses in ascending order, which do not touch.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct

from userfault.kernel.errors import KernelError
from userfault.linux.pagemap import PAGE, Pagemap
from userfault.uapi import pagemap as abi

Run = tuple[int, int]

_REGIONS = 8192  # a call
_WORDS = 1 << 15
_REGION = struct.Struct("=QQQ")
_layout = abi.pm_scan_arg


def written(pagemap: Pagemap, start: int, end: int, *, protect: bool) -> list[Run]:
    """The pages of [start, end) written since they were protected last; all of it must track
    writes by WP_ASYNC.

    `protect`: they are protected again, each in the same step as it is looked at, so that a write
    is in this answer or in the next one (PM_SCAN_WP_MATCHING, 6.7).

    Raises KernelError: EPERM where a mapping does not track writes, ENOTTY before 6.7.
    """
    flags = abi.PM_SCAN_CHECK_WPASYNC | (abi.PM_SCAN_WP_MATCHING if protect else 0)
    return _scan(pagemap, start, end, flags)


def unprotected(pagemap: Pagemap, start: int, end: int) -> list[Run]:
    """The same for memory under any kind of write protection, without protecting it again."""
    try:
        return _scan(pagemap, start, end, 0)
    except KernelError as error:
        if error.errno != errno.ENOTTY:
            raise
        return from_words(pagemap, start, end)


def from_words(pagemap: Pagemap, start: int, end: int) -> list[Run]:
    """The same from the words of /proc/PID/pagemap, which have the mark since 5.14.

    What is empty has no mark before 6.4: it counts as written.
    """
    found: list[Run] = []
    for at in range(start, end, _WORDS * PAGE):
        words = pagemap.words(at, min(_WORDS, (end - at) // PAGE))
        for address, word in zip(range(at, end, PAGE), words, strict=False):
            if not word & abi.PM_UFFD_WP:
                add(found, address, address + PAGE)
    return found


def _scan(pagemap: Pagemap, start: int, end: int, flags: int) -> list[Run]:
    vector = ctypes.create_string_buffer(_REGION.size * _REGIONS)
    found: list[Run] = []
    while start < end:
        argument = bytearray(
            _layout.struct.pack(
                _layout.size, flags, start, end, 0, ctypes.addressof(vector), _REGIONS, 0,
                0, abi.PAGE_IS_WRITTEN, 0, abi.PAGE_IS_WRITTEN,
            )
        )  # fmt: skip
        try:
            count = fcntl.ioctl(pagemap.fileno(), abi.PAGEMAP_SCAN, argument)
        except OSError as error:
            raise KernelError.of(
                "PAGEMAP_SCAN", error.errno or 0, start=start, length=end - start
            ) from None
        told = _REGION.iter_unpack(memoryview(vector)[: _REGION.size * count])
        found.extend((first, last) for first, last, _ in told)
        # With room left it is at the end, whatever walk_end says: that may be where the kernel
        # emptied its own buffer, of 512 regions, last (measured on 6.18).
        walked = _layout.struct.unpack(argument)[_layout.names.index("walk_end")]
        if count < _REGIONS or walked <= start:
            break
        start = walked
    return joined(found)


def add(runs: list[Run], start: int, end: int) -> None:
    """One more run, which begins at or behind the last one; they are joined where they touch."""
    if runs and runs[-1][1] >= start:
        runs[-1] = runs[-1][0], max(end, runs[-1][1])
    else:
        runs.append((start, end))


def joined(*several: list[Run]) -> list[Run]:
    """All of them as one list."""
    found: list[Run] = []
    for start, end in sorted(run for runs in several for run in runs):
        add(found, start, end)
    return found
