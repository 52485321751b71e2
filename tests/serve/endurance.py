"""`python -m tests.serve.endurance [--clients N] [--workers N] [--replaces N] [--kills N]`.

A daemon with many clients at work, through handovers to new code and kill -9 of each of its
processes.  Told are the pauses: for each client, the longest that it waited for one page while one
of these was done to its daemon; then whether every byte was right, and whether each was let go of
as a whole when the daemon was drained.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest has it

from serve.daemons import Running, build, serving
from userfault.serve.talking import Line

PAGE = 4096
ROLES = ("worker", "supervisor", "spare")
_REST, _LOOK = 1, 2  # orders
_CELL = 8  # numbers of 64 bits
_LONGEST, _TOUCHES, _WRONG, _SINCE, _DONE = range(1, 6)
_HANGS_S = 120.0
_MOST_S = 1.0  # a pause, at p99
_TOUCHES_A_SECOND = 2000  # of all of them


class Result(msgspec.Struct):
    """`pauses_ms`: by what was done, of all clients and times, at 50 %, 99 % and 100 %."""

    clients: int
    workers: int
    touches: int = 0
    wrong: int = 0
    accepted_s: float = 0.0
    drained_s: float = 0.0
    times: dict[str, int] = {}
    pauses_ms: dict[str, tuple[float, float, float]] = {}
    ended: int = 0  # what the daemon, and the clients, returned

    @property
    def good(self) -> bool:
        """No wrong byte, nobody lost, no pause too long."""
        longest = max((p99 for _, p99, _ in self.pauses_ms.values()), default=0.0)
        return not self.wrong and not self.ended and longest <= _MOST_S * 1000


class Crowd:
    """The clients at work."""

    def __init__(self, program: Path, path: Path, image: Path, clients: int, board: Path) -> None:
        board.write_bytes(bytes((clients + 1) * _CELL * 8))
        with board.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self.clients = clients
        pause_us = clients * 1_000_000 // _TOUCHES_A_SECOND
        words = [program, path, image, clients, pause_us, board]
        self.process = subprocess.Popen(list(map(str, words)))

    def all(self, what: int) -> list[int]:
        """One number of each."""
        return [self._cells[at + what] for at in range(_CELL, len(self._cells), _CELL)]

    def order(self, what: int) -> None:
        """All of them do that from now on."""
        self._cells[0] = what

    def forget(self) -> None:
        """How long they waited until now."""
        for at in range(_CELL, len(self._cells), _CELL):
            self._cells[at + _LONGEST] = 0

    def have_touched(self, times: int) -> None:
        """Wait until each has touched so many pages more.  Raises AssertionError if one hangs."""
        wanted = [before + times for before in self.all(_TOUCHES)]
        self.until(lambda: all(map(int.__ge__, self.all(_TOUCHES), wanted)))

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for it.  Raises AssertionError if one hangs, or has ended."""
        deadline = time.monotonic() + _HANGS_S
        while not happened():
            assert self.process.poll() is None, "the clients have ended"
            assert time.monotonic() < deadline, f"hang: {self._hanging()}"
            time.sleep(0.01)

    def close(self) -> None:
        """End them, whatever they do."""
        self.process.kill()
        self.process.wait()

    def _hanging(self) -> str:
        now = time.monotonic_ns()
        waits = [(now - since) / 1e9 for since in self.all(_SINCE) if since]
        return f"{len(waits)} of {self.clients} wait, for up to {max(waits, default=0):.1f} s"


