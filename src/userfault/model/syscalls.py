"""The system calls of `userfault.kernel.calls`, as a table from call to what the kernel does.

Each function runs in the calling task and returns a Result, or raises Errno or Signalled.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from userfault.kernel import calls
from userfault.kernel.calls import File, Result, SignalInfo
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.memtypes import round_up
from userfault.model import (
    access,
    filesystem,
    ioctls,
    madvise,
    mapping,
    messages,
    mremap,
    scan,
    segments,
)
from userfault.model.errors import Errno, Signalled
from userfault.model.fault import BUS_MCEERR_AR, unshare
from userfault.model.files import (
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    DevKvm,
    DevNull,
    DevUserfaultfd,
    DevZero,
    ObjectFile,
    OpenFile,
    PipeBuffer,
    PipeEnd,
    UffdFile,
    Vm,
)
from userfault.model.folio import Mount, Object
from userfault.model.mapping import Behind
from userfault.model.memtypes.guest_memfd import MMAP
from userfault.model.sched import Task
from userfault.model.userfaultfd import Context
from userfault.uapi import kvm, mman
from userfault.uapi import pagemap as pagemap_abi
from userfault.uapi import userfaultfd as abi

_MFD_KNOWN = (
    mman.MFD_CLOEXEC
    | mman.MFD_ALLOW_SEALING
    | mman.MFD_HUGETLB
    | mman.MFD_NOEXEC_SEAL
    | mman.MFD_EXEC
)
_F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL = 1, 2, 3, 4
_OK = Result()

C = TypeVar("C", bound=calls.Call)
_TABLE: dict[type, Callable[[Task, Any], Result]] = {}


def perform(task: Task, call: calls.Call) -> Result:
    """Do it, in the task."""
    try:
        return _TABLE[type(call)](task, call)
    except Errno as refusal:
        return Result(errno=refusal.code)
    except Signalled as signalled:
        return Result(signal=_info(signalled))


def _info(signalled: Signalled) -> SignalInfo:
    lsb = signalled.lsb if signalled.code == BUS_MCEERR_AR else 0
    return SignalInfo(signalled.number, signalled.code, signalled.address, lsb)


def _serves(
    kind: type[C],
) -> Callable[[Callable[[Task, C], Result]], Callable[[Task, C], Result]]:
    def enter(function: Callable[[Task, C], Result]) -> Callable[[Task, C], Result]:
        _TABLE[kind] = function
        return function

    return enter


# --- touching memory -----------------------------------------------------------------------------


@_serves(calls.Read)
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
        return Result(value=len(done), data=done, signal=_info(signalled))
    return Result(value=call.length, data=b"".join(parts))


@_serves(calls.Write)
def _write(task: Task, call: calls.Write) -> Result:
    try:
        access.store(task, task.process.mm, call.address, call.data, user=True)
    except Signalled as signalled:
        done = signalled.address - call.address
        return Result(value=done, signal=_info(signalled))
    return Result(value=len(call.data))


# --- the address space ---------------------------------------------------------------------------


@_serves(calls.Mmap)
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
    if call.flags & mman.MAP_ANONYMOUS:
        if kind == mman.MAP_DROPPABLE:
            return Behind(machine.types["droppable"], None), None
        if call.flags & mman.MAP_HUGETLB:
            shift = (call.flags >> mman.MAP_HUGE_SHIFT & mman.MAP_HUGE_MASK) or 21
            if shift not in machine.memory.pools:
                raise Errno(errno.EINVAL)
            target = machine.object("hugetlb", round_up(length, 1 << shift), shift=shift)
            return Behind(target.kind, target), target
        if shared:
            return _shared_memory(task, length)
        return Behind(machine.types["anon"], None), None
    file = task.process.file(call.fd)
    if kind == mman.MAP_DROPPABLE:
        raise Errno(errno.EINVAL)
    if shared and call.prot & mman.PROT_WRITE and not file.writable:
        raise Errno(errno.EACCES)
    if not file.readable:
        raise Errno(errno.EACCES)
    if isinstance(file, DevZero):
        if shared:
            return _shared_memory(task, length)
        return Behind(machine.types["anon"], None), None
    if not isinstance(file, ObjectFile):
        raise Errno(errno.ENODEV)
    return _file_behind(file, call, shared), None


def _file_behind(file: ObjectFile, call: calls.Mmap, shared: bool) -> Behind:
    target = file.object
    if not target.kind.can_private:
        if not target.traits & MMAP:
            raise Errno(errno.ENODEV)
        if not shared:
            raise Errno(errno.EINVAL)
    if call.offset % (1 << target.shift):
        raise Errno(errno.EINVAL)
    sealed = target.seals & (mman.F_SEAL_WRITE | mman.F_SEAL_FUTURE_WRITE)
    if shared and sealed and call.prot & mman.PROT_WRITE:
        raise Errno(errno.EPERM)
    may_write = file.writable and not sealed
    return Behind(target.kind, target, call.offset, may_write=may_write)


def _shared_memory(task: Task, length: int) -> tuple[Behind, Object]:
    target = task.process.machine.object("shmem", length)
    return Behind(target.kind, target), target


@_serves(calls.Munmap)
def _munmap(task: Task, call: calls.Munmap) -> Result:
    mapping.munmap(task, task.process.mm, call.address, call.length)
    return _OK


@_serves(calls.Mremap)
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


@_serves(calls.Mprotect)
def _mprotect(task: Task, call: calls.Mprotect) -> Result:
    mapping.mprotect(task.process.mm, call.address, call.length, call.prot)
    return _OK


@_serves(calls.Madvise)
def _madvise(task: Task, call: calls.Madvise) -> Result:
    madvise.madvise(task, task.process.mm, call.address, call.length, call.advice)
    return _OK


@_serves(calls.Mlock)
def _mlock(task: Task, call: calls.Mlock) -> Result:
    mapping.mlock(task, task.process.mm, call.address, call.length, lock=True)
    return _OK


@_serves(calls.Munlock)
def _munlock(task: Task, call: calls.Munlock) -> Result:
    mapping.mlock(task, task.process.mm, call.address, call.length, lock=False)
    return _OK


@_serves(calls.Mincore)
def _mincore(task: Task, call: calls.Mincore) -> Result:
    if call.address % PAGE:
        raise Errno(errno.EINVAL)
    return Result(data=scan.mincore(task.process.mm, call.address, call.length))


# --- files ---------------------------------------------------------------------------------------


@_serves(calls.Open)
def _open(task: Task, call: calls.Open) -> Result:
    machine = task.process.machine
    file: OpenFile
    if call.file is File.ZERO:
        file = DevZero(call.flags)
    elif call.file is File.USERFAULTFD:
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


@_serves(calls.Reopen)
def _reopen(task: Task, call: calls.Reopen) -> Result:
    file = task.process.file(call.fd)
    if not isinstance(file, ObjectFile):
        raise Errno(errno.ENXIO)
    task.process.machine.link(file.object)
    return Result(value=task.process.open(ObjectFile(call.flags, file.object), call.flags))


@_serves(calls.MemfdCreate)
def _memfd_create(task: Task, call: calls.MemfdCreate) -> Result:
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
        target = machine.object("shmem", 0)
    if not flags & (mman.MFD_ALLOW_SEALING | mman.MFD_NOEXEC_SEAL):
        target.seals = mman.F_SEAL_SEAL
    cloexec = O_CLOEXEC if flags & mman.MFD_CLOEXEC else 0
    return Result(value=task.process.open(ObjectFile(O_RDWR, target), cloexec))


@_serves(calls.Close)
def _close(task: Task, call: calls.Close) -> Result:
    task.process.close(call.fd)
    return _OK


@_serves(calls.Dup)
def _dup(task: Task, call: calls.Dup) -> Result:
    return Result(value=task.process.install(task.process.file(call.fd)))


@_serves(calls.Pipe)
def _pipe(task: Task, call: calls.Pipe) -> Result:
    pipe = PipeBuffer(task.sched)
    first = task.process.open(PipeEnd(call.flags, pipe, writes=False), call.flags)
    second = task.process.open(PipeEnd(call.flags, pipe, writes=True), call.flags)
    return Result(data=calls.PIPE_FDS.struct.pack(first, second))


def _object(task: Task, fd: int) -> ObjectFile:
    file = task.process.file(fd)
    if not isinstance(file, ObjectFile):
        raise Errno(errno.EINVAL)
    return file


@_serves(calls.Ftruncate)
def _ftruncate(task: Task, call: calls.Ftruncate) -> Result:
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
    filesystem.truncate(task.process.machine, target, call.length)
    return _OK


@_serves(calls.Fallocate)
def _fallocate(task: Task, call: calls.Fallocate) -> Result:
    file = task.process.file(call.fd)
    if not isinstance(file, ObjectFile):
        raise Errno(errno.ENODEV)
    if not file.writable:
        raise Errno(errno.EBADF)
    filesystem.fallocate(task.process.machine, file.object, call.mode, call.offset, call.length)
    return _OK


@_serves(calls.Fstat)
def _fstat(task: Task, call: calls.Fstat) -> Result:
    file = task.process.file(call.fd)
    size = blocks = 0
    if isinstance(file, ObjectFile):
        target = file.object
        size = target.size
        if target.kind.accounts_blocks:
            blocks = len(target.cache) << target.shift >> 9
    return Result(data=calls.STAT_FIELDS.struct.pack(size, blocks))


@_serves(calls.Pread)
def _pread(task: Task, call: calls.Pread) -> Result:
    file = _object(task, call.fd)
    if not file.readable:
        raise Errno(errno.EBADF)
    if not file.object.kind.can_resize or call.offset < 0:
        raise Errno(errno.EINVAL)
    data = filesystem.read(file.object, call.offset, call.length)
    return Result(value=len(data), data=data)


@_serves(calls.Pwrite)
def _pwrite(task: Task, call: calls.Pwrite) -> Result:
    file = _object(task, call.fd)
    if not file.writable:
        raise Errno(errno.EBADF)
    machine = task.process.machine
    return Result(value=filesystem.write(machine, file.object, call.offset, call.data))


@_serves(calls.ReadFd)
def _read_fd(task: Task, call: calls.ReadFd) -> Result:
    data = _read_file(task, task.process.file(call.fd), call.length, nowait=call.nowait)
    return Result(value=len(data), data=data)


def _read_file(task: Task, file: OpenFile, length: int, *, nowait: bool = False) -> bytes:
    if not file.readable:
        raise Errno(errno.EBADF)
    if isinstance(file, UffdFile):
        return messages.read(task, file, length, nowait=nowait)
    if isinstance(file, PipeEnd):
        return _read_pipe(task, file, length)
    if isinstance(file, DevZero):
        return bytes(length)
    if isinstance(file, ObjectFile):
        data = filesystem.read(file.object, file.position, length)
        file.position += len(data)
        return data
    if isinstance(file, DevNull):
        return b""
    raise Errno(errno.EINVAL)


def _read_pipe(task: Task, file: PipeEnd, length: int) -> bytes:
    pipe = file.pipe
    while not pipe.data:
        if not pipe.writers:
            return b""
        if file.flags & O_NONBLOCK:
            raise Errno(errno.EAGAIN)
        pipe.wait(task)
    data = bytes(pipe.data[:length])
    del pipe.data[:length]
    pipe.stir()
    return data


@_serves(calls.WriteFd)
def _write_fd(task: Task, call: calls.WriteFd) -> Result:
    file = task.process.file(call.fd)
    return Result(
        value=_write_file(task, file, lambda at, n: call.data[at : at + n], len(call.data))
    )


_Chunk = Callable[[int, int], bytes]


def _write_file(task: Task, file: OpenFile, chunk: _Chunk, length: int) -> int:
    if not file.writable:
        raise Errno(errno.EBADF)
    if isinstance(file, PipeEnd):
        return _write_pipe(task, file, chunk, length)
    if isinstance(file, ObjectFile):
        data = chunk(0, length)
        done = filesystem.write(task.process.machine, file.object, file.position, data)
        file.position += done
        return done
    if isinstance(file, (DevZero, DevNull)):
        return length
    raise Errno(errno.EINVAL)


def _write_pipe(task: Task, file: PipeEnd, chunk: _Chunk, length: int) -> int:
    """Page by page, as the kernel fills a pipe's buffers."""
    pipe = file.pipe
    done = 0
    while done < length:
        if not pipe.readers:
            raise Errno(errno.EPIPE)
        room = pipe.CAPACITY - len(pipe.data)
        if not room:
            if file.flags & O_NONBLOCK:
                if done:
                    return done
                raise Errno(errno.EAGAIN)
            pipe.wait(task)
            continue
        step = min(PAGE, room, length - done)
        try:
            data = chunk(done, step)
        except Errno:
            if done:
                return done
            raise
        pipe.data += data
        pipe.stir()
        done += step
    return done


