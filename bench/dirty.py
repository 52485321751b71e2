"""Dirty tracking: what a layer of one page in a hundred takes, and how long everybody stands still.

A memory of this process, full of pages that zstd halves, each by itself.  In each round one page in
a hundred, at random, gets eight other bytes, and `Snapshot.update()` stores a layer.

* Size: what the store has grown by, beside the full pack of the same memory.
* Stopped: from the first thread that was held to the last that was let go, as the helper that does
  it tells; once while nobody writes, once while a thread writes random pages all the time, with
  the priority of a usual thread whatever ours is.  Where it had to be held several times, the
  longest; the note has the sum.
* A foreign process with the same memory, of which nobody can tell what it wrote: as `userfault pack
  --pid --base` stores a layer.
* First write: of the first write to a page since it was protected, in each mode, beside one to a
  page that is not tracked.

The store is in memory, so that no disk is asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import userfault
from bench.machine import unbind
from bench.measure import Row, Target, alternate, compare, percentile
from bench.run import Run
from userfault.kernel.memtypes import GIB, MIB, size_name
from userfault.snapshot.inputs.process import ProcessInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects

_PAGE = 4096
_SIZE, _STOPPED = Target("<=", 0.03), Target("<=", 10)
_SHM = "/dev/shm"


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    unbind()
    length = run.size(GIB, 4 * MIB)
    if not run.fits("dirty", 2 * length):
        return
    with tempfile.TemporaryDirectory(dir=_SHM if os.path.isdir(_SHM) else None) as folder:
        memory = _memory(length)
        _layers(run, memory, Path(folder))
        memory.close()
        _foreign(run, length, Path(folder))
    _first_writes(run)


def _memory(length: int) -> mmap.mmap:
    made = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    chosen = random.Random(1)
    half = bytes(_PAGE // 2)
    for at in range(0, length, _PAGE):
        made[at : at + _PAGE] = chosen.randbytes(_PAGE // 2) + half
    return made


def _layers(run: Run, memory: mmap.mmap, folder: Path) -> None:
    chosen = random.Random(2)
    sizes: list[float] = []
    stopped: dict[str, list[float]] = {"nobody writes": [], "a thread writes": []}
    held: list[float] = []
    with userfault.Snapshot(folder / "store" / "memory", memory) as snapshot:
        full = snapshot.update().bytes
        for busy, figures in stopped.items():
            for _ in range(run.rounds):
                _write(memory, chosen)
                with _writing(memory) if busy.startswith("a") else contextlib.nullcontext():
                    made = snapshot.update()
                figures.append(made.stopped_s * 1e3)
                if busy.startswith("a"):
                    held.append(made.held_s * 1e3)
                else:
                    sizes.append(float(made.bytes))
        made = snapshot.update()  # of what the thread wrote last
        with userfault.lazy(folder / "store" / made.name) as restored:
            run.checks.same(
                "dirty", {"memory": hash(memory[:]), "restored": hash(restored[:])}
            )  # fmt: skip
    what = f"1 % of {size_name(len(memory))}"
    row = Row("dirty", f"{what}, layer and full pack", "MB", 0, rival_name="full", target=_SIZE)
    fulls = [full / 1e6] * len(sizes)
    run.rows.append(compare(row, [size / 1e6 for size in sizes], fulls))
    for busy, figures in stopped.items():
        run.rows.append(
            Row(
                "dirty", f"{what}, client stopped, {busy}", "ms", statistics.median(figures),
                target=_STOPPED, rounds=len(figures), note=f"longest {max(figures):.1f}"
                + (f"; in all {statistics.median(held):.0f}" if busy.startswith("a") else ""),
            )
        )  # fmt: skip


def _write(memory: mmap.mmap, chosen: random.Random) -> None:
    """One page in a hundred."""
    pages = len(memory) // _PAGE
    for page in chosen.sample(range(pages), pages // 100):
        memory[page * _PAGE : page * _PAGE + 8] = chosen.randbytes(8)


def _foreign(run: Run, length: int, folder: Path) -> None:
    """A layer of a process that does not ask the kernel for what it writes."""
    objects = open_objects(str(folder / "foreign"))
    sizes, stopped = [], []
    with subprocess.Popen(
        [sys.executable, "-m", "bench.dirty", str(length)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for number in range(run.rounds + 1):
                process.stdout.readline()
                base = str(number - 1) if number else None
                with contextlib.closing(
                    ProcessInput(process.pid, registers=True, aside=True)
                ) as pages:
                    packed = pack(objects, str(number), pages, base=base)
                sizes.append(packed.bytes / 1e6)
                stopped.append(pages.stopped_s * 1e3)
                process.stdin.write(b"\n")
                process.stdin.flush()
        finally:
            process.kill()
    full = sizes.pop(0)
    what = f"1 % of {size_name(length)} of a foreign process"
    row = Row("dirty", f"{what}, layer and full pack", "MB", 0, rival_name="full", target=_SIZE)
    run.rows.append(compare(row, sizes, [full] * len(sizes)))
    run.rows.append(
        Row(
            "dirty", f"{what}, stopped", "ms", statistics.median(stopped[1:]), target=_STOPPED,
            rounds=len(sizes), note=f"longest {max(stopped):.1f}",
        )
    )  # fmt: skip


def _be_foreign(length: int) -> None:
    """The process: for each line it writes, and says so."""
    memory, chosen = _memory(length), random.Random(2)
    print("filled", flush=True)
    for _ in sys.stdin:
        _write(memory, chosen)
        print("written", flush=True)


@contextlib.contextmanager
def _writing(memory: mmap.mmap) -> Iterator[None]:
    """A thread that writes as fast as Python does."""
    stop = threading.Event()
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    chosen = random.Random(3)

    def write() -> None:
        # At real-time priority the kernel would stop all such threads for 50 ms of each second that
        # this one uses up (sched(7)), and that would be measured.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        while not stop.is_set():
            page = chosen.randrange(len(memory) // _PAGE)
            ctypes.memset(start + page * _PAGE + 100, chosen.randrange(256), 8)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _first_writes(run: Run) -> None:
    """µs a write; the loop's own time is in both sides."""
    pages = run.size(4096, 64)
    for mode in ("async", "messages"):
        tracked, plain = _memory(pages * _PAGE), _memory(pages * _PAGE)
        with userfault.track(tracked, mode=mode) as tracker:

            def turn(side: str, _: int) -> float:
                memory = tracked if side == "ours" else plain  # noqa: B023
                tracker.written()
                took = []
                for at in range(0, pages * _PAGE, _PAGE):
                    start = time.perf_counter()
                    memory[at] = 1
                    took.append(time.perf_counter() - start)
                return percentile(took, 0.5) * 1e6

            figures = alternate(run.rounds, ("ours", "untracked"), turn)
        row = Row("dirty", f"first write to a page, {mode}", "us", 0, rival_name="untracked")
        run.rows.append(compare(row, figures["ours"], figures["untracked"]))


if __name__ == "__main__":
    _be_foreign(int(sys.argv[1]))
