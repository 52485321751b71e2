"""Faults: which become messages, what the messages say, who waits and who is woken."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from errno import EAGAIN, EFAULT, ENOMEM

from userfault.check.words.area import Area
from userfault.check.words.flags import WP_WRITE
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import pipe
from userfault.check.words.statement import ALL, FILES, HUGETLB, statement
from userfault.check.words.thread import BUS_ADRERR, SIGBUS, Thread
from userfault.check.words.uffd import MINOR, MISSING, POLLERR, POLLIN, WP, Uffd, decode
from userfault.kernel import calls
from userfault.kernel.calls import PAGE, Madvise, Read, ReadFd, Signal, Write
from userfault.kernel.events import PageFault, Remove
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "userfaultfd(2)"
_MAN_IOCTL = "ioctl_userfaultfd(2)"
_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"

_WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE
_MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR
_DONTWAKE = abi.UFFDIO_COPY_MODE_DONTWAKE


# --- Messages ------------------------------------------------------------------------------------


@statement(
    117,
    "A message says of a missing page whether it was written (0, 1), the same with MINOR of a page"
    " in the page cache (4, 5), and WP and WRITE of a write to a protected page (3).",
    since="5.19",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def flags_say_what_happened(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    missing = t.map(memory, pages=2)
    u.register(missing.address, missing.length, MISSING)
    _message_of_each(t, u, missing, 0)
    if memory.minor_faults:
        cached = t.map(memory, pages=2)
        alias = t.alias(cached)
        for page in range(2):
            t.write(alias.at(page), b"cached")
        u.register(cached.address, cached.length, MISSING | MINOR)
        _message_of_each(t, u, cached, _MINOR)
    protected = t.map(memory)
    t.write(protected.address, b"page")
    u.register(protected.address, protected.length, WP)
    u.writeprotect(protected.address, protected.length)
    t.read(protected.address)
    u.silent("a read of a protected page")
    t.thread().blocks(Write(protected.address, b"w"))
    u.fault(protected.address, WP_WRITE)


def _message_of_each(t: Thread, u: Uffd, area: Area, flags: int) -> None:
    """A read of the first page, and a write of the second."""
    t.thread().blocks(Read(area.at(0), 1))
    u.fault(area.at(0), flags)
    t.thread().blocks(Write(area.at(1), b"w"))
    u.fault(area.at(1), flags | _WRITE)


@statement(
    118,
    "The address in a message is that of the page, of the huge page for hugetlb; with"
    " EXACT_ADDRESS it is that of the byte.",
    since="5.18",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def addresses_are_exact_if_asked(t: Thread, memory: Memory) -> None:
    plain, exact = t.uffd(), t.uffd(Feature.EXACT_ADDRESS)
    area = t.map(memory, pages=2)
    plain.register(area.at(0), area.page, MISSING)
    exact.register(area.at(1), area.page, MISSING)
    t.thread().blocks(Read(area.at(1) - 3, 1))
    plain.fault(area.at(0), 0)
    reader = t.thread().blocks(Read(area.end - 3, 1))
    exact.fault(area.end - 3, 0)
    exact.copy(area.at(1), t.source(b"s", area.page), area.page)
    reader.read(b"s")


@statement(
    119,
    "With THREAD_ID a message carries the id of the thread that touched the page, without it 0.",
    since="4.14",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def messages_name_the_thread_if_asked(t: Thread, memory: Memory) -> None:
    for features in (Feature(0), Feature.THREAD_ID):
        u = t.uffd(features)
        area = t.map(memory)
        u.register(area.address, area.length, MISSING)
        other = t.thread()
        other.blocks(Read(area.address, 1))
        told = u.fault(area.address, 0).thread_id
        expect(told == (other.thread_id if features else 0), True, "the thread's id is right")


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
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
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
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
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
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
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
    123,
    "A fault that is resolved before its message was read leaves nothing to read.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_resolved_fault_leaves_no_message(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    expect(u.revents(), POLLIN, "poll while it waits")
    u.copy(area.address, t.source(b"s", area.page), area.page)
    reader.read(b"s")
    expect(u.revents(), 0, "poll")
    t.fails(ReadFd(u.fd, abi.uffd_msg.size), EAGAIN)


@statement(
    124,
    "Faults are read before events that were queued earlier, and faults in the order in which they"
    " came.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def faults_are_read_before_events(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.EVENT_REMOVE)
    area = t.map(memory, pages=4)
    u.register(area.address, area.length, MISSING)
    drop = Madvise(area.at(3), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, calls.WAITS_EVENT)
    order = (2, 0, 1)
    for page in order:
        t.thread().blocks(Read(area.at(page), 1))
    promised = [PageFault(area.at(page), 0) for page in order]
    expect(u.read(), [*promised, Remove(area.at(3), area.end)], "messages")
    dropper.ok()


# --- Refusals ------------------------------------------------------------------------------------


@statement(
    125,
    "With SIGBUS, a touch of a missing or of a protected page gets a SIGBUS, a system call that"
    " touches it fails with EFAULT, and there is no message.",
    since="5.19",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def sigbus_instead_of_a_message(t: Thread, memory: Memory) -> None:
    u = t.uffd(Feature.SIGBUS)
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING | WP)
    for touch in (Read(area.address + 8, 8), Write(area.address + 8, b"w")):
        info = t.raises(touch, SIGBUS)
        expect((info.code, info.address), (BUS_ADRERR, area.address + 8), "code and address")
    _system_calls_are_refused(t, area.address)
    u.copy(area.at(1), t.source(b"s", area.page), area.page, abi.UFFDIO_COPY_MODE_WP)
    expect(t.read(area.at(1)), b"s", "a read of the protected page")
    t.raises(Write(area.at(1), b"w"), SIGBUS)
    t.fails(_read_from_pipe(t, area.at(1)), EFAULT)
    u.silent("all of this")


@statement(
    126,
    "A descriptor with USER_MODE_ONLY makes system calls that touch a missing page fail with"
    " EFAULT, without a message; a touch in user mode is reported as ever.",
    since="5.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def user_mode_only_refuses_system_calls(t: Thread, memory: Memory) -> None:
    u = t.uffd(flags=_USER_MODE)
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    _system_calls_are_refused(t, area.address)
    u.silent("the system calls")
    t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)


_USER_MODE = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY


def _system_calls_are_refused(t: Thread, address: int) -> None:
    """read(2) into the page and write(2) from it."""
    t.fails(_read_from_pipe(t, address), EFAULT)
    t.fails(calls.WriteFrom(pipe(t, 0)[1], address, 8), EFAULT)


def _read_from_pipe(t: Thread, address: int) -> calls.ReadInto:
    """The call read(2) that puts 8 bytes, which are there, to an address."""
    read, write = pipe(t, 0)
    t.ok(calls.WriteFd(write, b"8 bytes."))
    return calls.ReadInto(read, address, 8)


# --- Who can wait --------------------------------------------------------------------------------


@statement(
    127,
    "read(2) into a missing page, write(2) from one, MADV_POPULATE_READ and _WRITE, mlock(2) and"
    " process_vm_readv(2) are reported as the reads and writes they are (mlock(2): a write of a"
    " private mapping, a read of a shared one), sleep, and go on once the page is there.",
    since="5.14",
    source=f"{_MEASURED}; mlock(2) of shared mappings: measured on 6.18",
    memories=ALL,
)
def system_calls_wait_like_touches(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    source = t.source(b"s", memory.page_size)
    for kind, flags in _KERNEL_TOUCHES.items():
        if kind is _mlock and memory.shared:
            flags = 0  # noqa: PLW2901  # a shared page needs no copy: a read will do
        area = t.map(memory)
        u.register(area.address, area.length, MISSING)
        other = t.thread()
        sleeper = other.blocks(kind(other, area))
        u.fault(area.address, flags)
        u.copy(area.address, source, area.length)
        sleeper.ok()
        u.silent("the page was filled")


def _read_into(t: Thread, area: Area) -> calls.Call:
    return _read_from_pipe(t, area.address)


def _write_from(t: Thread, area: Area) -> calls.Call:
    return calls.WriteFrom(pipe(t, 0)[1], area.address, 8)


def _populate_read(_t: Thread, area: Area) -> calls.Call:
    return Madvise(area.address, area.length, mman.MADV_POPULATE_READ)


def _populate_write(_t: Thread, area: Area) -> calls.Call:
    return Madvise(area.address, area.length, mman.MADV_POPULATE_WRITE)


def _mlock(_t: Thread, area: Area) -> calls.Call:
    return calls.Mlock(area.address, area.length)


def _process_vm_readv(t: Thread, area: Area) -> calls.Call:
    return calls.ProcessVmReadv(t.process.pid, area.address, 8)


# Each way in which the kernel touches memory, and the flags of a missing fault of it.
_KERNEL_TOUCHES: dict[Callable[[Thread, Area], calls.Call], int] = {
    _read_into: _WRITE,
    _write_from: 0,
    _populate_read: 0,
    _populate_write: _WRITE,
    _mlock: _WRITE,
    _process_vm_readv: 0,
}


# --- What is no fault for userfaultfd ------------------------------------------------------------


@statement(
    128,
    "In a range for MINOR alone, the first touch of a page that the file does not have gives no"
    " message: the kernel makes the page.",
    since="5.14",
    source=f"{_GUIDE}; {_MEASURED}",
    memories=FILES,
)
def minor_alone_does_not_see_missing_pages(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MINOR)
    expect(t.read(area.at(0), 8), bytes(8), "the page that was read")
    t.write(area.at(1), b"written")
    u.silent("the touches")


@statement(
    129,
    "In a range for MISSING alone, a page that the file has gives no message, through a private"
    " mapping neither.",
    since="4.11",
    source=_MEASURED,
    memories=FILES,
)
def missing_alone_does_not_see_cached_pages(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    alias = t.alias(area)
    for page in range(2):
        t.write(alias.at(page), b"cached")
    u.register(area.address, area.length, MISSING)
    expect(t.read(area.at(0), 6), b"cached", "the page that was read")
    t.write(area.at(1), b"written")
    u.silent("the touches")


@statement(
    130,
    "A touch beyond the end of the file gets a SIGBUS, and there is no message.",
    since="4.11",
    source=f"mmap(2); {_MEASURED}",
    memories=FILES,
)
def beyond_the_end_of_file_is_sigbus(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=2)
    u.register(area.address, area.length, MISSING | MINOR | WP)
    t.ok(calls.Ftruncate(area.fd, area.page))
    t.raises(Read(area.at(1), 1), SIGBUS)
    t.raises(Write(area.at(1), b"w"), SIGBUS)
    u.silent("the touches")
    t.thread().blocks(Read(area.at(0), 1))
    u.fault(area.at(0), 0)


# --- The end of a wait ---------------------------------------------------------------------------


@statement(
    131,
    "A signal with a handler ends the wait; the touch then faults again, with a new message.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_signal_repeats_the_fault(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
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


@statement(
    142,
    "Registering again while a thread waits does not wake it.",
    since="6.1",
    source="measured on 6.1 to 7.3",
    memories=ALL,
)
def registering_again_wakes_nobody(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)
    u.register(area.address, area.length, MISSING | WP)
    reader.still("the registration")
    expect(u.counts(), (0, 1), "faults that fdinfo counts")
    u.silent("the registration")


# --- poll and read -------------------------------------------------------------------------------


@statement(
    165,
    "poll(2) reports POLLIN while a message is unread, and nothing once it was read, though the"
    " thread still waits; O_NONBLOCK may be set and cleared while the descriptor is open.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def poll_is_about_unread_messages(t: Thread) -> None:
    u = t.uffd(Feature.EVENT_REMOVE, flags=os.O_CLOEXEC)
    area = t.map("anon", pages=2)
    u.register(area.address, area.length, MISSING)
    reader = t.thread().blocks(Read(area.at(0), 1))
    expect(u.revents(), POLLERR, "poll of a blocking descriptor")
    t.ok(calls.Fcntl(u.fd, fcntl.F_SETFL, os.O_NONBLOCK))
    expect(u.revents(), POLLIN, "poll while the fault is unread")
    u.fault(area.at(0), 0)
    expect(u.revents(), 0, "poll after it was read")
    reader.still("its message was read")
    drop = Madvise(area.at(1), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, calls.WAITS_EVENT)
    expect(u.revents(), POLLIN, "poll while the event is unread")
    expect(u.message(), Remove(area.at(1), area.end), "the event")
    dropper.ok()
    expect(u.revents(), 0, "poll after it was read")
    t.ok(calls.Fcntl(u.fd, fcntl.F_SETFL, 0))
    expect(u.revents(), POLLERR, "poll of a descriptor that blocks again")


@statement(
    166,
    "A read takes as many messages as are queued and fit, and the others stay, in their order; a"
    " blocking one waits for the first alone.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def reads_take_what_fits(t: Thread) -> None:
    u = t.uffd(flags=os.O_CLOEXEC)
    area = t.map("anon", pages=6)
    u.register(area.address, area.length, MISSING)
    order = (4, 1, 3, 0, 2)
    for page in order:
        t.thread().blocks(Read(area.at(page), 1))
    promised = [PageFault(area.at(page), 0) for page in order]
    expect(u.read(2), promised[:2], "the first read")
    expect(u.counts(), (3, 5), "faults that fdinfo counts")
    expect(u.read(16), promised[2:], "the second read")
    size = abi.uffd_msg.size
    read = t.thread().blocks(ReadFd(u.fd, 16 * size), calls.WAITS_MESSAGE)
    t.thread().blocks(Read(area.at(5), 1))
    expect(decode(read.ok().data), [PageFault(area.at(5), 0)], "the read that waited")


# --- Who is woken --------------------------------------------------------------------------------


@statement(
    167,
    "UFFDIO_WAKE wakes who waits in its range, and nobody else.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
    memories=ALL,
)
def waking_is_by_range(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory, pages=4)
    u.register(area.address, area.length, MISSING)
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
        u = t.uffd(features)
        area = t.map(memory)
        u.register(area.address, area.length, MISSING)
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


# --- Whose system calls --------------------------------------------------------------------------


@statement(
    170,
    "A descriptor with USER_MODE_ONLY makes every system call fail that meets a missing page, or a"
    " cached page in a range for MINOR, or that writes to a protected one; nothing is reported.",
    since="5.19",
    source=f"{_MAN}; measured on 6.18",
    memories=ALL,
)
def user_mode_only_is_for_every_fault(t: Thread, memory: Memory) -> None:
    u = t.uffd(flags=_USER_MODE)
    areas = [_missing_page(t, u, memory)]
    if memory.minor_faults:
        areas += [_cached_page(t, u, memory)]
    for area in areas:
        for kind in _KERNEL_TOUCHES:
            refused = ENOMEM if kind is _mlock else EFAULT
            t.fails(kind(t, area), refused)
    area = _written_page(t, u, memory)
    t.fails(_read_into(t, area), EFAULT)
    t.fails(_populate_write(t, area), EFAULT)
    t.ok(_write_from(t, area))
    t.ok(_populate_read(t, area))
    u.silent("all of this")


def _missing_page(t: Thread, u: Uffd, memory: Memory) -> Area:
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    return area


def _cached_page(t: Thread, u: Uffd, memory: Memory) -> Area:
    """A page that is in the page cache and not mapped, in a range for MINOR."""
    area = t.map(memory)
    t.write(t.alias(area).address, b"cached")
    u.register(area.address, area.length, MINOR)
    return area


def _written_page(t: Thread, u: Uffd, memory: Memory) -> Area:
    """A page that is there and protected."""
    area = t.map(memory)
    t.write(area.address, b"page")
    u.register(area.address, area.length, WP)
    u.writeprotect(area.address, area.length)
    return area


@statement(
    171,
    "A descriptor serves the memory of the process that made it, whoever holds it: a child fills"
    " its parent's pages from its own memory.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def a_descriptor_stays_with_its_maker(t: Thread, memory: Memory) -> None:
    u = t.uffd()
    area = t.map(memory)
    u.register(area.address, area.length, MISSING)
    source = t.source(b"p", area.page)
    child = t.fork()
    child.write(source, b"child")
    reader = t.thread().blocks(Read(area.address, 6))
    w = u.by(child)
    w.fault(area.address, 0)
    w.copy(area.address, source, area.page)
    reader.read(b"childp")
