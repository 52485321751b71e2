"""Faults of system calls and of other processes: who can wait, and who is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EFAULT, ENOMEM

from userfault.check.words.area import Area
from userfault.check.words.outcome import expect
from userfault.check.words.scenes import pipe
from userfault.check.words.statement import ALL, statement
from userfault.check.words.thread import BUS_ADRERR, SIGBUS, Thread
from userfault.check.words.uffd import MINOR, MISSING, WP, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import Madvise, Read, Write
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

_MAN = "userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"
_WRITE = abi.UFFD_PAGEFAULT_FLAG_WRITE
_USER_MODE = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY


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


def _read_from_pipe(t: Thread, address: int) -> calls.ReadInto:
    """The call read(2) that puts 8 bytes, which are there, to an address."""
    read, write = pipe(t, 0)
    t.ok(calls.WriteFd(write, b"8 bytes."))
    return calls.ReadInto(read, address, 8)


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
    u, area = t.registered(memory, MISSING | WP, Feature.SIGBUS, pages=2)
    for touch in (Read(area.address + 8, 8), Write(area.address + 8, b"w")):
        info = t.raises(touch, SIGBUS)
        expect((info.code, info.address), (BUS_ADRERR, area.address + 8), "code and address")
    _system_calls_are_refused(t, area.address)
    u.copy(area.at(1), t.source(b"s", area.page), area.page, abi.UFFDIO_COPY_MODE_WP)
    expect(t.read(area.at(1)), b"s", "a read of the protected page")
    t.raises(Write(area.at(1), b"w"), SIGBUS)
    t.fails(_read_from_pipe(t, area.at(1)), EFAULT)
    u.silent("all of this")


def _system_calls_are_refused(t: Thread, address: int) -> None:
    """read(2) into the page and write(2) from it."""
    t.fails(_read_from_pipe(t, address), EFAULT)
    t.fails(calls.WriteFrom(pipe(t, 0)[1], address, 8), EFAULT)


@statement(
    126,
    "A descriptor with USER_MODE_ONLY makes system calls that touch a missing page fail with"
    " EFAULT, without a message; a touch in user mode is reported as ever.",
    since="5.11",
    source=f"{_MAN}; {_MEASURED}",
    memories=ALL,
)
def user_mode_only_refuses_system_calls(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING, flags=_USER_MODE)
    _system_calls_are_refused(t, area.address)
    u.silent("the system calls")
    t.thread().blocks(Read(area.address, 1))
    u.fault(area.address, 0)


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


# --- Other processes -----------------------------------------------------------------------------


@statement(
    171,
    "A descriptor serves the memory of the process that made it, whoever holds it: a child fills"
    " its parent's pages from its own memory.",
    since="4.11",
    source=_MEASURED,
    memories=ALL,
)
def a_descriptor_stays_with_its_maker(t: Thread, memory: Memory) -> None:
    u, area = t.registered(memory, MISSING)
    source = t.source(b"p", area.page)
    child = t.fork()
    child.write(source, b"child")
    reader = t.thread().blocks(Read(area.address, 6))
    w = u.by(child)
    w.fault(area.address, 0)
    w.copy(area.address, source, area.page)
    reader.read(b"childp")
