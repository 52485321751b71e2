"""Running one command in a guest: its output as it comes, and its exit status."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from userfault.lab import image
from userfault.lab.guest import BOOT_S, GuestLost
from userfault.lab.machine import Machine
from userfault.lab.store import Kernel

_PORTS = 3  # standard output, standard error, how far it is
_CHUNK = 1 << 16
# Python, its library and the project are unpacked into memory.
MEMORY_MIB = 2048


class NotUp(GuestLost):
    """The machine did not come as far as to begin the command."""


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
    boot_s: float = BOOT_S,
    within_s: float | None = None,
    outside: Path | None = None,
) -> int:
    """Boot a kernel and run a command there; its exit status.

    `write(1 or 2, bytes)` gets what it writes.  `files`: of ours, to be there at the same path.
    `outside`: the module of a memory type.  A machine that has not begun the command within
    `boot_s` seconds is booted anew, once.  Raises GuestLost where it dies, does not begin, or is
    not done `within_s` seconds after it began.
    """
    modules = Path(kernel.modules) if kernel.modules else None
    system = image.system(Path(kernel.busybox), modules, outside)
    whole = system + image.command(words, environment, files)

    def boot() -> int:
        machine = Machine(
            Path(kernel.vmlinuz), whole, memory_mib=memory_mib, cpus=cpus, extra=extra, ports=_PORTS
        )
        try:
            return _carry(machine, write, boot_s, within_s)
        finally:
            machine.close()

    try:
        return boot()
    except NotUp:
        return boot()


def _carry(
    machine: Machine,
    write: Callable[[int, bytes], object],
    boot_s: float,
    within_s: float | None,
) -> int:
    """Pass on what comes until the machine ends; the exit status that it has told."""
    deadline: float | None = time.monotonic() + boot_s
    numbers = {port: number for number, port in enumerate(machine.ports, 1)}
    told = b""  # a line when the command begins, one with its exit status
    while numbers:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        readable = select.select(list(numbers), [], [], left)[0]
        if not readable:
            machine.kill()
            raise _late(machine, boot_s, within_s, began=bool(told))
        for port in readable:
            data = os.read(port.fileno(), _CHUNK)
            if not data:
                del numbers[port]
            elif numbers[port] < _PORTS:
                write(numbers[port], data)
            else:
                if not told:
                    deadline = None if within_s is None else time.monotonic() + within_s
                told += data
    status = told.split()[1:]
    if status:
        return int(status[0])
    machine.kill()
    lost = GuestLost if told else NotUp
    raise lost("the virtual machine has died", cause=machine.last_words())


def _late(machine: Machine, boot_s: float, within_s: float | None, *, began: bool) -> GuestLost:
    if began:
        return GuestLost(f"the command was not done within {within_s:g} s")
    return NotUp(
        f"the virtual machine did not come up within {boot_s:g} s", cause=machine.last_words()
    )
