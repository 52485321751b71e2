"""UFFDIO_COPY."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM

from userfault.check.words.flags import PUNCH_HOLE, READ_WRITE, UNDEFINED_MODE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.scenes import (
    ANONYMOUS,
    EMPTY,
    MARKER,
    copied,
    guard,
    huge_page,
    mapped_as,
    pattern,
    sleeping_copy,
    wp_marker,
)
from userfault.check.words.statement import ALL, ANON, HUGETLB, SHARED, SHMEM, statement
from userfault.check.words.thread import SIGSEGV, Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MINOR, MISSING, UNTOUCHED, WP
from userfault.kernel import calls
from userfault.kernel.calls import (
    HUGE,
    PAGE,
    Ftruncate,
    Ioctl,
    Mmap,
    Munmap,
    Read,
    Write,
)
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"

_NOREPLACE = mman.MAP_FIXED_NOREPLACE
_MODE_WP = abi.UFFDIO_COPY_MODE_WP
_SMALL = (*ANON, *SHMEM)


# --- What it does --------------------------------------------------------------------------------


@statement(
    49,
    "COPY stores the length in `copy`, and the page is there with the bytes of the source, mapped"
    " exclusively.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_page_is_copied(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, area.length, MISSING)
    content = pattern(area.page)
    source = t.map("anon", pages=area.page // PAGE)
    t.write(source.address, content)
    u.copy(area.at(1), source.address, area.page)
    pages = [t.page(area.at(number)) for number in range(3)]
    expect(pages, [EMPTY, mapped_as(not memory.shared), EMPTY], "the page and its neighbours")
    expect(t.read(area.at(1), area.page) == content, True, "the page is the source")
    u.silent("a read of the page")


@statement(
    50,
    "COPY onto a page that is there fails with EEXIST, and the field is -EEXIST.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def an_occupied_page_is_refused(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"touched")
    u.register(area.address, area.length, MISSING)
    source = t.source(b"s", area.page)
    u.copy(area.at(0), source, area.page, fails=EEXIST)
    expect(t.read(area.at(0), 7), b"touched", "the page that was touched")
    u.copy(area.at(1), source, area.page)
    u.copy(area.at(1), t.source(b"other", area.page), area.page, fails=EEXIST)
    expect(t.read(area.at(1), 5), b"sssss", "the page that was copied")


@statement(
    51,
    "COPY that meets an occupied page after the first one fails with EAGAIN, and `copy` says how"
    " many bytes were done; the next call, from there, shows the error.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def progress_hides_the_error(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=4)
    t.write(area.at(2), b"there")
    u.register(area.address, area.length, MISSING)
    source = t.source(b"s", area.length)
    u.copy(area.address, source, area.length, fails=EAGAIN, field=2 * area.page)
    expect(t.read(area.at(1)), b"s", "the last page that was done")
    expect(t.page(area.at(3)), EMPTY, "the page after the occupied one")
    u.copy(area.at(2), source, 2 * area.page, fails=EEXIST)
    expect(t.page(area.at(3)), EMPTY, "the page after the occupied one")
    u.copy(area.at(3), source, area.page)


# --- Arguments -----------------------------------------------------------------------------------


@statement(
    52,
    "The source of COPY may be unaligned; the destination and the length may not.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def the_source_may_be_unaligned(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    content = pattern(area.page + PAGE)
    source = t.map("anon", pages=area.page // PAGE + 1)
    t.write(source.address, content)
    for dst, length in ((area.address + 1, PAGE), (area.address, area.page - 1)):
        u.copy(dst, source.address, length, fails=EINVAL, field=UNTOUCHED)
    for number, offset in enumerate((1, PAGE - 1)):
        u.copy(area.at(number), source.address + offset, area.page)
        same = t.read(area.at(number), area.page) == content[offset : offset + area.page]
        expect(same, True, f"the page is the source from byte {offset}")


@statement(
    53,
    "COPY with a bad range leaves `copy` as it was.",
    since="4.3",
    source=_MEASURED,
    outcomes={
        "6.1": "a source outside of user addresses is EFAULT, as one that cannot be read",
        "since 6.12": "a source outside of user addresses is EINVAL",
    },
)
def a_bad_range_leaves_the_field(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING)
    source, end = t.source(), t.task_size()
    for dst, src, length in (
        (area.address, source, 0),
        (area.address, source, PAGE + 1),
        (area.address + 1, source, PAGE),
        (end, source, PAGE),
        (area.address, source, -PAGE % (1 << 64)),
        (area.address, -PAGE % (1 << 64), PAGE),
    ):
        u.copy(dst, src, length, fails=EINVAL, field=UNTOUCHED)
    checked = t.since("6.12")
    for src in (end, end - 1):
        code, field = (EINVAL, UNTOUCHED) if checked else (EFAULT, -EFAULT)
        u.copy(area.address, src, PAGE, fails=code, field=field)
    expect(t.page(area.address), EMPTY, "the page")


@statement(
    54,
    "COPY with an undefined mode fails with EINVAL and leaves `copy` as it was; MODE_WP where WP is"
    " not registered fails with EINVAL and `copy` is -EINVAL.",
    since="5.7",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_mode_must_be_known_and_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    source = t.source(b"s", area.page)
    # That nothing is registered is seen before the mode.
    u.copy(area.address, source, area.page, _MODE_WP, fails=ENOENT)
    u.register(area.address, area.length, MISSING)
    u.copy(area.address, source, area.page, UNDEFINED_MODE, fails=EINVAL, field=UNTOUCHED)
    u.copy(area.address, source, area.page, _MODE_WP, fails=EINVAL)
    expect(t.page(area.address), EMPTY, "the page")


@statement(
    55,
    "COPY to where nothing is registered, nothing is mapped, or past the end of the mapping fails"
    " with ENOENT.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def the_destination_must_be_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, 2 * area.page, MISSING)
    t.ok(Munmap(area.at(1), area.page))
    source = t.source(b"s", 2 * area.page)
    u.copy(area.at(2), source, area.page, fails=ENOENT)  # not registered
    u.copy(area.at(1), source, area.page, fails=ENOENT)  # not mapped
    u.copy(area.at(0), source, 2 * area.page, fails=ENOENT)  # only its first half is
    expect((t.page(area.at(0)), t.page(area.at(2))), (EMPTY, EMPTY), "the pages")
    u.copy(area.at(0), source, area.page)


@statement(
    56,
    "One COPY does not cross a border between mappings, as mprotect(2) makes one.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def one_call_is_for_one_mapping(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    t.ok(calls.Mprotect(area.at(1), area.page, mman.PROT_READ))
    source = t.source(b"s", area.length)
    u.copy(area.address, source, area.length, fails=ENOENT)
    expect((t.page(area.at(0)), t.page(area.at(1))), (EMPTY, EMPTY), "the pages")
    for number in range(2):
        u.copy(area.at(number), source, area.page)


@statement(
    57,
    "COPY fills a mapping that may not be written, or not even read.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def the_protection_of_the_destination_does_not_matter(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    source = t.source(b"s", memory.page_size)
    for protection in (mman.PROT_READ, mman.PROT_NONE):
        area = t.map(memory, prot=protection)
        u.register(area.address, area.length, MISSING)
        u.copy(area.address, source, area.page)
        t.ok(calls.Mprotect(area.address, area.length, mman.PROT_READ))
        expect(t.read(area.address, 8), b"s" * 8, "the page")


@statement(
    58,
    "COPY through another descriptor of the process fills the page, but who waits is woken only by"
    " the descriptor that the range is registered with.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def another_descriptor_fills_but_does_not_wake(t: Thread, memory: Memory) -> None:
    owner, other = t.uffd(), t.uffd()
    area = t.map(memory)
    owner.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    other.copy(area.address, t.source(b"s", area.page), area.page)
    reader.still("a COPY through another descriptor")
    other.wake(area.address, area.length)
    reader.still("a WAKE through another descriptor")
    owner.wake(area.address, area.length)
    reader.read(b"s")


# --- The source ----------------------------------------------------------------------------------


@statement(
    59,
    "COPY from memory that cannot be read fails with EFAULT; if that begins at the second page,"
    " with EAGAIN, and `copy` is one page.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def the_source_must_be_readable(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    source = t.source(b"s", area.length)
    t.ok(Munmap(source + area.page, area.page))
    u.copy(area.address, source + area.page, area.page, fails=EFAULT)
    u.copy(area.address, source + 1, area.page, fails=EFAULT)  # its last byte alone
    expect(t.page(area.address), EMPTY, "the page after two failures")
    t.ok(calls.Mprotect(source, area.page, mman.PROT_NONE))
    u.copy(area.address, source, area.page, fails=EFAULT)
    t.ok(calls.Mprotect(source, area.page, mman.PROT_READ))
    u.copy(area.address, source, area.length, fails=EAGAIN, field=area.page)
    expect(t.read(area.at(0)), b"s", "the first page")
    expect(t.page(area.at(1)), EMPTY, "the second page")


@statement(
    60,
    "COPY whose source is missing in a registered range raises a message and sleeps; once it is"
    " resolved, the COPY is completed.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def the_source_may_be_missing_itself(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    asleep = sleeping_copy(t, u, area.address, area.page)
    expect(t.page(area.address), EMPTY, "the destination meanwhile")
    expect(copied(asleep.resolve()), area.page, "`copy`")
    expect(t.read(area.address), b"h", "the destination")


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
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, area.length, MISSING)
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
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, area.length, MISSING)
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


# --- Huge pages ----------------------------------------------------------------------------------


@statement(
    67,
    "COPY of a part of a hugetlb page fails with EINVAL, and `copy` is -EINVAL.",
    since="4.11",
    source=_MEASURED,
    memories=HUGETLB,
)
def hugetlb_pages_are_copied_whole(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
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
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
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
    u = t.uffd(Feature.WP_UNPOPULATED)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING | WP)
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
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
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


# --- What changes while the source is awaited -----------------------------------------------------


@statement(
    73,
    "When another file is mapped at the destination while COPY waits for its second source page,"
    " COPY goes on into the new file up to 6.18, and fails with EAGAIN since 7.2.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    memories=("shmem",),
    outcomes={"up to 6.18": "success, a page in each file", "since 7.2": "EAGAIN after one page"},
)
def another_file_at_the_destination(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    asleep = sleeping_copy(t, u, area.address, area.length, hole=1)
    t.ok(Munmap(area.address, area.length))
    new = t.map(memory, pages=2, at=area.address)
    u.register(new.address, new.length, MISSING)
    ended = asleep.resolve()
    expect(t.blocks_of(area.fd), PAGE // 512, "blocks of the old file")
    if t.since("7.2"):
        expect((errno_name(ended.errno), copied(ended)), ("EAGAIN", PAGE), "the end of COPY")
        expect(t.blocks_of(new.fd), 0, "blocks of the new file")
        return
    expect((errno_name(ended.errno), copied(ended)), (errno_name(0), 2 * PAGE), "the end of COPY")
    expect(t.blocks_of(new.fd), PAGE // 512, "blocks of the new file")
    expect(t.page(new.at(0)), EMPTY, "the first page of the new mapping")
    expect(t.read(new.at(1)), b"h", "the second page of the new mapping")


@statement(
    74,
    "When the destination is unmapped while COPY waits for its second source page, COPY fails with"
    " EAGAIN, and `copy` is one page.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def the_destination_goes(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    asleep = sleeping_copy(t, u, area.address, area.length, hole=area.page // PAGE)
    t.ok(Munmap(area.address, area.length))
    ended = asleep.resolve()
    expect((errno_name(ended.errno), copied(ended)), ("EAGAIN", area.page), "the end of COPY")


@statement(
    75,
    "COPY, ZEROPAGE, CONTINUE, POISON and MOVE with a null argument fail with EFAULT.",
    since="4.3",
    source=_MEASURED,
)
def a_null_argument_is_efault(t: Thread) -> None:
    u = t.uffd()
    requests = [abi.UFFDIO_COPY, abi.UFFDIO_ZEROPAGE, abi.UFFDIO_CONTINUE]
    if t.since("6.8"):
        requests += [abi.UFFDIO_POISON, abi.UFFDIO_MOVE]
    for request in requests:
        t.fails(Ioctl(u.fd, request, 0), EFAULT)


@statement(
    156,
    "A handled signal does not end a COPY that waits for its source: it goes on when the page is"
    " there.",
    since="4.3",
    source="measured on 6.18, where the call spins between the signal and the page",
)
def a_signal_does_not_end_a_copy(t: Thread) -> None:
    u = t.uffd()
    area = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING)
    asleep = sleeping_copy(t, u, area.address, area.length, hole=1)
    page = t.source(b"h")
    answer = asleep.source.copy_call(asleep.hole, page, PAGE)
    t.in_one_go(calls.Signal(asleep.copier.thread_id), answer)
    ended = asleep.copy.ok()
    expect(copied(ended), area.length, "`copy`")
    expect((t.read(area.at(0)), t.read(area.at(1))), (b"s", b"h"), "the pages")
    asleep.source.silent("the end of the COPY")


@statement(
    157,
    "A page that appears at the destination while COPY waits for its source stays there: COPY fails"
    " with EEXIST, and after the first page with EAGAIN.",
    since="6.1",
    source=_MEASURED,
    memories=ALL,
)
def a_page_that_appears_meanwhile_stays(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=3)
    u.register(area.address, area.length, MISSING)
    first = sleeping_copy(t, u, area.at(0), area.page)
    second = sleeping_copy(t, u, area.at(1), 2 * area.page, hole=area.page // PAGE)
    winner = t.source(b"winner", area.page)
    for number in (0, 2):
        u.copy(area.at(number), winner, area.page)
    ended = first.resolve()
    seen = (errno_name(ended.errno), copied(ended))
    expect(seen, ("EEXIST", -EEXIST), "the end of the first COPY")
    ended = second.resolve()
    expect((errno_name(ended.errno), copied(ended)), ("EAGAIN", area.page), "and of the second")
    expect([t.read(area.at(number)) for number in range(3)], [b"w", b"s", b"w"], "the pages")


@statement(
    158,
    "A child of fork(2) that fills through the inherited descriptor fills the parent's memory, with"
    " bytes of its own.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_child_fills_the_parents_memory(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    source = t.source(b"p", memory.page_size)
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    child = t.fork()
    child.write(source, b"c" * memory.page_size)
    u.by(child).copy(area.address, source, area.page)
    reader.read(b"c")
    expect(t.read(source), b"p", "the parent's source")
    if not memory.shared:
        expect(child.page(area.address), EMPTY, "the child's entry")


@statement(
    159,
    "When the destination is registered with other modes while COPY waits for its source, COPY is"
    " completed up to 6.18 and fails with EAGAIN since 7.2; when another descriptor takes it over,"
    " COPY is completed.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    outcomes={"up to 6.18": "other modes: success", "since 7.2": "other modes: EAGAIN"},
)
def the_registration_changes_meanwhile(t: Thread) -> None:
    u, other = t.uffd(), t.uffd()
    area = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING)
    modes = sleeping_copy(t, u, area.at(0), PAGE)
    u.register(area.at(0), PAGE, MISSING | WP)
    owner = sleeping_copy(t, u, area.at(1), PAGE)
    u.unregister(area.at(1), PAGE)
    other.register(area.at(1), PAGE, MISSING)
    promised = "EAGAIN" if t.since("7.2") else errno_name(0)
    expect(errno_name(modes.resolve().errno), promised, "the end with other modes")
    expect(errno_name(owner.resolve().errno), errno_name(0), "the end with another descriptor")
    expect(t.read(area.at(1)), b"h", "the page")


# --- Waking, and what the page is like ------------------------------------------------------------


@statement(
    154,
    "COPY, ZEROPAGE, CONTINUE, POISON and MOVE with DONTWAKE wake nobody; UFFDIO_WAKE then does.",
    since="6.8",
    source=f"{_MAN}; measured on 6.18",
)
def a_fill_need_not_wake(t: Thread) -> None:
    u = t.uffd()
    anon = t.map("anon", pages=4)
    file = t.map("shmem")
    t.write(t.alias(file).address, b"cached")
    u.register(anon.address, anon.length, MISSING)
    u.register(file.address, file.length, MINOR)
    source = t.source()
    fills: list[tuple[int, Callable[[], None]]] = [
        (anon.at(0), lambda: u.copy(anon.at(0), source, PAGE, abi.UFFDIO_COPY_MODE_DONTWAKE)),
        (anon.at(1), lambda: u.zeropage(anon.at(1), PAGE, abi.UFFDIO_ZEROPAGE_MODE_DONTWAKE)),
        (anon.at(2), lambda: u.poison(anon.at(2), PAGE, abi.UFFDIO_POISON_MODE_DONTWAKE)),
        (anon.at(3), lambda: u.move(anon.at(3), source, PAGE, abi.UFFDIO_MOVE_MODE_DONTWAKE)),
        (file.at(0), lambda: u.continue_(file.at(0), PAGE, abi.UFFDIO_CONTINUE_MODE_DONTWAKE)),
    ]
    for address, fill in fills:
        reader = t.thread().blocks(Read(address, 1))
        fill()
        reader.still("a fill with DONTWAKE")
        u.wake(address, PAGE)
        poisoned = reader.finish().signal
        expect(poisoned is not None, address == anon.at(2), "the reader got SIGBUS")


@statement(
    155,
    "A COPY that stops on its way wakes those who wait for the pages that it has filled, and nobody"
    " else.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def progress_wakes_only_its_own(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=4)
    t.write(area.at(2), b"there")
    u.register(area.address, area.length, MISSING)
    readers = [t.thread().blocks(Read(area.at(number), 1)) for number in (0, 1, 3)]
    source = t.source(b"s", area.length)
    u.copy(area.address, source, area.length, fails=EAGAIN, field=2 * area.page)
    readers[0].read(b"s")
    readers[1].read(b"s")
    readers[2].still("a COPY that did not come so far")
    u.copy(area.at(3), source, area.page)
    readers[2].read(b"s")


@statement(
    163,
    "A page that COPY has put into a mapping that may not be written cannot be written; once"
    " mprotect(2) allows it, a write raises no message.",
    since="4.3",
    source="measured on 6.18",
    memories=ALL,
)
def the_page_obeys_the_mapping(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, prot=mman.PROT_READ)
    u.register(area.address, area.length, MISSING)
    u.copy(area.address, t.source(b"s", area.page), area.page)
    t.raises(Write(area.address, b"w"), SIGSEGV)
    t.ok(calls.Mprotect(area.address, area.length, READ_WRITE))
    t.write(area.address, b"w")
    expect(t.read(area.address, 2), b"ws", "the page")
    u.silent("a write to the page")


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
