"""Kill a process of the pager at every system call that it makes while a client is served.

The client does the same each time (script.py).  The n-th run kills at the n-th stop, until a run
ends before its process came so far.  Each run is judged by the client: right bytes, and an end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import userfault
from stress.tracer import Tracer

_TESTS = Path(__file__).resolve().parent.parent
_RUN_S = 20.0
_STEADY_S = 20.0

# Who is traced and killed, and what the client does before (it kills another one, or calls
# `Pager.replace()`): else a supervisor or a spare only sleeps.
CASES = (
    ("worker", ""),
    ("spare", "worker"),
    ("supervisor", "worker"),
    ("supervisor", "spare"),
    ("spare", "supervisor"),
    ("worker", "replace"),
    ("supervisor", "replace"),
)
SAMPLE = {"worker": 47, "spare": 43, "supervisor": 17}  # every so manyth stop, for CI


class Outcome(msgspec.Struct):
    """`stops`: at how many of them it was killed.  `bad`: what went wrong, and where."""

    role: str
    before: str
    stops: int = 0
    bad: list[str] = msgspec.field(default_factory=list)


class _Client:
    """The client's process; a new one after each run that went wrong."""

    def __init__(self, scratch: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join([str(_TESTS), str(Path(userfault.__file__).parents[1])])
        self._stderr = (scratch / "stderr").open("w+b")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stress.script", str(theirs.fileno()), str(scratch / "src")],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
                stderr=self._stderr,
                start_new_session=True,
            )
        self.channel = ours

    def ask(self, text: str) -> Any:
        """An answer at once."""
        self.channel.send(text.encode())
        return self.answer(_RUN_S)

    def answer(self, timeout_s: float) -> Any:
        """The next answer; TimeoutError: it hangs; EOFError: it has ended."""
        if not select.select([self.channel], [], [], timeout_s)[0]:
            raise TimeoutError(f"the client hangs: no answer within {timeout_s} s")
        text = self.channel.recv(1 << 16)
        if not text:
            raise EOFError(f"the client ended with {self._process.wait(10)}")
        return json.loads(text)

    def answered(self) -> bool:
        return bool(select.select([self.channel], [], [], 0)[0])

    def steady(self) -> dict[str, int]:
        """The processes, once all three run."""
        deadline = time.monotonic() + _STEADY_S
        while True:
            processes: dict[str, int] = self.ask("processes")
            if len(set(processes.values())) == len(processes) and all(
                pid and _asleep(pid) for pid in processes.values()
            ):
                return processes
            if time.monotonic() > deadline:
                raise TimeoutError(f"the family does not become complete: {processes}")
            time.sleep(0.005)

    def close(self) -> str:
        """End it; what it said."""
        self.channel.close()
        self._process.kill()
        self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace")
        self._stderr.close()
        return said


def _asleep(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "S"


def run(
    role: str,
    before: str,
    *,
    every: int = 1,
    first: int = 1,
    progress: Callable[[Outcome], None],
) -> Outcome:
    """Kill `role` at every `every`th stop from the `first` on; `before`: whom the client kills."""
    outcome = Outcome(role, before)
    with tempfile.TemporaryDirectory(prefix="userfault-calls-") as directory:
        client = _Client(Path(directory))
        try:
            stop, more = first, True
            while more:
                try:
                    more = _once(client, role, before, stop)
                    outcome.stops += more
                except (TimeoutError, EOFError, AssertionError, ChildProcessError) as error:
                    said = client.close().strip().splitlines()[-12:]
                    outcome.bad.append(f"{role}, stop {stop}: {error}; " + " | ".join(said))
                    client = _Client(Path(directory))
                    outcome.stops += 1
                progress(outcome)
                stop += every
        finally:
            client.close()
    return outcome


def _once(client: _Client, role: str, before: str, stop: int) -> bool:
    """One run; whether the process came as far as `stop`."""
    tracer = Tracer(client.steady()[role])
    try:
        client.channel.send(f"run,{before}".encode())
        deadline = time.monotonic() + _RUN_S

        def done() -> bool:
            return client.answered() or time.monotonic() > deadline

        killed = tracer.kill_at(stop, done)
    except ChildProcessError:
        if before != "replace":
            raise
        killed = False  # the new family ended it
    finally:
        tracer.release()
    try:
        found = client.answer(_RUN_S)
    except (TimeoutError, EOFError) as error:
        raise type(error)(f"{error} (killed at: {tracer.place or 'nowhere'})") from None
    if found:
        raise AssertionError(f"{found} (killed at: {tracer.place or 'nowhere'})")
    return killed
