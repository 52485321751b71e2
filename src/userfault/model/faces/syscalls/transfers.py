"""read(2), write(2) and process_vm_readv(2): bytes between files, pipes and memory."""

from __future__ import annotations

import errno
from collections.abc import Callable

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno, Signalled
from userfault.model.faces.syscalls.table import serves
from userfault.model.files import filesystem
from userfault.model.files.open_files import (
    O_NONBLOCK,
    DevNull,
    DevZero,
    ObjectFile,
    OpenFile,
    PipeEnd,
)
from userfault.model.mm import access
from userfault.model.mm.cow import unshare
from userfault.model.process import Thread
from userfault.model.uffd import messages
from userfault.model.uffd.messages import UffdFile


@serves(calls.ReadFd)
def _read_fd(task: Thread, call: calls.ReadFd) -> Result:
    data = _read_file(task, task.process.file(call.fd), call.length, nowait=call.nowait)
    return Result(value=len(data), data=data)


def _read_file(task: Thread, file: OpenFile, length: int, *, nowait: bool = False) -> bytes:
    if not file.readable:
        raise Errno(errno.EBADF)
    if isinstance(file, UffdFile):
        with task.process.using(file):
            return messages.read(task, task.process, file, length, nowait=nowait)
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


def _read_pipe(task: Thread, file: PipeEnd, length: int) -> bytes:
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


@serves(calls.WriteFd)
def _write_fd(task: Thread, call: calls.WriteFd) -> Result:
    file = task.process.file(call.fd)
    return Result(
        value=_write_file(task, file, lambda at, n: call.data[at : at + n], len(call.data))
    )


_Chunk = Callable[[int, int], bytes]


def _write_file(task: Thread, file: OpenFile, chunk: _Chunk, length: int) -> int:
    if not file.writable:
        raise Errno(errno.EBADF)
    if isinstance(file, PipeEnd):
        return _write_pipe(task, file, chunk, length)
    if isinstance(file, ObjectFile):
        data = chunk(0, length)
        done = filesystem.write(task.process.machine.files, file.object, file.position, data)
        file.position += done
        return done
    if isinstance(file, (DevZero, DevNull)):
        return length
    raise Errno(errno.EINVAL)


def _write_pipe(task: Thread, file: PipeEnd, chunk: _Chunk, length: int) -> int:
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


@serves(calls.ReadInto)
def _read_into(task: Thread, call: calls.ReadInto) -> Result:
    file = task.process.file(call.fd)
    mm = task.process.mm
    if call.address > mm.task_size or call.length > mm.task_size - call.address:
        raise Errno(errno.EFAULT)
    if isinstance(file, DevZero):
        return Result(value=_copy_out(task, call.address, call.length, lambda _, n: bytes(n)))
    data = _read_file(task, file, call.length)
    done = _copy_out(task, call.address, len(data), lambda at, n: data[at : at + n])
    return Result(value=done)


def _copy_out(task: Thread, address: int, length: int, chunk: _Chunk) -> int:
    """Page by page; how far it came, unless the first page failed."""
    done = 0
    while done < length:
        step = min(PAGE - (address + done) % PAGE, length - done)
        try:
            access.copy_out(task, task.process.mm, address + done, chunk(done, step))
        except Errno:
            if done:
                return done
            raise
        done += step
    return done


@serves(calls.WriteFrom)
def _write_from(task: Thread, call: calls.WriteFrom) -> Result:
    file = task.process.file(call.fd)
    mm = task.process.mm
    if call.address > mm.task_size or call.length > mm.task_size - call.address:
        raise Errno(errno.EFAULT)

    def chunk(at: int, length: int) -> bytes:
        return access.copy_in(task, mm, call.address + at, length)

    return Result(value=_write_file(task, file, chunk, call.length))


@serves(calls.ProcessVmReadv)
def _process_vm_readv(task: Thread, call: calls.ProcessVmReadv) -> Result:
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
