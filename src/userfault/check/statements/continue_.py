"""UFFDIO_CONTINUE."""

from __future__ import annotations

from errno import EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT

from userfault.check.words.outcome import expect
from userfault.check.words.scenes import ANONYMOUS, EMPTY, MAPPED_FILE, wp_marker
from userfault.check.words.statement import FILES, SHMEM, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MINOR, MISSING, UNTOUCHED, WP
from userfault.kernel.calls import PAGE, Fallocate, Ftruncate, Write
from userfault.kernel.memtypes import Memory
from userfault.uapi import userfaultfd as abi

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"

_MODE_WP = abi.UFFDIO_CONTINUE_MODE_WP


@statement(
    81,
    "CONTINUE where the file has no page fails with EFAULT, and the field is -EFAULT.",
    since="5.13",
    source=f"{_MAN}; {_MEASURED}",
    memories=FILES,
)
def without_a_cached_page(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MINOR)
    u.continue_(area.address, area.page, fails=EFAULT)
    expect((t.page(area.address), t.blocks_of(area.fd)), (EMPTY, 0), "the page, and the file")


@statement(
    82,
    "CONTINUE maps the page that the file has, without a copy; once more fails with EEXIST.",
    since="5.13",
    source=f"{_MAN}; {_MEASURED}",
    memories=("shmem", "hugetlb"),
)
def a_cached_page_is_mapped(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    other = t.alias(area)
    t.write(other.at(0), b"cached")
    before = t.blocks_of(area.fd)
    u.register(area.address, area.length, MINOR)
    u.continue_(area.at(0), area.page)
    expect((t.page(area.at(0)), t.page(area.at(1))), ("P-F--", EMPTY), "the pages")
    expect(t.read(area.at(0), 6), b"cached", "the page")
    t.write(area.at(0), b"W")
    u.silent("a write to the page")
    expect(t.read(other.at(0), 6), b"Wached", "the page by the other mapping")
    expect(t.blocks_of(area.fd), before, "blocks of the file")
    u.continue_(area.at(0), area.page, fails=EEXIST)
    u.continue_(area.address, area.length, fails=EEXIST)


@statement(
    83,
    "CONTINUE of anonymous memory fails with EINVAL, and of a range that is not registered with"
    " ENOENT.",
    since="5.13",
    source=_MEASURED,
    memories=FILES,
)
def continue_needs_a_file_and_a_registration(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(t.alias(area).address, b"cached")
    u.continue_(area.address, area.page, fails=ENOENT)
    expect(t.page(area.address), EMPTY, "the page")
    anon = t.map("anon")
    u.continue_(anon.address, anon.page, fails=ENOENT)
    u.register(anon.address, anon.length, MISSING)
    u.continue_(anon.address, anon.page, fails=EINVAL)
    u.continue_(anon.address, anon.page, 1 << 2, fails=EINVAL, field=UNTOUCHED)  # no such mode


@statement(
    84,
    "CONTINUE works in a range that is registered for MISSING or WP only.",
    since="5.19",
    source=_MEASURED,
    memories=FILES,
)
def the_mode_does_not_matter(t: Thread, memory: Memory) -> None:
    for mode in (MISSING, WP):
        u = t.uffd()
        area = t.map(memory)
        t.write(t.alias(area).address, b"cached")
        u.register(area.address, area.length, mode)
        u.continue_(area.address, area.page)
        expect(t.read(area.address, 6), b"cached", "the page")
        u.close()


@statement(
    85,
    "CONTINUE beyond the end of a file of shmem fails.",
    since="6.1",
    source="measured on 6.1 to 6.18, 7.2 and 7.3",
    memories=SHMEM,
    outcomes={"up to 6.18": "EINVAL", "since 7.2": "EFAULT"},
)
def beyond_the_end_of_the_file(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    t.write(t.alias(area).address, bytes(area.length))
    u.register(area.address, area.length, MINOR)
    t.ok(Ftruncate(area.fd, area.page))
    code = EFAULT if t.since("7.2") else EINVAL
    u.continue_(area.at(1), area.page, fails=code)
    u.continue_(area.address, area.length, fails=EAGAIN, field=area.page)
    expect(t.page(area.at(1)), EMPTY, "the page beyond the end")


@statement(
    86,
    "CONTINUE in a private mapping maps the page of the file; a write then copies it, without a"
    " message, and leaves the file alone.",
    since="5.14",
    source=_MEASURED,
    memories=("shmem-private", "hugetlb-private"),
)
def a_private_mapping_copies_when_it_is_written(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    other = t.alias(area)
    t.write(other.address, b"cached")
    u.register(area.address, area.length, MISSING | MINOR)
    u.continue_(area.address, area.page)
    expect(t.page(area.address), "P-F--", "the page")
    t.write(other.address, b"C")
    expect(t.read(area.address, 6), b"Cached", "the page that the file has")
    t.write(area.address, b"private")
    u.silent("a write to the page")
    expect(t.page(area.address), ANONYMOUS, "the page after the write")
    expect(t.read(other.address, 6), b"Cached", "the page of the file")


@statement(
    87,
    "CONTINUE of a page that was only allocated with fallocate(2) maps zeroes.",
    since="5.14",
    source=_MEASURED,
    memories=FILES,
)
def an_allocated_page_reads_zero(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    if area.page > PAGE:
        t.reserve(area.page, 1)  # the file's own, besides that of a private mapping
    u.register(area.address, area.length, MINOR)
    t.ok(Fallocate(area.fd, 0, 0, area.page))
    u.continue_(area.address, area.page)
    expect(t.page(area.address), MAPPED_FILE, "the page")
    expect(t.read(area.address, area.page) == bytes(area.page), True, "the page is zero")


@statement(
    88,
    "CONTINUE with MODE_WP fails with EINVAL where WP is not registered; where it is, the page is"
    " protected.",
    since="6.4",
    source=f"{_MAN}; measured on 6.12 to 7.3",
    memories=FILES,
)
def a_continued_page_can_be_protected(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(t.alias(area).address, b"cached")
    u.register(area.address, area.length, MINOR)
    u.continue_(area.address, area.page, _MODE_WP, fails=EINVAL)
    expect(t.page(area.address), EMPTY, "the page")
    u.register(area.address, area.length, MINOR | WP)
    u.continue_(area.address, area.page, _MODE_WP)
    expect(t.page(area.address), "P-FW-", "the page")
    expect(t.read(area.address, 6), b"cached", "the page")
    writer = t.thread().blocks(Write(area.address, b"W"))
    u.fault(area.address, abi.UFFD_PAGEFAULT_FLAG_WRITE | abi.UFFD_PAGEFAULT_FLAG_WP)
    u.writeprotect(area.address, area.page, 0)
    writer.ok()


@statement(
    89,
    "CONTINUE onto a uffd-wp marker without MODE_WP removes the protection.",
    since="5.19",
    source=_MEASURED,
    memories=FILES,
)
def a_marker_is_replaced(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    t.write(t.alias(area).address, b"cached")
    u.register(area.address, area.length, MINOR | WP)
    wp_marker(t, u, area.address, area.page)
    u.continue_(area.address, area.page)
    expect(t.page(area.address), "P-F--", "the page")
    t.write(area.address, b"W")
    u.silent("a write to the page")
