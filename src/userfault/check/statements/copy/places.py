"""UFFDIO_COPY by what is at the destination: files and their ends, huge pages, markers."""

from __future__ import annotations

import os
from errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENOMEM

from userfault.check.words.flags import PUNCH_HOLE, READ_WRITE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.scenes import (
    ANONYMOUS,
    EMPTY,
    MARKER,
    guard,
    huge_page,
    mapped_as,
    wp_marker,
)
from userfault.check.words.statement import ALL, ANON, HUGETLB, SHARED, SHMEM, statement
from userfault.check.words.thread import SIGSEGV, Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MISSING, WP
from userfault.kernel import calls
from userfault.kernel.calls import (
    HUGE,
    PAGE,
    Ftruncate,
    Mmap,
    Write,
)
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_MEASURED = "measured on 6.1 to 7.3"
_NOREPLACE = mman.MAP_FIXED_NOREPLACE
_SMALL = (*ANON, *SHMEM)


# --- Files ---------------------------------------------------------------------------------------


@statement(
    61,
    "COPY into a shared mapping fails with EEXIST where the file has the page, mapped or not.",
    since="4.11",
    source=_MEASURED,
    memories=SHARED,
)
def a_cached_page_counts_as_occupied(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(t.alias(area).address, b"cached")
    u.register(area.address, area.length, MISSING)
    expect(t.page(area.address), EMPTY, "the entry")
    u.copy(area.address, t.source(b"s", area.page), area.page, fails=EEXIST)
    expect(t.page(area.address), EMPTY, "the entry after the failure")
    expect(t.read(area.address, 6), b"cached", "the page")


@statement(
    62,
    "COPY into a private mapping makes an anonymous page, whether or not the file has the page, and"
    " leaves the file alone.",
    since="4.11",
    source=_MEASURED,
    memories=("shmem-private", "hugetlb-private"),
)
def a_private_mapping_does_not_ask_the_file(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    shared = t.alias(area)
    t.write(shared.at(0), b"cached")
    u.register(area.address, area.length, MISSING)
    before = t.blocks_of(area.fd)
    u.copy(area.address, t.source(b"s", area.length), area.length)
    expect([t.page(area.at(number)) for number in range(2)], [ANONYMOUS] * 2, "the pages")
    expect(t.read(area.at(0), 6), b"ssssss", "the page that the file has too")
    expect(t.read(shared.at(0), 6), b"cached", "the page of the file")
    expect(t.blocks_of(area.fd), before, "blocks of the file")


@statement(
    63,
    "COPY beyond the end of a file of shared shmem fails.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    memories=("shmem",),
    outcomes={"up to 6.18": "EFAULT", "since 7.2": "ENOMEM"},
)
def beyond_the_end_of_shared_shmem(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=3)
    t.ok(Ftruncate(area.fd, PAGE))
    code = ENOMEM if t.since("7.2") else EFAULT
    source = t.source(b"s", area.length)
    u.copy(area.at(1), source, PAGE, fails=code)
    u.copy(area.at(0), source, 2 * PAGE, fails=EAGAIN, field=PAGE)
    expect(t.blocks_of(area.fd), PAGE // 512, "blocks of the file")


@statement(
    64,
    "COPY beyond the end of a file of private shmem fails with EFAULT.",
    since="6.1",
    source=_MEASURED,
    memories=("shmem-private",),
)
def beyond_the_end_of_private_shmem(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=3)
    t.ok(Ftruncate(area.fd, PAGE))
    source = t.source(b"s", area.length)
    u.copy(area.at(1), source, PAGE, fails=EFAULT)
    u.copy(area.at(0), source, 2 * PAGE, fails=EAGAIN, field=PAGE)
    expect(t.page(area.at(1)), EMPTY, "the page beyond the end")


@statement(
    65,
    "COPY into a tmpfs that is full fails with ENOMEM, not with ENOSPC.",
    since="4.11",
    source=_MEASURED,
)
def a_full_tmpfs_is_enomem(t: Thread) -> None:
    opened = t.do(calls.Open(calls.File.TMPFS, os.O_RDWR | os.O_CLOEXEC, pages=1))
    if opened.errno:
        raise CannotRun("no tmpfs of a page", cause=errno_name(opened.errno), cure="run as root")
    fd = opened.value
    t.ok(Ftruncate(fd, 2 * PAGE))
    place = mman.MAP_SHARED | _NOREPLACE
    address = t.ok(Mmap(t.program.free_place(), 2 * PAGE, READ_WRITE, place, fd)).value
    u = t.uffd()
    u.register(address, 2 * PAGE, MISSING)
    source = t.source(b"s", 2 * PAGE)
    u.copy(address, source, 2 * PAGE, fails=EAGAIN, field=PAGE)
    u.copy(address + PAGE, source, PAGE, fails=ENOMEM)
    t.ok(calls.Fallocate(fd, PUNCH_HOLE, 0, PAGE))
    u.copy(address + PAGE, source, PAGE)


@statement(
    66,
    "COPY into a shared mapping puts the page into the file, where every mapping sees it at once.",
    since="4.11",
    source=_MEASURED,
    memories=SHARED,
)
def other_mappings_see_the_page(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    other = t.alias(area)
    u.register(area.address, area.length, MISSING)
    before = t.blocks_of(area.fd)
    u.copy(area.address, t.source(b"s", area.page), area.page)
    expect(t.blocks_of(area.fd) - before, area.page // 512, "blocks that the file has grown by")
    expect(t.read(other.address, 8), b"s" * 8, "the page by another mapping")
    t.write(other.address, b"w")
    expect(t.read(area.address, 2), b"ws", "the page")


# --- hugetlb -------------------------------------------------------------------------------------


@statement(
    67,
    "COPY of a part of a hugetlb page fails with EINVAL, and `copy` is -EINVAL.",
    since="4.11",
    source=_MEASURED,
    memories=HUGETLB,
)
def hugetlb_pages_are_copied_whole(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    source = t.source(b"s", area.length)
    u.copy(area.address, source, PAGE, fails=EINVAL)
    u.copy(area.address, source, area.page + PAGE, fails=EINVAL)
    u.copy(area.address + PAGE, source, area.page, fails=EINVAL)
    u.copy(area.address, source, area.page)


@statement(
    68,
    "COPY beyond the end of a hugetlb file fails with EFAULT in a shared mapping, and succeeds in a"
    " private one.",
    since="6.1",
    source=_MEASURED,
    memories=HUGETLB,
)
def beyond_the_end_of_hugetlb(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    t.ok(Ftruncate(area.fd, area.page))
    source = t.source(b"s", area.page)
    u.copy(area.at(1), source, area.page, fails=EFAULT if memory.shared else 0)
    if not memory.shared:
        expect(t.read(area.at(1)), b"s", "the page beyond the end")


@statement(
    69,
    "COPY into a mapping without reserved pages fails while the hugetlb pool is empty.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    memories=HUGETLB,
    outcomes={"up to 6.17": "ENOMEM", "since 6.18": "EEXIST, as if the page were there"},
)
def an_empty_pool(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    t.reserve(HUGE, 1)
    fd = t.ok(calls.MemfdCreate(mman.MFD_HUGETLB | mman.MFD_HUGE_2MB)).value
    t.ok(Ftruncate(fd, HUGE))
    kind = mman.MAP_SHARED if memory.shared else mman.MAP_PRIVATE
    flags = kind | mman.MAP_NORESERVE | _NOREPLACE
    address = t.ok(Mmap(t.program.free_place(), HUGE, READ_WRITE, flags, fd)).value
    u.register(address, HUGE, MISSING)
    source = t.source(b"s", HUGE)
    _reserve_every_huge_page(t)
    u.copy(address, source, HUGE, fails=EEXIST if t.since("6.18") else ENOMEM)
    expect(t.page(address), EMPTY, "the page")


def _reserve_every_huge_page(t: Thread) -> None:
    """Map until nothing of the pool is left: a mapping reserves its pages, touched or not."""
    flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_HUGETLB | mman.MAP_HUGE_2MB
    for exponent in range(11, -1, -1):
        length = HUGE << exponent
        while t.do(Mmap(t.program.free_place(), length, READ_WRITE, flags | _NOREPLACE)).ok:
            pass


# --- What is not a page --------------------------------------------------------------------------


@statement(
    70,
    "COPY replaces a uffd-wp marker, whose protection is then lost, and a poison marker.",
    since="6.6",
    source=_MEASURED,
    memories=ALL,
)
def markers_are_replaced(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | WP, Feature.WP_UNPOPULATED, pages=2)
    wp_marker(t, u, area.at(0), area.page)
    u.poison(area.at(1), area.page)
    u.copy(area.address, t.source(b"s", area.length), area.length)
    pages = [t.page(area.at(number)) for number in range(2)]
    expect(pages, [mapped_as(not memory.shared)] * 2, "the pages")
    t.write(area.at(0), b"w")
    t.write(area.at(1), b"w")
    u.silent("writes to both pages")


@statement(
    71,
    "COPY over a guard region replaces it up to 6.18, and fails with EEXIST on 7.2 and 7.3.",
    since="6.17",
    source="measured on 6.17, 6.18, 7.2 and 7.3",
    memories=_SMALL,
    outcomes={"up to 6.18": "success, and the guard is gone", "since 7.2": "EEXIST"},
)
def guards_are_replaced_or_kept(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    guard(t, area.address, area.length)
    if t.since("7.2"):
        u.copy(area.address, t.source(), PAGE, fails=EEXIST)
        expect(t.page(area.address), MARKER, "the guard")
        return
    u.copy(area.address, t.source(), PAGE)
    expect(t.read(area.address), b"s", "the page")


@statement(
    72,
    "COPY into memory that a transparent huge page maps fails with EEXIST; the huge page stays.",
    since="4.3",
    source=_MEASURED,
)
def a_transparent_huge_page_is_occupied(t: Thread) -> None:
    u = t.uffd()
    area = huge_page(t)
    u.register(area.address, area.length, MISSING)
    u.copy(area.at(3), t.source(), PAGE, fails=EEXIST)
    u.copy(area.address, t.source(b"s", HUGE), HUGE, fails=EEXIST)
    expect(t.vma(area.address).huge, HUGE, "bytes that a huge page maps")
    expect(t.read(area.address, 3), b"thp", "the page")


@statement(
    164,
    "A page in swap counts as occupied for COPY, ZEROPAGE and POISON, and stays there; MOVE moves"
    " it without bringing it in.",
    since="6.8",
    source="measured on 6.18",
)
def a_page_in_swap_is_occupied(t: Thread) -> None:
    t.swap()
    u = t.uffd()
    area = t.map("anon", pages=2)
    t.write(area.at(0), b"swapped")
    u.register(area.address, area.length, MISSING)
    t.ok(calls.Madvise(area.at(0), PAGE, mman.MADV_PAGEOUT))
    if t.page(area.at(0)) != MARKER:
        raise CannotRun(
            "no page goes to swap",
            cause="MADV_PAGEOUT left it in memory",
            cure="see whether swap space is free, and the limit of the memory cgroup",
        )
    u.copy(area.at(0), t.source(), PAGE, fails=EEXIST)
    u.zeropage(area.at(0), PAGE, fails=EEXIST)
    u.poison(area.at(0), PAGE, fails=EEXIST)
    expect(t.page(area.at(0)), MARKER, "the page")
    u.move(area.at(1), area.at(0), PAGE)
    expect((t.page(area.at(0)), t.page(area.at(1))), (EMPTY, MARKER), "both places")
    expect(t.read(area.at(1), 7), b"swapped", "the page")


# --- The protection of the mapping ---------------------------------------------------------------


@statement(
    163,
    "A page that COPY has put into a mapping that may not be written cannot be written; once"
    " mprotect(2) allows it, a write raises no message.",
    since="4.3",
    source="measured on 6.18",
    memories=ALL,
)
def the_page_obeys_the_mapping(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, prot=mman.PROT_READ)
    u.copy(area.address, t.source(b"s", area.page), area.page)
    t.raises(Write(area.address, b"w"), SIGSEGV)
    t.ok(calls.Mprotect(area.address, area.length, READ_WRITE))
    t.write(area.address, b"w")
    expect(t.read(area.address, 2), b"ws", "the page")
    u.silent("a write to the page")
