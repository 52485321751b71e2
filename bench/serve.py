"""Serve: pages a second for 200 clients at once, by `userfault serve` and by a handler in C.

Each client is a process with 64 MiB of memory; a tenth of it, in pieces of 16 pages anywhere, is
touched page by page in random order, every byte compared.  The rival answers each fault by one page
and does nothing else.  Ours answers by one page too (`single pages`), and as it does by default
(`fill-around`).  Then a client's cost while it does nothing, and how long 1,000 clients take to be
let in, by C and by ours.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

from bench import native
from bench.images import PAGE, Image
from bench.measure import Row, Target, alternate, compare, percentile
from bench.run import Run
from userfault.api.daemon import Daemon, Listen, Settings
from userfault.kernel.memtypes import MIB
from userfault.linux.smaps import private_memory
from userfault.pager.core.policy import Policy

SINGLE = Policy(background=False, window_bytes=PAGE)
AROUND = Policy(background=False)


Begin = Callable[[Run, Path], AbstractContextManager["Side"]]


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    clients, size = run.size(200, 8), run.size(64 * MIB, 4 * MIB)
    if not run.fits("serve", size + clients * size // 5):
        return
    path = run.directory / "serve-image"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with Image(fd, size // PAGE, run.native, 7) as image:
        image.ensure_cached()
        _throughput(run, path, clients, size // PAGE // 10)
        _many(run, path, run.size(1000, 16))
    path.unlink()


def _throughput(run: Run, image: Path, clients: int, pages: int) -> None:
    longest: dict[str, list[float]] = {}
    idle: list[float] = []

    def turn(name: str, number: int) -> float:
        with SIDES[name](run, image) as side, _vms(run, side.path, image, clients, pages) as vms:
            if name != "C" and number:
                idle.append(side.private_bytes() / clients / 1024)
            took_ns, waits = vms.touch()
        if number:
            longest.setdefault(name, []).append(percentile(waits, 0.99) / 1e6)
        return clients * pages / (took_ns / 1e9)

    figures = alternate(run.rounds, SIDES, turn)
    for name, target in (("single pages", 0.4), ("fill-around", 1.0)):
        case = f"{clients} clients, {name}"
        row = Row("serve", case, "pages/s", 0, target=Target(">=", target))
        run.rows.append(compare(row, figures[name], figures["C"]))
        row = Row("serve", f"{case}: longest wait, p99 of clients", "ms", 0)
        run.rows.append(compare(row, longest[name], longest["C"]))
    run.rows.append(
        Row(
            "serve",
            f"{clients} clients, idle: memory of ours for each",
            "KiB",
            statistics.median(idle),
            target=Target("<=", 1024),
            rounds=run.rounds,
        )
    )


def _many(run: Run, image: Path, clients: int) -> None:
    """Accepted, served a little, gone."""

    def turn(name: str, number: int) -> float:
        del number
        with SIDES[name](run, image) as side, _vms(run, side.path, image, clients, 4) as vms:
            return vms.touch()[0] / 1e6

    sides = ["C", "fill-around"]
    figures = alternate(1, sides, turn)
    row = Row("serve", f"{clients} clients, 4 pages each", "ms", 0)
    run.rows.append(compare(row, figures["fill-around"], figures["C"]))


class Side:
    """Whoever serves at `path`; `pids` of ours."""

    def __init__(self, path: Path, pids: Callable[[], list[int]]) -> None:
        self.path = path
        self._pids = pids
        self._before = self._now()

    def private_bytes(self) -> int:
        """Memory of its processes beyond what they had when they came up."""
        return self._now() - self._before

    def _now(self) -> int:
        return sum(map(private_memory, self._pids()))


@contextmanager
def _c(run: Run, image: Path) -> Iterator[Side]:
    path = run.directory / "c.sock"
    path.unlink(missing_ok=True)
    program = native.program("epoll.c", run.directory)
    with subprocess.Popen([program, path, image], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield Side(path, list)
        finally:
            process.kill()


def _ours(policy: Policy) -> Begin:
    @contextmanager
    def side(run: Run, image: Path) -> Iterator[Side]:
        path = run.directory / "ours.sock"
        listen = Listen("firecracker", str(path), "image")
        settings = Settings((listen,), {"image": str(image)}, policy=policy)
        with closing(Daemon(settings)) as daemon:
            yield Side(path, lambda: list(daemon.processes().values()))
            daemon.ask("drain", fill=False)
            assert daemon.ended(60)

    return side


SIDES: dict[str, Begin] = {"C": _c, "single pages": _ours(SINGLE), "fill-around": _ours(AROUND)}


class _Vms:
    """Clients that have connected."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n", "a client was not let in"

    def touch(self) -> tuple[int, list[float]]:
        """Have each touch its pages: how long until the last was ready, and their longest waits."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._go_on()
        word, took, *waits = self._process.stdout.readline().split()
        assert word == "done"
        return int(took), [float(each) for each in waits]

    def _go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End them; AssertionError for one that has read a wrong byte."""
        self._go_on()
        assert self._process.wait() == 0, "a client has read wrong bytes"


@contextmanager
def _vms(run: Run, path: Path, image: Path, clients: int, pages: int) -> Iterator[_Vms]:
    program = native.program("vms.c", run.directory)
    with ExitStack() as end:
        process = subprocess.Popen(
            [program, path, image, str(clients), str(pages), "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        end.enter_context(process)
        end.callback(process.kill)
        vms = _Vms(process)
        yield vms
        vms.close()
