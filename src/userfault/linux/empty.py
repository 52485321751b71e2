"""Fresh memory in which nothing is: how to see that it is so, and how to get it so.

A new mapping need not be empty.  mlockall(MCL_FUTURE) fills it within mmap(2) itself, with zeros;
so does a preloaded library that touches what it hands out, and with transparent huge pages one
touch is 512 pages.  What is there raises no fault, so nobody would put the right bytes there.
"""

from __future__ import annotations

import contextlib
import errno
import os

from userfault.kernel.errors import MemoryUnavailable
from userfault.kernel.memtypes import size_name
from userfault.linux import libc
from userfault.linux.memory import FileBacking
from userfault.linux.pagemap import Pagemap
from userfault.linux.present import present
from userfault.uapi import mman

_LOOK = 1 << 30  # bytes that mincore(2) is asked about at once: a byte of answer a page


def what_is_there(address: int, length: int, page_size: int, backing: FileBacking | None) -> str:
    """What [address, address + length) holds, in words; "" for nothing.

    The page tables are asked, and the file behind the memory (where it is given): what is in its
    page cache would be mapped, or be in the way of UFFDIO_COPY.  Cost: the page tables that exist;
    without /proc, one byte a page.
    """
    mapped = sum(end - start for start, end in _mapped(address, address + length, page_size))
    if mapped:
        return f"{size_name(mapped)} of {size_name(length)} mapped already"
    if backing is not None and (blocks := os.fstat(backing.fileno()).st_blocks):
        return f"{size_name(blocks * 512)} of {size_name(length)} in the page cache already"
    return ""


def empty(address: int, length: int, backing: FileBacking | None) -> None:
    """Drop whatever is there, locked pages too (MADV_DONTNEED_LOCKED, 5.18).

    The range must not be registered: REMOVE would be raised, and nobody reads it.  Raises
    MemoryUnavailable where the kernel cannot drop it.
    """
    try:
        if backing is not None:
            backing.punch_hole(0, length)
        libc.madvise(address, length, mman.MADV_DONTNEED_LOCKED)
    except OSError as error:
        raise not_empty(
            length,
            f"it was filled before it could be registered, and {os.strerror(error.errno or 0)}"
            " was the answer to dropping it again",
            "Linux 5.18 can drop locked pages"
            if error.errno == errno.EINVAL
            else "see what fills new mappings: mlockall, a preloaded library",
        ) from None


def not_empty(length: int, cause: str, cure: str) -> MemoryUnavailable:
    """The error for memory that cannot be had empty."""
    return MemoryUnavailable(
        f"cannot make {size_name(length)} that nobody has touched",
        cause=cause,
        cure=cure + "; mlockall(MCL_FUTURE | MCL_ONFAULT) locks pages without filling them",
    )


def _mapped(start: int, end: int, page_size: int) -> list[tuple[int, int]]:
    """The runs that are mapped or swapped out."""
    with contextlib.suppress(OSError), Pagemap() as pagemap:  # OSError: there is no /proc
        return [(each.start, each.end) for each in present(pagemap, start, end)]
    found = []
    for at in range(start, end, _LOOK):
        resident = libc.mincore(at, min(_LOOK, end - at), page_size)
        found += [
            (at + page * page_size, at + (page + 1) * page_size)
            for page, byte in enumerate(resident)
            if byte & 1
        ]
    return found
