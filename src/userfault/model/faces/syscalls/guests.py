"""What a guest and KVM do with guest memory (`userfault.model.faces.guest`)."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.faces import guest
from userfault.model.faces.guest import Guest
from userfault.model.faces.syscalls.table import OK, serves
from userfault.model.files.open_files import ObjectFile
from userfault.model.process import Thread


@serves(calls.GuestRead)
def _guest_read(task: Thread, call: calls.GuestRead) -> Result:
    data = _guest(task, call.fd).read(task, call.address, call.length)
    return Result(len(data), data=data)


@serves(calls.GuestWrite)
def _guest_write(task: Thread, call: calls.GuestWrite) -> Result:
    _guest(task, call.fd).write(task, call.address, call.data)
    return Result(len(call.data))


@serves(calls.GuestConvert)
def _guest_convert(task: Thread, call: calls.GuestConvert) -> Result:
    machine = _guest(task, call.fd)
    if (call.address | call.length) % PAGE or not call.length:
        raise Errno(errno.EINVAL)
    first = call.address // PAGE
    for index in range(first, first + call.length // PAGE):
        machine.convert(index, private=call.private)
    return OK


@serves(calls.KvmRead)
def _kvm_read(task: Thread, call: calls.KvmRead) -> Result:
    data = guest.emulated(task, task.process.mm, call.address, call.length)
    return Result(len(data), data=data)


def _guest(task: Thread, fd: int) -> Guest:
    """The one of this guest_memfd: all of it is its memory, from guest address 0 on."""
    file = task.process.file(fd)
    if not isinstance(file, ObjectFile) or file.object.kind.guest_folio is None:
        raise Errno(errno.EINVAL)
    known = task.process.machine.guests
    found = known.get(file.object)
    if not isinstance(found, Guest):
        found = known[file.object] = Guest(task.process.mm, file.object, 0)
    return found
