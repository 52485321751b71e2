"""How fast the model is: mixed operations, fault-and-resolve runs, and what `check()` costs.

One process does touches, fills and protection on resident and missing pages (`mixed`), with no
other task in the way.  A run of `resolve` is a whole program: a machine, a process, a userfaultfd,
two tasks; one touches a missing page, the other reads the message and fills it.  `memory` is what
a million resident pages in 64 GiB of address space cost.
"""

from __future__ import annotations

import sys
import time
import tracemalloc

from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import Mode
from userfault.model.kernel import ModelKernel

PAGE = 4096
BASE = memory("anon")


def mixed(operations: int) -> float:
    """Operations a second: 6 touches and 2 fills or protections out of 8, `check()` off."""
    kernel = ModelKernel()
    process = kernel.process()
    pages = 4096
    area = process.map(BASE, pages * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING | Mode.WP)
    task = process.task()
    content = b"x" * PAGE
    start = time.perf_counter()
    done = 0
    at = 0
    while done < operations:
        address = area.address + at * PAGE
        uffd.copy(address, content, PAGE)
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
            task.madvise(area.address, area.length, 4).result()
    return done / (time.perf_counter() - start)


def resolve(runs: int, *, check: bool = False) -> float:
    """Whole two-task runs a second."""
    content = b"x" * PAGE
    start = time.perf_counter()
    for _ in range(runs):
        kernel = ModelKernel()
        process = kernel.process()
        area = process.map(BASE, 4 * PAGE)
        uffd = process.userfaultfd()
        uffd.register(area.address, area.length, Mode.MISSING)
        touched = process.task().read(area.address, 8)
        kernel.settle()
        for fault in uffd.read():
            assert isinstance(fault, PageFault)
            uffd.copy(fault.address, content, PAGE)
        if touched.result().data != content[:8]:
            raise AssertionError("the wrong bytes")
        if check:
            kernel.check()
    return runs / (time.perf_counter() - start)


def check_price(pages: int) -> float:
    """Seconds of one `check()` with this many resident pages."""
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(BASE, pages * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    uffd.copy(area.address, b"x" * area.length, area.length)
    start = time.perf_counter()
    kernel.check()
    return time.perf_counter() - start


def resident(pages: int, *, spread: int) -> int:
    """Bytes of Python memory for `pages` resident pages, one in every `spread` pages."""
    kernel = ModelKernel()
    process = kernel.process()
    area = process.map(BASE, pages * spread * PAGE)
    uffd = process.userfaultfd()
    uffd.register(area.address, area.length, Mode.MISSING)
    content = b"x" * PAGE
    tracemalloc.start()
    for at in range(pages):
        uffd.copy(area.address + at * spread * PAGE, content, PAGE)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used


def main() -> None:
    """Print every figure."""
    out = sys.stdout
    out.write(f"mixed operations/s          {mixed(200_000):12,.0f}\n")
    out.write(f"fault-and-resolve runs/s    {resolve(4_000):12,.0f}\n")
    out.write(f"  with check() after each   {resolve(2_000, check=True):12,.0f}\n")
    out.write(f"check() of 16384 pages, ms  {check_price(16384) * 1e3:12,.1f}\n")
    mib = resident(1_000_000, spread=16) / (1 << 20)
    out.write(f"1e6 pages in 64 GiB, MiB    {mib:12,.0f}\n")


if __name__ == "__main__":
    main()
