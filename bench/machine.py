"""Which machine this is, and on which CPUs who runs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from userfault.kernel.memtypes import GIB


def describe() -> dict[str, str]:
    """Kernel, CPU, memory and interpreter, as text."""
    system = os.uname()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "kernel": f"{system.sysname} {system.release} {system.machine}",
        "cpu": f"{os.cpu_count()} x {_field('/proc/cpuinfo', 'model name')}"
        + (" (virtual machine)" if "hypervisor" in _field("/proc/cpuinfo", "flags") else ""),
        "memory": f"{total / GIB:.1f} GiB",
        "python": sys.version.split()[0],
        "load": f"{os.getloadavg()[0]:.2f} when the run began",
    }


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return int(_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


class Placement:
    """Which CPUs the faulting process and its handler may run on."""

    def __init__(self, name: str, says: str, client: set[int], handler: set[int]) -> None:
        self.name = name
        self.says = says
        self.client = client
        self._handler = handler

    def put(self, handler: int) -> None:
        """Bind this thread and the process `handler`."""
        put(self.client, handler, self._handler)


_ALL = os.sched_getaffinity(0)


def placements() -> dict[str, Placement]:
    """By name: `same` CPU, `other` CPU (where there are two), `free` of any binding."""
    cpus = sorted(_ALL)
    first, second = {cpus[0]}, {cpus[-1]}
    found = {
        "same": Placement("same", "client and handler on one CPU", first, first),
        "other": Placement("other", "client and handler on two CPUs", first, second),
        "free": Placement("free", "nobody bound to a CPU", _ALL, _ALL),
    }
    if len(cpus) == 1:
        del found["other"]
    return found


def put(client: set[int], pid: int, handler: set[int] | None) -> None:
    """Bind this thread, and the process `pid` unless it chooses its place itself."""
    os.sched_setaffinity(0, client)
    if handler is not None:
        os.sched_setaffinity(pid, handler)


def put_process(pid: int, where: set[int]) -> None:
    """Bind all threads of a process."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), where)


def cpus() -> set[int]:
    """Those that this run may use."""
    return set(_ALL)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all its threads (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def unbind() -> None:
    """Let this thread run anywhere again."""
    os.sched_setaffinity(0, _ALL)
