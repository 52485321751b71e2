"""Opening, sizing, sealing and closing files; poll."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import File, Result
from userfault.model.errors import Errno
from userfault.model.faces.syscalls.table import OK, serves
from userfault.model.files import filesystem
from userfault.model.files.folio import Mount
from userfault.model.files.open_files import (
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    DevKvm,
    DevUserfaultfd,
    DevZero,
    ObjectFile,
    OpenFile,
    PipeBuffer,
    PipeEnd,
)
from userfault.model.process import Thread
from userfault.model.uffd import messages
from userfault.model.uffd.messages import UffdFile
from userfault.uapi import mman

_MFD_KNOWN = (
    mman.MFD_CLOEXEC
    | mman.MFD_ALLOW_SEALING
    | mman.MFD_HUGETLB
    | mman.MFD_NOEXEC_SEAL
    | mman.MFD_EXEC
)
_F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL = 1, 2, 3, 4


@serves(calls.Open)
def _open(task: Thread, call: calls.Open) -> Result:
    machine = task.process.machine
    file: OpenFile
    if call.file is File.ZERO:
        file = DevZero(call.flags)
    elif call.file is File.USERFAULTFD:
        if not machine.config.userfaultfd:
            raise Errno(errno.ENOENT)
        file = DevUserfaultfd(call.flags)
    elif call.file is File.KVM:
        if not machine.config.kvm:
            raise Errno(errno.ENOENT)
        file = DevKvm(call.flags)
    elif call.file is File.ORDINARY:
        file = ObjectFile(call.flags, machine.object("file", 0, mount=Mount()))
    else:
        mount = Mount(call.pages or None)
        file = ObjectFile(call.flags, machine.object("shmem", 0, mount=mount))
    return Result(value=task.process.open(file, call.flags))


@serves(calls.Reopen)
def _reopen(task: Thread, call: calls.Reopen) -> Result:
    file = task.process.file(call.fd)
    if not isinstance(file, ObjectFile):
        raise Errno(errno.ENXIO)
    task.process.machine.files.link(file.object)
    return Result(value=task.process.open(ObjectFile(call.flags, file.object), call.flags))


@serves(calls.MemfdCreate)
def _memfd_create(task: Thread, call: calls.MemfdCreate) -> Result:
    machine = task.process.machine
    flags = call.flags
    known = _MFD_KNOWN
    if flags & mman.MFD_HUGETLB:
        known |= mman.MFD_HUGE_MASK << mman.MFD_HUGE_SHIFT
    if flags & ~known:
        raise Errno(errno.EINVAL)
    if flags & mman.MFD_HUGETLB:
        shift = (flags >> mman.MFD_HUGE_SHIFT & mman.MFD_HUGE_MASK) or 21
        if shift not in machine.memory.pools:
            raise Errno(errno.ENODEV)
        target = machine.object("hugetlb", 0, shift=shift)
    else:
        target = machine.object(machine.memfd, 0)
    if not flags & (mman.MFD_ALLOW_SEALING | mman.MFD_NOEXEC_SEAL):
        target.seals = mman.F_SEAL_SEAL
    cloexec = O_CLOEXEC if flags & mman.MFD_CLOEXEC else 0
    return Result(value=task.process.open(ObjectFile(O_RDWR, target), cloexec))


@serves(calls.Close)
def _close(task: Thread, call: calls.Close) -> Result:
    task.process.close(call.fd)
    return OK


@serves(calls.Dup)
def _dup(task: Thread, call: calls.Dup) -> Result:
    return Result(value=task.process.install(task.process.file(call.fd)))


@serves(calls.Pipe)
def _pipe(task: Thread, call: calls.Pipe) -> Result:
    pipe = PipeBuffer(task.sched)
    first = task.process.open(PipeEnd(call.flags, pipe, writes=False), call.flags)
    second = task.process.open(PipeEnd(call.flags, pipe, writes=True), call.flags)
    return Result(data=calls.PIPE_FDS.struct.pack(first, second))


def _object(task: Thread, fd: int) -> ObjectFile:
    file = task.process.file(fd)
    if not isinstance(file, ObjectFile):
        raise Errno(errno.EINVAL)
    return file


@serves(calls.Ftruncate)
def _ftruncate(task: Thread, call: calls.Ftruncate) -> Result:
    file = _object(task, call.fd)
    target = file.object
    if call.length < 0 or not file.writable or not target.kind.can_resize:
        raise Errno(errno.EINVAL)
    if target.shift != 12 and call.length % (1 << target.shift):
        raise Errno(errno.EINVAL)
    shrinks = call.length < target.size and target.seals & mman.F_SEAL_SHRINK
    grows = call.length > target.size and target.seals & mman.F_SEAL_GROW
    if shrinks or grows:
        raise Errno(errno.EPERM)
    filesystem.truncate(task.process.machine.files, target, call.length)
    return OK


@serves(calls.Fallocate)
def _fallocate(task: Thread, call: calls.Fallocate) -> Result:
    file = task.process.file(call.fd)
    if not isinstance(file, ObjectFile):
        raise Errno(errno.ENODEV)
    if not file.writable:
        raise Errno(errno.EBADF)
    filesystem.fallocate(
        task.process.machine.files, file.object, call.mode, call.offset, call.length
    )
    return OK


@serves(calls.Fstat)
def _fstat(task: Thread, call: calls.Fstat) -> Result:
    file = task.process.file(call.fd)
    size = blocks = 0
    if isinstance(file, ObjectFile):
        target = file.object
        size = target.size
        if target.kind.accounts_blocks:
            blocks = len(target.cache) << target.shift >> 9
    return Result(data=calls.STAT_FIELDS.struct.pack(size, blocks))


@serves(calls.Pread)
def _pread(task: Thread, call: calls.Pread) -> Result:
    file = _object(task, call.fd)
    if not file.object.kind.can_resize:
        raise Errno(errno.ESPIPE)  # guest_memfd has no position
    if not file.readable:
        raise Errno(errno.EBADF)
    if call.offset < 0:
        raise Errno(errno.EINVAL)
    data = filesystem.read(file.object, call.offset, call.length)
    return Result(value=len(data), data=data)


@serves(calls.Pwrite)
def _pwrite(task: Thread, call: calls.Pwrite) -> Result:
    file = _object(task, call.fd)
    if not file.object.kind.can_resize:
        raise Errno(errno.ESPIPE)
    if not file.writable:
        raise Errno(errno.EBADF)
    machine = task.process.machine
    return Result(value=filesystem.write(machine.files, file.object, call.offset, call.data))


@serves(calls.Lseek)
def _lseek(task: Thread, call: calls.Lseek) -> Result:
    file = task.process.file(call.fd)
    if isinstance(file, UffdFile):
        return OK
    if isinstance(file, PipeEnd):
        raise Errno(errno.ESPIPE)
    size = file.object.size if isinstance(file, ObjectFile) else 0
    if call.whence not in (0, 1, 2):
        raise Errno(errno.EINVAL)
    position = (0, file.position, size)[call.whence] + call.offset
    if position < 0:
        raise Errno(errno.EINVAL)
    file.position = position
    return Result(value=position)


@serves(calls.Poll)
def _poll(task: Thread, call: calls.Poll) -> Result:
    file = task.process.fds.get(call.fd, (None, False))[0]
    if file is None:
        revents = 0x20  # POLLNVAL
    elif isinstance(file, UffdFile):
        with task.process.using(file):
            found = messages.poll(task, file, wait=call.timeout_ms < 0)
        revents = found & (call.events | messages.POLLERR)
    elif isinstance(file, PipeEnd):
        ready = file.pipe.data if file.readable else file.pipe.CAPACITY - len(file.pipe.data)
        revents = (1 if file.readable else 4) & call.events if ready else 0
    else:
        revents = call.events & 5
    return Result(value=int(bool(revents)), data=calls.POLL_REVENTS.struct.pack(revents))


@serves(calls.Fcntl)
def _fcntl(task: Thread, call: calls.Fcntl) -> Result:
    process = task.process
    file = process.file(call.fd)
    if call.command == _F_GETFL:
        # Large files: O_LARGEFILE, which open(2) sets on x86-64.
        large = 0o100000 if isinstance(file, (DevZero, ObjectFile)) else 0
        return Result(value=file.flags | large)
    if call.command == _F_SETFL:
        file.flags = file.flags & ~O_NONBLOCK | call.argument & O_NONBLOCK
        return OK
    if call.command == _F_GETFD:
        return Result(value=int(process.fds[call.fd][1]))
    if call.command == _F_SETFD:
        process.fds[call.fd] = (file, bool(call.argument & 1))
        return OK
    if call.command in (mman.F_ADD_SEALS, mman.F_GET_SEALS) and isinstance(file, ObjectFile):
        return _seals(file, call)
    raise Errno(errno.EINVAL)


def _seals(file: ObjectFile, call: calls.Fcntl) -> Result:
    target = file.object
    if call.command == mman.F_GET_SEALS:
        return Result(value=target.seals)
    if not file.writable or target.seals & mman.F_SEAL_SEAL:
        raise Errno(errno.EPERM)
    writable = any(mapping.writes_through for mapping in target.mappings)
    if call.argument & mman.F_SEAL_WRITE and writable:
        raise Errno(errno.EBUSY)
    target.seals |= call.argument
    return OK
