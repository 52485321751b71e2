"""Patterns: what do larger windows and background fill gain or lose, by the order of touches?

A thread touches pages of a large image: in order; in runs of ten pages at random places; at
random places.  The figure is the time until all touches are done, with the default policy and
without background fill, against a handler in C that fills one page a fault.  The ratio says how
many times faster ours is.  Pages filled for nothing are those that are present when the last
touch is done and were never touched.

Not asked here: what the pages filled ahead are good for later; several threads; a slow source
(there the gain of filling ahead is larger).
"""

from __future__ import annotations

import random
import statistics
import time
from array import array
from collections.abc import Callable
from contextlib import closing

import msgspec

import userfault
from bench.images import PAGE, Image
from bench.machine import Placement, placements, unbind
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from bench.sides import DEMAND, Ours, Rival, Side
from userfault.kernel.memtypes import GIB, MIB, size_name

RUN = 10


class Pattern(msgspec.Struct, frozen=True):
    """An order of touches.  `order(pages, touches, chance)`; `target`: times faster than C."""

    says: str
    order: Callable[[int, int, random.Random], list[int]]
    touches: int
    target: Target


def _in_order(pages: int, touches: int, chance: random.Random) -> list[int]:
    start = chance.randrange(pages - touches + 1)
    return list(range(start, start + touches))


def _in_runs(pages: int, touches: int, chance: random.Random) -> list[int]:
    starts = chance.sample(range(0, pages - RUN, RUN), touches // RUN)
    return [start + step for start in starts for step in range(RUN)]


def _uniform(pages: int, touches: int, chance: random.Random) -> list[int]:
    return chance.sample(range(pages), touches)


PATTERNS = (
    Pattern("in order", _in_order, 65536, Target(">=", 3)),
    Pattern("runs of 10", _in_runs, 30000, Target(">=", 1.5)),
    Pattern("uniform", _uniform, 30000, Target(">=", 0.9)),
)


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    size = run.size(GIB, 32 * MIB)
    if not run.fits("patterns", 4 * size):
        return
    run.native.warm(2 * size)
    with (
        Image.file(run.directory, size // PAGE, run.native) as image,
        closing(Ours(userfault.Policy())) as default,
        closing(Ours(DEMAND)) as demand,
        closing(Rival(run.native)) as rival,
    ):
        sides: dict[str, Side] = {"default": default, "demand": demand, "C": rival}
        for placement in placements().values():
            for pattern in PATTERNS:
                _pattern(run, image, sides, placement, pattern)
    unbind()


def _pattern(
    run: Run, image: Image, sides: dict[str, Side], placement: Placement, pattern: Pattern
) -> None:
    hashes: dict[str, int] = {}
    wasted: dict[str, list[int]] = {name: [] for name in sides}
    faults: dict[str, list[int]] = {name: [] for name in sides}
    touches = run.size(pattern.touches, 300)

    def turn(name: str, number: int) -> float:
        order = array("I", pattern.order(image.pages, touches, random.Random(number)))
        side = sides[name]
        placement.put(side.pid)
        image.ensure_cached()
        with side.mapped(image) as memory:
            start = time.perf_counter()
            hashes[name] = run.native.touch(memory.address, order, PAGE)
            took = time.perf_counter() - start
            present, met = memory.counts()
        wasted[name].append(max(present - len(order), 0))
        faults[name].append(met)
        return took * 1e3

    figures = alternate(run.rounds, sides, turn)
    run.checks.same(f"patterns {pattern.says}, {placement.name}", hashes)
    for name, says in (("default", "default policy"), ("demand", "background=False")):
        row = Row(
            "patterns",
            f"{pattern.says} ({touches} of {size_name(image.length)}), {says}, {placement.says}",
            "ms",
            0.0,
            ratio_of="times as fast as C",
            target=pattern.target,
            note=f"{statistics.median(faults[name]):.0f} faults,"
            f" {statistics.median(wasted[name]):.0f} pages for nothing",
        )
        run.rows.append(compare(row, figures[name], figures["C"], inverse=True))
