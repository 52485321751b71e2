"""Transparent huge pages: one entry for 2 MiB, whole, protected, shared, split, collapsed."""

from __future__ import annotations

from errno import EBUSY, EINVAL

from userfault.check.words.area import Area
from userfault.check.words.flags import WP_WRITE
from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.scans import regions, scan_for
from userfault.check.words.scenes import ANONYMOUS, EMPTY, ZERO_PAGE, huge_page
from userfault.check.words.statement import statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Madvise, PagemapScan, Write
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import pagemap as pm

_GUIDE = "the kernel's admin guide on transparent huge pages"
_MEASURED = "measured on 6.1 to 7.3"

_PAGES = HUGE // PAGE
_OF_ZEROES = pm.PAGE_IS_PRESENT | pm.PAGE_IS_PFNZERO


# --- The huge zero page --------------------------------------------------------------------------


@statement(
    214,
    "A read of memory with MADV_HUGEPAGE maps the huge zero page, which PAGEMAP_SCAN calls huge and"
    " the zero page, smaps does not count, and pagemap up to 7.2 calls the page of a file.",
    since="6.1",
    source=f"{_GUIDE} (use_zero_page); {_MEASURED}",
    outcomes={"up to 7.2": "present, of a file", "since 7.3": "present"},
)
def a_read_maps_the_huge_zero_page(t: Thread) -> None:
    area = _huge_zero_page(t)
    pages = (0, 1, _PAGES - 1)
    expect([t.page(area.at(page)) for page in pages], [_huge_zero(t)] * 3, "the pages")
    if t.since("6.7"):
        expect(_categories(t, area), [(_PAGES, _OF_ZEROES | pm.PAGE_IS_HUGE)], "the categories")
    seen = t.vma(area.address)
    expect((seen.rss, seen.huge), (0, 0), "bytes resident, and mapped huge")
    expect(t.read(area.end - 8, 8), bytes(8), "the last bytes")


@statement(
    215,
    "MOVE takes the huge zero page as it takes the small one: to an aligned empty place whole, else"
    " split into small zero pages.",
    since="6.8",
    source="measured on 6.12 to 7.3",
)
def the_huge_zero_page_moves(t: Thread) -> None:
    if t.since("6.17") and not t.since("6.18"):
        raise CannotRun(
            "this kernel lacks MOVE of the huge zero page",
            cause="6.17 maps a page that is none, and dies of it (measured on 6.17.13)",
        )
    u = t.uffd()
    area, whole, part = _huge_zero_page(t), _destination(t, u), _destination(t, u)
    u.move(whole.address, area.address, HUGE)
    expect((t.page(area.address), t.page(whole.address)), (EMPTY, _huge_zero(t)), "both places")
    u.move(part.at(1), whole.at(5), PAGE)
    pages = [t.page(at) for at in (whole.at(4), whole.at(5), whole.at(6), part.at(1))]
    expect(pages, [ZERO_PAGE, EMPTY, ZERO_PAGE, ZERO_PAGE], "both places")


@statement(
    216,
    "fork(2) shares the huge zero page; what the child does with it is not seen by the parent.",
    since="6.1",
    source=_MEASURED,
)
def the_huge_zero_page_is_shared_by_fork(t: Thread) -> None:
    area = _huge_zero_page(t)
    child = t.fork()
    both = [thread.page(area.at(7)) for thread in (t, child)]
    expect(both, [_huge_zero(t)] * 2, "the page of parent and child")
    child.write(area.at(7), b"child")
    expect((t.read(area.at(7), 5), t.page(area.at(7))), (bytes(5), _huge_zero(t)), "the parent's")


@statement(
    217,
    "Dropping or protecting one small page of the huge zero page splits it: the others are the"
    " small zero page.",
    since="6.1",
    source=_MEASURED,
)
def a_part_of_the_huge_zero_page_is_split_off(t: Thread) -> None:
    area = _huge_zero_page(t)
    t.ok(Madvise(area.at(3), PAGE, mman.MADV_DONTNEED))
    pages = [t.page(area.at(page)) for page in (2, 3, 4)]
    expect(pages, [ZERO_PAGE, EMPTY, ZERO_PAGE], "pages around the one that was dropped")
    u, area = t.uffd(), _huge_zero_page(t)
    u.register(area.address, area.length, WP)
    u.writeprotect(area.at(3), PAGE)
    pages = [t.page(area.at(page)) for page in (2, 3, 4)]
    expect(pages, [ZERO_PAGE, "P--W-", ZERO_PAGE], "pages around the one that was protected")


