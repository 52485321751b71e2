"""Mappings of each memory type, made with calls.

A memory type is an entry of `_FILES`: how the descriptor behind it comes about.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from userfault.check.words.caller import Caller
from userfault.check.words.outcome import CannotRun
from userfault.check.words.trace import errno_name
from userfault.kernel import calls
from userfault.kernel.memtypes import Memory, MemoryType
from userfault.uapi import kvm, mman


class Area(msgspec.Struct, frozen=True):
    """A mapping: where it is, the size of its pages, the descriptor behind it (-1: none)."""

    address: int
    length: int
    page: int
    fd: int = -1

    @property
    def end(self) -> int:
        return self.address + self.length

    def at(self, number: int) -> int:
        """The address of its page `number`."""
        return self.address + number * self.page


def make_area(caller: Caller, memory: Memory, pages: int, address: int, prot: int) -> Area:
    """Map fresh memory at an address; CannotRun where there is none of it."""
    length = pages * memory.page_size
    fd = _FILES[memory.type](caller, memory, length)
    kind = mman.MAP_SHARED if memory.shared else mman.MAP_PRIVATE
    flags = kind | mman.MAP_FIXED_NOREPLACE | (mman.MAP_ANONYMOUS if fd < 0 else 0)
    caller.ok(calls.Mmap(address, length, prot, flags, fd))
    return Area(address, length, memory.page_size, fd)


def _no_file(_caller: Caller, _memory: Memory, _length: int) -> int:
    return -1


def _memfd(caller: Caller, _memory: Memory, length: int) -> int:
    return _sized(caller, mman.MFD_CLOEXEC, length)


def _huge_memfd(caller: Caller, memory: Memory, length: int) -> int:
    caller.reserve(memory.page_size, length // memory.page_size)
    size = (memory.page_size.bit_length() - 1) << mman.MFD_HUGE_SHIFT
    return _sized(caller, mman.MFD_CLOEXEC | mman.MFD_HUGETLB | size, length)


def _sized(caller: Caller, flags: int, length: int) -> int:
    fd = caller.ok(calls.MemfdCreate(flags)).value
    caller.ok(calls.Ftruncate(fd, length))
    return fd


def _guest_memfd(caller: Caller, _memory: Memory, length: int) -> int:
    device = caller.do(calls.Open(calls.File.KVM, os.O_RDWR | os.O_CLOEXEC))
    if device.errno:
        raise CannotRun("no KVM", cause=f"/dev/kvm: {errno_name(device.errno)}")
    machine = caller.do(calls.Ioctl(device.value, kvm.KVM_CREATE_VM))
    if machine.errno:
        raise CannotRun("no KVM", cause=f"KVM_CREATE_VM: {errno_name(machine.errno)}")
    flags = kvm.GUEST_MEMFD_FLAG_MMAP | kvm.GUEST_MEMFD_FLAG_INIT_SHARED
    argument = kvm.kvm_create_guest_memfd.struct.pack(length, flags)
    made = caller.do(calls.Ioctl(machine.value, kvm.KVM_CREATE_GUEST_MEMFD, argument))
    if made.errno:
        raise CannotRun(
            "no guest_memfd that can be mapped",
            cause=f"KVM_CREATE_GUEST_MEMFD: {errno_name(made.errno)}",
            cure="it needs Linux 6.18 or newer with CONFIG_KVM_GUEST_MEMFD",
        )
    return made.value


_FILES: dict[MemoryType, Callable[[Caller, Memory, int], int]] = {
    MemoryType.ANON: _no_file,
    MemoryType.SHMEM: _memfd,
    MemoryType.HUGETLB: _huge_memfd,
    MemoryType.GUEST_MEMFD: _guest_memfd,
}
