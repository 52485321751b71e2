"""Steps of calls on descriptors: files, pipes, devices, userfaultfds."""

from __future__ import annotations

import os
import struct

from userfault.check.live import syscalls as nr
from userfault.check.live.steps import requests
from userfault.check.live.steps.requests import (
    IOVEC,
    Place,
    Steps,
    buffer_address,
    close,
    one,
    open_path,
    read_buffer,
    result,
    system_call,
)
from userfault.check.live.wire import Reply
from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.uapi import mman

_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6


def open_(call: calls.Open, place: Place) -> Steps:
    if call.file is calls.File.TMPFS:
        return _open_on_tmpfs(call.flags, call.pages)
    if call.file is calls.File.ORDINARY:
        return one(open_path(place.directory, call.flags | os.O_TMPFILE))
    return one(open_path(call.file.value, call.flags))


def _open_on_tmpfs(flags: int, pages: int) -> Steps:
    """A file system without a name: fsopen(2), fsconfig(2), fsmount(2), 5.2; needs root."""
    reply = yield system_call(nr.FSOPEN, 0, 0, payload=b"tmpfs\0", buffered=(0,))
    if reply.errno:
        return result(reply)
    context = reply.value
    size = b"size\0" + str(pages * calls.PAGE).encode() + b"\0"
    reply = yield system_call(
        nr.FSCONFIG, context, _FSCONFIG_SET_STRING, 0, 5, 0, payload=size, buffered=(2, 3)
    )
    if not reply.errno:
        reply = yield system_call(nr.FSCONFIG, context, _FSCONFIG_CMD_CREATE)
    if not reply.errno:
        reply = yield system_call(nr.FSMOUNT, context, 0, 0)
    if reply.errno:
        yield close(context)
        return result(reply)
    mount = reply.value
    opened = yield system_call(
        nr.OPENAT, mount, 0, flags | os.O_CREAT, 0o600, payload=b"file\0", buffered=(1,)
    )
    yield close(context)
    yield close(mount)
    if opened.errno:
        return result(opened)
    # As if it had been opened at once: at the lowest number.
    moved = yield system_call(nr.DUP, opened.value)
    yield close(opened.value)
    return result(moved)


def reopen(call: calls.Reopen, _place: Place) -> Steps:
    return one(open_path(f"/proc/self/fd/{call.fd}", call.flags))


# Of huge pages none has a stand-in; what is not known is the kernel's to refuse.
_PLAIN_MEMFD = mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING


def memfd_create(call: calls.MemfdCreate, place: Place) -> Steps:
    if place.memfds and not call.flags & ~_PLAIN_MEMFD:
        cloexec = os.O_CLOEXEC if call.flags & mman.MFD_CLOEXEC else 0
        return one(open_path(place.memfds, os.O_TMPFILE | os.O_RDWR | cloexec))
    name = b"userfault\0"
    return one(system_call(nr.MEMFD_CREATE, 0, call.flags, payload=name, buffered=(0,)))


def pipe(call: calls.Pipe, _place: Place) -> Steps:
    size = calls.PIPE_FDS.size
    reply = yield system_call(nr.PIPE2, 0, call.flags, buffered=(0,), answer=size)
    return result(reply, reply.data)


_STAT_SIZE = 48  # st_size in struct stat of x86-64
_STAT_BLOCKS = 64
STAT_LENGTH = 144


def fstat(call: calls.Fstat, _place: Place) -> Steps:
    reply = yield system_call(nr.FSTAT, call.fd, 0, buffered=(1,), answer=STAT_LENGTH)
    return stat_fields(reply)


def stat_fields(reply: Reply) -> Result:
    """What calls tell of a struct stat."""
    if reply.errno:
        return result(reply)
    (size,) = struct.unpack_from("=q", reply.data, _STAT_SIZE)
    (blocks,) = struct.unpack_from("=q", reply.data, _STAT_BLOCKS)
    return result(reply, calls.STAT_FIELDS.struct.pack(size, blocks))


def pread(call: calls.Pread, _place: Place) -> Steps:
    return read_buffer(nr.PREAD64, call.fd, call.length, call.offset)


def pwrite(call: calls.Pwrite, _place: Place) -> Steps:
    args = (call.fd, 0, len(call.data), call.offset)
    return one(system_call(nr.PWRITE64, *args, payload=call.data, buffered=(1,)))


def write_fd(call: calls.WriteFd, _place: Place) -> Steps:
    return one(requests.write(call.fd, call.data))


_RWF_NOWAIT = 8


def read_fd(call: calls.ReadFd, _place: Place) -> Steps:
    if not call.nowait:
        return read_buffer(nr.READ, call.fd, call.length)
    return _preadv_nowait(call)


def _preadv_nowait(call: calls.ReadFd) -> Steps:
    # An iovec holds the buffer's own address.
    base = yield buffer_address()
    iovec = IOVEC.pack(base.value + IOVEC.size, call.length)
    reply = yield system_call(
        nr.PREADV2,
        *(call.fd, 0, 1, -1, -1, _RWF_NOWAIT),
        payload=iovec,
        buffered=(1,),
        answer=IOVEC.size + call.length,
    )
    return result(reply, reply.data[IOVEC.size : IOVEC.size + max(reply.value, 0)])


_POLLFD = struct.Struct("=ihH")


def poll(call: calls.Poll, _place: Place) -> Steps:
    reply = yield system_call(
        nr.POLL,
        *(0, 1, call.timeout_ms),
        payload=_POLLFD.pack(call.fd, call.events, 0),
        buffered=(0,),
        answer=_POLLFD.size,
    )
    if reply.errno:
        return result(reply)
    return result(reply, calls.POLL_REVENTS.struct.pack(_POLLFD.unpack(reply.data)[2]))


def ioctl(call: calls.Ioctl, _place: Place) -> Steps:
    argument = call.argument
    if isinstance(argument, int):
        return one(system_call(nr.IOCTL, call.fd, call.request, argument))
    return _ioctl_of_struct(call.fd, call.request, argument)


def _ioctl_of_struct(fd: int, request: int, argument: bytes) -> Steps:
    reply = yield system_call(
        nr.IOCTL, fd, request, 0, payload=argument, buffered=(2,), answer=len(argument)
    )
    # What is written back counts when the call fails, too.
    return Result(max(reply.value, 0), reply.errno, reply.data)
