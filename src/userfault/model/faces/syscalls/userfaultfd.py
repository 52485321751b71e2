"""userfaultfd(2), ioctl(2) and fdinfo."""

from __future__ import annotations

import errno

from userfault.kernel import calls
from userfault.kernel.calls import Result
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.model.errors import Errno
from userfault.model.faces.syscalls.table import serves
from userfault.model.files.open_files import (
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    DevKvm,
    DevUserfaultfd,
    ObjectFile,
    OpenFile,
    Vm,
)
from userfault.model.process import Thread
from userfault.model.uffd import ioctls
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.uapi import kvm
from userfault.uapi import userfaultfd as abi


@serves(calls.Userfaultfd)
def _userfaultfd(task: Thread, call: calls.Userfaultfd) -> Result:
    process = task.process
    if not process.machine.config.userfaultfd:
        raise Errno(errno.ENOSYS)
    privileged = (
        process.machine.unprivileged_userfaultfd
        or call.flags & abi.UFFD_USER_MODE_ONLY
        or process.may(task, calls.CAP_SYS_PTRACE)
    )
    if not privileged:
        raise Errno(errno.EPERM)
    return Result(value=_new_userfaultfd(task, call.flags))


def _new_userfaultfd(task: Thread, flags: int) -> int:
    if flags & ~(O_CLOEXEC | O_NONBLOCK | abi.UFFD_USER_MODE_ONLY):
        raise Errno(errno.EINVAL)
    user_only = bool(flags & abi.UFFD_USER_MODE_ONLY)
    context = Context(task.process.mm, user_mode_only=user_only)
    context.flags = flags & (O_CLOEXEC | O_NONBLOCK)
    return task.process.open(UffdFile(flags, context), flags)


@serves(calls.Ioctl)
def _ioctl(task: Thread, call: calls.Ioctl) -> Result:
    argument: ioctls.Argument
    buffer = None
    if isinstance(call.argument, bytes):
        argument = buffer = ioctls.Buffer(call.argument)
    else:
        argument = ioctls.Pointer(task, task.process.mm, call.argument)
    value = 0
    code = 0
    try:
        file = task.process.file(call.fd)
        if isinstance(file, UffdFile):
            with task.process.using(file):
                ioctls.ioctl(task, task.process, file.context, call.request, argument)
        else:
            value = _other_ioctl(task, file, call, argument)
    except Errno as refusal:
        code = refusal.code
    return Result(value, code, bytes(buffer.data) if buffer is not None else b"")


def _other_ioctl(task: Thread, file: OpenFile, call: calls.Ioctl, argument: ioctls.Argument) -> int:
    number = call.argument if isinstance(call.argument, int) else 0
    if isinstance(file, DevUserfaultfd):
        if call.request != abi.USERFAULTFD_IOC_NEW:
            raise Errno(errno.EINVAL)
        return _new_userfaultfd(task, number)
    if isinstance(file, (DevKvm, Vm)):
        return _kvm_ioctl(task, file, call.request, argument)
    raise Errno(errno.ENOTTY)


def _kvm_ioctl(task: Thread, file: OpenFile, request: int, argument: ioctls.Argument) -> int:
    machine = task.process.machine
    if request == kvm.KVM_GET_API_VERSION and isinstance(file, DevKvm):
        return kvm.KVM_API_VERSION
    if request == kvm.KVM_CREATE_VM and isinstance(file, DevKvm):
        return task.process.open(Vm(O_RDWR), O_CLOEXEC)
    creates = request == kvm.KVM_CREATE_GUEST_MEMFD and machine.profile.guest_memfd
    if creates and isinstance(file, Vm):
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


@serves(calls.Fdinfo)
def _fdinfo(task: Thread, call: calls.Fdinfo) -> Result:
    file = task.process.file(call.fd)
    if not isinstance(file, UffdFile):
        raise Errno(errno.EINVAL)
    context = file.context
    pending = len(context.pending)
    total = pending + len(context.delivered)
    profile = context.mm.profile
    both = profile.api_ioctls | profile.range_ioctls
    words = f"{abi.UFFD_API:x}:{context.features:x}:{both:x}"
    text = f"pending:\t{pending}\ntotal:\t{total}\nAPI:\t{words}\n"
    return Result(data=text.encode())
