"""What a kernel does for each memory type, mode and ioctl: tried, on any kernel.

A registration announces ioctls; that one is announced does not mean that it works, nor the other
way round.  So each is made once, on fresh memory in the state in which it ought to succeed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import msgspec

from userfault.check.run import KernelFactory
from userfault.check.words.area import Area
from userfault.check.words.outcome import CannotRun
from userfault.check.words.thread import Thread, start
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import Uffd
from userfault.kernel import calls
from userfault.kernel.calls import HUGE, PAGE, Ioctl, Madvise, Mmap
from userfault.kernel.memtypes import memory, memory_names
from userfault.kernel.modes import Feature, Ioctls, Mode
from userfault.uapi import mman
from userfault.uapi import userfaultfd as abi

NO_FEATURE = "no such feature"
_DEADLINE_S = 60.0
_EITHER = mman.PROT_READ | mman.PROT_WRITE
_NOREPLACE = mman.MAP_FIXED_NOREPLACE
_SHM_HUGETLB = 0o4000
_OWNER_ONLY = 0o600

# How a range is registered: the features of the descriptor, and the mode.
MODES: dict[str, tuple[Feature, Mode]] = {
    "MISSING": (Feature(0), Mode.MISSING),
    "MINOR": (Feature(0), Mode.MINOR),
    "WP": (Feature(0), Mode.WP),
    "WP, async": (Feature.WP_ASYNC, Mode.WP),
    "RWP": (Feature.RWP, Mode.RWP),
}


class Cell(msgspec.Struct, frozen=True, omit_defaults=True):
    """One memory in one mode.

    `refused`: why there is no such registration: an errno or NO_FEATURE; with `lacking`, why there
    is no such memory.  Else `ioctls` is the word that the registration returned, and `tried` how
    each ioctl ended: empty for success, or an errno.
    """

    memory: str
    mode: str
    refused: str = ""
    lacking: bool = False
    ioctls: int = 0
    tried: dict[str, str] = {}  # msgspec copies it


def capabilities(make_kernel: KernelFactory) -> Iterator[Cell]:
    """A cell for each memory and mode; memory that cannot be made says why in each of its cells."""
    for name in MEMORIES:
        with contextlib.closing(make_kernel()) as kernel:
            thread = start(kernel, _DEADLINE_S)
            offered = thread.offered_features()
            for mode, (features, bits) in MODES.items():
                if features & ~offered:
                    yield Cell(name, mode, refused=NO_FEATURE)
                    continue
                try:
                    yield _cell(thread, name, mode, features, bits)
                except CannotRun as error:
                    yield Cell(name, mode, refused=str(error), lacking=True)


def _cell(t: Thread, name: str, mode: str, features: Feature, bits: Mode) -> Cell:
    word, refused = _register(t, t.uffd(features), MEMORIES[name](t), bits)
    if refused:
        return Cell(name, mode, refused=refused)
    tried = {
        ioctl: _outcome(t, trial, t.uffd(features), MEMORIES[name](t), bits)
        for ioctl, trial in _TRIALS.items()
    }
    return Cell(name, mode, ioctls=word, tried=tried)


def _register(t: Thread, u: Uffd, area: Area, bits: Mode) -> tuple[int, str]:
    argument = abi.uffdio_register.struct.pack(area.address, area.length, bits, 0)
    result = t.do(Ioctl(u.fd, abi.UFFDIO_REGISTER, argument))
    if result.errno:
        return 0, errno_name(result.errno)
    word: int = abi.uffdio_register.struct.unpack(result.data)[-1]
    return word, ""


# --- The ioctls ----------------------------------------------------------------------------------


def _outcome(
    t: Thread, trial: Callable[[Thread, Area], tuple[int, bytes]], u: Uffd, area: Area, bits: Mode
) -> str:
    request, argument = trial(t, area)
    _register(t, u, area, bits)
    result = t.do(Ioctl(u.fd, request, argument))
    t.ok(calls.Close(u.fd))
    return errno_name(result.errno) if result.errno else ""


def _copy(t: Thread, area: Area) -> tuple[int, bytes]:
    source = t.source(b"s", area.page)
    return abi.UFFDIO_COPY, abi.uffdio_copy.struct.pack(area.address, source, area.page, 0, 0)


def _zeropage(_t: Thread, area: Area) -> tuple[int, bytes]:
    return abi.UFFDIO_ZEROPAGE, abi.uffdio_zeropage.struct.pack(area.address, area.page, 0, 0)


def _continue(t: Thread, area: Area) -> tuple[int, bytes]:
    """The page is in the page cache, and not mapped."""
    if area.fd >= 0:
        t.write(t.alias(area).address, b"cached")
    else:  # memory without a descriptor: a touch, and it is unmapped again
        t.read(area.address)
        t.ok(Madvise(area.address, area.page, mman.MADV_DONTNEED))
    return abi.UFFDIO_CONTINUE, abi.uffdio_continue.struct.pack(area.address, area.page, 0, 0)


def _poison(_t: Thread, area: Area) -> tuple[int, bytes]:
    return abi.UFFDIO_POISON, abi.uffdio_poison.struct.pack(area.address, area.page, 0, 0)


def _move(t: Thread, area: Area) -> tuple[int, bytes]:
    source = t.source(b"m", area.page)
    return abi.UFFDIO_MOVE, abi.uffdio_move.struct.pack(area.address, source, area.page, 0, 0)


def _writeprotect(_t: Thread, area: Area) -> tuple[int, bytes]:
    protect = abi.UFFDIO_WRITEPROTECT_MODE_WP
    argument = abi.uffdio_writeprotect.struct.pack(area.address, area.page, protect)
    return abi.UFFDIO_WRITEPROTECT, argument


def _rwprotect(_t: Thread, area: Area) -> tuple[int, bytes]:
    protect = abi.UFFDIO_RWPROTECT_MODE_RWP
    argument = abi.uffdio_rwprotect.struct.pack(area.address, area.page, protect)
    return abi.UFFDIO_RWPROTECT, argument


_TRIALS: dict[str, Callable[[Thread, Area], tuple[int, bytes]]] = {
    Ioctls.COPY.name or "": _copy,
    Ioctls.ZEROPAGE.name or "": _zeropage,
    Ioctls.CONTINUE.name or "": _continue,
    Ioctls.POISON.name or "": _poison,
    Ioctls.MOVE.name or "": _move,
    Ioctls.WRITEPROTECT.name or "": _writeprotect,
    Ioctls.RWPROTECT.name or "": _rwprotect,
}
IOCTLS = tuple(_TRIALS)


# --- The memories --------------------------------------------------------------------------------


def _mapped(name: str) -> Callable[[Thread], Area]:
    return lambda thread: thread.map(memory(name))


def _sysv(t: Thread, length: int, flags: int = 0) -> Area:
    """A System V segment that goes with its last attachment."""
    made = t.do(calls.Shmget(length, flags | _OWNER_ONLY))
    if made.errno:
        raise CannotRun("no SysV shared memory", cause=errno_name(made.errno))
    address = t.ok(calls.Shmat(made.value, t.program.free_place(), 0)).value
    t.ok(calls.ShmRemove(made.value))
    return Area(address, length, length)


def _sysv_huge(t: Thread) -> Area:
    t.reserve(HUGE, 1)
    return _sysv(t, HUGE, _SHM_HUGETLB | mman.MAP_HUGE_2MB)


def _ordinary_file(t: Thread, kind: int) -> Area:
    made = t.do(calls.Open(calls.File.ORDINARY, os.O_RDWR | os.O_CLOEXEC))
    if made.errno:
        raise CannotRun("no ordinary file", cause=errno_name(made.errno))
    t.ok(calls.Ftruncate(made.value, PAGE))
    place = t.program.free_place()
    return Area(t.ok(Mmap(place, PAGE, _EITHER, kind | _NOREPLACE, made.value)).value, PAGE, PAGE)


def _droppable(t: Thread) -> Area:
    flags = mman.MAP_DROPPABLE | mman.MAP_ANONYMOUS | _NOREPLACE
    made = t.do(Mmap(t.program.free_place(), PAGE, _EITHER, flags))
    if made.errno:
        raise CannotRun("no MAP_DROPPABLE", cause=errno_name(made.errno))
    return Area(made.value, PAGE, PAGE)


MEMORIES: dict[str, Callable[[Thread], Area]] = {
    **{name: _mapped(name) for name in memory_names()},
    "sysv": lambda thread: _sysv(thread, PAGE),
    "sysv-huge": _sysv_huge,
    "file": lambda thread: _ordinary_file(thread, mman.MAP_SHARED),
    "file-private": lambda thread: _ordinary_file(thread, mman.MAP_PRIVATE),
    "droppable": _droppable,
}
