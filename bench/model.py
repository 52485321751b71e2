"""Model: how fast is the model kernel, how much memory does it take, and what does `check()` cost?

One process on one core, in three parts.  Mixed operations: touches, fills and protection of
resident and missing pages, with no other task in the way.  Runs: each is a machine, a process, a
userfaultfd and two tasks, of which one touches a missing page and the other reads the message and
fills it.  Memory: what resident pages in a large address space cost.  The targets are absolute.
A second is one of CPU time, since nothing here waits for anything.

Not asked here: preemptive schedules, and memory types other than anonymous memory.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc

from bench.measure import Row, Target, alternate
from bench.run import Run
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import MIB, memory, size_name
from userfault.kernel.modes import Mode
from userfault.model.faces.handle import ModelUserfaultfd
from userfault.model.faces.kernel import ModelKernel, ModelMapping, ModelProcess
from userfault.uapi.mman import MADV_DONTNEED

PAGE = 4096
SPREAD = 16  # resident: one page in this many, so a million in 64 GiB
_CONTENT = b"x" * PAGE


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    operations, runs = run.size(200_000, 2_000), run.size(4_000, 40)
    rates = alternate(
        run.rounds,
        ("mixed", "resolve", "checked"),
        lambda name, _: {
            "mixed": lambda: mixed(operations),
            "resolve": lambda: resolve(runs),
            "checked": lambda: resolve(runs // 2, check=True),
        }[name](),
    )
    for name, case, unit, target in (
        ("mixed", "touches, fills and protection", "operations/s", Target(">=", 100_000)),
        ("resolve", "fault and resolve, two tasks", "runs/s", Target(">=", 2_000)),
        ("checked", "the same, check() after each", "runs/s", None),
    ):
        _rate(run, rates[name], case, unit, target)
    pages = run.size(16_384, 256)
    price = statistics.median(check_price(pages) for _ in range(run.rounds))
    run.rows.append(
        Row("model", f"one check() of {pages} pages", "ms", price * 1e3, rounds=run.rounds)
    )
    resident = run.size(1 << 20, 1 << 10)
    run.rows.append(
        Row(
            "model",
            f"{resident} resident pages in {size_name(resident * SPREAD * PAGE)}",
            "MiB",
            memory_of(resident) / MIB,
            target=Target("<=", 400),
            rounds=1,
        )
    )


def _rate(run: Run, rates: list[float], case: str, unit: str, target: Target | None) -> None:
    note = f"lowest {min(rates):.0f}, highest {max(rates):.0f}"
    figure = statistics.median(rates)
    run.rows.append(Row("model", case, unit, figure, target=target, rounds=run.rounds, note=note))


def registered(pages: int, mode: Mode) -> tuple[ModelProcess, ModelMapping, ModelUserfaultfd]:
    """Anonymous memory of a process of its own."""
    process = ModelKernel().process()
    area = process.map(memory("anon"), pages * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, mode)
    return process, area, uffd


def mixed(operations: int) -> float:
    """Operations a second: of eight, five loads, a store, a fill and a protection."""
    pages = 4096
    process, area, uffd = registered(pages, Mode.MISSING | Mode.WP)
    task = process.task()
    start = time.process_time()
    done = at = 0
    while done < operations:
        address = area.address + at * PAGE
        uffd.copy(address, _CONTENT, PAGE)
        task.read(address, 8)
        task.write(address + 64, b"12345678")
        task.read(address + 64, 8)
        task.read(address + 512, 64)
        uffd.writeprotect(address, PAGE, protect=True)
        task.read(address, 8)
        task.read(address + 1024, 8)
        done += 8
        at += 1
        if at == pages:
            at = 0
            task.madvise(area.address, area.length, MADV_DONTNEED).result()
    return done / (time.process_time() - start)


def resolve(runs: int, *, check: bool = False) -> float:
    """Whole two-task runs a second."""
    start = time.process_time()
    for _ in range(runs):
        kernel = ModelKernel()
        process = kernel.process()
        area = process.map(memory("anon"), 4 * PAGE)
        uffd = process.userfaultfd()
        uffd.register(area.address, area.length, Mode.MISSING)
        touched = process.task().read(area.address, 8)
        kernel.settle()
        for fault in uffd.read():
            assert isinstance(fault, PageFault)
            uffd.copy(fault.address, _CONTENT, PAGE)
        if touched.result().data != _CONTENT[:8]:
            raise AssertionError("the wrong bytes")
        if check:
            kernel.check()
    return runs / (time.process_time() - start)


def check_price(pages: int) -> float:
    """Seconds of one `check()` with this many resident pages."""
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(memory("anon"), pages * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    uffd.copy(area.address, _CONTENT * pages, area.length)
    start = time.process_time()
    kernel.check()
    return time.process_time() - start


def memory_of(pages: int) -> int:
    """Bytes of Python memory for this many resident pages, one in every SPREAD pages."""
    _, area, uffd = registered(pages * SPREAD, Mode.MISSING)
    tracemalloc.start()
    for at in range(pages):
        uffd.copy(area.address + at * SPREAD * PAGE, _CONTENT, PAGE)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used
