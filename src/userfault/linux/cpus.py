"""Which CPU a thread is on, and how long it ran and waited for one (proc_pid_stat(5)).

All of it is for choosing a place: what cannot be seen is None, never an error.
"""

from __future__ import annotations

import os

_PROCESSOR = 36  # of the fields after the command's name: field 39 of proc_pid_stat(5)


def allowed(thread: int = 0) -> frozenset[int]:
    """The CPUs that a thread (0: this one) may run on; none for one that has ended."""
    try:
        return frozenset(os.sched_getaffinity(thread))
    except OSError:
        return frozenset()


def move(cpus: frozenset[int]) -> bool:
    """Bind this thread to some CPUs; False where none of them is to be had (offline, cpuset)."""
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError, OverflowError):
        return False
    return True


def cpu_of(thread: int) -> int | None:
    """The CPU that a thread runs on, or ran on last; None for one that cannot be seen."""
    data = _read(f"/proc/{thread}/stat")
    if data is None:
        return None
    fields = data[data.rindex(b")") + 2 :].split()  # the name may hold anything
    return int(fields[_PROCESSOR])


def run_and_wait(thread: int) -> tuple[float, float]:
    """Seconds that a thread (0: this one) has run, and has waited for its turn to run.

    Zeros where the thread cannot be seen or the kernel does not count (CONFIG_SCHED_INFO).
    """
    data = _read(f"/proc/{thread}/schedstat" if thread else "/proc/thread-self/schedstat")
    if data is None:
        return 0.0, 0.0
    ran, waited, _ = data.split()
    return int(ran) / 1e9, int(waited) / 1e9


def shares_thread_ids(pid: int) -> bool:
    """Whether thread ids that process `pid` sees are those that we see in our /proc.

    They are not across pid namespaces: then the process has several ids, or none here.
    """
    if pid <= 0:
        return False
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return False  # the /proc of another namespace
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):  # 4.1
                    return len(line.split()) == 2
    except OSError:
        pass
    return False


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096)
    except OSError:  # ESRCH: the thread has just ended
        return None
    finally:
        os.close(fd)
