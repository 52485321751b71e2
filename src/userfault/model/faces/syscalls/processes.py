"""SysV segments, fork, exit, wait, signals, rights, sysctls."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.model.errors import Errno
from userfault.model.faces.syscalls.table import OK, serves
from userfault.model.files import segments
from userfault.model.tasks.sched import Task


@serves(calls.Shmget)
def _shmget(task: Task, call: calls.Shmget) -> Result:
    return Result(value=segments.get(task.process.machine, call.length, call.flags))


@serves(calls.Shmat)
def _shmat(task: Task, call: calls.Shmat) -> Result:
    return Result(value=segments.attach(task, call.id, call.address, call.flags))


@serves(calls.Shmdt)
def _shmdt(task: Task, call: calls.Shmdt) -> Result:
    segments.detach(task, call.address)
    return OK


@serves(calls.ShmRemove)
def _shm_remove(task: Task, call: calls.ShmRemove) -> Result:
    segments.remove(task.process.machine, call.id)
    return OK


@serves(calls.Fork)
def _fork(task: Task, call: calls.Fork) -> Result:
    del call
    return Result(value=task.process.fork(task).pid)


@serves(calls.Exit)
def _exit(task: Task, call: calls.Exit) -> Result:
    task.process.exit((call.code & 0xFF) << 8)
    raise Errno(errno.ESRCH)


@serves(calls.Wait)
def _wait(task: Task, call: calls.Wait) -> Result:
    status = task.process.wait(task, call.pid)
    return Result(data=calls.WAIT_STATUS.struct.pack(status))


@serves(calls.Signal)
def _signal(task: Task, call: calls.Signal) -> Result:
    for other in task.process.threads:
        if other.tid == call.thread:
            other.signal(10, restart=call.restart)
            return OK
    raise Errno(errno.ESRCH)


@serves(calls.DropCapability)
def _drop_capability(task: Task, call: calls.DropCapability) -> Result:
    rights = task.process.rights
    rights[task] = rights[task] - {call.capability}
    return OK


@serves(calls.Sysctl)
def _sysctl(task: Task, call: calls.Sysctl) -> Result:
    machine = task.process.machine
    if call.name == "vm/unprivileged_userfaultfd":
        if call.new is not None:
            machine.unprivileged_userfaultfd = call.new
            return OK
        return Result(value=machine.unprivileged_userfaultfd)
    if call.name == "vm/memory_failure_recovery" and machine.config.memory_failure:
        return Result(value=1)
    raise Errno(errno.ENOENT)
