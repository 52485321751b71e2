"""fork, exit, wait, signals, rights, sysctls."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.model.errors import Errno
from userfault.model.faces.syscalls.table import OK, serves
from userfault.model.process import Thread


@serves(calls.Fork)
def _fork(task: Thread, call: calls.Fork) -> Result:
    del call
    return Result(value=task.process.fork(task).pid)


@serves(calls.Exit)
def _exit(task: Thread, call: calls.Exit) -> Result:
    task.process.exit((call.code & 0xFF) << 8)
    raise Errno(errno.ESRCH)


@serves(calls.Wait)
def _wait(task: Thread, call: calls.Wait) -> Result:
    status = task.process.wait(task, call.pid)
    return Result(data=calls.WAIT_STATUS.struct.pack(status))


@serves(calls.Signal)
def _signal(task: Thread, call: calls.Signal) -> Result:
    for other in task.process.threads:
        if other.tid == call.thread:
            other.signal(10, restart=call.restart)
            return OK
    raise Errno(errno.ESRCH)


@serves(calls.DropCapability)
def _drop_capability(task: Thread, call: calls.DropCapability) -> Result:
    rights = task.process.rights
    rights[task] = rights[task] - {call.capability}
    return OK


@serves(calls.Sysctl)
def _sysctl(task: Thread, call: calls.Sysctl) -> Result:
    machine = task.process.machine
    if call.name == "vm/unprivileged_userfaultfd" and machine.config.userfaultfd:
        if call.new is not None:
            machine.unprivileged_userfaultfd = call.new
            return OK
        return Result(value=machine.unprivileged_userfaultfd)
    if call.name == "vm/memory_failure_recovery" and machine.config.memory_failure:
        return Result(value=1)
    raise Errno(errno.ENOENT)