def run(
    folder: Path,
    *,
    clients: int,
    workers: int = 1,
    replaces: int = 0,
    kills: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Everything.  `kills`: of each role."""
    result = Result(clients, workers)
    image = folder / "image"
    pages = (number.to_bytes(8, "little") * (PAGE // 8) for number in range(1, 513))
    image.write_bytes(b"".join(pages))
    program = build("crowd.c", folder)
    arguments = ["--firecracker", f"{folder}/vm", "--image", str(image), "--workers", str(workers)]
    with serving(folder / "daemon", *arguments, ends=False) as daemon:
        began = time.monotonic()
        held = Crowd(program, folder / "vm", image, clients, folder / "board")
        with contextlib.closing(held):
            held.until(lambda: all(held.all(_TOUCHES)))
            result.accepted_s = time.monotonic() - began
            tell(f"{clients} clients are served after {result.accepted_s:.1f} s")
            for change in _changes(daemon, replaces, kills):
                _change(held, change, result, tell)
            _end(held, daemon, result)
    return result


Change = tuple[str, int, Callable[[], object]]


def _changes(daemon: Running, replaces: int, kills: int) -> list[Change]:
    """What is done, how often, and how."""
    turns = itertools.count()
    found: list[Change] = [("--replace", replaces, functools.partial(_replace, daemon))]
    for role in ROLES:
        kill = functools.partial(_kill, daemon, role, turns)
        found.append((f"kill -9 of a {role}", kills, kill))
    return found


def _change(held: Crowd, change: Change, result: Result, tell: Callable[[str], None]) -> None:
    name, times, does = change
    pauses: list[int] = []
    for number in range(times):
        held.forget()
        does()
        held.have_touched(2)
        found = held.all(_LONGEST)
        pauses += found
        tell(f"{name}, {number + 1} of {times}: {max(found) / 1e6:.0f} ms")
    if pauses:
        result.times[name] = times
        result.pauses_ms[name] = _percentiles(pauses)


def _end(held: Crowd, daemon: Running, result: Result) -> None:
    """The daemon is drained; then each sees all of its memory, which nobody serves any more."""
    held.order(_REST)
    began = time.monotonic()
    result.ended |= daemon.end()
    result.drained_s = time.monotonic() - began
    held.order(_LOOK)
    result.ended |= held.process.wait(_HANGS_S)
    result.touches, result.wrong = sum(held.all(_TOUCHES)), sum(held.all(_WRONG))
    result.ended |= sum(held.all(_DONE)) != held.clients


def _replace(daemon: Running) -> None:
    command = [sys.executable, "-m", "userfault", "serve", "--replace"]
    control = ["--control", str(daemon.folder / "control")]
    done = subprocess.run([*command, *control], capture_output=True, text=True, check=False)
    if done.returncode:
        log = [line for line in daemon.log.splitlines() if not line.endswith(": served")]
        raise AssertionError("\n".join([done.stderr, str(daemon.ask("status")), *log[-40:]]))


def _kill(daemon: Running, role: str, turns: Iterator[int]) -> None:
    """In the family whose turn it is; back when another process has its place."""
    line = Line.to(str(daemon.folder / "control"))
    try:
        before = line.ask("status")["workers"]
        whose = next(turns) % len(before)
        victim = before[whose]["processes"][role]
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + _HANGS_S
        while line.ask("status")["workers"][whose]["processes"][role] in (0, victim):
            assert time.monotonic() < deadline, f"nobody is the {role}"
            time.sleep(0.01)
    finally:
        line.close()


def _percentiles(found_ns: Sequence[int]) -> tuple[float, float, float]:
    ordered = sorted(each / 1e6 for each in found_ns)
    last = len(ordered) - 1
    return ordered[last // 2], ordered[last * 99 // 100], ordered[last]


def main() -> int:
    """0: as it must be; 1: not."""
    parser = argparse.ArgumentParser(prog="python -m tests.serve.endurance", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--replaces", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10, help="of each role")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            Path(folder),
            clients=asked.clients,
            workers=asked.workers,
            replaces=asked.replaces,
            kills=asked.kills,
            tell=lambda text: print(text, file=sys.stderr),
        )
    _print(result)
    return 0 if result.good else 1


def _print(result: Result) -> None:
    print(
        f"{result.clients} clients, {result.workers} workers: {result.touches} touches,"
        f" {result.wrong} wrong pages; all were served after {result.accepted_s:.1f} s,"
        f" drained in {result.drained_s:.1f} s"
    )
    for name, (half, p99, longest) in result.pauses_ms.items():
        figures = f"p50 {half:.0f}, p99 {p99:.0f}, longest {longest:.0f} ms"
        print(f"{name}, {result.times[name]} times: {figures}")


if __name__ == "__main__":
    sys.exit(main())
