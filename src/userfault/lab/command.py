"""Running one command in a guest: its output as it comes, and its exit status."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from userfault.lab import image
from userfault.lab.guest import GuestLost
from userfault.lab.machine import Machine
from userfault.lab.store import Kernel

_PORTS = 3  # standard output, standard error, the exit status
_CHUNK = 1 << 16
# Python, its library and the project are unpacked into memory.
MEMORY_MIB = 2048


def run_command(
    kernel: Kernel,
    words: Sequence[str],
    write: Callable[[int, bytes], object],
    *,
    environment: Mapping[str, str],
    files: Iterable[Path] = (),
    memory_mib: int = MEMORY_MIB,
    cpus: int = 1,
    extra: str = "",
    within_s: float | None = None,
) -> int:
    """Boot a kernel and run a command there; its exit status.

    `write(1 or 2, bytes)` gets what it writes.  `files`: of ours, to be there at the same path.
    Raises GuestLost where the machine dies, or has not come to an end within `within_s` seconds.
    """
    modules = Path(kernel.modules) if kernel.modules else None
    whole = image.system(Path(kernel.busybox), modules) + image.command(words, environment, files)
    machine = Machine(
        Path(kernel.vmlinuz), whole, memory_mib=memory_mib, cpus=cpus, extra=extra, ports=_PORTS
    )
    try:
        status = _carry(machine, write, within_s)
        if status:
            return int(status)
        machine.kill()
        raise GuestLost("the virtual machine has died", cause=machine.last_words())
    finally:
        machine.close()


def _carry(
    machine: Machine, write: Callable[[int, bytes], object], within_s: float | None
) -> bytes:
    """Pass on what comes until the machine ends; what it has said of the exit status."""
    deadline = None if within_s is None else time.monotonic() + within_s
    numbers = {port: number for number, port in enumerate(machine.ports, 1)}
    status = b""
    while numbers:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        readable = select.select(list(numbers), [], [], left)[0]
        if not readable:
            machine.kill()
            raise GuestLost(
                f"the command did not end within {within_s:.0f} s", cause=machine.last_words()
            )
        for port in readable:
            data = os.read(port.fileno(), _CHUNK)
            if not data:
                del numbers[port]
            elif numbers[port] < _PORTS:
                write(numbers[port], data)
            else:
                status += data
    return status.strip()
