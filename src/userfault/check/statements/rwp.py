"""RWP (7.3): pages that report every touch, what lifts that, and the modes that 7.3 can switch."""

from __future__ import annotations

import os
from errno import EAGAIN, EBUSY, EFAULT, EINVAL, ESRCH

from userfault.check.words.area import Area
from userfault.check.words.flags import MOVE_TO, PUNCH_HOLE
from userfault.check.words.outcome import Failed, expect
from userfault.check.words.scans import pages_with
from userfault.check.words.scenes import EMPTY, huge_page, pipe
from userfault.check.words.statement import ALL, ANON, HUGETLB, SHARED, statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.uffd import MINOR, MISSING, RWP, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import (
    HUGE,
    PAGE,
    WAITS_EVENT,
    Madvise,
    Mremap,
    Read,
    Write,
)
from userfault.kernel.events import Fork, Remap, Remove
from userfault.kernel.memtypes import Memory, memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import pagemap as pm
from userfault.uapi import userfaultfd as abi

_MEASURED = "measured on 7.3"
_GUIDE = f"the kernel's admin guide on userfaultfd; {_MEASURED}"

_NONE = Feature(0)
_READ = abi.UFFD_PAGEFAULT_FLAG_RWP
_WRITE = abi.UFFD_PAGEFAULT_FLAG_RWP | abi.UFFD_PAGEFAULT_FLAG_WRITE
_DONTWAKE = abi.UFFDIO_RWPROTECT_MODE_DONTWAKE


# --- What is protected ---------------------------------------------------------------------------


@statement(
    185,
    "UFFDIO_RWPROTECT leaves empty entries as they are: the page that a touch makes there is not"
    " protected, and with MISSING the touch is reported as a missing page.",
    since="7.3",
    source=_MEASURED,
    memories=ALL,
)
def empty_entries_are_not_protected(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    area = t.map(memory, pages=2)
    u.register(area.at(0), area.page, RWP)
    u.register(area.at(1), area.page, RWP | MISSING)
    u.rwprotect(area.address, area.length)
    expect([t.page(area.at(page)) for page in range(2)], [EMPTY] * 2, "the entries")
    t.write(area.at(0), b"w")
    u.silent("the write to an empty entry")
    expect(t.protected(area.at(0)), False, "the page is protected")
    t.thread().blocks(Write(area.at(1), b"w"))
    u.fault(area.at(1), abi.UFFD_PAGEFAULT_FLAG_WRITE)


@statement(
    186,
    "What a fill puts into a range for RWP is not protected.",
    since="7.3",
    source=_MEASURED,
    memories=ALL,
)
def fills_are_not_protected(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, RWP | MISSING, Feature.RWP, pages=3)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    filled = [0]
    if memory.traits.zeropage:
        u.zeropage(area.at(1), area.page)
        filled += [1]
    if memory.minor_faults:
        t.write(t.alias(area).at(2), b"cached")
        u.continue_(area.at(2), area.page)
        filled += [2]
    for page in filled:
        expect(t.protected(area.at(page)), False, f"page {page} is protected")
        t.write(area.at(page), b"w")
    u.silent("writes to all of them")


@statement(
    187,
    "MOVE protects the page that it brings into a range for RWP.",
    since="7.3",
    source=_MEASURED,
    memories=ANON,
)
def what_is_moved_is_protected(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, RWP | MISSING, Feature.RWP)
    u.move(area.address, t.source(b"m"), area.page)
    expect(t.protected(area.address), True, "the page is protected")
    reader = t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, _READ)
    u.rwprotect(area.address, area.length, 0)
    reader.read(b"m")


