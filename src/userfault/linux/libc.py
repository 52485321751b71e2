"""The few libc functions that Python has no wrapper for, or whose wrapper does too much.

`mmap.mmap` cannot map at an address, alias a range or tell where a mapping lies; `os` has no
mincore.  Each function here is one system call: it returns its result or raises OSError.  ctypes
releases the GIL around every call.
"""

from __future__ import annotations

import array
import ctypes
import os
import struct
from typing import Any

from userfault.linux.refused import CallRefusedError
from userfault.uapi.syscalls import SYSCALLS

_libc = ctypes.CDLL(None, use_errno=True)

_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_mprotect = _libc.mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_mlock = _libc.mlock
_mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_mincore = _libc.mincore
_mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_mremap = _libc.mremap
_mremap.restype = ctypes.c_void_p
_mremap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
]
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_ppoll = _libc.ppoll
_ppoll.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
_POLLIN = 0x001  # asm-generic/poll.h
_swapon = _libc.swapon
_swapon.argtypes = [ctypes.c_char_p, ctypes.c_int]
_swapoff = _libc.swapoff
_swapoff.argtypes = [ctypes.c_char_p]
_syncfs = _libc.syncfs
_syncfs.argtypes = [ctypes.c_int]
_statx = getattr(_libc, "statx", None)
if _statx is not None:
    _statx.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000  # linux/fcntl.h, linux/stat.h
_STATX_BASIC_STATS, _STATX_BYTES = 0x7FF, 256
_process_vm_readv = _libc.process_vm_readv
_process_vm_readv.restype = ctypes.c_ssize_t
_process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_ioctl = _libc.ioctl
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong]

_FAILED = ctypes.c_void_p(-1).value


def _fail(call: str) -> OSError:
    return CallRefusedError(call, ctypes.get_errno())


def mmap(  # in the order of mmap(2)
    address: int, length: int, protection: int, flags: int, fd: int, offset: int
) -> int:
    """mmap(2): the address of the new mapping."""
    found: int | None = _mmap(address, length, protection, flags, fd, offset)
    if found is None or found == _FAILED:
        raise _fail("mmap")
    return found


def munmap(address: int, length: int) -> None:
    """munmap(2)."""
    if _munmap(address, length):
        raise _fail("munmap")


def mprotect(address: int, length: int, protection: int) -> None:
    """mprotect(2)."""
    if _mprotect(address, length, protection):
        raise _fail("mprotect")


def mlock(address: int, length: int) -> None:
    """mlock(2)."""
    if _mlock(address, length):
        raise _fail("mlock")


def madvise(address: int, length: int, advice: int) -> None:
    """madvise(2)."""
    if _madvise(address, length, advice):
        raise _fail("madvise")


def mremap(address: int, old_length: int, new_length: int, flags: int, new_address: int = 0) -> int:
    """mremap(2): the new address; `new_address` counts with MREMAP_FIXED only."""
    found: int | None = _mremap(address, old_length, new_length, flags, new_address)
    if found is None or found == _FAILED:
        raise _fail("mremap")
    return found


def nap(fd: int, timeout_s: float) -> None:
    """ppoll(2): sleep until `fd` is readable, or as long as that, or until a signal comes.

    select(2) knows no descriptor from 1024 on, and what else Python has counts in milliseconds.
    """
    polled = ctypes.create_string_buffer(struct.pack("=ihh", fd, _POLLIN, 0), 8)
    long = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e9))
    _ppoll(polled, 1, long, None)


