"""Whether the memory of a process may be looked at, why not, and who it is."""

from __future__ import annotations

import contextlib
import os

from userfault.kernel.errors import SourceError, Unavailable, UsageError
from userfault.linux import maps

_ENDED = (b"Z", b"X")
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD (linux/sched.h), in the flags of proc_pid_stat(5)


def refuse_others(pid: int) -> int:
    """Raise UsageError where `pid` is nothing that has memory to pack.

    The thread by which its memory can be had: its first one, or another if that has ended
    (pthread_exit(3) in main): it is a zombie then, without memory, and the process lives on.
    """
    if pid == os.getpid():
        raise UsageError(
            "cannot pack the memory of this very process",
            cause="it would stop itself",
            cure="name another process",
        )
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b") ")[2].split()
        group = _status(pid).get("Tgid", str(pid))
    except OSError:
        raise UsageError(
            f"there is no process {pid}", cause="it has ended, or never was", cure="name a live one"
        ) from None
    cause = ""
    if int(words[6]) & _KERNEL_THREAD:
        cause = "it is a thread of the kernel, which has no memory of its own"
    elif group != str(pid):
        cause = f"it is a thread of process {group}"
    elif words[0] not in _ENDED:
        return pid
    elif thread := _living_thread(pid):
        return thread
    else:
        cause = "it has ended already and waits for its parent (a zombie)"
    raise UsageError(f"cannot pack process {pid}", cause=cause, cure="name another process")


def _living_thread(pid: int) -> int:
    """A thread of a process whose first one has ended; 0 where none lives."""
    with contextlib.suppress(OSError):
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{pid}/task/{thread}/stat", "rb") as file,
            ):
                if file.read().rpartition(b") ")[2][:1] not in _ENDED:
                    return thread
    return 0


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", "rb") as file:
        # The name of a program may hold anything but a line feed, which is escaped.
        pairs = (line.partition(b":\t") for line in file.read().split(b"\n"))
        return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def about(pid: int, thread: int) -> dict[str, str]:
    """For the manifest.  The command line is left out: it may have a password in it."""
    with open(f"/proc/{thread}/auxv", "rb") as file:
        auxv = file.read()
    with open(f"/proc/{pid}/comm", "rb") as file:
        command = os.fsdecode(file.read().removesuffix(b"\n"))
    return {
        "pid": str(pid),
        "command": command,
        "machine": os.uname().machine,
        "auxv": auxv.hex(),
    }


def opened(pid: int, mapping: maps.Mapping) -> int:
    """The file that is mapped; -1 where it cannot be had.

    /proc/PID/map_files takes CAP_CHECKPOINT_RESTORE (5.9); the process's own descriptors take
    ptrace access only.
    """
    with contextlib.suppress(OSError):
        name = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            state = os.stat(path)
            device = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}"
            if (state.st_ino, device) == (mapping.inode, mapping.device):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return -1


def refusal(pid: int, error: OSError) -> Exception:
    """Why the memory of a process cannot be had."""
    if isinstance(error, PermissionError):
        return Unavailable(
            f"may not read the memory of process {pid}",
            cause=_why_not(pid),
            cure="run where this process has CAP_SYS_PTRACE over it"
            if os.geteuid() == 0
            else "run as root, or as its user where kernel.yama.ptrace_scope is 0",
        )
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return SourceError(
            f"process {pid} ended while its memory was looked at", cure="name a live one"
        )
    return SourceError(
        f"cannot read the memory of process {pid}", cause=os.strerror(error.errno or 0)
    )


def _why_not(pid: int) -> str:
    """What keeps us from it (ptrace(2), "Ptrace access mode checking")."""
    with contextlib.suppress(OSError):
        owner = _status(pid).get("Uid", "").split()
        if owner and owner[0] != str(os.getuid()):
            return f"it belongs to user {owner[0]}, and this is user {os.getuid()}"
    with contextlib.suppress(OSError), open("/proc/sys/kernel/yama/ptrace_scope") as file:
        scope = file.read().strip()
        if scope != "0":
            return f"kernel.yama.ptrace_scope is {scope}: only parents, or root, may look"
    return "it is not dumpable (prctl(2), PR_SET_DUMPABLE), or a security module forbids it"
