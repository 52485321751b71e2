"""Windows: is what comes with a fault worth what it costs, for touches that nobody can foresee?

A thread touches pages of an image in the page cache: a quarter of them at random places, the same
in runs of ten, in order, and one page in a hundred.  The figure is the time until all touches are
done, the making of the mapping with them, of our default without background fill.  Its rivals, in
the same run: windows that grow with order alone (`fill_around="order"`), and UMap (`--umap FOLDER`)
with pages of 4 KiB and of 256 KiB, of which the better one counts.  The default policy, with
background fill, has rows of its own.

Not asked here: several threads; a slow source; what pages filled ahead are good for later.
"""

from __future__ import annotations

import random
import statistics
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack, closing

import userfault
from bench.images import PAGE, Image
from bench.machine import Placement, placements, unbind
from bench.measure import Row, Target, alternate, compare
from bench.run import Run
from bench.sides import DEMAND, Ours
from bench.umap import Umap
from userfault.kernel.memtypes import KIB, MIB

RUN = 10
_ORDER = userfault.Policy(background=False, fill_around="order")

Order = Callable[[int, random.Random], list[int]]


def _quarter(pages: int, chance: random.Random) -> list[int]:
    return chance.sample(range(pages), pages // 4)


def _runs(pages: int, chance: random.Random) -> list[int]:
    starts = chance.sample(range(0, pages - RUN, RUN), pages // 4 // RUN)
    return [start + step for start in starts for step in range(RUN)]


def _in_order(pages: int, chance: random.Random) -> list[int]:
    del chance
    return list(range(pages))


def _sparse(pages: int, chance: random.Random) -> list[int]:
    return chance.sample(range(pages), pages // 100)


# Times as fast as UMap's better size, and as windows by order (0: no target).
PATTERNS: dict[str, tuple[Order, float, float]] = {
    "a quarter of the pages at random": (_quarter, 1.0, 0.0),
    "a quarter in runs of ten": (_runs, 1.0, 0.0),
    "all in order": (_in_order, 1.0, 0.0),
    "1 in 100 at random": (_sparse, 0.0, 0.9),
}


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    size = run.size(run.mib * MIB, 8 * MIB)
    if not run.fits("windows", 5 * size):
        return
    if run.umap is None:
        print("  skipped: no UMap (build it, and name its folder by --umap)")
    run.native.warm(2 * size)
    with ExitStack() as stack:
        image = stack.enter_context(Image.file(run.directory, size // PAGE, run.native))
        ours = {"demand": DEMAND, "default": userfault.Policy(), "order": _ORDER}
        sides: dict[str, Ours | Umap] = {
            name: stack.enter_context(closing(Ours(policy))) for name, policy in ours.items()
        }
        if run.umap is not None:
            for name, page in (("UMap 4 KiB", 4 * KIB), ("UMap 256 KiB", 256 * KIB)):
                side = Umap(run.native, run.umap, image, page)
                sides[name] = stack.enter_context(closing(side))
        found = placements()
        for placement in (found["free"], found["same"]):
            for says in PATTERNS:
                _pattern(run, image, sides, placement, says)
    unbind()


def _pattern(
    run: Run, image: Image, sides: dict[str, Ours | Umap], placement: Placement, says: str
) -> None:
    order_of, against_umap, against_order = PATTERNS[says]
    hashes: dict[str, int] = {}
    seen: dict[str, list[tuple[int, int]]] = {name: [] for name in sides}

    def turn(name: str, number: int) -> float:
        order = array("I", order_of(image.pages, random.Random(number)))
        side = sides[name]
        image.ensure_cached()
        if isinstance(side, Umap):
            took, hashes[name] = side.touch(order, placement.client)
            return took * 1e3
        placement.put(side.pid)
        start = time.perf_counter()
        with side.mapped(image) as memory:
            hashes[name] = run.native.touch(memory.address, order, PAGE)
            took = time.perf_counter() - start
            present, faults = memory.counts()
        seen[name].append((faults, max(present - len(order), 0)))
        return took * 1e3

    figures = alternate(run.rounds, sides, turn)
    run.checks.same(f"windows {says}, {placement.name}", hashes)
    for name, policy in (("demand", "background=False"), ("default", "default policy")):
        case = f"{says} of {image.length // MIB} MiB, {policy}, {placement.says}"
        faults, wasted = (statistics.median(each) for each in zip(*seen[name], strict=True))
        note = f"{faults:.0f} faults, {wasted:.0f} pages for nothing"
        better = min(
            (rival for rival in sides if rival.startswith("UMap")),
            key=lambda rival: statistics.median(figures[rival]),
            default="",
        )
        demand = name == "demand"
        rivals = [("order", against_order if demand else 0.0)]
        rivals += [(better, against_umap)] if better else []
        for rival, target in rivals:
            row = Row(
                "windows",
                case,
                "ms",
                0.0,
                rival_name="order alone" if rival == "order" else rival,
                ratio_of=f"times as fast as {'order alone' if rival == 'order' else rival}",
                target=Target(">=", target) if target else None,
                note=f"beside {'order alone' if rival == 'order' else rival}: {note}",
            )
            run.rows.append(compare(row, figures[name], figures[rival], inverse=True))