def mincore(address: int, length: int, page_size: int = 4096) -> bytes:
    """mincore(2): one byte a page; bit 0 is set where the page is resident.

    For a file mapping that is residency in the page cache, whether mapped here or not.
    """
    answer = ctypes.create_string_buffer(-(-length // page_size))
    if _mincore(address, length, answer):
        raise _fail("mincore")
    return answer.raw


def cachestat(fd: int, offset: int, length: int) -> int:
    """cachestat(2): how many pages of a range of a file are in the page cache (6.5).

    Pages that are still being read in count too.
    """
    number = SYSCALLS.get(os.uname().machine, {}).get("cachestat", -1)
    asked = (ctypes.c_uint64 * 2)(offset, length)
    found = (ctypes.c_uint64 * 5)()  # cache, dirty, writeback, evicted, recently evicted
    if _syscall(number, fd, ctypes.byref(asked), ctypes.byref(found), 0):
        raise _fail("cachestat")
    held: int = found[0]
    return held


def known_stat(fd: int) -> tuple[int, int, int]:
    """Mode, size and modification time (ns) of a file as this machine knows them: no server of a
    network file system is asked, so it never waits for one (statx(2), AT_STATX_DONT_SYNC).

    Where the C library has no statx (glibc before 2.28), as fstat(2) tells.
    """
    if _statx is None:
        held = os.fstat(fd)
        return held.st_mode, held.st_size, held.st_mtime_ns
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_BASIC_STATS, found):
        raise _fail("statx")
    (mode,) = struct.unpack_from("=H", found, 28)
    (size,) = struct.unpack_from("=Q", found, 40)
    seconds, nanoseconds = struct.unpack_from("=qI", found, 112)
    return mode, size, seconds * 1_000_000_000 + nanoseconds


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with its flags (`os.posix_fallocate` has none)."""
    if _fallocate(fd, mode, offset, length):
        raise _fail("fallocate")


def swapon(path: str) -> None:
    """swapon(2); needs CAP_SYS_ADMIN."""
    if _swapon(os.fsencode(path), 0):
        raise _fail("swapon")


def swapoff(path: str) -> None:
    """swapoff(2); needs CAP_SYS_ADMIN."""
    if _swapoff(os.fsencode(path)):
        raise _fail("swapoff")


def syncfs(fd: int) -> None:
    """syncfs(2): write out the file system that `fd` is on; it reports failed writes since 5.8."""
    if _syncfs(fd):
        raise _fail("syncfs")


def process_vm_readv(pid: int, target: int, runs: list[tuple[int, int]]) -> int:
    """process_vm_readv(2): [start, end) of another process, one after the other, to `target`.

    At most IOV_MAX (1024) runs.  The bytes done: it ends where a page cannot be read.
    """
    remote = array.array("Q", (word for start, end in runs for word in (start, end - start)))
    local = array.array("Q", (target, sum(remote[1::2])))
    done: int = _process_vm_readv(
        pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(runs), 0
    )
    if done < 0:
        raise _fail("process_vm_readv")
    return done


def ioctl(fd: int, request: int, argument: int = 0) -> int:
    """ioctl(2) with a number as argument.  Once: `fcntl.ioctl` may repeat it after EINTR."""
    result: int = _ioctl(fd, request, argument)
    if result < 0:
        raise _fail("ioctl")
    return result


def syscall(number: int, *arguments: int) -> int:
    """syscall(2) with integer arguments."""
    result: int = _syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments))
    if result < 0:
        raise _fail(f"syscall {number}")
    return result


def read_memory(address: int, length: int) -> bytes:
    """Bytes of this process, copied by memmove without the GIL: another thread may serve the fault.

    (`ctypes.string_at` and indexing would hold the GIL while the fault waits.)
    """
    answer = ctypes.create_string_buffer(length)
    _memmove(ctypes.addressof(answer), address, length)
    return answer.raw


def write_memory(address: int, data: bytes) -> None:
    """Write bytes of this process by memmove, without the GIL."""
    _memmove(address, ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value, len(data))


_memmove = _libc.memmove
_memmove.restype = ctypes.c_void_p
_memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer (part of the stable ABI since 3.11)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None
_PYBUF_SIMPLE = 0


class Pinned:
    """The address and length of any C-contiguous buffer, read-only ones too, without a copy.

    While it is open the exporter keeps the memory in place.  Raises BufferError for a buffer that
    is not contiguous, TypeError for an object that has none.

    >>> with Pinned(b"page") as pinned:
    ...     pinned.length
    4
    """

    __slots__ = ("_view", "address", "length")

    def __init__(self, exporter: Any) -> None:
        self._view = _PyBuffer()
        _get_buffer(exporter, ctypes.byref(self._view), _PYBUF_SIMPLE)
        self.address: int = self._view.buf or 0
        self.length: int = self._view.len

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the exporter move or free its memory again."""
        _release_buffer(ctypes.byref(self._view))
