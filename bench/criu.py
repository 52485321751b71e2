"""CRIU: a Redis with 300,000 keys restored lazily, by `criu lazy-pages` and by `userfault serve`.

Both serve from the same images, in the page cache.  From the start of `criu restore`: until the
first query has its answer, and until every page is in and the processes need nobody any more: the
stock daemon has ended, ours has closed the userfaultfd.
Needs CRIU and Redis, which the tests know how to get; so it is run by its name alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from userfault.api.daemon import Daemon, Listen, Settings

sys.path.append(str(Path(__file__).parents[1] / "tests"))

_LOOK_S = 0.002
# Longer than perf keeps its static key: the first hardware breakpoint after a second without any,
# which CRIU sets to see whether it can, waits for RCU (kernel/events/core.c, `account_event`; 2 to
# 13 ms, measured on 6.18).  With less rest the side whose daemon comes up sooner does without.
_REST_S = 1.5
_MOST_S = 120.0

# A side listens in a folder, for restores from one; what it gives waits until all pages are in, and
# says when that was.
Begin = Callable[[Path, Path], AbstractContextManager[Callable[[], float]]]


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    from helpers.criu import need_criu, restored  # noqa: PLC0415  # beside the tests
    from helpers.redis import listens, need_redis  # noqa: PLC0415
    from helpers.waiting import wait_until  # noqa: PLC0415

    criu, redis = need_criu(), need_redis()
    keys = run.size(300_000, 3_000)
    images, port = _dumped(run, criu, redis, keys)
    sides: dict[str, Begin] = {"criu": _Stock(criu).begin, "ours": _ours}
    queried: dict[str, list[float]] = {name: [] for name in sides}

    def turn(name: str, number: int) -> float:
        work = run.directory / f"{name}-{number}"
        work.mkdir()
        wait_until(lambda: not listens(port))  # the one before is ending
        with sides[name](work, images) as await_all:
            time.sleep(_REST_S)  # a daemon has come up long before
            query = _Query(port, keys)
            began = query.begin()
            with restored(criu, images, work):
                took = await_all() - began
                first = query.answered_after()
                query.look_at_all()
        if number:
            queried[name].append(first * 1e3)
        return took * 1e3

    whole = alternate(run.rounds, sides, turn)
    case = f"redis, {keys} keys: "
    target = Target("<=", 1.0)
    row = Row("criu", case + "first query", "ms", 0, target=target, rival_name="criu")
    run.rows.append(compare(row, queried["ours"], queried["criu"]))
    row = Row("criu", case + "all pages in", "ms", 0, target=target, rival_name="criu")
    run.rows.append(compare(row, whole["ours"], whole["criu"]))


def _dumped(run: Run, criu: list[str], redis: list[str], keys: int) -> tuple[Path, int]:
    """The images of a server with so many keys, and its port."""
    from helpers.criu import dump  # noqa: PLC0415
    from helpers.redis import filled  # noqa: PLC0415

    images = run.directory / "redis-images"
    images.mkdir()
    with filled(redis, run.directory, keys) as (pid, port):
        dump(criu, pid, images)
    return images, port


class _Query:
    """One query, by a thread, as soon as somebody listens."""

    def __init__(self, port: int, keys: int) -> None:
        self._port = port
        self._keys = keys
        self._thread = threading.Thread(target=self._ask)
        self._at = 0.0
        self._began = 0.0

    def begin(self) -> float:
        """From now on."""
        self._began = time.perf_counter()
        self._thread.start()
        return self._began

    def answered_after(self) -> float:
        """In seconds."""
        self._thread.join(_MOST_S)
        assert self._at, "no answer"
        return self._at - self._began

    def look_at_all(self) -> None:
        """Every hundredth key has its value."""
        from helpers.redis import Redis  # noqa: PLC0415

        with contextlib.closing(Redis(self._port)) as redis:
            redis.check(range(0, self._keys, 100))

    def _ask(self) -> None:
        from helpers.redis import Redis  # noqa: PLC0415

        while time.perf_counter() < self._began + _MOST_S:
            with (
                contextlib.suppress(ConnectionError),
                contextlib.closing(Redis(self._port)) as redis,
            ):
                redis.check([self._keys // 2])
                self._at = time.perf_counter()
                return
            time.sleep(_LOOK_S / 4)


class _Stock:
    """`criu lazy-pages`."""

    def __init__(self, criu: list[str]) -> None:
        self._criu = criu

    @contextlib.contextmanager
    def begin(self, work: Path, images: Path) -> Iterator[Callable[[], float]]:
        """See `Begin`."""
        command = [*self._criu, "lazy-pages", "--images-dir", str(images)]
        with subprocess.Popen([*command, "--work-dir", str(work)]) as process:
            try:
                while not (work / "lazy-pages.socket").exists():
                    time.sleep(_LOOK_S)
                yield lambda: _ended(process)
            finally:
                process.kill()


def _ended(process: subprocess.Popen[bytes]) -> float:
    """Hear of it at once: `Popen.wait` with a time looks again after pauses that double."""
    pidfd = os.pidfd_open(process.pid)
    try:
        select.select([pidfd], [], [], _MOST_S)
        ended = time.perf_counter()
    finally:
        os.close(pidfd)
    assert process.wait(0) == 0
    return ended


@contextlib.contextmanager
def _ours(work: Path, images: Path) -> Iterator[Callable[[], float]]:
    """`userfault serve`; see `Begin`."""
    listen = Listen("criu", str(work / "lazy-pages.socket"), dump=str(images))
    with contextlib.closing(Daemon(Settings((listen,), {}))) as daemon:
        worker = daemon.ask("status")["processes"]["worker"]

        def await_all() -> float:
            # Who asks the daemon itself has it answer instead of fill, and who looks at all of its
            # descriptors again and again takes a CPU from whom it fills.
            for lazy in filter(_is_lazy, _descriptors(worker)):
                while _is_lazy(lazy):
                    time.sleep(_LOOK_S / 8)
            let_go = time.perf_counter()
            assert not daemon.ask("sessions")["sessions"]
            return let_go

        yield await_all
        daemon.ask("drain")
        assert daemon.ended(_MOST_S)


def _descriptors(process: int) -> list[str]:
    folder = f"/proc/{process}/fd"
    return [f"{folder}/{name}" for name in os.listdir(folder)]


def _is_lazy(fd: str) -> bool:
    """Whether a descriptor is a userfaultfd."""
    with contextlib.suppress(FileNotFoundError):
        return os.readlink(fd) == "anon_inode:[userfaultfd]"
    return False
