"""Who waits for a page, and what wakes them."""

from __future__ import annotations

from userfault.check.words.outcome import expect
from userfault.check.words.statement import ALL, HUGETLB, statement
from userfault.check.words.thread import Thread
from userfault.check.words.uffd import MISSING, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Read, Signal, Write
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import userfaultfd as abi

_MAN = "userfaultfd(2)"
_MAN_IOCTL = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"
_WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE
_DONTWAKE = abi.UFFDIO_COPY_MODE_DONTWAKE


# --- Waking --------------------------------------------------------------------------------------


@statement(
    120,
    "UFFDIO_WAKE of a page that was not filled makes the thread fault again: there is a new"
    " message.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def waking_alone_repeats_the_message(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    for _ in range(3):
        u.fault(area.address, 0)
        u.silent("the message was read")
        u.wake(area.address, area.length)
        reader.still("UFFDIO_WAKE")
    u.copy(area.address, t.source(b"s", area.page), area.page)
    reader.read(b"s")
    u.silent("the page was filled")


@statement(
    121,
    "COPY with DONTWAKE leaves the thread asleep until UFFDIO_WAKE.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
    memories=ALL,
)
def dontwake_leaves_the_thread_asleep(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)
    u.copy(area.address, t.source(b"s", area.page), area.page, _DONTWAKE)
    reader.still("COPY with DONTWAKE")
    expect(t.read(area.address), b"s", "the page")
    u.wake(area.address, area.length)
    reader.read(b"s")


@statement(
    122,
    "Each thread that waits for a page has a message of its own, and one COPY wakes them all.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def one_copy_wakes_all(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    first = t.thread().blocks(Read(area.address, 1))
    second = t.thread().blocks(Write(area.address, b"w"))
    expect(u.read(), [PageFault(area.address, 0), PageFault(area.address, _WRITE)], "messages")
    third = t.thread().blocks(Read(area.at(1) - 1, 1))  # nobody reads its message
    u.copy(area.address, t.source(b"s", area.page), area.page)
    first.ok()
    second.ok()
    third.read(b"s")
    u.silent("the page was filled")


@statement(
    142,
    "Registering again while a thread waits does not wake it.",
    since="6.1",
    source="measured on 6.1 to 7.3",
    memories=ALL,
)
def registering_again_wakes_nobody(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)
    u.register(area.address, area.length, MISSING | WP)
    reader.still("the registration")
    expect(u.counts(), (0, 1), "faults that fdinfo counts")
    u.silent("the registration")


# --- Who is woken --------------------------------------------------------------------------------


@statement(
    167,
    "UFFDIO_WAKE wakes who waits in its range, and nobody else.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
    memories=ALL,
)
def waking_is_by_range(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, pages=4)
    source = t.source(b"s", area.length)
    readers = [t.thread().blocks(Read(area.at(page), 1)) for page in range(4)]
    expect(len(u.read()), 4, "messages")
    u.copy(area.address, source, area.length, _DONTWAKE)
    u.wake(area.at(1), 2 * area.page)
    readers[0].still("UFFDIO_WAKE of the pages behind it")
    readers[3].still("UFFDIO_WAKE of the pages before it")
    readers[1].read(b"s")
    readers[2].read(b"s")
    u.wake(area.address, area.length)
    readers[0].read(b"s")
    readers[3].read(b"s")


@statement(
    168,
    "Of two contexts of a process each has the faults of its own ranges, and cannot wake those who"
    " wait in the other's.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def contexts_do_not_meet(t: Thread, memory: Memory) -> None:
    first, second = t.uffd(), t.uffd()
    area = t.map(memory, pages=2)
    first.register(area.at(0), area.page, MISSING)
    second.register(area.at(1), area.page, MISSING)
    one = t.thread().blocks(Read(area.at(0), 1))
    other = t.thread().blocks(Read(area.at(1), 1))
    first.fault(area.at(0), 0)
    second.fault(area.at(1), 0)
    first.wake(area.address, area.length)
    first.fault(area.at(0), 0)  # woken in vain
    other.still("UFFDIO_WAKE of the other context")
    second.silent("UFFDIO_WAKE of the other context")
    second.close()
    other.read(bytes(1))
    one.still("the other context was closed")


@statement(
    169,
    "UFFDIO_WAKE goes by the address that the message had: with EXACT_ADDRESS the part of a huge"
    " page that was touched, without it the first.",
    since="5.18",
    source="measured on 6.18",
    memories=HUGETLB,
)
def waking_goes_by_the_address_of_the_message(t: Thread, memory: Memory) -> None:
    touched = 5 * PAGE
    for features in (Feature(0), Feature.EXACT_ADDRESS):
        u, area = t.registered(memory, MISSING, features)
        place = area.address + touched + 8
        reader = t.thread().blocks(Read(place, 8))
        told = place if features else area.address
        u.fault(told, 0)
        right, wrong = (touched, 0) if features else (0, touched)
        u.wake(area.address + wrong, PAGE)
        u.silent("UFFDIO_WAKE of another part of the page")
        u.wake(area.address + right, PAGE)
        u.fault(told, 0)
        reader.still("UFFDIO_WAKE alone")


# --- The end of a wait ---------------------------------------------------------------------------


@statement(
    131,
    "A signal with a handler ends the wait; the touch then faults again, with a new message.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_signal_repeats_the_fault(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    other = t.thread()
    reader = other.blocks(Read(area.address, 1))
    for restart in (False, True):
        u.fault(area.address, 0)
        t.ok(Signal(other.thread_id, restart=restart))
        reader.still("a signal")
    u.fault(area.address, 0)
    t.ok(Signal(other.thread_id))  # one whose message was not read
    reader.still("a signal")
    t.ok(Signal(other.thread_id))
    reader.still("a signal")
    u.fault(area.address, 0)
    u.copy(area.address, t.source(b"s", area.page), area.page)
    reader.read(b"s")


@statement(
    132,
    "Closing the last descriptor of a context lets the threads that wait go on with the pages that"
    " the kernel makes; closing one of two does not.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def the_last_close_releases_everybody(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    twin = Uffd(t, t.ok(calls.Dup(u.fd)).value)
    area = t.map(memory, pages=3)
    t.write(area.at(2), b"old")
    u.register(area.address, area.length, MISSING | WP)
    u.writeprotect(area.at(2), area.page)
    reader = t.thread().blocks(Read(area.at(0), 8))
    u.fault(area.at(0), 0)
    writer = t.thread().blocks(Write(area.at(1), b"w"))  # nobody reads its message
    protected = t.thread().blocks(Write(area.at(2), b"new"))
    u.close()
    for waiter in (reader, writer, protected):
        waiter.still("one of two descriptors was closed")
    twin.close()
    reader.read(bytes(8))
    writer.ok()
    protected.ok()
    expect(t.read(area.at(2), 3), b"new", "the page that was protected")
