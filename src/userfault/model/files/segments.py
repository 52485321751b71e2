"""SysV shared memory: segments whose mappings have vm_ops of their own."""

from __future__ import annotations

import errno

from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model.errors import Errno
from userfault.model.machine import Machine
from userfault.model.mm import mmap
from userfault.model.mm.mmap import Behind
from userfault.model.tasks.sched import Task
from userfault.uapi import mman

SHM_HUGETLB = 0o4000
SHM_RDONLY = 0o10000
SHM_REMAP = 0o40000
_HUGE_SHIFT = 26


def get(machine: Machine, length: int, flags: int) -> int:
    """shmget(2) with IPC_PRIVATE: a new id."""
    if not length:
        raise Errno(errno.EINVAL)
    if flags & SHM_HUGETLB:
        shift = (flags >> _HUGE_SHIFT & 0x3F) or 21
        if shift not in machine.memory.pools:
            raise Errno(errno.EINVAL)
        size = round_up(length, 1 << shift)
        target = machine.object("sysv-hugetlb", size, shift=shift)
        # Unlike a memfd, a segment is promised its pages when it is made.
        reserve = target.kind.reserve
        if reserve is not None and not reserve(machine.memory, target, None, 0, size >> shift):
            machine.unlink(target)
            raise Errno(errno.ENOMEM)
    else:
        target = machine.object("sysv", round_up(length, PAGE))
    number = len(machine.segments) + 1
    machine.segments[number] = target
    return number


def attach(task: Task, number: int, address: int, flags: int) -> int:
    """shmat(2): the address."""
    target = task.process.machine.segments.get(number)
    if target is None:
        raise Errno(errno.EINVAL)
    prot = mman.PROT_READ | (0 if flags & SHM_RDONLY else mman.PROT_WRITE)
    how = mman.MAP_SHARED
    if address:
        how |= mman.MAP_FIXED if flags & SHM_REMAP else mman.MAP_FIXED_NOREPLACE
    behind = Behind(target.kind, target, may_write=not flags & SHM_RDONLY)
    mm = task.process.mm
    try:
        return mmap.mmap(task, mm, address, target.size, prot, how, behind)
    except Errno as refusal:
        code = errno.EINVAL if refusal.code == errno.EEXIST else refusal.code
        raise Errno(code) from None


def detach(task: Task, address: int) -> None:
    """shmdt(2): every part of the attachment that begins at `address`."""
    mm = task.process.mm
    first = mm.find(address)
    if first is None or first.start != address or first.object is None:
        raise Errno(errno.EINVAL)
    target = first.object
    if not target.kind.segment:
        raise Errno(errno.EINVAL)
    for vma in mm.overlapping(address, address + target.size):
        if vma.object is target and vma.start - vma.offset == address:
            mmap.munmap(task, mm, vma.start, vma.end - vma.start)


def remove(machine: Machine, number: int) -> None:
    """shmctl(IPC_RMID): the segment goes with its last attachment."""
    target = machine.segments.get(number)
    if target is None:
        raise Errno(errno.EINVAL)
    del machine.segments[number]
    machine.unlink(target)
