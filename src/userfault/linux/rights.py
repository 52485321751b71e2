"""What one process may not do that this one may.

For whoever acts on behalf of another process: rights that were dropped for good must not come back
by way of a helper that was started before.  Who sent a request the kernel tells
(`pidfd.Sender`, checked at the moment of sending); what else may have been dropped is in
/proc/PID (proc(5)), and none of it comes back by execve(2): a process that executes a set-id
program between sending and being looked at gains nothing here.

Not to be seen from outside, and so not compared: Landlock rules (they need no_new_privs or
CAP_SYS_ADMIN), labels of security modules, locked securebits.
"""

from __future__ import annotations

import contextlib
import os

from userfault.linux.pidfd import Sender

_NAMESPACES = ("user", "mnt", "net", "ipc", "pid", "cgroup")


def credentials(uid: int, gid: int) -> Sender:
    """What this process says of itself: `uid` and `gid` if it has them or can go back to them (the
    kernel lets nobody say more, unix(7)), else its effective ones."""
    return Sender(
        os.getpid(),
        uid if uid in os.getresuid() else os.geteuid(),
        gid if gid in os.getresgid() else os.getegid(),
    )


def lost_by(sender: Sender) -> str:
    """What the process that sent something has not of what this process has; "" for nothing."""
    if sender.uid != os.geteuid():
        return f"it runs as user {sender.uid}, the pager as user {os.geteuid()}"
    if sender.gid != os.getegid():
        return f"it runs as group {sender.gid}, the pager as group {os.getegid()}"
    if sender.pid <= 0 or not _proc_is_ours():  # /proc has no name for it, or another's
        return ""
    theirs, ours = _status(sender.pid), _status("self")
    if not theirs or not ours:  # no /proc
        return ""
    return _less(theirs, ours) or _elsewhere(sender.pid)


def _proc_is_ours() -> bool:
    """Whether /proc names processes as this one does: it was mounted in our pid namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _less(theirs: dict[str, list[str]], ours: dict[str, list[str]]) -> str:
    groups = set(ours.get("Groups", [])) - set(theirs.get("Groups", []))
    if groups:
        return f"it has left the groups {', '.join(sorted(groups))}"
    gone = _mask(ours, "CapPrm") & ~_within_reach(theirs)
    if gone:
        return f"it has dropped capabilities ({gone:#x})"
    if _number(theirs, "NoNewPrivs") > _number(ours, "NoNewPrivs"):
        return "it has set no_new_privs"
    if any(_number(theirs, key) > _number(ours, key) for key in ("Seccomp", "Seccomp_filters")):
        return "it has installed a seccomp filter"
    return ""


def _within_reach(status: dict[str, list[str]]) -> int:
    """Capabilities that a process has, or would have after execve: root gets what the bounding set
    leaves (capabilities(7))."""
    held = _mask(status, "CapPrm")
    if "0" in status.get("Uid", [])[:3] and not _number(status, "NoNewPrivs"):
        held |= _mask(status, "CapBnd")
    return held


def _elsewhere(pid: int) -> str:
    """Another root directory or other namespaces, as far as this process may look."""
    with contextlib.suppress(OSError):
        if not os.path.samefile(f"/proc/{pid}/root", "/proc/self/root"):
            return "it has another root directory"
    for name in _NAMESPACES:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                return f"it is in another {name} namespace"
    return ""


def _status(pid: int | str) -> dict[str, list[str]]:
    """/proc/PID/status; empty where it cannot be read."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    pairs = (line.decode("ascii", "replace").partition(":") for line in lines)
    return {key: value.split() for key, _, value in pairs}


def _mask(status: dict[str, list[str]], key: str) -> int:
    return int((status.get(key) or ["0"])[0], 16)


def _number(status: dict[str, list[str]], key: str) -> int:
    return int((status.get(key) or ["0"])[0])