@_serves(calls.ReadInto)
def _read_into(task: Task, call: calls.ReadInto) -> Result:
    file = task.process.file(call.fd)
    mm = task.process.mm
    if call.address > mm.task_size or call.length > mm.task_size - call.address:
        raise Errno(errno.EFAULT)
    if isinstance(file, DevZero):
        return Result(value=_zeros_into(task, call.address, call.length))
    data = _read_file(task, file, call.length)
    done = 0
    while done < len(data):
        step = min(PAGE - (call.address + done) % PAGE, len(data) - done)
        try:
            access.copy_out(task, call.address + done, data[done : done + step])
        except Errno:
            if done:
                break
            raise
        done += step
    return Result(value=done)


def _zeros_into(task: Task, address: int, length: int) -> int:
    done = 0
    while done < length:
        step = min(PAGE - (address + done) % PAGE, length - done)
        try:
            access.copy_out(task, address + done, bytes(step))
        except Errno:
            if done:
                return done
            raise
        done += step
    return done


@_serves(calls.WriteFrom)
def _write_from(task: Task, call: calls.WriteFrom) -> Result:
    file = task.process.file(call.fd)
    mm = task.process.mm
    if call.address > mm.task_size or call.length > mm.task_size - call.address:
        raise Errno(errno.EFAULT)

    def chunk(at: int, length: int) -> bytes:
        return access.copy_in(task, call.address + at, length)

    return Result(value=_write_file(task, file, chunk, call.length))


