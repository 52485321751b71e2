"""SysV shared memory: segments are made, attached, detached and removed."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.model.errors import Errno
from userfault.model.faces.syscalls.table import OK, serves
from userfault.model.mm import mmap
from userfault.model.mm.mmap import Behind
from userfault.model.process import Thread
from userfault.uapi import mman

_SHM_RDONLY = 0o10000
_SHM_REMAP = 0o40000


@serves(calls.Shmget)
def _shmget(task: Thread, call: calls.Shmget) -> Result:
    return Result(value=task.process.machine.segments.get(call.length, call.flags))


@serves(calls.Shmat)
def _shmat(task: Thread, call: calls.Shmat) -> Result:
    machine = task.process.machine
    target = machine.segments.find(call.id)
    writable = not call.flags & _SHM_RDONLY
    prot = mman.PROT_READ | (mman.PROT_WRITE if writable else 0)
    how = mman.MAP_SHARED
    if call.address:
        how |= mman.MAP_FIXED if call.flags & _SHM_REMAP else mman.MAP_FIXED_NOREPLACE
    behind = Behind(machine.type_of(target), target, may_write=writable)
    mm = task.process.mm
    try:
        return Result(value=mmap.mmap(task, mm, call.address, target.size, prot, how, behind))
    except Errno as refusal:
        code = errno.EINVAL if refusal.code == errno.EEXIST else refusal.code
        raise Errno(code) from None


@serves(calls.Shmdt)
def _shmdt(task: Thread, call: calls.Shmdt) -> Result:
    """Every part of the attachment that begins at the address."""
    mm = task.process.mm
    first = mm.find(call.address)
    if first is None or first.start != call.address or first.object is None:
        raise Errno(errno.EINVAL)
    target = first.object
    if not target.kind.segment:
        raise Errno(errno.EINVAL)
    for vma in mm.overlapping(call.address, call.address + target.size):
        if vma.object is target and vma.start - vma.offset == call.address:
            mmap.munmap(task, mm, vma.start, vma.end - vma.start)
    return OK


@serves(calls.ShmRemove)
def _shm_remove(task: Thread, call: calls.ShmRemove) -> Result:
    task.process.machine.segments.remove(call.id)
    return OK
