"""Which touches become messages, what these say, and how they are read."""

from __future__ import annotations

import fcntl
import os
from errno import EAGAIN

from userfault.check.words.area import Area
from userfault.check.words.flags import WP_WRITE
from userfault.check.words.outcome import expect
from userfault.check.words.statement import ALL, FILES, statement
from userfault.check.words.thread import SIGBUS, Thread
from userfault.check.words.uffd import MINOR, MISSING, POLLERR, POLLIN, WP, Uffd, decode
from userfault.kernel import calls
from userfault.kernel.calls import Madvise, Read, ReadFd, Write
from userfault.kernel.events import PageFault, Remove
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "userfaultfd(2)"
_GUIDE = "the kernel's admin guide on userfaultfd"
_MEASURED = "measured on 6.1 to 7.3"
_WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE
_MINOR = abi.UFFD_PAGEFAULT_FLAG_MINOR


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
        u, area = t.registered(memory, MISSING, features)
        other = t.thread()
        other.blocks(Read(area.address, 1))
        told = u.fault(area.address, 0).thread_id
        expect(told == (other.thread_id if features else 0), True, "the thread's id is right")


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
    u, area = t.registered(memory, MINOR, pages=2)
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
    u, area = t.registered(memory, MISSING | MINOR | WP, pages=2)
    t.ok(calls.Ftruncate(area.fd, area.page))
    t.raises(Read(area.at(1), 1), SIGBUS)
    t.raises(Write(area.at(1), b"w"), SIGBUS)
    u.silent("the touches")
    t.thread().blocks(Read(area.at(0), 1))
    u.fault(area.at(0), 0)


# --- poll and read -------------------------------------------------------------------------------


@statement(
    123,
    "A fault that is resolved before its message was read leaves nothing to read.",
    since="4.3",
    source=_MEASURED,
    memories=ALL,
)
def a_resolved_fault_leaves_no_message(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
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
    u, area = t.registered(memory, MISSING, Feature.EVENT_REMOVE, pages=4)
    drop = Madvise(area.at(3), area.page, mman.MADV_DONTNEED)
    dropper = t.thread().blocks(drop, calls.WAITS_EVENT)
    order = (2, 0, 1)
    for page in order:
        t.thread().blocks(Read(area.at(page), 1))
    promised = [PageFault(area.at(page), 0) for page in order]
    expect(u.read(), [*promised, Remove(area.at(3), area.end)], "messages")
    dropper.ok()


@statement(
    165,
    "poll(2) reports POLLIN while a message is unread, and nothing once it was read, though the"
    " thread still waits; O_NONBLOCK may be set and cleared while the descriptor is open.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def poll_is_about_unread_messages(t: Thread) -> None:
    u, area = t.registered("anon", MISSING, Feature.EVENT_REMOVE, pages=2, flags=os.O_CLOEXEC)
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
    u, area = t.registered("anon", MISSING, pages=6, flags=os.O_CLOEXEC)
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
