"""A QEMU guest whose memory is a file: saved once, and restored as often as is wanted.

Under software emulation (`tcg`), or on the CPU itself (`kvm`).  The memory is a
`memory-backend-file` with share=on, so that with the migration capability x-ignore-shared the saved
state has the devices alone, and the memory stays in the file.
The guest is a kernel of the lab and one script, which counts on its console, with the checksum of
one block of its files after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from userfault.kernel.memtypes import MIB
from userfault.lab.cpio import Archive
from userfault.lab.machine import qemu
from userfault.lab.store import Kernel

MEMORY_MIB = 256
BLOCK = MIB
TCG, KVM = "tcg", "kvm"
# Of the emulated one: five-level page tables would move the end of user space; `rep stosb` is
# emulated byte by byte.  Of the other: where KVM's own CPU is an emulated one (a guest of the lab),
# Linux panics at its start if it is told of XSAVE (QEMU 7.2, 6.17: fpstate_reset()).
_CPUS = {TCG: "max,la57=off,-erms,-fsrm", KVM: "host,-xsave"}
_DEVICE = "/dev/kvm"
_HARDWARE = {"svm", "vmx"}  # what a CPU runs guests with: AMD's, Intel's
_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable"
    " random.trust_cpu=on clearcpuid=112 nohz=off highres=off rcupdate.rcu_expedited=1 nowatchdog"
    " audit=0"
)
_SCRIPT = """#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
n=0
while :; do
\techo "tick $n $sum"
\tsum=$(busybox sha256sum /data/$((n % {blocks})))
\tn=$((n + 1))
\tbusybox usleep 50000
done
"""
_TICK = re.compile(r"tick (\d+)(?: ([0-9a-f]{64})  /data/\d+)?$")
_DEADLINE_S = 180.0
_LOOK_S = 0.002


class GuestError(Exception):
    """QEMU, or the guest, did not do what it should."""


def no_kvm() -> str | None:
    """Why such a guest cannot run on the CPU itself here; None where it can.

    A KVM without hardware (measured: PVM, 6.18) runs only what is in user mode.  Of a kernel that
    does not know it, it emulates each instruction: after a minute of CPU time Linux was at the
    start of its memory allocator, and ended there by one that is not emulated (CMPXCHG16B).
    """
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_DEVICE}: {error.strerror}"
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if flags is None or _HARDWARE.isdisjoint(flags[1].split()):
        return f"the CPU has neither svm nor vmx: {_DEVICE} emulates the kernel of a guest"
    return None


class Tick(msgspec.Struct, frozen=True):
    """One line of the guest: its `number`, and the checksum of block `number - 1`."""

    number: int
    digest: str | None


class Saved:
    """A guest that is saved in `folder`: `memory`, a file, and the state of its devices.

    `accelerator`: TCG, or KVM (where `no_kvm()` has no objection), for the restored ones, too.
    `last`: the number that it had said last.  `digests`: of its blocks, half of each noise, the
    other half compressible.  Raises GuestError; NoQemu.
    """

    def __init__(
        self, kernel: Kernel, folder: Path, *, blocks: int = 64, accelerator: str = TCG
    ) -> None:
        self._kernel = kernel
        self._accelerator = accelerator
        self._folder = folder
        self._initrd = folder / "initrd"
        self._state = folder / "state"
        self.memory = folder / "memory"
        dice, half = random.Random(1), BLOCK // 2
        held = [dice.randbytes(half) + dice.randbytes(64) * (half // 64) for _ in range(blocks)]
        self.digests = [hashlib.sha256(block).hexdigest() for block in held]
        self._initrd.write_bytes(_image(kernel, held))
        with self._started([], self.memory) as machine:
            machine.ticks(3)
            machine.save(self._state)
            self.last = machine.ticks(0)[-1].number

    @contextlib.contextmanager
    def restored(self, memory: Path, *, before: Sequence[str] = ()) -> Iterator[Machine]:
        """The guest, gone on with `memory` as its memory.  `before`: words before the command."""
        with self._started(list(before), memory, "-incoming", "defer") as machine:
            machine.load(self._state)
            yield machine

    def _command(self, memory: Path, console: Path, monitor: Path) -> list[str]:
        return [
            *(qemu(), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", self._accelerator, "-cpu", _CPUS[self._accelerator]),
            *("-machine", "pc,memory-backend=ram"),
            *("-m", str(MEMORY_MIB)),
            "-object",
            f"memory-backend-file,id=ram,mem-path={memory},size={MEMORY_MIB}M,share=on",
            *("-kernel", self._kernel.vmlinuz, "-initrd", str(self._initrd)),
            *("-append", _COMMAND_LINE),
            *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
        ]

    @contextlib.contextmanager
    def _started(self, before: list[str], memory: Path, *more: str) -> Iterator[Machine]:
        console, monitor = self._folder / "console", self._folder / "monitor"
        for path in (console, monitor):
            path.unlink(missing_ok=True)
        command = [*before, *self._command(memory, console, monitor), *more]
        machine = Machine(subprocess.Popen(command, stdin=subprocess.DEVNULL), console, monitor)
        try:
            machine.connect()
            yield machine
        finally:
            machine.end()


class Machine:
    """A QEMU that runs, or the command before it."""

    def __init__(self, process: subprocess.Popen[bytes], console: Path, monitor: Path) -> None:
        self.process = process
        self._console = console
        self._address = monitor
        self._monitor = socket.socket(socket.AF_UNIX)
        self._answers = self._monitor.makefile("r")

    def connect(self) -> None:
        """Wait for its monitor."""
        self._wait(lambda: not self._monitor.connect_ex(str(self._address)), "its monitor")
        self._answers.readline()
        self.ask("qmp_capabilities")
        shared = [{"capability": "x-ignore-shared", "state": True}]
        self.ask("migrate-set-capabilities", capabilities=shared)

    def ask(self, command: str, **arguments: Any) -> Any:
        """A command of QEMU's monitor."""
        request = {"execute": command, "arguments": arguments}
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        while line := self._answers.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
        raise GuestError(f"{command}: QEMU has ended")

    def save(self, path: Path) -> None:
        """Stop it, and save the state of its devices."""
        self.ask("stop")
        self.ask("migrate", uri=f"exec:cat > {path}")
        self._wait(lambda: self.ask("query-migrate")["status"] == "completed", "its state")

    def load(self, path: Path) -> None:
        """Take up such a state, and go on."""
        self.ask("migrate-incoming", uri=f"exec:cat {path}")
        self._wait(lambda: self.ask("query-status")["status"] != "inmigrate", "its state")
        self.ask("cont")

    def ticks(self, count: int) -> list[Tick]:
        """What it has said, once that is `count` lines."""
        found: list[Tick] = []

        def said() -> bool:
            lines = self._console.read_text(errors="replace").split("\n")[:-1]
            matches = [match for line in lines if (match := _TICK.match(line.strip()))]
            found[:] = [Tick(int(match[1]), match[2]) for match in matches]
            return len(found) >= count

        self._wait(said, f"{count} lines")
        return found

    def end(self) -> None:
        """Let it quit; end it where it does not."""
        with contextlib.suppress(OSError, GuestError):
            self.ask("quit")
        self._answers.close()
        self._monitor.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()

    def _wait(self, done: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not done():
            if self.process.poll() is not None:
                raise GuestError(f"QEMU has ended ({self.process.returncode}) before {what}")
            if time.monotonic() > deadline:
                raise GuestError(f"QEMU has not come to {what}")
            time.sleep(_LOOK_S)


def _image(kernel: Kernel, blocks: Sequence[bytes]) -> bytes:
    archive = Archive()
    archive.file("init", _SCRIPT.format(blocks=len(blocks)).encode(), 0o755)
    archive.file("bin/busybox", Path(kernel.busybox).read_bytes(), 0o755)
    archive.directory("dev")
    for number, block in enumerate(blocks):
        archive.file(f"data/{number}", block)
    return archive.pack()
