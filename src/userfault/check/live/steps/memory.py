"""Steps of calls on memory: touches, mincore(2), other processes' memory, SysV segments."""

from __future__ import annotations

import os

from userfault.check.live import syscalls as nr
from userfault.check.live.steps.requests import (
    IOVEC,
    Place,
    Steps,
    buffer_address,
    close,
    one,
    open_path,
    result,
    system_call,
)
from userfault.check.live.wire import Op, Step
from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.uapi.pagemap import PAGEMAP_SCAN, page_region, pm_scan_arg


def read(call: calls.Read, _place: Place) -> Steps:
    """A touch."""
    reply = yield Step(Op.READ, call.address, (call.length,))
    return Result(reply.value, data=reply.data, signal=reply.signal)


def write(call: calls.Write, _place: Place) -> Steps:
    """A touch."""
    reply = yield Step(Op.WRITE, call.address, payload=call.data)
    return Result(reply.value, signal=reply.signal)


def mincore(call: calls.Mincore, _place: Place) -> Steps:
    pages = -(-call.length // calls.PAGE)
    reply = yield system_call(nr.MINCORE, call.address, call.length, 0, buffered=(2,), answer=pages)
    # The other bits are reserved (mincore(2)).
    return result(reply, bytes(byte & 1 for byte in reply.data))


def process_vm_readv(call: calls.ProcessVmReadv, _place: Place) -> Steps:
    base = yield buffer_address()
    room = 2 * IOVEC.size
    iovecs = IOVEC.pack(base.value + room, call.length) + IOVEC.pack(call.address, call.length)
    reply = yield system_call(
        nr.PROCESS_VM_READV,
        *(call.pid, 0, 1, IOVEC.size, 1, 0),
        payload=iovecs,
        buffered=(1, 3),
        answer=room + call.length,
    )
    return result(reply, reply.data[room : room + max(reply.value, 0)])


def pagemap_scan(call: calls.PagemapScan, _place: Place) -> Steps:
    """PAGEMAP_SCAN of the process itself."""
    opened = yield open_path("/proc/self/pagemap", os.O_RDONLY)
    if opened.errno:
        return result(opened)
    base = yield buffer_address()
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
    reply = yield system_call(
        nr.IOCTL,
        *(opened.value, PAGEMAP_SCAN, 0),
        payload=argument,
        buffered=(2,),
        answer=head + call.regions * page_region.size,
    )
    yield close(opened.value)
    end = reply.data[pm_scan_arg.offset("walk_end") :][:8]
    if reply.errno:  # walk_end may be written back all the same
        return Result(errno=reply.errno, data=end)
    regions = reply.data[head : head + max(reply.value, 0) * page_region.size]
    return result(reply, end + regions)


def shmget(call: calls.Shmget, _place: Place) -> Steps:
    ipc_private = 0
    return one(system_call(nr.SHMGET, ipc_private, call.length, call.flags))


def shm_remove(call: calls.ShmRemove, _place: Place) -> Steps:
    ipc_rmid = 0
    return one(system_call(nr.SHMCTL, call.id, ipc_rmid, 0))
