"""Steps of calls on processes, tasks and rights."""

from __future__ import annotations

import os
import struct

from userfault.check.live import syscalls as nr
from userfault.check.live.steps.requests import (
    Place,
    Steps,
    close,
    file,
    one,
    open_path,
    result,
    system_call,
    write,
)
from userfault.check.live.wire import Op, Step
from userfault.kernel import calls
from userfault.kernel.calls import Result

_SIGUSR1 = 10  # the agent's handler has no SA_RESTART
_SIGUSR2 = 12  # this one has

_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # version 3, the calling thread
_CAPABILITY_SETS = struct.Struct("=6I")  # effective, permitted, inheritable; twice 32 bits


def fork(_call: calls.Fork, place: Place) -> Steps:
    reply = yield Step(Op.FORK, payload=place.callback())
    if not reply.errno:
        yield Step(Op.CHILD, reply.value)
    return result(reply)


def wait(call: calls.Wait, _place: Place) -> Steps:
    size = calls.WAIT_STATUS.size
    reply = yield system_call(nr.WAIT4, call.pid, 0, 0, 0, buffered=(1,), answer=size)
    return Result(data=reply.data) if not reply.errno else result(reply)


def signal(call: calls.Signal, place: Place) -> Steps:
    number = _SIGUSR2 if call.restart else _SIGUSR1
    return one(system_call(nr.TGKILL, place.pid, call.thread, number))


def drop_capability(call: calls.DropCapability, _place: Place) -> Steps:
    head = len(_CAPABILITY_HEADER)
    reply = yield system_call(
        nr.CAPGET,
        *(0, head),
        payload=_CAPABILITY_HEADER,
        buffered=(0, 1),
        answer=head + _CAPABILITY_SETS.size,
    )
    if reply.errno:
        return result(reply)
    sets = list(_CAPABILITY_SETS.unpack_from(reply.data, head))
    word, bit = divmod(call.capability, 32)
    for position in range(3 * word, 3 * word + 3):
        sets[position] &= ~(1 << bit)
    payload = _CAPABILITY_HEADER + _CAPABILITY_SETS.pack(*sets)
    return result((yield system_call(nr.CAPSET, 0, head, payload=payload, buffered=(0, 1))))


def sysctl(call: calls.Sysctl, _place: Place) -> Steps:
    path = f"/proc/sys/{call.name}"
    if call.new is not None:
        opened = yield open_path(path, os.O_WRONLY)
        if opened.errno:
            return result(opened)
        written = yield write(opened.value, str(call.new).encode())
        yield close(opened.value)
        return Result(call.new) if not written.errno else result(written)
    reply = yield file(path)
    return Result(int(reply.data)) if not reply.errno else result(reply)