@statement(
    218,
    "A write to the huge zero page gives one small page up to 6.12, and a huge page since 6.17.",
    since="6.1",
    source=_MEASURED,
    outcomes={"up to 6.12": "a small page", "since 6.17": "a huge page"},
)
def a_write_to_the_huge_zero_page(t: Thread) -> None:
    area = _huge_zero_page(t)
    t.write(area.at(3), b"w")
    huge = t.since("6.17")
    expect(t.vma(area.address).huge, HUGE if huge else 0, "bytes that a huge page maps")
    pages = [t.page(area.at(page)) for page in (3, 4)]
    expect(pages, [ANONYMOUS, ANONYMOUS if huge else ZERO_PAGE], "the page, and the one behind it")
    expect(t.read(area.at(3), 2), b"w\0", "the page")


# --- Protection ----------------------------------------------------------------------------------


@statement(
    219,
    "WRITEPROTECT of a whole transparent huge page protects it and lifts that as one, and it stays"
    " huge; a write to it is reported with the address of its small page.",
    since="6.1",
    source=_MEASURED,
)
def a_huge_page_is_protected_whole(t: Thread) -> None:
    u, area = t.uffd(), huge_page(t)
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    _expect_huge(t, area, "P--WX")
    writer = t.thread().blocks(Write(area.at(5) + 8, b"w"))
    u.fault(area.at(5), WP_WRITE)
    u.writeprotect(area.address, area.length, 0)
    writer.ok()
    _expect_huge(t, area, ANONYMOUS)
    t.ok(calls.Mprotect(area.address, area.length, mman.PROT_READ))
    _expect_huge(t, area, ANONYMOUS)
    u.unregister(area.address, area.length)
    _expect_huge(t, area, ANONYMOUS)


@statement(
    220,
    "WRITEPROTECT of a part of a transparent huge page splits it, and only that part is protected.",
    since="6.1",
    source=_MEASURED,
)
def a_part_of_a_huge_page_is_protected(t: Thread) -> None:
    u, area = t.uffd(), huge_page(t)
    u.register(area.address, area.length, WP)
    u.writeprotect(area.at(3), PAGE)
    pages = [t.page(area.at(page)) for page in (2, 3, 4)]
    expect(pages, [ANONYMOUS, "P--WX", ANONYMOUS], "pages around the one that was protected")
    expect(t.vma(area.address).huge, 0, "bytes that a huge page maps")
    t.write(area.at(4), b"w")
    u.silent("a write beside the protected page")


@statement(
    221,
    "Under WP_ASYNC a write to a protected huge page splits it and marks one small page as written,"
    " and a scan with WP_MATCHING that covers a huge page protects it whole.",
    since="6.7",
    source="measured on 6.12 to 7.3",
)
def written_parts_of_a_huge_page_are_told(t: Thread) -> None:
    u, area = t.uffd(Feature.WP_ASYNC), huge_page(t)
    u.register(area.address, area.length, WP)
    expect(_written(t, area, pm.PM_SCAN_WP_MATCHING), [(0, _PAGES)], "pages of the first scan")
    _expect_huge(t, area, "P--WX")
    expect(_written(t, area), [], "pages of the second scan")
    t.write(area.at(5), b"w")
    expect(_written(t, area), [(5, 6)], "pages of the scan after a write")
    expect(t.vma(area.address).huge, 0, "bytes that a huge page maps")
    u.silent("the write")


@statement(
    222,
    "fork(2) shares a transparent huge page whole; a write splits the entry of the process that"
    " writes, and MOVE of what is still shared fails with EBUSY.",
    since="6.8",
    source="measured on 6.12 to 7.3",
)
def a_huge_page_is_shared_by_fork(t: Thread) -> None:
    u, area = t.uffd(), huge_page(t)
    place = _destination(t, u)
    child = t.fork()
    expect([thread.vma(area.address).huge for thread in (t, child)], [HUGE] * 2, "parent and child")
    u.move(place.address, area.address, HUGE, fails=EBUSY)
    t.write(area.at(5), b"parent")
    expect([thread.vma(area.address).huge for thread in (t, child)], [0, HUGE], "parent and child")
    expect(child.read(area.at(5), 6), bytes(6), "the page of the child")
    u.move(place.address, area.at(6), PAGE, fails=EBUSY)
    u.move(place.at(0), area.at(5), PAGE)
    expect(t.read(place.at(0), 6), b"parent", "the page that was written")


# --- MADV_COLLAPSE -------------------------------------------------------------------------------