@_serves(calls.Lseek)
def _lseek(task: Task, call: calls.Lseek) -> Result:
    file = task.process.file(call.fd)
    if isinstance(file, UffdFile):
        return _OK
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


@_serves(calls.Poll)
def _poll(task: Task, call: calls.Poll) -> Result:
    file = task.process.fds.get(call.fd, (None, False))[0]
    if file is None:
        revents = 0x20  # POLLNVAL
    elif isinstance(file, UffdFile):
        found = messages.poll(task, file, wait=call.timeout_ms < 0)
        revents = found & (call.events | messages.POLLERR)
    elif isinstance(file, PipeEnd):
        ready = file.pipe.data if file.readable else file.pipe.CAPACITY - len(file.pipe.data)
        revents = (1 if file.readable else 4) & call.events if ready else 0
    else:
        revents = call.events & 5
    return Result(value=int(bool(revents)), data=calls.POLL_REVENTS.struct.pack(revents))


@_serves(calls.Fcntl)
def _fcntl(task: Task, call: calls.Fcntl) -> Result:
    process = task.process
    file = process.file(call.fd)
    if call.command == _F_GETFL:
        # Large files: O_LARGEFILE, which open(2) sets on x86-64.
        large = 0o100000 if isinstance(file, (DevZero, ObjectFile)) else 0
        return Result(value=file.flags | large)
    if call.command == _F_SETFL:
        file.flags = file.flags & ~O_NONBLOCK | call.argument & O_NONBLOCK
        return _OK
    if call.command == _F_GETFD:
        return Result(value=int(process.fds[call.fd][1]))
    if call.command == _F_SETFD:
        process.fds[call.fd] = (file, bool(call.argument & 1))
        return _OK
    if call.command in (mman.F_ADD_SEALS, mman.F_GET_SEALS) and isinstance(file, ObjectFile):
        return _seals(file, call)
    raise Errno(errno.EINVAL)


