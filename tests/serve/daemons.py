"""A daemon as users start it, and clients in C that follow the published protocols."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.skips import absent
from userfault.check.live.agent.build import NoAgent, compiler
from userfault.kernel.errors import UserfaultError
from userfault.serve.talking import Line

HERE = Path(__file__).parent
_UP_S = 60.0
_END_S = 120.0


def build(source: str, into: Path) -> Path:
    """A C client of this folder, compiled."""
    program = into / Path(source).stem
    try:
        command = compiler()
    except NoAgent as error:
        absent(str(error))
    subprocess.run(
        [*command, "-O2", "-pthread", "-o", str(program), str(HERE / source)], check=True
    )
    return program


class Running:
    """A daemon that runs.  `log`: what it said on standard error so far."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self._log = folder / "log"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def logged(self, text: str) -> None:
        """Wait until the log has it."""
        deadline = time.monotonic() + _UP_S
        while text not in self.log:
            assert time.monotonic() < deadline, f"{text!r} is not in the log:\n{self.log}"
            time.sleep(0.01)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """A command of its control socket."""
        line = Line.to(str(self.folder / "control"))
        try:
            return line.ask(command, **arguments)
        finally:
            line.close()

    def member(self, role: str, *, but: int = 0) -> int:
        """The process of its family that has the role, once another than `but` has."""
        deadline = time.monotonic() + _UP_S
        while (pid := self.ask("status")["processes"][role]) in (0, but):
            assert time.monotonic() < deadline, f"nobody is the {role}"
            time.sleep(0.01)
        return int(pid)

    def kill(self, role: str) -> int:
        """Kill it, and wait until another one has its place: who that is."""
        victim = self.member(role)
        os.kill(victim, signal.SIGKILL)
        return self.member(role, but=victim)

    def gone(self, pid: int) -> None:
        """Wait until it serves nothing of that process."""
        deadline = time.monotonic() + _UP_S
        while any(each["pid"] == pid for each in self.ask("sessions")["sessions"]):
            assert time.monotonic() < deadline, f"process {pid} is served still"
            time.sleep(0.01)

    def abandon(self) -> None:
        """End all of its processes: a test has failed, and they would wait for clients for ever."""
        with contextlib.suppress(UserfaultError, OSError):
            workers = self.ask("status")["workers"]
            for number in (signal.SIGSTOP, signal.SIGKILL):  # so that none goes on for another
                for pid in [pid for each in workers for pid in each["processes"].values() if pid]:
                    os.kill(pid, number)

    def end(self) -> int:
        """Ask it to end, and wait for that: its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=_END_S)


@contextlib.contextmanager
def serving(
    folder: Path,
    *arguments: str,
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    environment: dict[str, str] | None = None,
    ends: bool = True,
) -> Iterator[Running]:
    """`userfault serve`, with a control socket in `folder`; at the end it has to end.

    `before`: the command that starts it.  `ends`: it does so in peace.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "userfault", "serve", "--control", str(folder / "control")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*before, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pass_fds=pass_fds,
            env={**os.environ, **(environment or {})},
        )
    running = Running(process, folder)
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            assert line, f"it did not come up:\n{running.log}"
        yield running
        if ends:
            assert running.end() == 0, running.log
    finally:
        if process.poll() is None:
            running.abandon()
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Vm:
    """The client of `vm.c`."""

    def __init__(self, program: Path, path: Path, image: Path, **options: Any) -> None:
        words = [f"{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [str(program), str(path), str(image), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def reads(self) -> str:
        """The next line that it says; "" at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Past the stop that it has told of."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def started(program: Path, path: Path, image: Path, **options: Any) -> Iterator[Vm]:
    """One of them, until the end of the block."""
    one = Vm(program, path, image, **options)
    try:
        yield one
    finally:
        one.close()
