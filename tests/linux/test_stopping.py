"""A process is stopped with all its threads, and goes on whatever becomes of whoever stopped it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from userfault.kernel.errors import Unavailable
from userfault.linux import stopping
from userfault.linux.stopping import Stopped

# Four threads that count; the counts are in a shared file.
_COUNTING = """
import mmap, sys, threading
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 4096)
def count(at):
    n = 0
    while True:
        n = (n + 1) % 250
        memory[at] = n
for at in range(4):
    threading.Thread(target=count, args=(at,)).start()
print(flush=True)
"""


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that writes all the time, and where."""
    path = tmp_path / "counts"
    path.write_bytes(bytes(4096))
    process = subprocess.Popen([sys.executable, "-c", _COUNTING, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid, path
    process.kill()
    process.communicate()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_no_thread_runs_until_it_is_resumed(
    counting: tuple[int, Path], leaks_nothing: None
) -> None:
    del leaks_nothing
    pid, path = counting
    stopped = Stopped(pid)
    seen = path.read_bytes()
    time.sleep(0.1)
    assert path.read_bytes() == seen
    assert stopped.still
    stopped.resume()
    until(lambda: path.read_bytes() != seen)
    stopped.resume()  # again is no error
    assert Path(f"/proc/{pid}/stat").exists()


def test_no_guard_is_left(counting: tuple[int, Path]) -> None:
    def children() -> set[str]:
        paths = Path("/proc/self/task").glob("*/children")
        return {pid for path in paths for pid in path.read_text().split()}

    before = children()
    stopped = Stopped(counting[0])
    assert len(children() - before) == 1
    stopped.resume()
    assert children() == before


def test_a_process_that_is_gone_is_an_error(leaks_nothing: None) -> None:
    del leaks_nothing
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessLookupError):
        Stopped(process.pid)


def test_one_that_ends_while_it_is_stopped_is_no_error_to_resume(
    counting: tuple[int, Path],
) -> None:
    stopped = Stopped(counting[0])
    os.kill(counting[0], signal.SIGKILL)
    until(lambda: Path(f"/proc/{counting[0]}/stat").read_bytes().rpartition(b") ")[2][:1] == b"Z")
    stopped.resume()


def test_one_that_does_not_stop_is_let_go(
    counting: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, leaks_nothing: None
) -> None:
    """As where a thread sleeps uninterruptibly, which a test cannot make to order."""
    del leaks_nothing
    pid, path = counting
    real = stopping._states
    monkeypatch.setattr(stopping, "_states", lambda of: [*real(of), "D"])
    with pytest.raises(Unavailable, match=f"process {pid} does not stop"):
        Stopped(pid, timeout_s=0.05)
    seen = path.read_bytes()
    until(lambda: path.read_bytes() != seen)
