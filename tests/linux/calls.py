"""System calls that touch memory: what the kernel does when a system call meets a missing page."""

from __future__ import annotations

import ctypes
import os

from userfault.kernel.protocol import Outcome

_libc = ctypes.CDLL(None, use_errno=True)
_libc.read.restype = _libc.write.restype = _libc.process_vm_readv.restype = ctypes.c_ssize_t


def _checked(result: int, call: str) -> Outcome:
    if result < 0:
        raise OSError(ctypes.get_errno(), call)
    return Outcome(value=result)


def write_from(address: int, length: int) -> Outcome:
    """write(2) `length` bytes at `address` into a pipe."""
    reader, writer = os.pipe()
    try:
        done = _libc.write(writer, ctypes.c_void_p(address), ctypes.c_size_t(length))
        return _checked(done, "write")
    finally:
        os.close(reader)
        os.close(writer)


def read_into(address: int, data: bytes) -> Outcome:
    """read(2) `data` from a pipe to `address`."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        done = _libc.read(reader, ctypes.c_void_p(address), ctypes.c_size_t(len(data)))
        return _checked(done, "read")
    finally:
        os.close(reader)
        os.close(writer)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def peek(pid: int, address: int, length: int) -> Outcome:
    """process_vm_readv(2): bytes of a process, as a debugger reads them."""
    into = ctypes.create_string_buffer(length)
    local = _Vector(ctypes.addressof(into), length)
    remote = _Vector(address, length)
    done = _libc.process_vm_readv(
        pid, ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote), ctypes.c_ulong(1), 0
    )
    return Outcome(data=into.raw[: _checked(done, "process_vm_readv").value])
