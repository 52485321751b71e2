"""One QEMU process: a guest with a kernel, an image in memory, a port and a console.

Software emulation (TCG), so that it works wherever QEMU does; nested SVM gives the guest a
/dev/kvm.  QEMU's exit status says nothing about the guest: what the guest has to say comes over
its port, and the console is for the reasons.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from userfault.kernel.errors import Unavailable
from userfault.linux.parent import end_with_parent

QEMU = "qemu-system-x86_64"
_PACKAGE = "qemu-system-x86"
_END_S = 10.0
# Without what slows an emulated boot down; a panic or an oops ends the guest at once.
_COMMAND_LINE = (
    *("console=ttyS0", "quiet", "loglevel=4", "panic=-1", "oops=panic"),
    *("mitigations=off", "nokaslr", "no_timer_check", "tsc=reliable", "random.trust_cpu=on"),
    "clearcpuid=112",  # REP_GOOD: pages are cleared by plain stores, which emulate faster
    *("nohz=off", "highres=off"),  # each time that the timer is set anew leaves the emulation
    *("rcupdate.rcu_expedited=1", "nowatchdog", "audit=0", "transparent_hugepage=madvise"),
)
# Five-level page tables would move the end of user space; `rep stosb` is emulated byte by byte.
_CPU = "max,+svm,la57=off,-erms,-fsrm"
_WHERE = re.compile(r"RIP: \w+:(\w+\+\S+(?: \[\w+\])?)")  # a function, and of which module
_PANIC = re.compile(r"Kernel panic.*|BUG:.*|Oops:.*|.*lab mux:.*|.*lab: .*")


class NoQemu(Unavailable):
    """No emulator here."""


def qemu() -> str:
    """The emulator's program.  Raises NoQemu."""
    found = shutil.which(QEMU)
    if found is None:
        raise NoQemu(
            f"cannot run here: {QEMU} is not installed",
            cure=f"on Debian, as root: apt-get install {_PACKAGE}, or `userfault lab fetch --qemu`",
        )
    return found


def install_qemu() -> None:
    """Install the emulator where it is absent, with apt-get as root.  Raises NoQemu."""
    if shutil.which(QEMU):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        qemu()
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", _PACKAGE]
    for attempt in (command, ["apt-get", "update", "-qq"], command):
        done = subprocess.run(
            attempt,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if shutil.which(QEMU):
            return
    raise NoQemu(
        f"cannot run here: {_PACKAGE} does not install",
        cause=(done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1],
        cure="see that the mirror of /etc/apt can be reached",
    )


class Machine:
    """A running QEMU.  `ports` are our ends of the guest's serial ports /dev/vport0p1, ..."""

    def __init__(
        self,
        kernel: Path,
        image: bytes,
        *,
        memory_mib: int,
        cpus: int = 1,
        extra: str = "",
        ports: int = 1,
    ) -> None:
        program = qemu()
        with contextlib.ExitStack() as stack:
            initrd = _memory_file(stack, "initrd", image)
            self._console = _memory_file(stack, "console")
            self._messages = _memory_file(stack, "qemu")
            self.ports: list[socket.socket] = []
            with contextlib.ExitStack() as theirs:
                ends = []
                for _ in range(ports):
                    ours, end = socket.socketpair()
                    stack.callback(ours.close)
                    self.ports.append(ours)
                    ends.append(theirs.enter_context(end).fileno())
                command = [
                    *(program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                    *("-machine", "pc", "-accel", "tcg", "-cpu", _CPU, "-smp", str(cpus)),
                    *("-m", str(memory_mib), "-kernel", str(kernel)),
                    *("-initrd", f"/proc/self/fd/{initrd}"),
                    *("-append", " ".join((*_COMMAND_LINE, extra)).strip()),
                    *("-chardev", f"file,id=console,path=/proc/self/fd/{self._console}"),
                    *("-serial", "chardev:console"),
                    # Each port takes part in each interrupt.  A queue is served at once by the
                    # processor that rings: that the main loop wakes up for it costs more.
                    *("-device", f"virtio-serial-pci,max_ports={ports + 1},ioeventfd=off"),
                ]
                for number, end_fd in enumerate(ends, 1):
                    command += ["-chardev", f"socket,id=port{number},fd={end_fd}"]
                    command += ["-device", f"virtserialport,nr={number},chardev=port{number}"]
                parent = os.getpid()
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(initrd, self._console, *ends),
                    stdin=subprocess.DEVNULL,
                    stdout=self._messages,
                    stderr=self._messages,
                    process_group=0,
                    # A worker has one thread: nothing else holds a lock at the fork.
                    preexec_fn=lambda: end_with_parent(parent),  # noqa: PLW1509
                )
            self._close = stack.pop_all()

    @property
    def pid(self) -> int:
        """Of QEMU."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once QEMU has ended."""
        return self._process.poll() is None

    def console(self) -> str:
        """What the guest's kernel and its first script have written."""
        return _text(self._console)

    def last_words(self) -> str:
        """Why it ended, in a line: a panic, else the end of the console, else what QEMU says."""
        lines = [line.strip() for line in self.console().splitlines() if line.strip()]
        panics = [found[0] for line in lines if (found := _PANIC.search(line))]
        messages = [line for line in _text(self._messages).splitlines() if line.strip()]
        if panics:
            where = next(filter(None, map(_WHERE.search, lines)), None)
            return f"{panics[0]} (at {where[1]})" if where else panics[0]
        return (messages or lines or ["the console is empty"])[-1]

    def kill(self) -> None:
        """End it now, with its process group; idempotent."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_END_S)

    def close(self) -> None:
        """Kill it and let go of everything."""
        self.kill()
        self._close.close()


def _memory_file(stack: contextlib.ExitStack, name: str, data: bytes = b"") -> int:
    """A file in memory: nothing to clean up, no disk that could be full."""
    file = os.memfd_create(f"userfault-lab-{name}")
    stack.callback(os.close, file)
    with open(file, "wb", closefd=False) as writer:
        writer.write(data)
    return file


def _text(file: int) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0).decode("utf-8", "replace").replace("\r", "")
