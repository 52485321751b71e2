"""Touches of memory, and the calls that change the address space."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model.errors import Errno, Signalled
from userfault.model.faces.syscalls.table import OK, info, serves
from userfault.model.files.inode import Inode
from userfault.model.files.open_files import (
    DevZero,
    ObjectFile,
    OpenFile,
)
from userfault.model.machine import Machine
from userfault.model.mm import access, madvise, mmap, mremap, scan
from userfault.model.mm.mmap import Behind
from userfault.model.process import Thread
from userfault.uapi import mman

_SHARINGS = (mman.MAP_SHARED, mman.MAP_PRIVATE, mman.MAP_SHARED_VALIDATE)
_NO_WRITES = mman.F_SEAL_WRITE | mman.F_SEAL_FUTURE_WRITE


@serves(calls.Read)
def _read(task: Thread, call: calls.Read) -> Result:
    mm = task.process.mm
    found = access.load_now(mm, call.address, call.length)
    if found is not None:
        return Result(value=len(found), data=found)
    parts: list[bytes] = []
    try:
        access.load(task, mm, call.address, call.length, parts, user=True)
    except Signalled as signalled:
        done = b"".join(parts)
        return Result(value=len(done), data=done, signal=info(signalled))
    return Result(value=call.length, data=b"".join(parts))


@serves(calls.Write)
def _write(task: Thread, call: calls.Write) -> Result:
    try:
        access.store(task, task.process.mm, call.address, call.data, user=True)
    except Signalled as signalled:
        done = signalled.address - call.address
        return Result(value=done, signal=info(signalled))
    return Result(value=len(call.data))


@serves(calls.Mmap)
def _mmap(task: Thread, call: calls.Mmap) -> Result:
    if call.offset % PAGE:
        raise Errno(errno.EINVAL)
    behind, temporary = _behind(task, call)
    try:
        address = mmap.mmap(
            task, task.process.mm, call.address, call.length, call.prot, call.flags, behind
        )
    finally:
        if temporary is not None:
            task.process.machine.files.unlink(temporary)
    return Result(value=address)


def _behind(task: Thread, call: calls.Mmap) -> tuple[Behind, Inode | None]:
    """What the call maps, and the object made for it alone (to be unlinked by the caller)."""
    machine = task.process.machine
    kind = call.flags & mman.MAP_TYPE
    refusal = 0 if kind in _SHARINGS else errno.EINVAL
    if not call.flags & mman.MAP_ANONYMOUS:
        file = task.process.file(call.fd)
        refusal = refusal or _file_refusal(file, call)
        if isinstance(file, ObjectFile):
            return _file_behind(machine, file, call.offset, refusal), None
    elif call.flags & mman.MAP_HUGETLB:
        return _huge(machine, call, refusal)
    elif kind == mman.MAP_DROPPABLE and machine.profile.droppable:
        return Behind(machine.types["droppable"], None), None
    if mmap.is_shared(call.flags):
        target = machine.object("shmem", round_up(call.length, PAGE))
        return Behind(machine.type_of(target), target, refusal=refusal), target
    return Behind(machine.types["anon"], None, refusal=refusal), None


def _huge(machine: Machine, call: calls.Mmap, refusal: int) -> tuple[Behind, Inode]:
    shift = (call.flags >> mman.MAP_HUGE_SHIFT & mman.MAP_HUGE_MASK) or 21
    if shift not in machine.memory.pools:
        raise Errno(errno.EINVAL)
    target = machine.object("hugetlb", round_up(call.length, 1 << shift), shift=shift)
    return Behind(machine.type_of(target), target, refusal=refusal), target


def _file_refusal(file: OpenFile, call: calls.Mmap) -> int:
    """The errno that a file cannot be mapped so with, 0 if it can; its own mmap is not asked."""
    writes = mmap.is_shared(call.flags) and call.prot & mman.PROT_WRITE
    if not file.readable or (writes and not file.writable):
        return errno.EACCES
    if isinstance(file, ObjectFile):
        return errno.EPERM if writes and file.object.seals & _NO_WRITES else 0
    return 0 if isinstance(file, DevZero) else errno.ENODEV


def _file_behind(machine: Machine, file: ObjectFile, offset: int, refusal: int) -> Behind:
    target = file.object
    may_write = file.writable and not target.seals & _NO_WRITES
    return Behind(machine.type_of(target), target, offset, may_write=may_write, refusal=refusal)


@serves(calls.Munmap)
def _munmap(task: Thread, call: calls.Munmap) -> Result:
    mmap.munmap(task, task.process.mm, call.address, call.length)
    return OK


@serves(calls.Mremap)
def _mremap(task: Thread, call: calls.Mremap) -> Result:
    return Result(
        value=mremap.mremap(
            task,
            task.process.mm,
            call.address,
            call.old_length,
            call.new_length,
            call.flags,
            call.new_address,
        )
    )


@serves(calls.Mprotect)
def _mprotect(task: Thread, call: calls.Mprotect) -> Result:
    mmap.mprotect(task.process.mm, call.address, call.length, call.prot)
    return OK


@serves(calls.Madvise)
def _madvise(task: Thread, call: calls.Madvise) -> Result:
    madvise.madvise(task, task.process.mm, call.address, call.length, call.advice)
    return OK


@serves(calls.Mlock)
def _mlock(task: Thread, call: calls.Mlock) -> Result:
    mmap.mlock(task, task.process.mm, call.address, call.length, lock=True)
    return OK


@serves(calls.Munlock)
def _munlock(task: Thread, call: calls.Munlock) -> Result:
    mmap.mlock(task, task.process.mm, call.address, call.length, lock=False)
    return OK


@serves(calls.Mincore)
def _mincore(task: Thread, call: calls.Mincore) -> Result:
    if call.address % PAGE:
        raise Errno(errno.EINVAL)
    return Result(data=scan.mincore(task.process.mm, call.address, call.length))
