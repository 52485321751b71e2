"""UFFDIO_POISON."""

from __future__ import annotations

import os
from errno import EEXIST, EFAULT, ENOENT

from userfault.check.words.flags import PUNCH_HOLE, READ_WRITE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import EMPTY, guard, wp_marker
from userfault.check.words.statement import ALL, FILES, SHARED, statement
from userfault.check.words.thread import BUS_ADRERR, SIGBUS, Thread
from userfault.check.words.uffd import MISSING, WP
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Fallocate, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman

_MAN = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.12 to 7.3"

_BUS_MCEERR_AR = 4


@statement(
    90,
    "A touch of a poisoned page ends with SIGBUS, and a system call that touches it fails with"
    " EFAULT; neither raises a message.",
    since="6.6",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def a_poisoned_page_cannot_be_touched(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=2)
    u.poison(area.at(0), area.page)
    t.raises(Read(area.at(0), 1), SIGBUS)
    t.raises(Write(area.at(0), b"w"), SIGBUS)
    read, write = calls.PIPE_FDS.struct.unpack(t.ok(calls.Pipe(os.O_NONBLOCK)).data)
    t.fails(calls.WriteFrom(write, area.at(0), 8), EFAULT)
    t.ok(calls.WriteFd(write, b"from a pipe"))
    t.fails(calls.ReadInto(read, area.at(0), 8), EFAULT)
    u.silent("touches of a poisoned page")
    expect(t.page(area.at(1)), EMPTY, "the page beside it")


@statement(
    91,
    "The SIGBUS of a poisoned page is BUS_MCEERR_AR with the size of the page, where the kernel is"
    " built with memory failure; else it is BUS_ADRERR.",
    since="6.6",
    source="sigaction(2); measured on 6.12, 6.17, 7.2, 7.3, and without memory failure on 6.18",
    memories=ALL,
)
def the_signal_says_why(t: Thread, memory: Memory) -> None:
    built_in = t.do(calls.Sysctl("vm/memory_failure_recovery")).ok
    u, area = t.registered(memory, MISSING)
    u.poison(area.address, area.page)
    info = t.raises(Read(area.address, 1), SIGBUS)
    shift = area.page.bit_length() - 1
    promised = (_BUS_MCEERR_AR, shift) if built_in else (BUS_ADRERR, 0)
    expect((info.code, info.lsb), promised, "si_code and si_addr_lsb")
    expect(info.address, area.address, "si_addr")


@statement(
    92,
    "POISON onto anything but an empty entry fails with EEXIST.",
    since="6.6",
    source=_MEASURED,
    memories=ALL,
)
def only_empty_entries_are_poisoned(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.WP_UNPOPULATED)
    area = t.map(memory, pages=4)
    u.poison(area.at(0), area.page, fails=ENOENT)  # nothing is registered yet
    u.register(area.address, area.length, MISSING | WP)
    u.copy(area.at(0), t.source(b"s", area.page), area.page)
    u.poison(area.at(1), area.page)
    wp_marker(t, u, area.at(2), area.page)
    occupied = 3
    if memory.traits.zeropage and t.since("6.17"):
        guard(t, area.at(3), PAGE)
        occupied = 4
    before = [t.page(area.at(number)) for number in range(occupied)]
    for number in range(occupied):
        u.poison(area.at(number), area.page, fails=EEXIST)
    expect([t.page(area.at(number)) for number in range(occupied)], before, "the entries")
    expect(t.read(area.at(0)), b"s", "the page")


@statement(
    93,
    "POISON poisons the entry of one mapping: other mappings read the page that the file has.",
    since="6.6",
    source=_MEASURED,
    memories=SHARED,
)
def other_mappings_are_not_poisoned(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    other = t.alias(area)
    t.write(other.address, b"cached")
    u.register(area.address, area.length, MISSING)
    u.poison(area.address, area.page)
    t.raises(Read(area.address, 1), SIGBUS)
    expect(t.read(other.address, 6), b"cached", "the page by another mapping")
    u.continue_(area.address, area.page)
    expect(t.read(area.address, 6), b"cached", "the page after CONTINUE")


@statement(
    94,
    "A poison marker survives mprotect(2), write protection and UFFDIO_UNREGISTER; MADV_DONTNEED"
    " removes it.",
    since="6.6",
    source=_MEASURED,
    memories=ALL,
)
def what_a_poison_marker_survives(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING | WP)
    u.poison(area.address, area.page)
    t.ok(calls.Mprotect(area.address, area.length, mman.PROT_NONE))
    t.ok(calls.Mprotect(area.address, area.length, READ_WRITE))
    t.raises(Read(area.address, 1), SIGBUS)
    u.writeprotect(area.address, area.length)
    t.raises(Read(area.address, 1), SIGBUS)
    u.writeprotect(area.address, area.length, 0)
    t.raises(Read(area.address, 1), SIGBUS)
    u.unregister(area.address, area.length)
    t.raises(Read(area.address, 1), SIGBUS)
    t.ok(calls.Madvise(area.address, area.length, mman.MADV_DONTNEED))
    expect(t.page(area.address), EMPTY, "the entry")
    expect(t.read(area.address), b"\0", "the page")


@statement(
    151,
    "A hole punched into the file leaves a poison marker of shmem, and removes one of hugetlb.",
    since="6.6",
    source="measured on 6.18",
    memories=FILES,
)
def a_punched_hole_and_poison(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    u.poison(area.address, area.page)
    t.ok(Fallocate(area.fd, PUNCH_HOLE, 0, area.page))
    if memory.traits.zeropage:
        t.raises(Read(area.address, 1), SIGBUS)
    else:
        t.thread().blocks(Read(area.address, 1))
        u.fault(area.address, 0)


@statement(
    152,
    "A child of fork(2) inherits the poison markers of private mappings, not those of shared ones.",
    since="6.6",
    source="measured on 6.18",
    memories=ALL,
)
def children_inherit_poison(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    u.poison(area.address, area.page)
    child = t.fork()
    if memory.shared:
        expect(child.page(area.address), EMPTY, "the child's entry")
        expect(child.read(area.address), b"\0", "the child's page")
    else:
        child.raises(Read(area.address, 1), SIGBUS)
    t.raises(Read(area.address, 1), SIGBUS)


@statement(
    153,
    "POISON wakes who waits for the page, and the touch ends with SIGBUS.",
    since="6.6",
    source=f"{_MAN}; measured on 6.18",
    memories=ALL,
)
def poison_wakes_the_waiter(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)
    u.poison(area.address, area.page)
    ended = reader.finish().signal
    expect(ended and ended.number, SIGBUS, "the signal of the reader")
    u.silent("the end of the reader")