@statement(
    188,
    "A part of a transparent huge page can be RW-protected: the rest of it is touched without a"
    " message.",
    since="7.3",
    source=_MEASURED,
)
def a_part_of_a_huge_page_is_protected(t: Thread) -> None:
    u = t.uffd(Feature.RWP)
    area = huge_page(t)
    u.register(area.address, area.length, RWP)
    u.rwprotect(area.at(1), PAGE)
    found = [page for page in range(HUGE // PAGE) if t.protected(area.at(page))]
    expect(found, [1], "the pages that are protected")
    expect(t.read(area.at(0), 3), b"thp", "the first page")
    t.write(area.at(2), b"w")
    u.silent("touches of the rest")
    t.thread().blocks(Read(area.at(1), 1))
    u.fault(area.at(1), _READ)


@statement(
    189,
    "A range of UFFDIO_RWPROTECT that begins or ends inside of a huge page fails with EINVAL, and"
    " nothing is protected.",
    since="7.3",
    source=_GUIDE,
    memories=HUGETLB,
)
def huge_pages_are_rw_protected_whole(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP)
    area = t.map(memory, pages=2)
    t.write(area.at(0), b"page")
    t.write(area.at(1), b"page")
    u.register(area.address, area.length, RWP)
    u.rwprotect(area.address, PAGE, fails=EINVAL)
    u.rwprotect(area.address + PAGE, area.page, fails=EINVAL)
    u.rwprotect(area.address, area.page + PAGE, fails=EINVAL)
    found = [t.protected(area.at(page)) for page in range(2)]
    expect(found, [False, False], "the pages are protected")


# --- Who is told ---------------------------------------------------------------------------------


@statement(
    190,
    "A system call that meets an RW-protected page is reported and waits as a touch does; with"
    " USER_MODE_ONLY it fails with EFAULT, and with SIGBUS a touch raises SIGBUS.",
    since="7.3",
    source=_MEASURED,
    memories=ALL,
)
def system_calls_meet_rw_protection(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    writer = t.thread()
    waiting = writer.blocks(calls.WriteFrom(pipe(writer)[1], area.address, 4))
    u.fault(area.address, _READ)
    u.rwprotect(area.address, area.length, 0)
    expect(waiting.ok().value, 4, "bytes of write(2)")
    flags = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY
    u, area = _protected_page(t, memory, flags=flags)
    t.fails(calls.WriteFrom(pipe(t)[1], area.address, 4), EFAULT)
    u.silent("a system call with USER_MODE_ONLY")
    u, area = _protected_page(t, memory, Feature.SIGBUS)
    t.raises(Read(area.address, 1), SIGBUS)
    t.raises(Write(area.address, b"w"), SIGBUS)
    u.silent("touches with SIGBUS")


@statement(
    191,
    "RW protection is of one mapping: touches through another mapping of the file are not"
    " reported, and leave the page protected.",
    since="7.3",
    source=_MEASURED,
    memories=SHARED,
)
def rw_protection_is_of_one_mapping(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    alias = t.alias(area)
    expect(t.read(alias.address, 4), b"page", "the page")
    t.write(alias.address, b"else")
    u.silent("touches through another mapping")
    reader = t.thread().blocks(Read(area.address, 4))
    u.fault(area.address, _READ)
    u.rwprotect(area.address, area.length, 0)
    reader.read(b"else")


@statement(
    192,
    "Un-protecting with DONTWAKE leaves who waits asleep until UFFDIO_WAKE; UFFDIO_WAKE of a page"
    " that is still protected raises the message again.",
    since="7.3",
    source=_GUIDE,
    memories=ALL,
)
def rw_protection_can_be_lifted_without_waking(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    reader = t.thread().blocks(Read(area.address, 4))
    u.fault(area.address, _READ)
    u.wake(area.address, area.length)
    u.fault(area.address, _READ)
    u.rwprotect(area.address, area.length, _DONTWAKE)
    reader.still("un-protecting with DONTWAKE")
    u.wake(area.address, area.length)
    reader.read(b"page")


# --- How long it lasts ---------------------------------------------------------------------------


@statement(
    193,
    "A child of fork(2) finds RW-protected pages accessible without EVENT_FORK; with it they are"
    " protected, and its touches are reported at the new descriptor.",
    since="7.3",
    source=_GUIDE,
    memories=ALL,
)
def children_and_rw_protection(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    _reserve_copies(t, area)
    child = t.fork()
    expect(child.read(area.address, 4), b"page", "the page of the child")
    u.silent("the touch of the child")
    expect(t.protected(area.address), True, "the page of the parent is protected")

    u, area = _protected_page(t, memory, Feature.EVENT_FORK)
    _reserve_copies(t, area)
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    event = u.message()
    if not isinstance(event, Fork):
        raise Failed(f"promised a fork, saw {event}")
    child, theirs = t.child(parent.ok().value), Uffd(t, event.userfaultfd)
    expect(child.protected(area.address), True, "the page of the child is protected")
    reader = child.thread().blocks(Read(area.address, 4))
    u.silent("a touch of the child, at the parent's descriptor")
    theirs.fault(area.address, _READ)
    theirs.rwprotect(area.address, area.length, 0)
    reader.read(b"page")
    expect(t.protected(area.address), True, "the page of the parent is protected")


@statement(
    194,
    "Memory that mremap(2) moves loses RWP and its RW protection without EVENT_REMAP, and keeps"
    " both with it.",
    since="7.3",
    source=_MEASURED,
    memories=ALL,
)
def moving_and_rw_protection(t: Thread, memory: Memory) -> None:
    for feature in (_NONE, Feature.EVENT_REMAP):
        u, area = _protected_page(t, memory, feature)
        new = t.program.free_place()
        move = Mremap(area.address, area.length, area.length, MOVE_TO, new)
        if feature:
            mover = t.thread().blocks(move, WAITS_EVENT)
            expect(u.message(), Remap(area.address, new, area.length), "the event")
            mover.ok()
        else:
            t.ok(move)
        kept = bool(feature)
        expect(t.protected(new), kept, "the page is protected")
        expect("ur" in t.vma(new).flags, kept, "the registration")
        if kept:
            t.thread().blocks(Read(new, 4))
            u.fault(new, _READ)
        else:
            expect(t.read(new, 4), b"page", "the page")
            u.silent("a touch of it")


@statement(
    195,
    "A hole punched into the file takes the RW protection away with the page, as MADV_REMOVE does:"
    " the next touch is not reported.",
    since="7.3",
    source=_MEASURED,
    memories=SHARED,
)
def holes_take_rw_protection_away(t: Thread, memory: Memory) -> None:
    for drop in (calls.Fallocate, Madvise):
        u, area = _protected_page(t, memory)
        if drop is Madvise:
            t.ok(Madvise(area.address, area.length, mman.MADV_REMOVE))
        else:
            t.ok(calls.Fallocate(area.fd, PUNCH_HOLE, 0, area.length))
        expect(t.read(area.address, 4), bytes(4), "the page")
        t.write(area.address, b"w")
        u.silent("touches after the page has gone")


@statement(
    196,
    "Registering again without RWP, where RWP was set, fails with EBUSY and changes nothing; with"
    " RWP and more it succeeds.",
    since="7.3",
    source=_GUIDE,
    memories=ALL,
)
def rwp_is_not_dropped_by_registering(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    for mode in (MISSING, WP, MISSING | WP):
        u.register(area.address, area.length, mode, fails=EBUSY)
    expect("ur" in t.vma(area.address).flags, True, "the registration")
    expect(t.protected(area.address), True, "the page is protected")
    more = RWP | MISSING | (MINOR if memory.minor_faults else 0)
    u.register(area.address, area.length, more)
    expect(t.protected(area.address), True, "the page is protected after registering more")
    t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, _READ)


# --- RWP_ASYNC and SET_MODE ----------------------------------------------------------------------


@statement(
    197,
    "Under RWP_ASYNC, asked for in the handshake, a touch lifts the protection of its page alone,"
    " without a message.",
    since="7.3",
    source=_GUIDE,
    memories=ALL,
)
def async_rw_protection_reports_nothing(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP | Feature.RWP_ASYNC)
    area = _written(t, memory, pages=3)
    u.register(area.address, area.length, RWP)
    u.rwprotect(area.address, area.length)
    expect(t.read(area.at(0), 4), b"page", "the first page")
    t.write(area.at(2), b"new")
    found = [t.protected(area.at(page)) for page in range(3)]
    expect(found, [False, True, False], "the pages are protected")
    u.silent("the touches")


@statement(
    198,
    "A scan for ACCESSED lists, in a range for RWP, the pages that are there and were touched since"
    " they were RW-protected; in other memory it lists none.",
    since="7.3",
    source=f"the kernel's admin guide on pagemap; {_MEASURED}",
    memories=ALL,
)
def a_scan_tells_what_was_accessed(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP | Feature.RWP_ASYNC)
    area = _written(t, memory, pages=4, written=3)
    other = _written(t, memory, pages=1)
    u.register(area.address, area.length, RWP)
    expect(_accessed(t, area), [0, 1, 2], "the pages before protecting them")
    u.rwprotect(area.address, area.length)
    expect(_accessed(t, area), [], "the pages after protecting them")
    t.read(area.at(0))
    t.write(area.at(2), b"w")
    expect(_accessed(t, area), [0, 2], "the pages after two touches")
    expect(_accessed(t, other), [], "the pages of memory that is not registered")
    u.silent("the touches")


@statement(
    199,
    "UFFDIO_SET_MODE of nothing succeeds; RWP_ASYNC cannot be enabled without RWP (EINVAL), but be"
    " disabled; an undefined bit fails with EINVAL, a null argument with EFAULT.",
    since="7.3",
    source=_GUIDE,
)
def set_mode_looks_at_its_arguments(t: Thread) -> None:
    plain, tracker = t.uffd(), t.uffd(Feature.RWP)
    for u in (plain, tracker):
        u.set_mode(_NONE, _NONE)
        u.set_mode(_NONE, Feature.RWP_ASYNC)
        u.set_mode(Feature(1 << 60), _NONE, fails=EINVAL)
        u.set_mode(_NONE, Feature(1 << 60), fails=EINVAL)
        u.set_mode(_NONE, Feature.RWP, fails=EINVAL)
        t.fails(calls.Ioctl(u.fd, abi.UFFDIO_SET_MODE, 0), EFAULT)
    plain.set_mode(Feature.RWP_ASYNC, _NONE, fails=EINVAL)
    tracker.set_mode(Feature.RWP_ASYNC, _NONE)
    tracker.set_mode(Feature.RWP_ASYNC, _NONE)


@statement(
    200,
    "Enabling RWP_ASYNC wakes everybody who waits in the context: who waits for a missing page is"
    " reported again.",
    since="7.3",
    source=_MEASURED,
    memories=ALL,
)
def set_mode_wakes_everybody(t: Thread, memory: Memory) -> None:
    u, area = _protected_page(t, memory)
    missing = t.map(memory)
    u.register(missing.address, missing.length, MISSING)
    protected = t.thread().blocks(Read(area.address, 4))
    u.fault(area.address, _READ)
    waiting = t.thread().blocks(Read(missing.address, 1))
    u.fault(missing.address, 0)
    u.set_mode(Feature.RWP_ASYNC, _NONE)
    protected.read(b"page")
    waiting.still("UFFDIO_SET_MODE")
    u.fault(missing.address, 0)
    u.copy(missing.address, t.source(b"s", missing.page), missing.page)
    waiting.read(b"s")


@statement(
    201,
    "While an event waits to be read, UFFDIO_RWPROTECT fails with EAGAIN, and UFFDIO_SET_MODE"
    " works.",
    since="7.3",
    source=_GUIDE,
    memories=ALL,
)
def rw_protecting_waits_for_the_event(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.RWP | Feature.EVENT_REMOVE)
    area = _written(t, memory, pages=2)
    u.register(area.address, area.length, RWP)
    drop = Madvise(area.at(1), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, WAITS_EVENT)
    u.rwprotect(area.at(0), area.page, fails=EAGAIN)
    expect(t.protected(area.at(0)), False, "the page is protected")
    u.set_mode(Feature.RWP_ASYNC, _NONE)
    u.set_mode(_NONE, Feature.RWP_ASYNC)
    expect(u.message(), Remove(area.at(1), area.end), "the event")
    dropper.ok()
    u.rwprotect(area.at(0), area.page)
    expect(t.protected(area.at(0)), True, "the page is protected")


@statement(
    202,
    "On the descriptor of a process that has ended, UFFDIO_RWPROTECT and UFFDIO_SET_MODE fail with"
    " ESRCH.",
    since="7.3",
    source=_MEASURED,
)
def no_modes_without_a_process(t: Thread) -> None:
    u = t.uffd(Feature.RWP | Feature.EVENT_FORK)
    area = _written(t, memory("anon"), pages=1)
    u.register(area.address, area.length, RWP)
    parent = t.thread().blocks(calls.Fork(), WAITS_EVENT)
    event = u.message()
    if not isinstance(event, Fork):
        raise Failed(f"promised a fork, saw {event}")
    pid = parent.ok().value
    theirs = Uffd(t, event.userfaultfd)
    theirs.rwprotect(area.address, area.length)
    t.child(pid).do(calls.Exit(0))
    t.ok(calls.Wait(pid))
    theirs.rwprotect(area.address, area.length, fails=ESRCH)
    theirs.set_mode(Feature.RWP_ASYNC, _NONE, fails=ESRCH)
    theirs.set_mode(Feature.RWP_ASYNC, Feature.RWP_ASYNC, fails=EINVAL)


# --- What they share -----------------------------------------------------------------------------


def _written(t: Thread, memory: Memory, pages: int, written: int | None = None) -> Area:
    """Memory whose first pages (or all) were written."""
    area = t.map(memory, pages=pages)
    for page in range(pages if written is None else written):
        t.write(area.at(page), b"page")
    return area


def _protected_page(
    t: Thread,
    memory: Memory,
    features: Feature = _NONE,
    flags: int = os.O_CLOEXEC | os.O_NONBLOCK,
) -> tuple[Uffd, Area]:
    """A page that was written and is RW-protected."""
    u = t.uffd(Feature.RWP | features, flags)
    area = _written(t, memory, pages=1)
    u.register(area.address, area.length, RWP)
    u.rwprotect(area.address, area.length)
    expect(t.protected(area.address), True, "the page is protected")
    return u, area


def _reserve_copies(t: Thread, area: Area) -> None:
    """Huge pages for what a child copies."""
    if area.page > PAGE:
        t.reserve(area.page, area.length // area.page)


def _accessed(t: Thread, area: Area) -> list[int]:
    """The numbers of the pages that a scan for ACCESSED reports."""
    return pages_with(t, area, pm.PAGE_IS_ACCESSED)
