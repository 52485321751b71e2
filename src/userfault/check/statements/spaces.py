"""Other calls on the address space, and how they meet registered memory."""

from __future__ import annotations

from errno import EFAULT

from userfault.check.outcome import expect
from userfault.check.statement import statement
from userfault.check.thread import SIGSEGV, Thread
from userfault.check.uffd import MISSING
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Madvise, Mprotect, Mremap, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.uapi import mman

_MOVE_TO = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED


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
    t.fails(Mremap(area.address, area.length, area.length, _MOVE_TO, new), EFAULT)
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
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING)
    t.ok(Madvise(area.at(0), area.page, mman.MADV_GUARD_INSTALL))
    t.raises(Read(area.at(0), 1), SIGSEGV)
    t.raises(Write(area.at(0), b"w"), SIGSEGV)
    u.silent("the touches of the guard")
    t.ok(Madvise(area.at(0), area.page, mman.MADV_GUARD_REMOVE))
    t.thread().blocks(Read(area.at(0), 1))
    u.fault(area.at(0), 0)
