"""A process whose memory is looked at: it maps what its arguments say, tells where, and waits.

Run as a program; `Target` is the test's side of it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PAGE = 4096
PAGES = 16
TOUCHED = (1, 3, 4, 9)
_MADV_GUARD_INSTALL = 102  # 6.13


def content(kind: str, number: int) -> bytes:
    """What the target writes at the start of a page."""
    return f"{kind} page {number:6}".encode()


def _touched(kind: str, memory: mmap.mmap) -> mmap.mmap:
    for number in TOUCHED:
        at = number * PAGE
        memory[at : at + len(content(kind, number))] = content(kind, number)
    return memory


def _anon(path: str) -> mmap.mmap:
    del path
    return mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _private(path: str) -> mmap.mmap:
    return _touched("private", _anon(path))


def _shared(path: str) -> mmap.mmap:
    del path
    return _touched("shared", mmap.mmap(-1, PAGES * PAGE))


def _memfd(path: str) -> mmap.mmap:
    """Written by system calls: no page of it is in the page tables."""
    del path
    fd = os.memfd_create("target")
    os.ftruncate(fd, PAGES * PAGE)
    for number in TOUCHED:
        os.pwrite(fd, content("memfd", number), number * PAGE)
    memory = mmap.mmap(fd, PAGES * PAGE)
    os.close(fd)
    return memory


def _copied(path: str) -> mmap.mmap:
    """A private mapping of a memfd: of the file's pages, 3 and 9 are written over here."""
    del path
    fd = os.memfd_create("target")
    os.ftruncate(fd, PAGES * PAGE)
    for number in TOUCHED[:3]:
        text = content("copied" if number != 3 else "below", number)
        os.pwrite(fd, text, number * PAGE)
    memory = mmap.mmap(
        fd, PAGES * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    )
    os.close(fd)
    for number in (3, 9):
        text = content("copied", number)
        memory[number * PAGE : number * PAGE + len(text)] = text
    return memory


def _file(path: str) -> mmap.mmap:
    """A private mapping of a file, whose pages are 0xff except where it was written."""
    with open(path, "wb") as file:
        file.write(b"\xff" * PAGES * PAGE)
    fd = os.open(path, os.O_RDONLY)
    memory = mmap.mmap(
        fd, PAGES * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    )
    os.close(fd)
    return _touched("file", memory)


def _read(path: str) -> mmap.mmap:
    """Read and never written: mapped to the zero page."""
    memory = _anon(path)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for number in TOUCHED:
        assert memory[number * PAGE] == 0
    return memory


def _guarded(path: str) -> mmap.mmap:
    """Guard pages among others."""
    memory = _touched("guarded", _anon(path))
    memory.madvise(_MADV_GUARD_INSTALL, 6 * PAGE, 2 * PAGE)
    return memory


def _hidden(path: str) -> mmap.mmap:
    """Written, then made PROT_NONE."""
    memory = _touched("hidden", _anon(path))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), PAGES * PAGE, 0) == 0
    return memory


def _cut(path: str) -> mmap.mmap:
    """A shared file that ends within the mapping."""
    memory = _memfd(path)
    with open(path, "w+b") as file:
        file.truncate(PAGES * PAGE)
        memory = _touched("cut", mmap.mmap(file.fileno(), PAGES * PAGE))
        file.truncate(2 * PAGE)
    return memory


def _large(path: str) -> mmap.mmap:
    """64 MiB that zstd has work with."""
    del path
    memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(memory), 1 << 20):
        memory[at : at + (1 << 20)] = b"".join(
            hashlib.sha256(b"%d" % (at + n)).hexdigest().encode() for n in range(1 << 14)
        )
    return memory


KINDS: dict[str, Callable[[str], mmap.mmap]] = {
    "anon": _anon,
    "private": _private,
    "shared": _shared,
    "memfd": _memfd,
    "copied": _copied,
    "file": _file,
    "read": _read,
    "guarded": _guarded,
    "hidden": _hidden,
    "cut": _cut,
    "large": _large,
}


class Target:
    """The process, killed when the block is left.  `at`: the address of each mapping.

    `detached`: in a session of its own, with no pipe open to us.
    """

    def __init__(self, folder: Path, *kinds: str, detached: bool = False) -> None:
        told = folder / "told"
        os.mkfifo(told)
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(folder / "mapped"), str(told), *kinds],
            stdin=subprocess.DEVNULL if detached else None,
            stdout=subprocess.DEVNULL if detached else None,
            stderr=subprocess.DEVNULL if detached else None,
            start_new_session=detached,
        )
        self.pid = self.process.pid
        self.at: dict[str, int] = json.loads(told.read_text() or "{}")
        told.unlink()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def state(self) -> str:
        """As in /proc/PID/stat: S sleeps, T is stopped."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        return text.rpartition(") ")[2][0]


def main() -> None:
    """In the target."""
    path, told, *kinds = sys.argv[1:]
    held = {kind: KINDS[kind](path + kind) for kind in kinds}
    addresses = {}
    for kind, memory in held.items():
        addresses[kind] = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    Path(told).write_text(json.dumps(addresses))
    signal.pause()


if __name__ == "__main__":
    main()
