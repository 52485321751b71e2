"""Child processes of a command: started without its Ctrl-C, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from userfault.cli.shared import interrupts
from userfault.linux import parent

_CHUNK = 1 << 16
_END_S = 10.0  # a client gives its memory back in far less; a 1 GiB page takes seconds


T = TypeVar("T")


class Reports(Generic[T]):
    """What a child writes to its standard output: JSON objects of a type, one a line."""

    def __init__(self, child: subprocess.Popen[bytes], kind: Any) -> None:
        assert child.stdout is not None
        self._output = child.stdout
        self._kind = kind
        self._received = b""

    def fileno(self) -> int:
        """For select(2)."""
        return self._output.fileno()

    def read(self) -> list[T] | None:
        """What has come since, waiting for something; None at the end."""
        chunk = os.read(self.fileno(), _CHUNK)
        if not chunk:
            return None
        *lines, self._received = (self._received + chunk).split(b"\n")
        return [msgspec.json.decode(line, type=self._kind) for line in lines]


@contextlib.contextmanager
def python_child(
    module: str, *arguments: str, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `module.main()` in a fresh interpreter; however the block is left, it has ended then.

    It gets pipes as standard input and output and a process group of its own: Ctrl-C reaches the
    command alone, which ends the child in an orderly way.
    """
    # -P and the end of the path: neither the current directory nor our own one hides a module.
    root = str(Path(__file__).resolve().parents[3])
    program = (
        f"import sys; sys.path.append({root!r})\n"
        f"from {parent.__name__} import end_with_parent; end_with_parent({os.getpid()})\n"
        f"from {module} import main; main()"
    )
    child = None
    try:
        with interrupts.deferred():
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=pass_fds,
                process_group=0,
            )
        yield child
    finally:
        if child is not None:
            with interrupts.deferred():
                _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask it to end, kill it if it does not, reap it."""
    if child.poll() is None:
        child.terminate()
        os.kill(child.pid, signal.SIGCONT)  # a stopped process gets no SIGTERM
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what it did not read any more
                pipe.close()
