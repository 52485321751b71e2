"""Latency: how long does one fault take, compared with a handler in C?

One thread touches pages of anonymous memory, one at a time, in random order; the source is a file
in the page cache.  Ours has no background fill, and the pages lie so that no two are neighbours:
each fault fills one page on both sides (the run fails otherwise).  Both handlers sleep until a
fault comes.  The figure is the median over all touches of a round.

Not asked here: throughput, larger windows, faults of many threads at once, a source on a disk.
Two CPUs: nearly all of that time is the kernel waking a CPU that sleeps, in C as in Python.
"""

from __future__ import annotations

import random
import statistics
from array import array
from contextlib import closing

from bench.images import PAGE, Image
from bench.machine import Placement, placements, unbind
from bench.measure import Row, Target, alternate, compare, percentile
from bench.run import Run
from bench.sides import Ours, Rival, Side

TARGETS = {"same": Target("<=", 2.2), "other": Target("<=", 1.15), "free": None}
_APART = 4  # every fourth page is touched: no stream of neighbours can be seen in it


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    touches = run.size(4000, 200)
    image_pages = touches * _APART
    run.native.warm(3 * image_pages * PAGE)
    with (
        Image.file(run.directory, image_pages, run.native) as image,
        closing(Ours()) as ours,
        closing(Rival(run.native)) as rival,
    ):
        for placement in placements().values():
            _placed(run, image, {"ours": ours, "C": rival}, placement)
    unbind()


def _placed(run: Run, image: Image, sides: dict[str, Side], placement: Placement) -> None:
    hashes: dict[str, int] = {}
    tails: dict[str, list[float]] = {name: [] for name in sides}

    def turn(name: str, number: int) -> float:
        touches = order(image.pages, number)
        side = sides[name]
        placement.put(side.pid)
        image.ensure_cached()
        with side.mapped(image) as memory:
            hashes[name], took_ns = run.native.touch_timed(memory.address, touches, PAGE)
            _, faults = memory.counts()
        if faults != len(touches):
            raise AssertionError(f"{name}: {len(touches)} touches made {faults} faults")
        tails[name].append(percentile(list(took_ns), 0.99) / 1e3)
        return statistics.median(took_ns) / 1e3

    figures = alternate(run.rounds, sides, turn)
    run.checks.same(f"latency {placement.name}", hashes)
    p99 = {name: statistics.median(tail[1:]) for name, tail in tails.items()}
    row = Row(
        "latency",
        placement.says,
        "µs, p50",
        0.0,
        ratio_of="ours / C",
        target=TARGETS[placement.name],
        note=f"p99: ours {p99['ours']:.1f} µs, C {p99['C']:.1f} µs",
    )
    run.rows.append(compare(row, figures["ours"], figures["C"]))


def order(pages: int, seed: int) -> array[int]:
    """Every fourth page, in an order of its own for each seed."""
    found = list(range(0, pages, _APART))
    random.Random(seed).shuffle(found)
    return array("I", found)