@statement(
    223,
    "MADV_COLLAPSE of a registered range of which a page is missing fails with EBUSY (EINVAL on"
    " 6.1), and fills no hole; with every page there the range becomes one huge page.",
    since="6.1",
    source="madvise(2); measured on 6.1 to 7.3",
    outcomes={"up to 6.1": "EINVAL", "since 6.12": "EBUSY"},
)
def holes_of_a_registered_range_stay(t: Thread) -> None:
    u = t.uffd()
    area = _destination(t, u)
    u.copy(area.at(0), t.source(b"s"), PAGE)
    collapse = Madvise(area.address, area.length, mman.MADV_COLLAPSE)
    t.fails(collapse, EBUSY if t.since("6.12") else EINVAL)
    expect((t.page(area.at(0)), t.page(area.at(1))), (ANONYMOUS, EMPTY), "the first two pages")
    u.copy(area.at(1), t.source(b"r", area.length - PAGE), area.length - PAGE)
    t.ok(collapse)
    _expect_huge(t, area, ANONYMOUS)
    expect((t.read(area.at(0)), t.read(area.at(_PAGES - 1))), (b"s", b"r"), "the bytes")


@statement(
    224,
    "MADV_COLLAPSE fails with EINVAL where a page is write-protected through userfaultfd, and"
    " leaves it protected.",
    since="6.1",
    source=_MEASURED,
)
def a_protected_page_does_not_collapse(t: Thread) -> None:
    u, area = t.registered("anon", WP, pages=_PAGES)
    t.ok(Madvise(area.address, area.length, mman.MADV_NOHUGEPAGE))
    t.write(area.address, b"s" * area.length)
    t.ok(Madvise(area.address, area.length, mman.MADV_HUGEPAGE))
    u.writeprotect(area.at(5), PAGE)
    collapse = Madvise(area.address, area.length, mman.MADV_COLLAPSE)
    t.fails(collapse, EINVAL)
    expect(t.page(area.at(5)), "P--WX", "the page that is protected")
    u.writeprotect(area.at(5), PAGE, 0)
    t.ok(collapse)
    _expect_huge(t, area, ANONYMOUS)


# --- What they share -----------------------------------------------------------------------------


def _huge_zero(t: Thread) -> str:
    """The huge zero page, as pagemap has it: it is not anonymous, and nobody maps it alone."""
    return ZERO_PAGE if t.since("7.3") else "P-F--"


def _huge_zero_page(t: Thread) -> Area:
    """2 MiB of anonymous memory that the huge zero page maps.  CannotRun where there is none."""
    area = t.map("anon", pages=_PAGES)
    t.ok(Madvise(area.address, area.length, mman.MADV_HUGEPAGE))
    t.read(area.at(1))
    if t.page(area.at(2)) == EMPTY:
        raise CannotRun(
            "no huge zero page",
            cause="the kernel gave a small page for a read of memory with MADV_HUGEPAGE",
            cure="see enabled and use_zero_page in /sys/kernel/mm/transparent_hugepage",
        )
    return area


def _destination(t: Thread, u: Uffd) -> Area:
    """2 MiB of empty memory that is registered, and takes huge pages."""
    area = t.map("anon", pages=_PAGES)
    u.register(area.address, area.length, MISSING)
    t.ok(Madvise(area.address, area.length, mman.MADV_HUGEPAGE))
    return area


def _expect_huge(t: Thread, area: Area, page: str) -> None:
    seen = t.vma(area.address).huge, t.page(area.at(0)), t.page(area.at(_PAGES - 1))
    expect(seen, (HUGE, page, page), "bytes that a huge page maps, its first and last page")


def _categories(t: Thread, area: Area) -> list[tuple[int, int]]:
    """(pages, categories) of each stretch: whether it is there, of zeroes, huge."""
    told = pm.PAGE_IS_PRESENT | pm.PAGE_IS_PFNZERO | pm.PAGE_IS_HUGE | pm.PAGE_IS_FILE
    found = regions(t, PagemapScan(area.address, area.end, return_mask=told))
    return [((end - start) // PAGE, categories) for start, end, categories in found]


def _written(t: Thread, area: Area, flags: int = 0) -> list[tuple[int, int]]:
    """The numbers of the first page and the page behind, of each stretch that was written."""
    base = area.address
    found = regions(t, scan_for(area, pm.PAGE_IS_WRITTEN, flags))
    return [((start - base) // PAGE, (end - base) // PAGE) for start, end, _ in found]
