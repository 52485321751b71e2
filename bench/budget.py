"""Budget: what does it cost to keep to a part of the memory?

An image is read with a budget, and without one.  In order, four times the budget: every byte (a
sum), and one word of each page.  At random, with repetition, as many touches as there are pages,
with four fifths of them in the budget.  Of each round the most that was in memory is sampled every
2 ms.  UMap has the same buffer.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import userfault
from bench.images import PAGE, Image
from bench.machine import placements, unbind
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from bench.umap import Umap
from userfault.kernel.memtypes import KIB, MIB

_OVER = 64 * MIB
_SAMPLE_S = 2e-3


class _Side:
    """A pager of ours, and a budget (0: none).  `over`: bytes that were in beyond it, at most."""

    def __init__(self, budget: int) -> None:
        self._pager = userfault.Pager()
        self.budget = budget
        self._policy = userfault.Policy(resident_bytes=budget)
        with userfault.lazy(b"started", pager=self._pager):
            self.pid = self._pager.processes()["worker"]
        self.over: list[int] = []
        self.note = ""

    @contextmanager
    def mapped(self, image: Image) -> Iterator[int]:
        """Where the image is shown, within a `with` block."""
        with userfault.lazy(image.fd, policy=self._policy, pager=self._pager) as memory:
            ended = threading.Event()
            fd = memory._parts.recipe.fd
            sampler = threading.Thread(target=self._sample, args=(fd, ended))
            if self.budget:
                sampler.start()
            try:
                yield memory.address
            finally:
                ended.set()
                if self.budget:
                    sampler.join()
                counters = memory.statistics().counters
                self.note = f"{counters.faults} faults, {counters.evicted} pages taken out"

    def _sample(self, fd: int, ended: threading.Event) -> None:
        most, over = 0, False
        while not over:  # also of a run that is shorter than that
            over = ended.wait(_SAMPLE_S)
            most = max(most, os.fstat(fd).st_blocks * 512)
        self.over.append(most - self.budget)

    def close(self) -> None:
        """End the process."""
        self._pager.close()


def _in_order(pages: int, draw: random.Random) -> list[int]:
    del draw
    return list(range(pages))


def _at_random(pages: int, draw: random.Random) -> list[int]:
    return [draw.randrange(pages) for _ in range(pages)]


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    size = run.size(run.mib * MIB, 8 * MIB)
    if not run.fits("budget", 3 * size):
        return
    if run.umap is None:
        print("  skipped: no UMap (build it, and name its folder by --umap)")
    run.native.warm(2 * size)
    with Image.file(run.directory, size // PAGE, run.native) as image:
        _case(run, image, "every byte in order", None, size // 4, Target(">=", 0.6), None)
        order = (_in_order, Target(">=", 2))
        _case(run, image, "pages in order", order[0], size // 4, Target(">=", 0.6), order[1])
        half = Target(">=", 0.5)
        _case(run, image, "pages at random", _at_random, size * 4 // 5, half, order[1])
    unbind()


def _case(
    run: Run,
    image: Image,
    says: str,
    order_of: Callable[[int, random.Random], list[int]] | None,
    budget: int,
    target: Target,
    against_umap: Target | None,
) -> None:
    hashes: dict[str, int] = {}
    with ExitStack() as stack:
        ours = {
            "with": stack.enter_context(closing(_Side(budget))),
            "without": stack.enter_context(closing(_Side(0))),
        }
        umaps: dict[str, Umap] = {}
        if run.umap is not None and order_of is not None:
            for name, page in (("UMap 4 KiB", 4 * KIB), ("UMap 256 KiB", 256 * KIB)):
                side = Umap(run.native, run.umap, image, page, buffer=budget // page)
                umaps[name] = stack.enter_context(closing(side))
        placement = placements()["free"]

        def turn(name: str, number: int) -> float:
            order = array("I", order_of(image.pages, random.Random(number)) if order_of else [])
            image.ensure_cached()
            if name in umaps:
                took, hashes[name] = umaps[name].touch(order, placement.client)
                return took * 1e3
            placement.put(ours[name].pid)
            start = time.perf_counter()
            with ours[name].mapped(image) as address:
                if order_of is None:
                    hashes[name] = run.native.hash(address, image.length)
                else:
                    hashes[name] = run.native.touch(address, order, PAGE)
                took = time.perf_counter() - start
            return took * 1e3

        figures = alternate(run.rounds, [*ours, *umaps], turn)
        run.checks.same(f"budget {says}", hashes)
    case = f"{says}, {image.length // MIB} MiB in {budget // MIB}"
    rivals: list[tuple[str, str, Target | None]] = [("without", "no budget", target)]
    if umaps:
        best = min(umaps, key=lambda name: statistics.median(figures[name]))
        rivals.append((best, best, against_umap))
    for name, called, wanted in rivals:
        row = Row("budget", case, "ms", 0.0, rival_name=called, note=ours["with"].note,
                  ratio_of=f"times as fast as {called}", target=wanted)  # fmt: skip
        run.rows.append(compare(row, figures["with"], figures[name], inverse=True))
    over = max(ours["with"].over) / MIB
    most = Target("<=", _OVER / MIB)
    run.rows.append(Row("budget", f"{case}: most beyond it", "MiB", over, target=most))
