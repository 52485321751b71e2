"""UFFDIO_ZEROPAGE."""

from __future__ import annotations

from errno import EAGAIN, EEXIST, EINVAL

from userfault.check.words.outcome import expect
from userfault.check.words.scenes import ANONYMOUS, EMPTY, MAPPED_FILE, ZERO_PAGE, guard, wp_marker
from userfault.check.words.statement import ANON, HUGETLB, SHMEM, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, UNTOUCHED, WP
from userfault.kernel.calls import PAGE
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"

_SMALL = (*ANON, *SHMEM)
_PRIVATE = ("anon", "shmem-private")


@statement(
    76,
    "ZEROPAGE in a private mapping maps the one page of zeroes, which nobody owns and which counts"
    " for nothing; a write replaces it without a message.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=_PRIVATE,
)
def the_page_of_zeroes_is_mapped(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    u.zeropage(area.at(0), PAGE)
    expect((t.page(area.at(0)), t.page(area.at(1))), (ZERO_PAGE, EMPTY), "the pages")
    expect(t.vma(area.address).rss, 0, "resident bytes")
    expect(t.read(area.at(0), PAGE), bytes(PAGE), "the page")
    t.write(area.at(0), b"w")
    u.silent("a write to the page")
    expect((t.page(area.at(0)), t.vma(area.address).rss), (ANONYMOUS, PAGE), "page and rss")
    expect(t.read(area.at(0), 2), b"w\0", "the page after the write")


@statement(
    77,
    "ZEROPAGE in a shared mapping of shmem puts a page of zeroes into the file.",
    since="4.14",
    source=_MEASURED,
    memories=("shmem",),
)
def a_shared_page_of_zeroes_is_allocated(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    other = t.alias(area)
    u.register(area.address, area.length, MISSING)
    expect(t.blocks_of(area.fd), 0, "blocks of the file before")
    u.zeropage(area.at(0), PAGE)
    expect(t.blocks_of(area.fd), PAGE // 512, "blocks of the file")
    expect((t.page(area.at(0)), t.page(area.at(1))), (MAPPED_FILE, EMPTY), "the pages")
    t.write(other.address, b"w")
    expect(t.read(area.at(0), 8), b"w" + bytes(7), "the page after a write by another mapping")


@statement(
    78,
    "ZEROPAGE of hugetlb memory fails with EINVAL, and the field is -EINVAL.",
    since="4.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=HUGETLB,
)
def hugetlb_has_no_page_of_zeroes(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    u.zeropage(area.address, area.length, fails=EINVAL)
    u.zeropage(area.address, area.length, 1 << 1, fails=EINVAL, field=UNTOUCHED)  # no such mode
    expect(t.page(area.address), EMPTY, "the page")


@statement(
    79,
    "ZEROPAGE in a private mapping fails with EEXIST onto a uffd-wp marker, a poison marker or a"
    " guard region.",
    since="6.6",
    source=_MEASURED,
    memories=_PRIVATE,
)
def markers_count_as_occupied(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | WP, Feature.WP_UNPOPULATED, pages=3)
    wp_marker(t, u, area.at(0), PAGE)
    u.poison(area.at(1), PAGE)
    occupied = 2
    if t.since("6.17"):
        guard(t, area.at(2), PAGE)
        occupied = 3
    before = [t.page(area.at(number)) for number in range(occupied)]
    for number in range(occupied):
        u.zeropage(area.at(number), PAGE, fails=EEXIST)
    expect([t.page(area.at(number)) for number in range(occupied)], before, "the entries")


@statement(
    80,
    "A page that ZEROPAGE has mapped counts as occupied for every fill.",
    since="6.6",
    source=_MEASURED,
    memories=_SMALL,
)
def the_page_of_zeroes_is_occupied(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    u.zeropage(area.at(1), PAGE)
    source = t.source(b"s", area.length)
    u.copy(area.at(1), source, PAGE, fails=EEXIST)
    u.zeropage(area.at(1), PAGE, fails=EEXIST)
    u.poison(area.at(1), PAGE, fails=EEXIST)
    u.zeropage(area.address, area.length, fails=EAGAIN, field=PAGE)
    expect(t.read(area.address, area.length), bytes(area.length), "the pages")


@statement(
    150,
    "ZEROPAGE in a shared mapping of shmem replaces uffd-wp and poison markers, and treats a guard"
    " region, as COPY does.",
    since="6.6",
    source="measured on 6.18",
    memories=("shmem",),
    outcomes={
        "up to 6.18": "a guard region is replaced",
        "since 7.2": "a guard region fails with EEXIST",
    },
)
def shared_zeroes_replace_markers(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | WP, Feature.WP_UNPOPULATED, pages=3)
    wp_marker(t, u, area.at(0), PAGE)
    u.poison(area.at(1), PAGE)
    u.zeropage(area.address, 2 * PAGE)
    expect([t.page(area.at(number)) for number in range(2)], [MAPPED_FILE] * 2, "the pages")
    if t.since("6.17"):
        guard(t, area.at(2), PAGE)
        u.zeropage(area.at(2), PAGE, fails=EEXIST if t.since("7.2") else 0)
