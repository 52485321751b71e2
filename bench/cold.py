"""Cold: what does a touch cost whose page is not in the page cache?

A quarter of the pages of a file are touched in random order, one at a time; before each turn the
file leaves the page cache.  With `background=False` the rival is the handler in C that answers each
fault by one pread(2) and one UFFDIO_COPY; once with windows of one page, so that both do the same
work, and once with those that the planner chooses.  With the default policy it is a plain mapping
of the file, whose faults the kernel serves, with its read-around.

Not asked here: other orders; several threads; devices that are slower or faster than this one.
"""

from __future__ import annotations

import mmap
import random
import statistics
import time
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager

import userfault
from bench.images import PAGE, ColdImage
from bench.machine import Placement, cpu_seconds, placements, unbind
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from bench.sides import DEMAND, Mapped, Ours, Rival, Side, Source
from userfault.kernel.memtypes import MIB, size_name
from userfault.linux.libc import Pinned


class _Plain:
    """The file, mapped."""

    pid = 0

    @contextmanager
    def mapped(self, image: Source) -> Iterator[Mapped]:
        """See `Side`."""
        with (
            mmap.mmap(image.fd, image.length, prot=mmap.PROT_READ) as memory,
            Pinned(memory) as pinned,
        ):
            yield _PlainMapping(pinned.address)

    def close(self) -> None:
        """Nothing to end."""


class _PlainMapping:
    def __init__(self, address: int) -> None:
        self.address = address

    def fill(self) -> float:
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        return 0, 0


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    size = run.size(512 * MIB, 4 * MIB)
    if not run.fits("cold", 4 * size):
        return
    run.native.warm(2 * size)
    with (
        ColdImage(run.directory, size // PAGE, run.native) as image,
        closing(Ours(userfault.Policy(background=False, window_bytes=PAGE))) as single,
        closing(Ours(DEMAND)) as demand,
        closing(Ours(userfault.Policy())) as default,
        closing(Rival(run.native, reads=True)) as rival,
    ):
        for name in ("same", "free"):
            placement = placements()[name]
            target = Target("<=", 1.3)
            _case(run, image, single, rival, placement, "one page a fault", "C", target)
            _case(run, image, demand, rival, placement, "background=False", "C", target)
        plain: Side = _Plain()
        placement = placements()["free"]
        _case(run, image, default, plain, placement, "default policy", "plain", Target("<=", 1))
    unbind()


def _case(
    run: Run,
    image: ColdImage,
    ours: Side,
    theirs: Side,
    placement: Placement,
    says: str,
    rival: str,
    target: Target,
) -> None:
    sides = {"ours": ours, rival: theirs}
    hashes: dict[str, int] = {}
    faults: list[int] = []
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    touches = image.pages // 4

    def turn(name: str, number: int) -> float:
        order = array("I", random.Random(number).sample(range(image.pages), touches))
        side = sides[name]
        if side.pid:
            placement.put(side.pid)
        image.drop()
        used = _used(side)
        with side.mapped(image) as memory:
            start = time.perf_counter()
            hashes[name] = run.native.touch(memory.address, order, PAGE)
            took = time.perf_counter() - start
            _, met = memory.counts()
        cpu[name].append((_used(side) - used) / touches * 1e6)
        if name == "ours":
            faults.append(met)
        return took / touches * 1e6

    figures = alternate(run.rounds, sides, turn)
    run.checks.same(f"cold {says}, {placement.name}", hashes)
    row = Row(
        "cold",
        f"a quarter of {size_name(image.length)} at random, {says}, {placement.says}",
        "µs a touch",
        0.0,
        ratio_of=f"ours / {rival}",
        rival_name=rival,
        target=target,
        note=f"{statistics.median(faults):.0f} faults",
        cpu_us=(statistics.median(cpu["ours"]), statistics.median(cpu[rival])),
    )
    run.rows.append(compare(row, figures["ours"], figures[rival]))


def _used(side: Side) -> float:
    return cpu_seconds(side.pid) if side.pid else 0.0