def _seals(file: ObjectFile, call: calls.Fcntl) -> Result:
    target = file.object
    if call.command == mman.F_GET_SEALS:
        return Result(value=target.seals)
    if not file.writable or target.seals & mman.F_SEAL_SEAL:
        raise Errno(errno.EPERM)
    writable = any(vma.shared and vma.flags & 2 for vma in target.vmas)
    if call.argument & mman.F_SEAL_WRITE and writable:
        raise Errno(errno.EBUSY)
    target.seals |= call.argument
    return _OK


@_serves(calls.ProcessVmReadv)
def _process_vm_readv(task: Task, call: calls.ProcessVmReadv) -> Result:
    process = task.process.processes.by_pid.get(call.pid)
    if process is None or not process.alive:
        raise Errno(errno.ESRCH)
    parts: list[bytes] = []
    end = call.address + call.length
    at = call.address
    try:
        while at < end:
            step = min(PAGE - at % PAGE, end - at)
            # Pages are pinned first: a message tells the page, not the byte.
            access.populate(task, process.mm, at & -PAGE, at + step, write=False)
            unshare(process.mm, at)
            access.load(task, process.mm, at, step, parts, user=False)
            at += step
    except (Errno, Signalled):
        if not parts:
            raise Errno(errno.EFAULT) from None
    data = b"".join(parts)
    return Result(value=len(data), data=data)


