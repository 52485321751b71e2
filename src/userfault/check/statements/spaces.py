"""Other calls on the address space, and how they meet registered memory."""

from __future__ import annotations

from errno import EEXIST, EFAULT

from userfault.check.words.flags import MOVE_TO
from userfault.check.words.outcome import expect
from userfault.check.words.statement import ANON, statement
from userfault.check.words.thread import SIGSEGV, Thread
from userfault.check.words.uffd import MISSING, WP
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Madvise, Mprotect, Mremap, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman


@statement(
    147,
    "mremap(2) of several mappings fails with EFAULT if the first is registered, and nothing has"
    " moved.",
    since="6.17",
    source="measured on 6.17 to 7.3",
)
def many_mappings_do_not_move_if_the_first_is_registered(t: Thread) -> None:
    _moves_up_to(t, registered=0)


@statement(
    148,
    "mremap(2) of several mappings fails with EFAULT if a later one is registered, and those before"
    " it have moved.",
    since="6.17",
    source="measured on 6.17 to 7.3",
)
def mappings_before_a_registered_one_move(t: Thread) -> None:
    for registered in (1, 2):
        _moves_up_to(t, registered)


def _moves_up_to(t: Thread, registered: int) -> None:
    """Move four pages that are four mappings, one of them registered: those before it move."""
    u = t.uffd()
    area = t.map("anon", pages=4)
    for page in range(4):
        t.write(area.at(page), b"%d" % page)
    for page in (1, 3):
        t.ok(Mprotect(area.at(page), PAGE, mman.PROT_READ))
    u.register(area.at(registered), PAGE, MISSING)
    new = t.program.free_place()
    t.fails(Mremap(area.address, area.length, area.length, MOVE_TO, new), EFAULT)
    for page in range(4):
        moved = page < registered
        place = new if moved else area.address
        expect(t.read(place + page * PAGE), b"%d" % page, f"page {page}")
        expect(_is_mapped(t, area.at(page)), not moved, f"page {page} is at its old address")
    expect(t.vma(area.at(registered)).flags, ("um",), "the registration")


def _is_mapped(t: Thread, address: int) -> bool:
    return bool(t.ok(calls.Smaps(address, address + 1)).vmas)


@statement(
    149,
    "A touch of a guard region (MADV_GUARD_INSTALL) of a registered range gets a SIGSEGV, without a"
    " message; MADV_GUARD_REMOVE makes the page a missing one again.",
    since="6.13",
    source="madvise(2); measured on 6.17 to 7.3",
    memories=("anon", "shmem", "shmem-private"),
)
def guards_are_no_missing_pages(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    t.ok(Madvise(area.at(0), area.page, mman.MADV_GUARD_INSTALL))
    t.raises(Read(area.at(0), 1), SIGSEGV)
    t.raises(Write(area.at(0), b"w"), SIGSEGV)
    u.silent("the touches of the guard")
    t.ok(Madvise(area.at(0), area.page, mman.MADV_GUARD_REMOVE))
    t.thread().blocks(Read(area.at(0), 1))
    u.fault(area.at(0), 0)


@statement(
    180,
    "Registered memory that mremap(2) makes longer in its place is registered in its new part, too,"
    " and nothing is reported.",
    since="6.1",
    source="measured on 6.18",
    memories=("anon", "shmem", "shmem-private"),
)
def memory_that_grows_is_registered(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMAP | Feature.EVENT_UNMAP)
    area = t.map(memory)
    if area.fd >= 0:
        t.ok(calls.Ftruncate(area.fd, 2 * area.page))
    u.register(area.address, area.length, MISSING)
    t.ok(Mremap(area.address, area.page, 2 * area.page))
    u.silent("mremap(2)")
    expect(t.vma(area.at(1)).flags.count("um"), 1, "the new part is registered")
    reader = t.thread().blocks(Read(area.at(1), 1))
    u.fault(area.at(1), 0)
    u.copy(area.at(0), t.source(b"s", 2 * area.page), 2 * area.page)
    reader.read(b"s")


@statement(
    182,
    "CONTINUE overwrites a guard marker up to 6.18 and fails with EEXIST since 7.2; MOVE onto one"
    " fails with EEXIST, from one with EFAULT; WRITEPROTECT leaves it.",
    since="6.17",
    source="measured on 6.18; since 7.2: the source of 7.3",
    memories=("anon", "shmem"),
    outcomes={"up to 6.18": "CONTINUE succeeds", "since 7.2": "CONTINUE fails with EEXIST"},
)
def guards_meet_userfaultfd(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.WP_UNPOPULATED)
    area, other = t.map(memory), t.map(memory)
    for one in (area, other):
        u.register(one.address, one.length, MISSING | WP)
    t.ok(Madvise(area.address, area.length, mman.MADV_GUARD_INSTALL))
    u.writeprotect(area.address, area.length)
    u.writeprotect(area.address, area.length, 0)
    t.raises(Read(area.address, 1), SIGSEGV)
    if memory.traits.movable:
        u.move(other.address, area.address, PAGE, fails=EFAULT)
        u.copy(other.address, t.source(), PAGE)
        u.move(area.address, other.address, PAGE, fails=EEXIST)
    if memory.minor_faults:
        t.write(t.alias(area).address, b"cached")
        kept = t.since("7.2")
        u.continue_(area.address, PAGE, fails=EEXIST if kept else 0)
        if kept:
            t.raises(Read(area.address, 1), SIGSEGV)
        else:
            expect(t.read(area.address, 6), b"cached", "the page")
    u.silent("all of this")


@statement(
    210,
    "Anonymous memory that mremap(2) moves, never touched and without EVENT_REMAP, beside memory of"
    " the same context takes the registration of that away with its own up to 7.2, unless a stable"
    " release has the mend of 7.3, and leaves it since 7.3.",
    since="6.1",
    source="measured on 6.1 to 7.3; Debian's 6.12.118 has the mend, its 6.12.117 has not",
    memories=ANON,
    outcomes={
        "up to 7.2": "the neighbour is not registered any more, or with the mend it is",
        "since 7.3": "it is",
    },
)
def moving_beside_registered_memory(t: Thread, memory: Memory) -> None:
    _, area = t.registered(memory, MISSING, pages=3)
    t.ok(Mremap(area.at(2), PAGE, PAGE, MOVE_TO, area.at(0)))
    copy, neighbour = ("um" in t.vma(area.at(page)).flags for page in range(2))
    expect(copy, False, "the copy is registered")
    if t.since("7.3"):
        expect(neighbour, True, "its neighbour is registered")
