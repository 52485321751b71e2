"""Each call of `kernel/calls.py` as requests to the agent.

A call is a generator: it yields steps, is sent the reply of each, and returns the Result.  Most
are one system call; some (a file on a fresh tmpfs, giving up a capability) are several.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import msgspec

from userfault.check.live import syscalls as nr
from userfault.check.live.smaps import parse_smaps
from userfault.check.live.wire import BUFFER, Op, Reply, Step
from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.uapi.pagemap import PAGEMAP_SCAN, PM_SWAP, page_region, pm_scan_arg

Steps: TypeAlias = "Generator[Step, Reply, Result]"


class Place:
    """What steps must know of the process they run in."""

    def __init__(self, pid: int, directory: str, callback: Callable[[], bytes]) -> None:
        self.pid = pid
        self.directory = directory  # of ordinary files
        self.callback = callback  # the socket address that a forked child connects to


def steps(call: calls.Call, place: Place) -> Steps:
    """The steps of a call."""
    number = _PLAIN.get(type(call))
    if number is not None:
        return _one(number, *msgspec.structs.astuple(call))
    return _BY_TYPE[type(call)](call, place)


def looking(call: calls.Call) -> Steps:
    """The steps of a call that looks, made by the control thread."""
    return _LOOKS[type(call)](call)


def _system_call(number: int, *args: int) -> Step:
    return Step(Op.SYSCALL, number, args)


def _answer(reply: Reply, data: bytes = b"") -> Result:
    """The Result of a system call: its value or its errno."""
    if reply.errno:
        return Result(errno=reply.errno)
    return Result(reply.value, data=data)


def _one(number: int, *args: int) -> Steps:
    return _answer((yield _system_call(number, *args)))


# --- Touching memory -----------------------------------------------------------------------------


def _read(call: calls.Read, _place: Place) -> Steps:
    reply = yield Step(Op.READ, call.address, (call.length,))
    return Result(reply.value, data=reply.data, signal=reply.signal)


def _write(call: calls.Write, _place: Place) -> Steps:
    reply = yield Step(Op.WRITE, call.address, payload=call.data)
    return Result(reply.value, signal=reply.signal)


# --- The address space ---------------------------------------------------------------------------


def _mincore(call: calls.Mincore, _place: Place) -> Steps:
    pages = -(-call.length // calls.PAGE)
    reply = yield Step(
        Op.SYSCALL, nr.MINCORE, (call.address, call.length, 0), buffered=(2,), answer=pages
    )
    # The other bits are reserved (mincore(2)).
    return _answer(reply, bytes(byte & 1 for byte in reply.data))


# --- Files ---------------------------------------------------------------------------------------


def _open_path(path: str, flags: int) -> Step:
    return Step(
        Op.SYSCALL, nr.OPEN, (0, flags, 0o600), payload=path.encode() + b"\0", buffered=(0,)
    )


def _open(call: calls.Open, place: Place) -> Steps:
    if call.file is calls.File.TMPFS:
        return (yield from _open_on_tmpfs(call.flags, call.pages))
    if call.file is calls.File.ORDINARY:
        return _answer((yield _open_path(place.directory, call.flags | os.O_TMPFILE)))
    return _answer((yield _open_path(call.file.value, call.flags)))


_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6


def _open_on_tmpfs(flags: int, pages: int) -> Steps:
    """A file system without a name: fsopen(2), fsconfig(2), fsmount(2), 5.2; needs root."""
    reply = yield Step(Op.SYSCALL, nr.FSOPEN, (0, 0), payload=b"tmpfs\0", buffered=(0,))
    if reply.errno:
        return _answer(reply)
    context = reply.value
    size = b"size\0" + str(pages * calls.PAGE).encode() + b"\0"
    reply = yield Step(
        Op.SYSCALL,
        nr.FSCONFIG,
        (context, _FSCONFIG_SET_STRING, 0, 5, 0),
        payload=size,
        buffered=(2, 3),
    )
    if not reply.errno:
        reply = yield _system_call(nr.FSCONFIG, context, _FSCONFIG_CMD_CREATE)
    if not reply.errno:
        reply = yield _system_call(nr.FSMOUNT, context, 0, 0)
    if reply.errno:
        yield _system_call(nr.CLOSE, context)
        return _answer(reply)
    mount = reply.value
    opened = yield Step(
        Op.SYSCALL,
        nr.OPENAT,
        (mount, 0, flags | os.O_CREAT, 0o600),
        payload=b"file\0",
        buffered=(1,),
    )
    yield _system_call(nr.CLOSE, context)
    yield _system_call(nr.CLOSE, mount)
    if opened.errno:
        return _answer(opened)
    # As if it had been opened at once: at the lowest number.
    moved = yield _system_call(nr.DUP, opened.value)
    yield _system_call(nr.CLOSE, opened.value)
    return _answer(moved)


def _reopen(call: calls.Reopen, _place: Place) -> Steps:
    return _answer((yield _open_path(f"/proc/self/fd/{call.fd}", call.flags)))


def _memfd_create(call: calls.MemfdCreate, _place: Place) -> Steps:
    return _answer(
        (
            yield Step(
                Op.SYSCALL,
                nr.MEMFD_CREATE,
                (0, call.flags),
                payload=b"userfault\0",
                buffered=(0,),
            )
        )
    )


def _pipe(call: calls.Pipe, _place: Place) -> Steps:
    size = calls.PIPE_FDS.size
    reply = yield Step(Op.SYSCALL, nr.PIPE2, (0, call.flags), buffered=(0,), answer=size)
    return _answer(reply, reply.data)


_STAT_SIZE = 48  # st_size in struct stat of x86-64
_STAT_BLOCKS = 64
_STAT_LENGTH = 144


def _fstat(call: calls.Fstat, _place: Place) -> Steps:
    reply = yield Step(Op.SYSCALL, nr.FSTAT, (call.fd, 0), buffered=(1,), answer=_STAT_LENGTH)
    return _stat_fields(reply)


def _stat_fields(reply: Reply) -> Result:
    if reply.errno:
        return _answer(reply)
    (size,) = struct.unpack_from("=q", reply.data, _STAT_SIZE)
    (blocks,) = struct.unpack_from("=q", reply.data, _STAT_BLOCKS)
    return _answer(reply, calls.STAT_FIELDS.struct.pack(size, blocks))


def _read_buffer(number: int, fd: int, length: int, *rest: int) -> Steps:
    """A call that reads into the private buffer; its value is how much."""
    reply = yield Step(
        Op.SYSCALL,
        number,
        (fd, 0, length, *rest),
        buffered=(1,),
        answer=min(length, BUFFER),
    )
    return _answer(reply, reply.data[: max(reply.value, 0)])


def _pread(call: calls.Pread, _place: Place) -> Steps:
    return _read_buffer(nr.PREAD64, call.fd, call.length, call.offset)


def _pwrite(call: calls.Pwrite, _place: Place) -> Steps:
    args = (call.fd, 0, len(call.data), call.offset)
    return _answer((yield Step(Op.SYSCALL, nr.PWRITE64, args, payload=call.data, buffered=(1,))))


def _write_fd(call: calls.WriteFd, _place: Place) -> Steps:
    args = (call.fd, 0, len(call.data))
    return _answer((yield Step(Op.SYSCALL, nr.WRITE, args, payload=call.data, buffered=(1,))))


_RWF_NOWAIT = 8
_IOVEC = struct.Struct("=QQ")


def _read_fd(call: calls.ReadFd, _place: Place) -> Steps:
    if not call.nowait:
        return _read_buffer(nr.READ, call.fd, call.length)
    return _preadv_nowait(call)


def _preadv_nowait(call: calls.ReadFd) -> Steps:
    # An iovec holds the buffer's own address.
    base = yield _buffer_address()
    iovec = _IOVEC.pack(base.value + _IOVEC.size, call.length)
    reply = yield Step(
        Op.SYSCALL,
        nr.PREADV2,
        (call.fd, 0, 1, -1, -1, _RWF_NOWAIT),
        payload=iovec,
        buffered=(1,),
        answer=_IOVEC.size + call.length,
    )
    return _answer(reply, reply.data[_IOVEC.size : _IOVEC.size + max(reply.value, 0)])


_POLLFD = struct.Struct("=ihH")


def _poll(call: calls.Poll, _place: Place) -> Steps:
    reply = yield Step(
        Op.SYSCALL,
        nr.POLL,
        (0, 1, call.timeout_ms),
        payload=_POLLFD.pack(call.fd, call.events, 0),
        buffered=(0,),
        answer=_POLLFD.size,
    )
    if reply.errno:
        return _answer(reply)
    return _answer(reply, calls.POLL_REVENTS.struct.pack(_POLLFD.unpack(reply.data)[2]))


def _process_vm_readv(call: calls.ProcessVmReadv, _place: Place) -> Steps:
    base = yield _buffer_address()
    room = 2 * _IOVEC.size
    iovecs = _IOVEC.pack(base.value + room, call.length) + _IOVEC.pack(call.address, call.length)
    reply = yield Step(
        Op.SYSCALL,
        nr.PROCESS_VM_READV,
        (call.pid, 0, 1, _IOVEC.size, 1, 0),
        payload=iovecs,
        buffered=(1, 3),
        answer=room + call.length,
    )
    return _answer(reply, reply.data[room : room + max(reply.value, 0)])


def _buffer_address() -> Step:
    """For a struct that itself holds addresses of the private buffer."""
    return Step(Op.BUFFER)


# --- userfaultfd ---------------------------------------------------------------------------------


def _ioctl(call: calls.Ioctl, _place: Place) -> Steps:
    argument = call.argument
    if isinstance(argument, int):
        return (yield from _one(nr.IOCTL, call.fd, call.request, argument))
    reply = yield Step(
        Op.SYSCALL,
        nr.IOCTL,
        (call.fd, call.request, 0),
        payload=argument,
        buffered=(2,),
        answer=len(argument),
    )
    # What is written back counts when the call fails, too.
    return Result(max(reply.value, 0), reply.errno, reply.data)


def _fdinfo(call: calls.Fdinfo) -> Steps:
    reply = yield _file(f"/proc/self/fdinfo/{call.fd}")
    if reply.errno:
        return _answer(reply)
    lines = [
        line
        for line in reply.data.splitlines(keepends=True)
        if line.startswith((b"pending:", b"total:", b"API:"))
    ]
    return Result(data=b"".join(lines))


def _file(path: str, offset: int = 0, length: int = 0) -> Step:
    """Read a file (length 0: all of it) without taking a descriptor of the program."""
    return Step(Op.FILE, args=(offset, length), payload=path.encode() + b"\0", control=True)


# --- SysV shared memory --------------------------------------------------------------------------


def _shmget(call: calls.Shmget, _place: Place) -> Steps:
    ipc_private = 0
    return _one(nr.SHMGET, ipc_private, call.length, call.flags)


def _shm_remove(call: calls.ShmRemove, _place: Place) -> Steps:
    ipc_rmid = 0
    return _one(nr.SHMCTL, call.id, ipc_rmid, 0)


# --- Processes, tasks, rights --------------------------------------------------------------------


def _fork(_call: calls.Fork, place: Place) -> Steps:
    reply = yield Step(Op.FORK, payload=place.callback())
    if not reply.errno:
        yield Step(Op.CHILD, reply.value)
    return _answer(reply)


def _wait(call: calls.Wait, _place: Place) -> Steps:
    size = calls.WAIT_STATUS.size
    reply = yield Step(Op.SYSCALL, nr.WAIT4, (call.pid, 0, 0, 0), buffered=(1,), answer=size)
    return Result(data=reply.data) if not reply.errno else _answer(reply)


_SIGUSR1 = 10  # the agent's handler has no SA_RESTART
_SIGUSR2 = 12  # this one has


def _signal(call: calls.Signal, place: Place) -> Steps:
    number = _SIGUSR2 if call.restart else _SIGUSR1
    return _one(nr.TGKILL, place.pid, call.thread, number)


_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # version 3, the calling thread
_CAPABILITY_SETS = struct.Struct("=6I")  # effective, permitted, inheritable; twice 32 bits


def _drop_capability(call: calls.DropCapability, _place: Place) -> Steps:
    head = len(_CAPABILITY_HEADER)
    reply = yield Step(
        Op.SYSCALL,
        nr.CAPGET,
        (0, head),
        payload=_CAPABILITY_HEADER,
        buffered=(0, 1),
        answer=head + _CAPABILITY_SETS.size,
    )
    if reply.errno:
        return _answer(reply)
    sets = list(_CAPABILITY_SETS.unpack_from(reply.data, head))
    word, bit = divmod(call.capability, 32)
    for position in range(3 * word, 3 * word + 3):
        sets[position] &= ~(1 << bit)
    payload = _CAPABILITY_HEADER + _CAPABILITY_SETS.pack(*sets)
    return _answer((yield Step(Op.SYSCALL, nr.CAPSET, (0, head), payload=payload, buffered=(0, 1))))


def _sysctl(call: calls.Sysctl, _place: Place) -> Steps:
    path = f"/proc/sys/{call.name}"
    if call.new is not None:
        opened = yield _open_path(path, os.O_WRONLY)
        if opened.errno:
            return _answer(opened)
        text = str(call.new).encode()
        written = yield Step(
            Op.SYSCALL, nr.WRITE, (opened.value, 0, len(text)), payload=text, buffered=(1,)
        )
        yield _system_call(nr.CLOSE, opened.value)
        return Result(call.new) if not written.errno else _answer(written)
    reply = yield _file(path)
    return Result(int(reply.data)) if not reply.errno else _answer(reply)


# --- Looking -------------------------------------------------------------------------------------


def _look_at_file(call: calls.Pread) -> Steps:
    """By a descriptor of its own."""
    reply = yield _file(f"/proc/self/fd/{call.fd}", call.offset, call.length)
    return _answer(reply, reply.data)


def _look_at_size(call: calls.Fstat) -> Steps:
    path = f"/proc/self/fd/{call.fd}".encode() + b"\0"
    room = len(path) + -len(path) % 8
    reply = yield Step(
        Op.SYSCALL,
        nr.STAT,
        (0, room),
        payload=path,
        buffered=(0, 1),
        answer=room + _STAT_LENGTH,
        control=True,
    )
    return _stat_fields(msgspec.structs.replace(reply, data=reply.data[room:]))


def _pagemap(call: calls.Pagemap) -> Steps:
    first = call.address // calls.PAGE * 8
    length = -(-call.length // calls.PAGE) * 8
    step = _file("/proc/self/pagemap", first, length)
    reply, words = yield from _at_rest(step, length // 8)
    return Result(data=words) if not reply.errno else _answer(reply)


_LOOKS_AGAIN = 50
_SWAP_TYPE = 31  # of an entry that is not present; the last type is that of markers
_MARKER = 31


def _at_rest(step: Step, count: int) -> Generator[Step, Reply, tuple[Reply, bytes]]:
    """The reply to a look at pagemap, and its `count` first words, but what no two runs share.

    Where compaction moves pages, as it does for huge ones, a migration entry stands in place of a
    page for a moment, which pagemap calls swapped out: then look again.  (Of real swap that is in
    vain; whoever may not see more than flags sees no type.)
    """
    for _ in range(_LOOKS_AGAIN):
        reply = yield step
        words = struct.unpack_from(f"={min(count, len(reply.data) // 8)}Q", reply.data)
        if not any(w & PM_SWAP and w & _SWAP_TYPE not in (0, _MARKER) for w in words):
            break
    return reply, struct.pack(f"={len(words)}Q", *(w & calls.PAGEMAP_BITS for w in words))


def _survey(call: calls.Survey) -> Steps:
    args = (call.stride, call.count, call.mask, call.offset, call.length)
    step = Step(Op.SURVEY, call.address, args, control=True)
    reply, words = yield from _at_rest(step, call.count)
    return Result(data=words + reply.data[len(words) :]) if not reply.errno else _answer(reply)


def _pagemap_scan(call: calls.PagemapScan, _place: Place) -> Steps:
    opened = yield _open_path("/proc/self/pagemap", os.O_RDONLY)
    if opened.errno:
        return _answer(opened)
    base = yield _buffer_address()
    head = pm_scan_arg.size
    argument = pm_scan_arg.struct.pack(
        call.size,
        call.flags,
        call.start,
        call.end,
        0,
        base.value + head,
        call.regions,
        call.max_pages,
        call.category_inverted,
        call.category_mask,
        call.category_anyof_mask,
        call.return_mask,
    )
    reply = yield Step(
        Op.SYSCALL,
        nr.IOCTL,
        (opened.value, PAGEMAP_SCAN, 0),
        payload=argument,
        buffered=(2,),
        answer=head + call.regions * page_region.size,
    )
    yield _system_call(nr.CLOSE, opened.value)
    end = reply.data[pm_scan_arg.offset("walk_end") :][:8]
    if reply.errno:  # walk_end may be written back all the same
        return Result(errno=reply.errno, data=end)
    regions = reply.data[head : head + max(reply.value, 0) * page_region.size]
    return _answer(reply, end + regions)


def _smaps(call: calls.Smaps) -> Steps:
    reply = yield _file("/proc/self/smaps")
    if reply.errno:
        return _answer(reply)
    found = [
        vma
        for vma in parse_smaps(reply.data.decode())
        if vma.end > call.start and vma.start < call.end
    ]
    return Result(vmas=tuple(found))


# --- The tables ----------------------------------------------------------------------------------

# Calls whose fields are the arguments of the system call, in its order.
_PLAIN: dict[type, int] = {
    calls.Mmap: nr.MMAP,
    calls.Munmap: nr.MUNMAP,
    calls.Mremap: nr.MREMAP,
    calls.Mprotect: nr.MPROTECT,
    calls.Madvise: nr.MADVISE,
    calls.Mlock: nr.MLOCK,
    calls.Munlock: nr.MUNLOCK,
    calls.Close: nr.CLOSE,
    calls.Dup: nr.DUP,
    calls.Ftruncate: nr.FTRUNCATE,
    calls.Fallocate: nr.FALLOCATE,
    calls.ReadInto: nr.READ,
    calls.WriteFrom: nr.WRITE,
    calls.Lseek: nr.LSEEK,
    calls.Fcntl: nr.FCNTL,
    calls.Userfaultfd: nr.USERFAULTFD,
    calls.Shmat: nr.SHMAT,
    calls.Shmdt: nr.SHMDT,
    calls.Exit: nr.EXIT_GROUP,
}

_BY_TYPE: dict[type, Callable[[Any, Place], Steps]] = {
    calls.Read: _read,
    calls.Write: _write,
    calls.Mincore: _mincore,
    calls.Open: _open,
    calls.Reopen: _reopen,
    calls.MemfdCreate: _memfd_create,
    calls.Pipe: _pipe,
    calls.Fstat: _fstat,
    calls.Pread: _pread,
    calls.Pwrite: _pwrite,
    calls.WriteFd: _write_fd,
    calls.ReadFd: _read_fd,
    calls.Poll: _poll,
    calls.ProcessVmReadv: _process_vm_readv,
    calls.Ioctl: _ioctl,
    calls.Shmget: _shmget,
    calls.ShmRemove: _shm_remove,
    calls.Fork: _fork,
    calls.Wait: _wait,
    calls.Signal: _signal,
    calls.DropCapability: _drop_capability,
    calls.Sysctl: _sysctl,
    calls.PagemapScan: _pagemap_scan,
}

_LOOKS: dict[type, Callable[[Any], Steps]] = {
    calls.Pagemap: _pagemap,
    calls.Fdinfo: _fdinfo,
    calls.Smaps: _smaps,
    calls.Survey: _survey,
    calls.Pread: _look_at_file,
    calls.Fstat: _look_at_size,
}