# --- userfaultfd ---------------------------------------------------------------------------------


@_serves(calls.Userfaultfd)
def _userfaultfd(task: Task, call: calls.Userfaultfd) -> Result:
    process = task.process
    privileged = (
        process.machine.unprivileged_userfaultfd
        or call.flags & abi.UFFD_USER_MODE_ONLY
        or process.may(task, calls.CAP_SYS_PTRACE)
    )
    if not privileged:
        raise Errno(errno.EPERM)
    return Result(value=_new_userfaultfd(task, call.flags))


def _new_userfaultfd(task: Task, flags: int) -> int:
    if flags & ~(O_CLOEXEC | O_NONBLOCK | abi.UFFD_USER_MODE_ONLY):
        raise Errno(errno.EINVAL)
    user_only = bool(flags & abi.UFFD_USER_MODE_ONLY)
    context = Context(task.process.mm, user_mode_only=user_only)
    context.flags = flags & (O_CLOEXEC | O_NONBLOCK)
    return task.process.open(UffdFile(flags, context), flags)


@_serves(calls.Ioctl)
def _ioctl(task: Task, call: calls.Ioctl) -> Result:
    file = task.process.file(call.fd)
    argument: ioctls.Argument
    buffer = None
    if isinstance(call.argument, bytes):
        argument = buffer = ioctls.Buffer(call.argument)
    else:
        argument = ioctls.Pointer(task, call.argument)
    value = 0
    code = 0
    try:
        if isinstance(file, UffdFile):
            ioctls.ioctl(task, file.context, call.request, argument)
        else:
            value = _other_ioctl(task, file, call, argument)
    except Errno as refusal:
        code = refusal.code
    return Result(value, code, bytes(buffer.data) if buffer is not None else b"")


def _other_ioctl(task: Task, file: OpenFile, call: calls.Ioctl, argument: ioctls.Argument) -> int:
    number = call.argument if isinstance(call.argument, int) else 0
    if isinstance(file, DevUserfaultfd):
        if call.request != abi.USERFAULTFD_IOC_NEW:
            raise Errno(errno.EINVAL)
        return _new_userfaultfd(task, number)
    if isinstance(file, (DevKvm, Vm)):
        return _kvm_ioctl(task, file, call.request, argument)
    raise Errno(errno.ENOTTY)


def _kvm_ioctl(task: Task, file: OpenFile, request: int, argument: ioctls.Argument) -> int:
    machine = task.process.machine
    if request == kvm.KVM_GET_API_VERSION and isinstance(file, DevKvm):
        return kvm.KVM_API_VERSION
    if request == kvm.KVM_CREATE_VM and isinstance(file, DevKvm):
        return task.process.open(Vm(O_RDWR), O_CLOEXEC)
    if request == kvm.KVM_CREATE_GUEST_MEMFD and isinstance(file, Vm):
        layout = kvm.kvm_create_guest_memfd
        size, flags = layout.struct.unpack(argument.read(layout.size))
        known = kvm.GUEST_MEMFD_FLAG_MMAP | kvm.GUEST_MEMFD_FLAG_INIT_SHARED
        if not machine.profile.guest_memfd_mmap:
            known = 0
        if flags & ~known or not size or size % PAGE:
            raise Errno(errno.EINVAL)
        target = machine.object("guest_memfd", size, traits=flags)
        return task.process.open(ObjectFile(O_RDWR, target), O_CLOEXEC)
    raise Errno(errno.ENOTTY)


