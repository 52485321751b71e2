"""Opening a userfaultfd: by the device, by the system call, and for user-mode faults only.

The three ways differ in who may use them (userfaultfd(2)):

1. `/dev/userfaultfd` (6.1): whoever may open the file.  It is mode 0600 root by default.
2. the system call: CAP_SYS_PTRACE, or `vm.unprivileged_userfaultfd=1`.
3. the system call with UFFD_USER_MODE_ONLY (5.11): everybody.  Faults that the kernel takes on
   the memory (a read(2) into it, say) then fail with EFAULT instead of waiting.

Any error of one way leads to the next, since a container may forbid any one of them; when all
refuse, the error tells what each said.
"""

from __future__ import annotations

import errno
import fcntl
import os

import msgspec

from userfault.kernel.errors import OpenRefused
from userfault.linux.libc import syscall
from userfault.uapi import userfaultfd as abi
from userfault.uapi.syscalls import SYSCALLS

DEVICE = "/dev/userfaultfd"
SYSCTL = "/proc/sys/vm/unprivileged_userfaultfd"


class Opened(msgspec.Struct, frozen=True):
    """A fresh descriptor (close-on-exec), the way that worked, and whether it is user-mode only."""

    fd: int
    way: str
    user_mode_only: bool


def open_userfaultfd(*, user_mode_only: bool | None = None, blocking: bool = False) -> Opened:
    """Open a userfaultfd; raises OpenRefused with what each way said.

    `user_mode_only`: None falls back to it last, False never, True asks for nothing else.
    """
    flags = os.O_CLOEXEC | (0 if blocking else os.O_NONBLOCK)
    attempts: list[tuple[str, int]] = []
    ways = []
    if not user_mode_only:
        ways += [(DEVICE, _by_device, flags, False), ("userfaultfd(2)", _by_syscall, flags, False)]
    if user_mode_only is not False:
        only = flags | abi.UFFD_USER_MODE_ONLY
        ways.append(("userfaultfd(2) with UFFD_USER_MODE_ONLY", _by_syscall, only, True))
    for way, attempt, wanted, limited in ways:
        try:
            return Opened(attempt(wanted), way, limited)
        except OSError as error:
            attempts.append((way, error.errno or 0))
    raise OpenRefused(attempts, _cure(attempts))


def _by_device(flags: int) -> int:
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(device, abi.USERFAULTFD_IOC_NEW, flags)
    finally:
        os.close(device)


def _by_syscall(flags: int) -> int:
    numbers = SYSCALLS.get(os.uname().machine)
    if numbers is None:
        raise OSError(errno.ENOSYS, "no system call number known for this machine")
    return syscall(numbers["userfaultfd"], flags)


def _cure(attempts: list[tuple[str, int]]) -> str:
    """What to change, by what the ways said."""
    codes = {code for _, code in attempts}
    called = {code for way, code in attempts if way != DEVICE}
    if codes & {errno.EMFILE, errno.ENFILE}:
        return "no descriptor is left: close some, or raise `ulimit -n`"
    if called == {errno.ENOSYS}:
        return (
            "the kernel has no userfaultfd (CONFIG_USERFAULTFD), or a seccomp profile hides it:"
            " container runtimes do so by default; allow the call `userfaultfd` in the profile"
        )
    text = (
        f"give yourself {DEVICE} (chmod, chgrp or a udev rule; in a container pass the device),"
        f" or set {SYSCTL} to 1, or run with CAP_SYS_PTRACE"
    )
    if errno.EPERM in called:
        text += (
            "; if user-mode only was refused too, a container's seccomp profile (the default of"
            " Docker and of Kubernetes' RuntimeDefault) blocks the call: allow `userfaultfd`"
        )
    return text
