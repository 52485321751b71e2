"""Capturing the memory of a live process: from /proc/PID/mem, guided by /proc/PID/maps.

The process is stopped meanwhile, so that the image is of one moment.  The image is the mappings
one after the other; pages of zeros are left as holes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import msgspec

from userfault.kernel.errors import Unavailable
from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.kernel.names import sendable
from userfault.linux import maps

# Mappings that the kernel provides: they belong to no image.
_KERNELS = ("[vvar", "[vdso]", "[vsyscall]")
_STEP = 4 * MIB
_ZEROS = bytes(BASE_PAGE)

Progress = Callable[[int, int], None]


class Mapping(msgspec.Struct, frozen=True):
    """One captured mapping: [`start`, `end`) of the process lies at `offset` of the image."""

    start: int
    end: int
    offset: int
    permissions: str
    name: str

    @property
    def length(self) -> int:
        """In bytes."""
        return self.end - self.start


class Image(msgspec.Struct, frozen=True):
    """What was captured: pages `stored`, and those left as holes, `zero` or `unreadable`."""

    length: int
    stored: int
    zero: int
    unreadable: int
    mappings: list[Mapping]


def readable_mappings(mapped: Iterable[maps.Mapping]) -> list[Mapping]:
    """Those of these mappings that are private and can be read, in address order."""
    found = []
    offset = 0
    for each in mapped:
        may = each.permissions
        if may[0] != "r" or each.shared or each.name.startswith(_KERNELS):
            continue
        found.append(Mapping(each.start, each.end, offset, may, sendable(each.name)))
        offset += each.length
    return found


def capture(pid: int, image: BinaryIO, progress: Progress | None = None) -> Image:
    """Write the memory of `pid`, a child of ours, to `image`; it is stopped meanwhile.

    Raises Unavailable where this system does not let a parent read its child's memory.
    """
    with _stopped(pid), _opened(pid) as memory:
        mappings = readable_mappings(maps.mappings(pid))
        length = sum(mapping.length for mapping in mappings)
        image.truncate(length)
        stored = unreadable = 0
        for mapping in mappings:
            for at in range(0, mapping.length, _STEP):
                size = min(_STEP, mapping.length - at)
                data = _read(memory, mapping.start + at, size)
                unreadable += (size - len(data)) // BASE_PAGE
                stored += _write(image.fileno(), mapping.offset + at, data)
                if progress is not None:
                    progress(mapping.offset + at + size, length)
    pages = length // BASE_PAGE
    return Image(length, stored, pages - stored - unreadable, unreadable, mappings)


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Stop the child, and wait until it has stopped; let it go on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # WNOWAIT: if it has died instead, whoever waits for it learns so.
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _opened(pid: int) -> Iterator[int]:
    path = f"/proc/{pid}/mem"
    try:
        memory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(
            "cannot read the memory of a process of our own",
            cause=f"{path}: {os.strerror(error.errno or 0)}",
            cure="set kernel.yama.ptrace_scope to 0 or 1, or run as root",
        ) from None
    try:
        yield memory
    finally:
        os.close(memory)


def _read(memory: int, start: int, size: int) -> bytes:
    """The bytes from `start` on, fewer where the rest cannot be read (beyond the end of a file)."""
    parts = []
    while size:
        try:
            data = os.pread(memory, size, start)
        except OSError:
            break
        parts.append(data)
        start += len(data)
        size -= len(data)
    return b"".join(parts)


def _write(image: int, offset: int, data: bytes) -> int:
    """Write all pages that are not zero, in as few calls as there are runs; how many they are."""
    stored = 0
    run = -1  # where a run of such pages began
    for at in range(0, len(data) + BASE_PAGE, BASE_PAGE):
        page = data[at : at + BASE_PAGE]
        if page and page != _ZEROS:
            stored += 1
            run = at if run < 0 else run
        elif run >= 0:
            _write_all(image, data[run:at], offset + run)
            run = -1
    return stored


def _write_all(image: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        try:
            written = os.pwrite(image, view, offset)
        except OSError as error:
            raise Unavailable(
                "cannot write the image",
                cause=os.strerror(error.errno or 0),
                cure="free space there, or set TMPDIR to a directory that has some",
            ) from None
        view = view[written:]
        offset += written
