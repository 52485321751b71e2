"""What runs in other processes: users from whom userfaultfd is kept.  Run by `helpers.child`."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import struct
import sys
from typing import Any

import click

from helpers.child import become_nobody, forbid_system_call
from userfault.cli.main import main, userfault
from userfault.uapi import userfaultfd as abi
from userfault.uapi.syscalls import SYSCALLS

_IOCTL = {"x86_64": 16, "aarch64": 29}
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def run_behind_seccomp(*arguments: str) -> dict[str, Any]:
    """Run the command as nobody where a filter refuses userfaultfd(2), as in a container."""
    userfault.get_command(click.Context(userfault), arguments[0])  # nobody may not read its files
    forbid_system_call(SYSCALLS[os.uname().machine]["userfaultfd"], errno.EPERM)
    become_nobody()
    return run(*arguments)


def run_in_user_mode_only(*arguments: str) -> dict[str, Any]:
    """Run the command where only userfaultfd(2) with UFFD_USER_MODE_ONLY works.

    By a seccomp filter, which the command's own processes inherit; nobody could do less, but may
    not be able to start this Python.
    """
    calls = SYSCALLS[os.uname().machine]
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06  # BPF: ld [k], jeq, jset, ret
    number, first_argument, second_argument = 0, 16, 24  # offsets in struct seccomp_data
    code = [
        (load, 0, 0, number),
        (equal, 2, 0, calls["userfaultfd"]),
        (equal, 3, 0, _IOCTL[os.uname().machine]),
        (answer, 0, 0, _ALLOW),
        (load, 0, 0, first_argument),
        (any_bit, 3, 2, abi.UFFD_USER_MODE_ONLY),
        (load, 0, 0, second_argument),
        (equal, 0, 1, abi.USERFAULTFD_IOC_NEW),
        (answer, 0, 0, _REFUSE),
        (answer, 0, 0, _ALLOW),
    ]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for request, argument, more in ((38, 1, None), (22, 2, described)):  # no new privileges; filter
        if libc.prctl(
            request, ctypes.c_ulong(argument), more, ctypes.c_ulong(0), ctypes.c_ulong(0)
        ):
            raise OSError(ctypes.get_errno(), "prctl")
    return run(*arguments)


def run(*arguments: str) -> dict[str, Any]:
    """Run the command in this process: its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["userfault", *arguments]
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}
