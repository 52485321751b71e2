"""UFFDIO_MOVE."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT

from userfault.check.words.area import Area
from userfault.check.words.flags import READ_WRITE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import (
    ANONYMOUS,
    EMPTY,
    ZERO_PAGE,
    guard,
    huge_page,
    pattern,
    wp_marker,
)
from userfault.check.words.statement import statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, UNTOUCHED, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.12 to 7.3"

_ALLOW_HOLES = abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES


def _destination(t: Thread, u: Uffd, pages: int = 1) -> Area:
    area = t.map("anon", pages=pages)
    u.register(area.address, area.length, MISSING)
    return area


@statement(
    95,
    "MOVE takes the page from the source, which is empty then, and gives it to the destination,"
    " where it can be written.",
    since="6.8",
    source=f"{_MAN}; {_MEASURED}",
)
def a_page_is_moved(t: Thread) -> None:
    u = t.uffd()
    dst = _destination(t, u, pages=2)
    src = t.map("anon", pages=2)  # it need not be registered
    content = pattern(src.length)
    t.write(src.address, content)
    u.move(dst.address, src.address, src.length)
    expect([t.page(src.at(number)) for number in range(2)], [EMPTY] * 2, "the source")
    expect([t.page(dst.at(number)) for number in range(2)], [ANONYMOUS] * 2, "the destination")
    expect(t.read(dst.address, dst.length) == content, True, "the bytes have moved")
    t.write(dst.address, b"w")
    expect(t.read(src.address, 8), bytes(8), "the source")
    u.silent("a write to the destination")


@statement(
    96,
    "MOVE from an empty entry fails with ENOENT; with ALLOW_SRC_HOLES it counts as moved.",
    since="6.8",
    source=f"{_MAN}; {_MEASURED}",
)
def holes_of_the_source(t: Thread) -> None:
    u = t.uffd()
    dst = _destination(t, u, pages=3)
    src = t.map("anon", pages=3)
    t.write(src.at(0), b"0")
    t.write(src.at(2), b"2")
    u.move(dst.at(1), src.at(1), PAGE, fails=ENOENT)
    u.move(dst.address, src.address, src.length, fails=EAGAIN, field=PAGE)
    u.move(dst.at(1), src.at(1), 2 * PAGE, _ALLOW_HOLES)
    pages = [t.page(dst.at(number)) for number in range(3)]
    expect(pages, [ANONYMOUS, EMPTY, ANONYMOUS], "the destination")
    expect((t.read(dst.at(0)), t.read(dst.at(2))), (b"0", b"2"), "the pages that were there")


@statement(
    97,
    "MOVE to an occupied entry fails with EEXIST, and the source keeps its page.",
    since="6.8",
    source=f"{_MAN}; {_MEASURED}",
)
def an_occupied_destination(t: Thread) -> None:
    u = t.uffd()
    dst = _destination(t, u, pages=4)
    src = t.map("anon")
    t.write(src.address, b"source")
    u.copy(dst.at(0), t.source(b"d"), PAGE)
    u.zeropage(dst.at(1), PAGE)
    u.poison(dst.at(2), PAGE)
    for number in range(3):
        before = t.page(dst.at(number))
        u.move(dst.at(number), src.address, PAGE, fails=EEXIST)
        expect(t.page(dst.at(number)), before, "the destination")
    expect(t.read(src.address, 6), b"source", "the source")
    expect(t.read(dst.at(0)), b"d", "the page that was there")
    u.move(dst.at(3), src.address, PAGE)


@statement(
    98,
    "MOVE of a page that was shared by fork(2) fails with EBUSY, also after the child's end, until"
    " the page is written.",
    since="6.8",
    source=f"{_MAN}; {_MEASURED}",
)
def a_page_shared_by_fork_stays(t: Thread) -> None:
    u = t.uffd()
    dst = _destination(t, u)
    src = t.map("anon")
    t.write(src.address, b"shared")
    child = t.fork()
    u.move(dst.address, src.address, PAGE, fails=EBUSY)
    child.do(calls.Exit())
    t.ok(calls.Wait(child.process.pid))
    u.move(dst.address, src.address, PAGE, fails=EBUSY)
    expect((t.page(dst.address), t.read(src.address, 6)), (EMPTY, b"shared"), "both places")
    t.write(src.address, b"S")
    u.move(dst.address, src.address, PAGE)
    expect(t.read(dst.address, 6), b"Shared", "the destination")


@statement(
    99,
    "MOVE fails with EINVAL where one of the two places is not anonymous, their protection or"
    " mlock(2) differs, or the destination is not registered with this descriptor.",
    since="6.8",
    source=f"{_MAN}; {_MEASURED}",
)
def both_places_must_be_alike(t: Thread) -> None:
    u, other = t.uffd(), t.uffd()
    dst = _destination(t, u)
    src = t.map("anon")
    t.write(src.address, b"source")
    _only_anonymous(t, u, dst, src)
    t.ok(calls.Mprotect(src.address, PAGE, mman.PROT_READ))
    u.move(dst.address, src.address, PAGE, fails=EINVAL)
    t.ok(calls.Mprotect(src.address, PAGE, READ_WRITE))
    t.ok(calls.Mlock(src.address, PAGE))
    u.move(dst.address, src.address, PAGE, fails=EINVAL)
    t.ok(calls.Munlock(src.address, PAGE))
    other.move(dst.address, src.address, PAGE, fails=EINVAL)  # another descriptor's
    plain = t.map("anon")
    u.move(plain.address, src.address, PAGE, fails=EINVAL)  # nobody's
    expect(t.page(dst.address), EMPTY, "the destination")
    u.move(dst.address, src.address, PAGE)


def _only_anonymous(t: Thread, u: Uffd, dst: Area, src: Area) -> None:
    for kind in ("shmem", "shmem-private"):
        file = t.map(kind)
        t.write(file.address, b"file")
        u.move(dst.address, file.address, PAGE, fails=EINVAL)
        empty = t.map(kind)
        u.register(empty.address, empty.length, MISSING)
        u.move(empty.address, src.address, PAGE, fails=EINVAL)


@statement(
    100,
    "MOVE by a process that is not the descriptor's fails with EINVAL, and the field is left as it"
    " was.",
    since="6.8",
    source=_MEASURED,
)
def only_the_owner_moves(t: Thread) -> None:
    u = t.uffd()
    dst = _destination(t, u)
    src = t.map("anon")
    t.write(src.address, b"source")
    child = t.fork()
    u.by(child).move(dst.address, src.address, PAGE, fails=EINVAL, field=UNTOUCHED)
    expect((t.page(dst.address), t.read(src.address, 6)), (EMPTY, b"source"), "both places")


@statement(
    101,
    "MOVE does not take the uffd-wp bit along.",
    since="6.8",
    source=_MEASURED,
)
def protection_does_not_move(t: Thread) -> None:
    u = t.uffd()
    areas = [t.map("anon") for _ in range(2)]
    for area in areas:
        u.register(area.address, area.length, MISSING | WP)
    src, dst = areas
    u.copy(src.address, t.source(), PAGE, abi.UFFDIO_COPY_MODE_WP)
    expect(t.page(src.address), "P--WX", "the source")
    u.move(dst.address, src.address, PAGE)
    expect((t.page(src.address), t.page(dst.address)), (EMPTY, ANONYMOUS), "both places")
    t.write(dst.address, b"w")
    u.silent("a write to the destination")


@statement(
    160,
    "MOVE of a whole transparent huge page, to an aligned place, moves it as one; a part of it is"
    " split off first.",
    since="6.8",
    source="measured on 6.18",
)
def huge_pages_move_whole_or_are_split(t: Thread) -> None:
    u = t.uffd()
    area = huge_page(t)
    whole = _destination(t, u, pages=HUGE // PAGE)
    t.write(area.at(4), b"four")
    t.write(area.at(5), b"five")
    u.move(whole.address, area.address, HUGE)
    seen = [t.vma(place.address).huge for place in (area, whole)]
    expect(seen, [0, HUGE], "bytes that a huge page maps")
    part = _destination(t, u)
    u.move(part.address, whole.at(5), PAGE)
    expect(t.vma(whole.address).huge, 0, "bytes that a huge page maps")
    expect((t.page(whole.at(4)), t.page(whole.at(5))), (ANONYMOUS, EMPTY), "the source")
    expect((t.read(whole.address, 3), t.read(part.address, 4)), (b"thp", b"five"), "the bytes")


@statement(
    161,
    "MOVE takes the page of zeroes too, inside of one mapping, and between two mappings that are"
    " both locked.",
    since="6.8",
    source="measured on 6.18",
)
def zeroes_and_locked_pages_move(t: Thread) -> None:
    u = t.uffd()
    area = _destination(t, u, pages=2)
    u.zeropage(area.at(0), PAGE)
    u.move(area.at(1), area.at(0), PAGE)
    expect((t.page(area.at(0)), t.page(area.at(1))), (EMPTY, ZERO_PAGE), "both places")
    src, dst = t.map("anon"), t.map("anon")
    for locked in (src, dst):
        t.ok(calls.Mlock(locked.address, PAGE))
    t.ok(calls.Madvise(dst.address, PAGE, mman.MADV_DONTNEED_LOCKED))
    u.register(dst.address, PAGE, MISSING)
    t.write(src.address, b"locked")
    u.move(dst.address, src.address, PAGE)
    expect(t.read(dst.address, 6), b"locked", "the page")


@statement(
    162,
    "MOVE from a marker - of uffd-wp, of poison, of a guard region - fails with EFAULT, and leaves"
    " it there.",
    since="6.8",
    source="measured on 6.18",
)
def markers_do_not_move(t: Thread) -> None:
    u = t.uffd(Feature.WP_UNPOPULATED)
    dst = _destination(t, u)
    src = t.map("anon", pages=3)
    u.register(src.address, src.length, MISSING | WP)
    wp_marker(t, u, src.at(0), PAGE)
    u.poison(src.at(1), PAGE)
    markers = 2
    if t.since("6.17"):
        guard(t, src.at(2), PAGE)
        markers = 3
    for number in range(markers):
        before = t.page(src.at(number))
        for mode in (0, _ALLOW_HOLES):
            u.move(dst.address, src.at(number), PAGE, mode, fails=EFAULT)
        expect((t.page(src.at(number)), t.page(dst.address)), (before, EMPTY), "both places")
