"""Memory of another process that is registered with a userfaultfd: what it is, and of which kind.

/proc/PID/smaps (proc_pid_smaps(5)) has a line `VmFlags` for each mapping, in which `um` says that
missing faults of it go to a userfaultfd, `ht` that it has huge pages; which userfaultfd it is does
not stand there.  Reading it takes PTRACE_MODE_READ access.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from userfault.kernel.memtypes import Memory, MemoryType
from userfault.linux.maps import Mapping, parsed

_FDINFO = "/proc/self/fdinfo"
_INITIALIZED = 1 << 31  # UFFD_FEATURE_INITIALIZED of fs/userfaultfd.c: the handshake was made


class Area(msgspec.Struct, frozen=True):
    """One mapping; `flags` are the two-letter words of its VmFlags."""

    mapping: Mapping
    page_size: int
    flags: frozenset[str]

    @property
    def registered(self) -> bool:
        """Missing faults of it go to a userfaultfd."""
        return "um" in self.flags

    @property
    def memory(self) -> Memory:
        """What it is made of.  Raises UsageError for what no pager can fill."""
        shared = self.mapping.shared
        if "ht" in self.flags:
            kind = MemoryType.HUGETLB
        elif self.mapping.inode:
            kind = MemoryType.SHMEM
        else:
            kind = MemoryType.ANON
        return Memory(kind, self.page_size, shared)


def areas(pid: int, start: int, end: int) -> list[Area]:
    """The mappings of process `pid` that addresses [start, end) meet, in order.

    Raises OSError: ESRCH when it has ended, EACCES without ptrace access to it.
    """
    with open(f"/proc/{pid}/smaps", "rb") as file:
        return list(_within(file, start, end))


def _within(lines: Iterator[bytes], start: int, end: int) -> Iterator[Area]:
    mapping: Mapping | None = None
    page_size = 0
    for line in lines:
        name, *rest = line.split()
        if not name.endswith(b":"):
            mapping = next(parsed(line.rstrip(b"\n")), None)
            if mapping is not None and mapping.start >= end:
                return
        elif mapping is not None and mapping.end > start:
            if name == b"KernelPageSize:":
                page_size = int(rest[0]) * 1024
            elif name == b"VmFlags:":
                yield Area(mapping, page_size, frozenset(map(bytes.decode, rest)))


def features(fd: int) -> int | None:
    """The features that were asked for of a userfaultfd, as bits; None where they are not told.

    Raises ValueError for one whose handshake was never made.  (Its fdinfo has them in the line
    `API`, fs/userfaultfd.c; the mark of the handshake came with 5.16.)
    """
    try:
        with open(f"{_FDINFO}/{fd}", encoding="ascii") as file:
            lines = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return None
    if "API" not in lines:
        return None
    asked = int(lines["API"].split(":")[1], 16)
    if not asked & _INITIALIZED and _tells():
        raise ValueError("its UFFDIO_API was never called")
    return asked & ~_INITIALIZED


def _tells() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (5, 16)
