"""What several statements begin with: pages in a state that one touch does not bring about."""

from __future__ import annotations

import os
from errno import EAGAIN

import msgspec

from userfault.check.words.area import Area
from userfault.check.words.caller import Blocked
from userfault.check.words.flags import READ_WRITE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.thread import Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MISSING, UNTOUCHED, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Result
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

EMPTY = "-----"  # pagemap of an empty entry
ANONYMOUS = "P---X"  # of an anonymous page that belongs to one mapping
MARKER = "-S---"  # of a marker, or of a page in swap
ZERO_PAGE = "P----"
MAPPED_FILE = "P-F-X"  # of a page of a file that is mapped once


def pattern(length: int) -> bytes:
    """Bytes that differ wherever an offset is wrong: the number of each group of four."""
    return b"".join(number.to_bytes(4, "little") for number in range(1, length // 4 + 1))


def copied(result: Result) -> int:
    """The field `copy` of an UFFDIO_COPY that has come to its end."""
    return int(abi.uffdio_copy.struct.unpack(result.data)[-1])


def mapped_as(private: bool) -> str:
    """The pagemap of a page that COPY has put into a private or a shared mapping."""
    return ANONYMOUS if private else MAPPED_FILE


class SleepingCopy(msgspec.Struct, frozen=True):
    """A COPY that sleeps in a fault of its own source."""

    copier: Thread
    copy: Blocked
    source: Uffd  # where the source is registered
    filler: Thread  # who opened that, and has the page to give
    hole: int  # the address of the source page that is missing

    def resolve(self) -> Result:
        """Give it the page; how the COPY ends."""
        self.source.copy(self.hole, self.filler.source(b"h"), PAGE)
        return self.copy.finish()


def sleeping_copy(t: Thread, u: Uffd, dst: int, length: int, hole: int = 0) -> SleepingCopy:
    """Start a COPY whose source, full of `s`, lacks its page number `hole`, of 4 KiB."""
    area = t.map("anon", pages=length // PAGE)
    # Where huge pages come unasked, one would fill the hole.
    t.ok(calls.Madvise(area.address, area.length, mman.MADV_NOHUGEPAGE))
    if hole:
        t.write(area.address, b"s" * (hole * PAGE))
    if area.at(hole + 1) < area.end:
        t.write(area.at(hole + 1), b"s" * (area.end - area.at(hole + 1)))
    source = t.uffd()
    source.register(area.address, area.length, MISSING)
    copier = t.thread()
    copy = copier.blocks(u.by(copier).copy_call(dst, area.address, length))
    source.fault(area.at(hole), 0)
    return SleepingCopy(copier, copy, source, t, area.at(hole))


def guard(t: Thread, address: int, length: int) -> None:
    """Make guard regions of pages (6.13; of files 6.15)."""
    t.ok(calls.Madvise(address, length, mman.MADV_GUARD_INSTALL))


def wp_marker(t: Thread, u: Uffd, address: int, length: int) -> None:
    """Make uffd-wp markers of empty entries, in a range with WP."""
    u.writeprotect(address, length)
    expect(t.protected(address), True, "there is a marker")


def huge_page(t: Thread) -> Area:
    """2 MiB of anonymous memory that a transparent huge page maps, full of zeroes but for `thp`.

    CannotRun where the kernel gives none.
    """
    area = t.map("anon", pages=HUGE // PAGE)
    t.ok(calls.Madvise(area.address, area.length, mman.MADV_HUGEPAGE))
    t.write(area.address, b"thp")
    if t.vma(area.address).huge != HUGE:
        raise CannotRun(
            "no transparent huge page",
            cause="the kernel gave small pages for 2 MiB with MADV_HUGEPAGE",
            cure="see /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return area


def pipe(t: Thread, flags: int = os.O_NONBLOCK) -> tuple[int, int]:
    """The read and the write end of a pipe; it does not block unless `flags` say otherwise."""
    read, write = calls.PIPE_FDS.struct.unpack(t.ok(calls.Pipe(flags)).data)
    return read, write


def marking(memory: Memory) -> Feature:
    """The feature with which protecting leaves markers in empty entries of this memory."""
    return Feature(0) if memory.minor_faults else Feature.WP_UNPOPULATED


def ordinary_file(t: Thread, *, at: int | None = None, flags: int = 0) -> int:
    """The address of one page of a fresh file on a disk; private unless `flags` says otherwise."""
    fd = t.do(calls.Open(calls.File.ORDINARY, os.O_RDWR | os.O_CLOEXEC))
    if fd.errno:
        raise CannotRun("no ordinary file", cause=errno_name(fd.errno), cure="set XDG_CACHE_HOME")
    t.ok(calls.Ftruncate(fd.value, PAGE))
    kind = flags & (mman.MAP_PRIVATE | mman.MAP_SHARED) or mman.MAP_PRIVATE
    place = flags & mman.MAP_FIXED or mman.MAP_FIXED_NOREPLACE
    address = at or t.program.free_place()
    return t.ok(calls.Mmap(address, PAGE, READ_WRITE, kind | place, fd.value)).value


def field_of_an_event(t: Thread) -> int:
    """The result field of a fill that failed because an event waits."""
    return -EAGAIN if t.since("6.12") else UNTOUCHED
