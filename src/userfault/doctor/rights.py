"""Rights over other processes, and limits of this one."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable

from userfault.doctor.finding import Finding, degraded, missing, ok
from userfault.linux.libc import syscall
from userfault.uapi.syscalls import SYSCALLS

_PEERPIDFD = 77  # SO_PEERPIDFD of asm-generic/socket.h, 6.5
_CAPABILITIES = {"CAP_KILL": 5, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21}  # linux/capability.h
_WHOLE = "0 0 4294967295"  # the initial user namespace, in its uid_map
_PER_CLIENT = 8  # descriptors (docs/serve.md)
_OWN = 128  # of the daemon itself, about
_MANY = 1000


def capabilities() -> Finding:
    """Those that serving other users' processes takes."""
    why = "CAP_SYS_PTRACE looks into other users' memory maps, CAP_KILL ends who cannot be served"
    status = _status()
    held = int(status.get("CapEff", "0"), 16)
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if not _initial():
        found = "in a user namespace: its capabilities do not count for other users' processes"
        return degraded("capabilities", found, why, "run in the initial user namespace")
    if "CAP_SYS_PTRACE" in lacking or "CAP_KILL" in lacking:
        cure = "run as root, or with AmbientCapabilities= of a unit; clients of this user need none"
        return degraded("capabilities", f"no {', '.join(lacking)}", why, cure)
    return ok("capabilities", ", ".join(set(_CAPABILITIES) - set(lacking)), why)


def looking() -> Finding:
    """The memory map and page tables of a child process, read."""
    why = "who connects is believed only if its memory is what its message says (/proc/PID/smaps)"
    try:
        _look_at_a_child()
    except OSError as error:
        cure = "mount /proc without hidepid=, and let a security module allow ptrace"
        return degraded("looking", f"/proc/PID of a child: {error.strerror}", why, cure)
    scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    return ok("looking", f"/proc/PID of a child can be read (Yama: {scope})", why)


def processes() -> Finding:
    """pidfds: of this process, and of who connects."""
    why = "a recycled process id is never killed, and the end of a client is noticed"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        found = f"pidfd_open(2): {error.strerror}"
        cure = "run Linux 5.3 or newer, and let a seccomp profile allow it"
        return missing("pidfd", found, why, cure)
    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, _PEERPIDFD))
        except OSError as error:
            found = f"SO_PEERPIDFD: {error.strerror}"
            return degraded("pidfd", found, why, "run Linux 6.5 or newer")
    return ok("pidfd", "pidfd_open(2) and SO_PEERPIDFD", why)


def seccomp() -> Finding:
    """The calls that daemons make and programs seldom do, each called with what it must refuse."""
    why = "profiles of container runtimes allow a list of calls, and these may not be on it"
    numbers = SYSCALLS.get(os.uname().machine, {})
    calls: dict[str, Callable[[], object]] = {
        "userfaultfd": lambda: syscall(numbers["userfaultfd"], -1),
        "pidfd_getfd": lambda: syscall(numbers["pidfd_getfd"], -1, -1, 0),
        "pidfd_send_signal": lambda: syscall(numbers["pidfd_send_signal"], -1, 0, 0, 0),
        "process_madvise": lambda: syscall(numbers["process_madvise"], -1, 0, 0, 0, 0),
    }
    refused = [name for name, call in calls.items() if _is_refused(call)]
    mode = {"0": "no filter", "2": "a filter"}.get(_status().get("Seccomp", ""), "unknown")
    if refused:
        cure = "allow them in the profile, or pass --device /dev/userfaultfd for the first"
        return degraded("seccomp", f"{mode}; refused: {', '.join(refused)}", why, cure)
    return ok("seccomp", f"{mode}; none is refused", why)


def descriptors() -> Finding:
    """How many clients the limit on open files is enough for."""
    why = f"a client takes {_PER_CLIENT} descriptors of the daemon"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    clients = max(hard - _OWN, 0) // _PER_CLIENT
    found = f"{hard} open files: {clients} clients"
    cure = "raise LimitNOFILE= of the unit, or `ulimit -Hn`"
    if not clients:
        return missing("descriptors", found, why, cure)
    if clients < _MANY:
        return degraded("descriptors", found, why, cure)
    return ok("descriptors", found, why)


def children() -> Finding:
    """How many processes may be started."""
    why = "the daemon is a family of processes, and stores are unpacked by others"
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    try:
        subprocess.run([sys.executable, "-c", ""], stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return missing("processes", f"cannot start one: {error}", why, "raise `ulimit -u`")
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return ok("processes", f"another one was started (limit: {limit})", why)


def _look_at_a_child() -> None:
    """Raises OSError where that is not allowed."""
    program = [sys.executable, "-c", "input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            for name in ("smaps", "pagemap"):
                with open(f"/proc/{child.pid}/{name}", "rb") as file:
                    file.read(8)
        finally:
            child.kill()


def _is_refused(call: Callable[[], object]) -> bool:
    """By somebody else than the call itself, which would find a descriptor of -1 at fault."""
    try:
        call()
    except OSError as error:
        return error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES)
    except KeyError:
        return True
    return False


def _initial() -> bool:
    return " ".join(_read("/proc/self/uid_map").split()) == _WHOLE


def _status() -> dict[str, str]:
    lines = (line.partition(":") for line in _read("/proc/self/status").splitlines())
    return {key: value.strip() for key, _, value in lines}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "absent"
