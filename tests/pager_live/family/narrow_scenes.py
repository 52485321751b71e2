"""Clients whose pager has few descriptors, or members that are stopped, for test_narrow.py."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Any

import userfault
from helpers import cgroup, child
from helpers.family import descriptors, member
from pager_live.family.takeover_scenes import DEMAND, at, complete_again
from userfault.api import starting
from userfault.linux.descriptors import RESERVE
from userfault.linux.pidfd import wait

_CLONE_NEWNS = 0x20000  # linux/sched.h
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x4000, 0x40000, 2  # linux/mount.h


def told(error: userfault.UserfaultError) -> list[str]:
    return [type(error).__name__, error.what, error.cause, error.cure]


def started_by(executable: str, frozen: bool) -> list[str]:
    """What `lazy()` says where this is sys.executable."""
    sys.executable = executable
    if frozen:
        sys.frozen = True  # type: ignore[attr-defined]
    try:
        with userfault.lazy(b"x" * 4096) as held:
            return ["works", bytes(held[:1]).decode()]
    except userfault.UserfaultError as error:
        return told(error)


def started_with(python: str) -> list[str]:
    """The same in a frozen application that names a Python."""
    starting._SIGN_S = 3.0  # an interpreter needs 20 ms
    executable, sys.executable = sys.executable, "/usr/bin/env"
    sys.frozen = True  # type: ignore[attr-defined]
    try:
        with (
            userfault.Pager(python=python or executable) as pager,
            userfault.lazy(b"x" * 4096, pager=pager) as held,
        ):
            pager.replace()
            return ["works", bytes(held[:1]).decode()]
    except userfault.UserfaultError as error:
        return told(error)


def behind_seccomp(call: int, code: int, image: str) -> list[str]:
    """What `lazy()` says where a system call is refused."""
    child.forbid_system_call(call, code)
    try:
        with userfault.lazy(image, policy=DEMAND) as held:
            right = at(held, 3) == 4
            os.kill(member(held._parts.pager, "worker"), signal.SIGKILL)
            return ["works", str(right and at(held, 9) == 10)]
    except userfault.UserfaultError as error:
        return told(error)


def as_many_as_fit(image: str, limit: int, role: str) -> dict[str, Any]:
    """Mappings until one is refused; then one of the family is killed, twice."""
    pager = userfault.Pager()
    for role_of, pid in pager.processes().items():  # as if that had been the hard limit all along
        kept = RESERVE if role_of == "worker" else 0
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit - kept, limit))
    held = []
    refused: list[str] = []
    while not refused:
        try:
            held.append(userfault.lazy(image, pager=pager, policy=DEMAND))
        except userfault.UserfaultError as error:
            refused = told(error)
    free = limit - descriptors(pager.processes()["worker"])
    found = []
    for page in (3, 5):
        victim = member(pager, role)
        os.kill(victim, signal.SIGKILL)
        found += [at(each, page) for each in held[:3]]
        found.append(complete_again(pager, {victim}))
    for each in held:
        each.close()
    pager.close()
    return {"refused": refused, "found": found, "kept": free >= RESERVE}


def below_the_hard_limit() -> dict[str, int]:
    """How far below the hard limit each process's own is, of a client that has lowered its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    with userfault.Pager() as pager:
        return {
            role: hard - resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
            for role, pid in pager.processes().items()
        }


def without_a_process(image: str, roles: list[str], mend: bool) -> dict[str, Any]:
    """No process may be started any more when some of the family are killed, one after the other.

    `mend`: then it may be again.
    """
    with cgroup.limited("pids", 100) as procs:
        procs.write_text(str(os.getpid()))
        pager = userfault.Pager()
        held = userfault.lazy(image, pager=pager, policy=DEMAND)
        found = [at(held, 0)]
        dead = set()
        procs.with_name("pids.max").write_text("1")
        for page, role in enumerate(roles, 1):
            victim = member(pager, role)
            dead.add(victim)
            process = os.pidfd_open(victim)
            os.kill(victim, signal.SIGKILL)
            wait(process, 10)
            found.append(at(held, page))
        if mend:
            procs.with_name("pids.max").write_text("100")
            found.append(complete_again(pager, dead))
        held.close()
        pager.close()
        cgroup.leave("pids")
        return {"found": found}


def stopped_while_another_dies(image: str, stopped: str, dies: str) -> dict[str, Any]:
    """One of the family is stopped, then another one is killed."""
    with userfault.Pager() as pager, userfault.lazy(image, pager=pager, policy=DEMAND) as held:
        found = [at(held, 0)]
        pids = pager.processes()
        os.kill(pids[stopped], signal.SIGSTOP)
        os.kill(pids[dies], signal.SIGKILL)
        found.append(at(held, 7))
        return {"found": found, "healed": complete_again(pager, {pids[stopped], pids[dies]})}


def without_proc(image: str) -> dict[str, Any] | None:
    """/proc is gone, as in a chroot, when a pager is started, and its worker killed."""
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        return None
    if libc.umount2(b"/proc", _MNT_DETACH):
        return None
    with userfault.Pager() as pager, userfault.lazy(image, pager=pager, policy=DEMAND) as held:
        found = [at(held, 0), at(held, 1)]
        os.kill(member(pager, "worker"), signal.SIGKILL)
        return {"found": [*found, at(held, 2), at(held, 3)], "takeovers": pager.takeovers}
