"""What each step of a random program calls.

A verb is a generator: it yields calls and is sent the result of each.  Descriptors have names
(`u0`, `m`); a name that nobody opened is a bad descriptor, so that a program with a step less is
a program too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from typing import TypeAlias

from userfault.check.differential.areas import AREAS, FILE_PAGES
from userfault.check.differential.program import Argument, Pages, Spot, Step
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Call, Result
from userfault.kernel.errors import UsageError
from userfault.uapi import kvm, mman
from userfault.uapi import userfaultfd as abi
from userfault.uapi.layout import Layout

Calls: TypeAlias = "Generator[Call, Result, None]"
_WORD = (1 << 64) - 1
_NO_FD = 999
_RW = mman.PROT_READ | mman.PROT_WRITE
NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC
MESSAGE = abi.uffd_msg.size


class Scope:
    """What a process has opened, by name."""

    def __init__(self, names: dict[str, int] | None = None) -> None:
        self.fds = dict(names or {})
        self._adopted = 0

    def fd(self, name: Argument) -> int:
        """The descriptor called `name`; one that is not open if there is none."""
        return self.fds.get(str(name), _NO_FD)

    def adopt(self, fd: int) -> None:
        """A userfaultfd that came with a message: `f0`, `f1`, ..."""
        self.fds[f"f{self._adopted}"] = fd
        self._adopted += 1


def calls_of(step: Step, scope: Scope) -> Calls:
    """The calls of a step.  Raises UsageError where it is none."""
    verb = VERBS.get(step.verb)
    if verb is None:
        raise UsageError(f"no such verb: {step.verb!r}", cure=f"use one of {', '.join(VERBS)}")
    try:
        yield from verb(step, scope, *_values(step))
    except (TypeError, ValueError, KeyError, struct.error) as error:
        raise UsageError(f"wrong arguments: {step}", cause=str(error)) from None


def _values(step: Step) -> list[int | str]:
    """Arguments with addresses and lengths in bytes."""
    spot = step.spot
    unit = spot.of.page if spot else _unit(step)
    found: list[int | str] = []
    for value in step.args:
        if isinstance(value, Spot):
            found.append(value.address)
        elif isinstance(value, Pages):
            found.append(value.count * unit + value.extra)
        else:
            found.append(value)
    return found


def _unit(step: Step) -> int:
    return HUGE if step.args and step.args[0] == "h" else PAGE


# --- Files and mappings --------------------------------------------------------------------------


def _map(_step: Step, scope: Scope, name: str, prot: int = _RW) -> Calls:
    area = AREAS[name]
    if area.file and area.file not in scope.fds:
        yield from _FILES[area.file](scope)
    fd = scope.fd(area.file) if area.file else -1
    flags = area.flags | mman.MAP_FIXED_NOREPLACE
    mapped = yield calls.Mmap(area.address, area.length, prot, flags, fd)
    if mapped.ok and area.memory == "thp":
        yield calls.Madvise(area.address, area.length, mman.MADV_HUGEPAGE)
    if name == "src" and mapped.ok and prot == _RW:
        pages = (bytes([ord("A") + number]) * PAGE for number in range(area.pages))
        yield calls.Write(area.address, b"".join(pages))


def _memfd(scope: Scope) -> Calls:
    yield from _sized(scope, "m", calls.MemfdCreate(mman.MFD_CLOEXEC), PAGE)


def _huge_memfd(scope: Scope) -> Calls:
    flags = mman.MFD_CLOEXEC | mman.MFD_HUGETLB | mman.MFD_HUGE_2MB
    yield from _sized(scope, "h", calls.MemfdCreate(flags), HUGE)


def _disk(scope: Scope) -> Calls:
    opened = yield from _sized(scope, "d", calls.Open(calls.File.ORDINARY, os.O_RDWR), PAGE)
    if opened.ok:
        yield calls.Pwrite(opened.value, b"D" * (FILE_PAGES["d"] * PAGE))


def _sized(scope: Scope, name: str, call: Call, page: int) -> Generator[Call, Result, Result]:
    opened = yield call
    if opened.ok:
        scope.fds[name] = opened.value
        yield calls.Ftruncate(opened.value, FILE_PAGES[name] * page)
    return opened


def _guest_memfd(scope: Scope) -> Calls:
    device = yield calls.Open(calls.File.KVM, os.O_RDWR | os.O_CLOEXEC)
    machine = yield calls.Ioctl(device.value if device.ok else _NO_FD, kvm.KVM_CREATE_VM)
    flags = kvm.GUEST_MEMFD_FLAG_MMAP | kvm.GUEST_MEMFD_FLAG_INIT_SHARED
    argument = kvm.kvm_create_guest_memfd.struct.pack(FILE_PAGES["g"] * PAGE, flags)
    made = yield calls.Ioctl(
        machine.value if machine.ok else _NO_FD, kvm.KVM_CREATE_GUEST_MEMFD, argument
    )
    if made.ok:
        scope.fds["g"] = made.value


_FILES: dict[str, Callable[[Scope], Calls]] = {
    "m": _memfd,
    "h": _huge_memfd,
    "d": _disk,
    "g": _guest_memfd,
}


def _file_call(make: Callable[..., Call]) -> Callable[..., Calls]:
    """A call on a file by name; lengths and offsets are in pages of it."""

    def verb(_step: Step, scope: Scope, name: str, *args: int) -> Calls:
        yield make(scope.fd(name), *args)

    return verb


_PUNCH = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE


def _pwrite(_step: Step, scope: Scope, name: str, offset: int, length: int) -> Calls:
    yield calls.Pwrite(scope.fd(name), b"F" * length, offset)


# --- Touches -------------------------------------------------------------------------------------


def _where(step: Step, address: int) -> int:
    """Each task has eight bytes of its own in every page: what two write is not a race."""
    return address + 64 * (step.task % 8)


def _load(step: Step, _scope: Scope, address: int, length: int = 8) -> Calls:
    yield calls.Read(_where(step, address), min(length, 8 * PAGE))


def _store(step: Step, _scope: Scope, address: int) -> Calls:
    yield calls.Write(_where(step, address), bytes([ord("s") + step.task % 8]) * 8)


def _kernel_load(step: Step, scope: Scope, name: str, address: int) -> Calls:
    """write(2) to a file from memory: the kernel reads the memory."""
    if name == "k" and name not in scope.fds:
        opened = yield calls.MemfdCreate(mman.MFD_CLOEXEC)
        if opened.ok:
            scope.fds[name] = opened.value
    yield calls.WriteFrom(scope.fd(name), _where(step, address), 8)


def _kernel_store(step: Step, scope: Scope, name: str, address: int) -> Calls:
    """read(2) of a file into memory: the kernel writes the memory."""
    fd = scope.fd(name)
    yield calls.Lseek(fd, PAGE, os.SEEK_SET)
    yield calls.ReadInto(fd, _where(step, address), 8)


# --- The address space ---------------------------------------------------------------------------


def _plain(make: Callable[..., Call]) -> Callable[..., Calls]:
    def verb(_step: Step, _scope: Scope, *args: int) -> Calls:
        yield make(*(value & _WORD for value in args))

    return verb


def _replace(_step: Step, _scope: Scope, address: int, length: int) -> Calls:
    """Fresh anonymous memory over what is there."""
    flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
    yield calls.Mmap(address, length, _RW, flags)


def _mremap(
    _step: Step, _scope: Scope, address: int, old: int, new: int, flags: int, to: int = 0
) -> Calls:
    yield calls.Mremap(address, old, new, flags, to)


def _scan(
    _step: Step, _scope: Scope, start: int, length: int, flags: int, mask: int, limit: int = 0
) -> Calls:
    yield calls.PagemapScan(
        start, start + length, flags, category_mask=mask, return_mask=0xFF, max_pages=limit
    )


# --- userfaultfd ---------------------------------------------------------------------------------


def _uffd(_step: Step, scope: Scope, name: str, flags: int = NONBLOCK) -> Calls:
    opened = yield calls.Userfaultfd(flags)
    if opened.ok:
        scope.fds[name] = opened.value


def _ioctl(request: int, layout: Layout, answer: bool = False) -> Callable[..., Calls]:
    """`answer`: the last field is one, and goes in as 0."""

    def verb(_step: Step, scope: Scope, name: str, *values: int) -> Calls:
        words = [value & _WORD for value in values] + [0] * answer
        packed = b"".join(word.to_bytes(8, "little") for word in words)
        if len(packed) != layout.size:
            raise UsageError(f"{len(values)} numbers do not make a {layout.name}")
        yield calls.Ioctl(scope.fd(name), request, packed)

    return verb


def _api(_step: Step, scope: Scope, name: str, features: int, version: int = abi.UFFD_API) -> Calls:
    packed = abi.uffdio_api.struct.pack(version, features & _WORD, 0)
    yield calls.Ioctl(scope.fd(name), abi.UFFDIO_API, packed)


def _request(_step: Step, scope: Scope, name: str, request: int) -> Calls:
    """An ioctl that does not exist, or one with a null pointer."""
    yield calls.Ioctl(scope.fd(name), request, 0)


def _events(_step: Step, scope: Scope, name: str, count: int) -> Calls:
    yield calls.ReadFd(scope.fd(name), count * MESSAGE)


def _close(_step: Step, scope: Scope, name: str) -> Calls:
    fd = scope.fds.pop(name, _NO_FD)
    yield calls.Close(fd)


def _dup(_step: Step, scope: Scope, name: str, other: str) -> Calls:
    made = yield calls.Dup(scope.fd(name))
    if made.ok:
        scope.fds[other] = made.value


def _poll(_step: Step, scope: Scope, name: str) -> Calls:
    yield calls.Poll(scope.fd(name), 1)


# --- Processes -----------------------------------------------------------------------------------


def _fork(_step: Step, _scope: Scope) -> Calls:
    yield calls.Fork()


def _exit(step: Step, _scope: Scope) -> Calls:
    if step.process:  # whoever looks at the rest needs the first process
        yield calls.Exit()


VERBS: dict[str, Callable[..., Calls]] = {
    "map": _map,
    "load": _load,
    "store": _store,
    "kload": _kernel_load,
    "kstore": _kernel_store,
    "munmap": _plain(calls.Munmap),
    "replace": _replace,
    "mremap": _mremap,
    "mprotect": _plain(calls.Mprotect),
    "madvise": _plain(calls.Madvise),
    "mlock": _plain(calls.Mlock),
    "munlock": _plain(calls.Munlock),
    "mincore": _plain(calls.Mincore),
    "scan": _scan,
    "punch": _file_call(lambda fd, at, length: calls.Fallocate(fd, _PUNCH, at, length)),
    "allocate": _file_call(lambda fd, at, length: calls.Fallocate(fd, 0, at, length)),
    "truncate": _file_call(calls.Ftruncate),
    "pwrite": _pwrite,
    "pread": _file_call(lambda fd, at, length: calls.Pread(fd, length, at)),
    "uffd": _uffd,
    "api": _api,
    "register": _ioctl(abi.UFFDIO_REGISTER, abi.uffdio_register, answer=True),
    "unregister": _ioctl(abi.UFFDIO_UNREGISTER, abi.uffdio_range),
    "wake": _ioctl(abi.UFFDIO_WAKE, abi.uffdio_range),
    "copy": _ioctl(abi.UFFDIO_COPY, abi.uffdio_copy, answer=True),
    "zeropage": _ioctl(abi.UFFDIO_ZEROPAGE, abi.uffdio_zeropage, answer=True),
    "continue": _ioctl(abi.UFFDIO_CONTINUE, abi.uffdio_continue, answer=True),
    "poison": _ioctl(abi.UFFDIO_POISON, abi.uffdio_poison, answer=True),
    "move": _ioctl(abi.UFFDIO_MOVE, abi.uffdio_move, answer=True),
    "writeprotect": _ioctl(abi.UFFDIO_WRITEPROTECT, abi.uffdio_writeprotect),
    "rwprotect": _ioctl(abi.UFFDIO_RWPROTECT, abi.uffdio_rwprotect),
    "setmode": _ioctl(abi.UFFDIO_SET_MODE, abi.uffdio_set_mode),
    "request": _request,
    "events": _events,
    "poll": _poll,
    "dup": _dup,
    "close": _close,
    "fork": _fork,
    "exit": _exit,
}
# Calls that can end the sleep of tasks in userfaults.
WAKERS = frozenset(
    {"unregister", "wake", "copy", "zeropage", "continue", "poison", "move", "writeprotect"}
    | {"rwprotect", "setmode", "close", "munmap", "exit"}
)
# What kernels have since 7.3: drawn for those alone.
OF_RWP = frozenset({"rwprotect", "setmode"})
