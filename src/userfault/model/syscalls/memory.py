"""Touches of memory, and the calls that change the address space."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model import (
    access,
    madvise,
    mapping,
    mremap,
    scan,
)
from userfault.model.errors import Errno, Signalled
from userfault.model.files import (
    DevZero,
    ObjectFile,
    OpenFile,
)
from userfault.model.folio import Object
from userfault.model.machine import Machine
from userfault.model.mapping import Behind
from userfault.model.sched import Task
from userfault.model.syscalls.table import OK, info, serves
from userfault.uapi import mman


@serves(calls.Read)
def _read(task: Task, call: calls.Read) -> Result:
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
def _write(task: Task, call: calls.Write) -> Result:
    try:
        access.store(task, task.process.mm, call.address, call.data, user=True)
    except Signalled as signalled:
        done = signalled.address - call.address
        return Result(value=done, signal=info(signalled))
    return Result(value=len(call.data))


@serves(calls.Mmap)
def _mmap(task: Task, call: calls.Mmap) -> Result:
    if not call.length:
        raise Errno(errno.EINVAL)
    if call.offset % PAGE:
        raise Errno(errno.EINVAL)
    kind = call.flags & 0xF
    droppable = kind == mman.MAP_DROPPABLE and task.process.machine.profile.droppable
    sharing = (mman.MAP_SHARED, mman.MAP_PRIVATE, mman.MAP_SHARED_VALIDATE)
    if kind not in sharing and not droppable:
        raise Errno(errno.EINVAL)
    mm = task.process.mm
    length = round_up(call.length, PAGE)
    if not call.length or length > mm.task_size:
        raise Errno(errno.ENOMEM)
    behind, temporary = _behind(task, call, kind, length)
    try:
        address = mapping.mmap(task, mm, call.address, length, call.prot, call.flags, behind)
    finally:
        if temporary is not None:
            task.process.machine.unlink(temporary)
    return Result(value=address)


def _behind(task: Task, call: calls.Mmap, kind: int, length: int) -> tuple[Behind, Object | None]:
    """What the call maps, and the object made for it alone (to be unlinked by the caller)."""
    machine = task.process.machine
    shared = kind in (mman.MAP_SHARED, mman.MAP_SHARED_VALIDATE)
    if call.flags & mman.MAP_ANONYMOUS and kind == mman.MAP_DROPPABLE:
        return Behind(machine.types["droppable"], None), None
    if call.flags & mman.MAP_ANONYMOUS and call.flags & mman.MAP_HUGETLB:
        return _huge(machine, call, length)
    if not call.flags & mman.MAP_ANONYMOUS:
        file = _mappable(task, call, kind, shared=shared)
        if isinstance(file, ObjectFile):
            return _file_behind(file, call, shared), None
    if shared:
        target = machine.object("shmem", length)
        return Behind(target.kind, target), target
    return Behind(machine.types["anon"], None), None


def _huge(machine: Machine, call: calls.Mmap, length: int) -> tuple[Behind, Object]:
    shift = (call.flags >> mman.MAP_HUGE_SHIFT & mman.MAP_HUGE_MASK) or 21
    if shift not in machine.memory.pools:
        raise Errno(errno.EINVAL)
    target = machine.object("hugetlb", round_up(length, 1 << shift), shift=shift)
    return Behind(target.kind, target), target


def _mappable(task: Task, call: calls.Mmap, kind: int, *, shared: bool) -> OpenFile:
    """A file that may be mapped so: one with pages, or /dev/zero."""
    file = task.process.file(call.fd)
    if kind == mman.MAP_DROPPABLE:
        raise Errno(errno.EINVAL)
    if not file.readable or (shared and call.prot & mman.PROT_WRITE and not file.writable):
        raise Errno(errno.EACCES)
    if not isinstance(file, (ObjectFile, DevZero)):
        raise Errno(errno.ENODEV)
    return file


def _file_behind(file: ObjectFile, call: calls.Mmap, shared: bool) -> Behind:
    target = file.object
    mappable = target.kind.mappable
    if mappable is not None and not mappable(target):
        raise Errno(errno.ENODEV)
    if not shared and not target.kind.can_private:
        raise Errno(errno.EINVAL)
    if call.offset % (1 << target.shift):
        raise Errno(errno.EINVAL)
    sealed = target.seals & (mman.F_SEAL_WRITE | mman.F_SEAL_FUTURE_WRITE)
    if shared and sealed and call.prot & mman.PROT_WRITE:
        raise Errno(errno.EPERM)
    may_write = file.writable and not sealed
    return Behind(target.kind, target, call.offset, may_write=may_write)


@serves(calls.Munmap)
def _munmap(task: Task, call: calls.Munmap) -> Result:
    mapping.munmap(task, task.process.mm, call.address, call.length)
    return OK


@serves(calls.Mremap)
def _mremap(task: Task, call: calls.Mremap) -> Result:
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
def _mprotect(task: Task, call: calls.Mprotect) -> Result:
    mapping.mprotect(task.process.mm, call.address, call.length, call.prot)
    return OK


@serves(calls.Madvise)
def _madvise(task: Task, call: calls.Madvise) -> Result:
    madvise.madvise(task, task.process.mm, call.address, call.length, call.advice)
    return OK


@serves(calls.Mlock)
def _mlock(task: Task, call: calls.Mlock) -> Result:
    mapping.mlock(task, task.process.mm, call.address, call.length, lock=True)
    return OK


@serves(calls.Munlock)
def _munlock(task: Task, call: calls.Munlock) -> Result:
    mapping.mlock(task, task.process.mm, call.address, call.length, lock=False)
    return OK


@serves(calls.Mincore)
def _mincore(task: Task, call: calls.Mincore) -> Result:
    if call.address % PAGE:
        raise Errno(errno.EINVAL)
    return Result(data=scan.mincore(task.process.mm, call.address, call.length))
