"""Swap space for a while: a small file, given back at the end.

A file of an ordinary file system can be swap space, one of overlayfs or tmpfs cannot (swapon(8)).
One program at a time has such a file; what a killed one left behind is taken away by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Sequence

from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import libc

_NAME = "userfault.swap"
_PAGE = 4096
_PAGES = 1024
_LIST = "/proc/swaps"
_ESCAPED = re.compile(rb"\\(040|011|012|134)")
_WAIT_S = 10.0
# union swap_header of linux/swap.h: behind the boot block version, last page and bad pages; the
# page ends with the signature.
_HEADER = struct.Struct("=1024xIII")
_SIGNATURE = b"SWAPSPACE2"


def swaps() -> list[str]:
    """The swap spaces in use, by name."""
    try:
        with open(_LIST, "rb") as file:
            return [_name(line) for line in file.readlines()[1:]]
    except FileNotFoundError:  # a kernel without CONFIG_SWAP
        return []


def _name(line: bytes) -> str:
    """Of a swap space: the kernel writes spaces and the like in it as octal (swaps_show)."""
    name = line.split(b" ")[0].split(b"\t")[0]
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), name))


class SwapFile:
    """Swap space in a file in one of these directories; `close()` takes it away.

    Adds none where the system has swap space.  Raises MemoryUnavailable where none can be had.
    """

    def __init__(self, directories: Sequence[str]) -> None:
        self._path = ""
        self._lock = _lock()
        reasons = []
        for left in filter(_ours, swaps()):
            with contextlib.suppress(OSError):
                _take_away(left)
        if swaps():
            self.close()
            return
        for directory in directories:
            path = os.path.join(directory, _NAME)
            try:
                _make(path)
                self._path = path
                return
            except OSError as error:
                reasons.append(f"{directory}: {error.strerror}")
        self.close()
        raise MemoryUnavailable(
            "no swap space",
            cause=f"no swap file can be used here ({'; '.join(reasons)})",
            cure="be root on a file system that takes swap files, or add swap space with swapon(8)",
        )

    def _remove(self) -> None:
        path, self._path = self._path, ""
        if path:
            with contextlib.suppress(OSError):
                _take_away(path)

    def close(self) -> None:
        """What is in the swap space goes back to memory; the file goes.  Idempotent."""
        self._remove()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _ours(path: str) -> bool:
    return os.path.basename(path) == _NAME


def _lock() -> int:
    """The list, locked by one program at a time (-1 where there is none).

    Raises MemoryUnavailable where another program keeps it.
    """
    try:
        file = os.open(_LIST, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(file)
                raise MemoryUnavailable(
                    "no swap space", cause=f"another program has {_LIST} locked", cure="wait for it"
                ) from None
            time.sleep(0.01)


def _make(path: str) -> None:
    """Make the file, and swap space of it.  Raises OSError; then there is no file of ours."""
    if _is_left_over(path):
        os.unlink(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _fill(file)
        libc.swapon(path)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(file)


def _is_left_over(path: str) -> bool:
    """Whether a killed run left this: this user's file, with our bytes as far as they came."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        held = os.fstat(file)
        ours = stat.S_ISREG(held.st_mode) and held.st_uid == os.geteuid()
        begun = os.pread(file, _HEADER.size, 0)
        whole = _HEADER.pack(1, _PAGES - 1, 0)
        return ours and held.st_size <= _PAGES * _PAGE and begun in (bytes(len(begun)), whole)
    finally:
        os.close(file)


def _fill(file: int) -> None:
    # Written, not allocated: swapon refuses holes.
    os.pwrite(file, bytes(_PAGES * _PAGE), 0)
    os.pwrite(file, _HEADER.pack(1, _PAGES - 1, 0), 0)
    os.pwrite(file, _SIGNATURE, _PAGE - len(_SIGNATURE))
    os.fsync(file)


def _take_away(path: str) -> None:
    if path in swaps():
        libc.swapoff(path)
    os.unlink(path)