@_serves(calls.Fdinfo)
def _fdinfo(task: Task, call: calls.Fdinfo) -> Result:
    file = task.process.file(call.fd)
    if not isinstance(file, UffdFile):
        raise Errno(errno.EINVAL)
    context = file.context
    pending = len(context.pending)
    total = pending + len(context.delivered)
    profile = context.mm.machine.profile
    both = profile.api_ioctls | profile.range_ioctls
    text = f"pending:\t{pending}\ntotal:\t{total}\nAPI:\t{abi.UFFD_API:x}:{context.features:x}:{both:x}\n"
    return Result(data=text.encode())


# --- SysV shared memory --------------------------------------------------------------------------


@_serves(calls.Shmget)
def _shmget(task: Task, call: calls.Shmget) -> Result:
    return Result(value=segments.get(task.process.machine, call.length, call.flags))


@_serves(calls.Shmat)
def _shmat(task: Task, call: calls.Shmat) -> Result:
    return Result(value=segments.attach(task, call.id, call.address, call.flags))


@_serves(calls.Shmdt)
def _shmdt(task: Task, call: calls.Shmdt) -> Result:
    segments.detach(task, call.address)
    return _OK


@_serves(calls.ShmRemove)
def _shm_remove(task: Task, call: calls.ShmRemove) -> Result:
    segments.remove(task.process.machine, call.id)
    return _OK


# --- processes, tasks, rights --------------------------------------------------------------------


@_serves(calls.Fork)
def _fork(task: Task, call: calls.Fork) -> Result:
    del call
    return Result(value=task.process.fork(task).pid)


@_serves(calls.Exit)
def _exit(task: Task, call: calls.Exit) -> Result:
    task.process.exit((call.code & 0xFF) << 8)
    raise Errno(errno.ESRCH)


@_serves(calls.Wait)
def _wait(task: Task, call: calls.Wait) -> Result:
    status = task.process.wait(task, call.pid)
    return Result(data=calls.WAIT_STATUS.struct.pack(status))


@_serves(calls.Signal)
def _signal(task: Task, call: calls.Signal) -> Result:
    for other in task.process.threads:
        if other.tid == call.thread:
            other.signal(10, restart=call.restart)
            return _OK
    raise Errno(errno.ESRCH)


@_serves(calls.DropCapability)
def _drop_capability(task: Task, call: calls.DropCapability) -> Result:
    rights = task.process.rights
    rights[task] = rights[task] - {call.capability}
    return _OK


@_serves(calls.Sysctl)
def _sysctl(task: Task, call: calls.Sysctl) -> Result:
    machine = task.process.machine
    if call.name == "vm/unprivileged_userfaultfd":
        if call.new is not None:
            machine.unprivileged_userfaultfd = call.new
            return _OK
        return Result(value=machine.unprivileged_userfaultfd)
    if call.name == "vm/memory_failure_recovery" and machine.config.memory_failure:
        return Result(value=1)
    raise Errno(errno.ENOENT)


# --- witnesses -----------------------------------------------------------------------------------


@_serves(calls.Pagemap)
def _pagemap(task: Task, call: calls.Pagemap) -> Result:
    words = scan.words(task.process.mm, call.address, call.length)
    data = b"".join((word & calls.PAGEMAP_BITS).to_bytes(8, "little") for word in words)
    return Result(data=data)


@_serves(calls.PagemapScan)
def _pagemap_scan(task: Task, call: calls.PagemapScan) -> Result:
    if call.size != pagemap_abi.pm_scan_arg.size:
        raise Errno(errno.EINVAL)
    argument = scan.ScanArgument(
        call.start,
        call.end,
        call.flags,
        call.category_mask,
        call.category_inverted,
        call.category_anyof_mask,
        call.return_mask,
        call.max_pages,
        call.regions,
    )
    done = scan.Scan(task.process.mm, argument)
    data = calls.SCAN_END.struct.pack(done.walk_end)
    data += b"".join(pagemap_abi.page_region.struct.pack(*region) for region in done.regions)
    return Result(value=len(done.regions), data=data)


@_serves(calls.Smaps)
def _smaps(task: Task, call: calls.Smaps) -> Result:
    return Result(vmas=scan.smaps(task.process.mm, call.start, call.end))
