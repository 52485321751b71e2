"""Start: how long from calling `lazy()` to the first byte?

With a pager of its own (a new process), and with one that runs already.  The rival is the handler
in C, started and shaken hands with in the same way: its times show what of ours is the start of
an interpreter.  The targets are absolute, for ours alone.

Not asked here: the cost of the first import of the package in the client.
"""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable

from bench.images import PAGE, Image
from bench.machine import unbind
from bench.measure import Row, Target, alternate, percentile
from bench.run import Run
from bench.sides import Ours, Rival, Side

_FIRST = array("I", [0])


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    rounds = max(run.rounds, run.size(30, 2))
    unbind()
    with Image.file(run.directory, run.size(65536, 256), run.native) as image:
        new: dict[str, Callable[[], Side]] = {"ours": Ours, "C": lambda: Rival(run.native)}
        _case(run, image, new, rounds, Target("<=", 100), shared=False)
        _case(run, image, new, rounds, Target("<=", 3), shared=True)


def _case(
    run: Run,
    image: Image,
    makers: dict[str, Callable[[], Side]],
    rounds: int,
    target: Target,
    *,
    shared: bool,
) -> None:
    hashes: dict[str, int] = {}
    running = {name: make() for name, make in makers.items()} if shared else {}

    def turn(name: str, _: int) -> float:
        image.ensure_cached()
        start = time.perf_counter()
        side = running[name] if shared else makers[name]()
        with side.mapped(image) as memory:
            hashes[name] = run.native.touch(memory.address, _FIRST, PAGE)
            took = time.perf_counter() - start
        if not shared:
            side.close()
        return took * 1e3

    figures = alternate(rounds, makers, turn)
    for side in running.values():
        side.close()
    what = "shared pager" if shared else "new pager"
    run.checks.same(f"start {what}", hashes)
    tails = {name: percentile(held, 0.95) for name, held in figures.items()}
    for label, ours, theirs in (
        ("median", statistics.median(figures["ours"]), statistics.median(figures["C"])),
        ("p95", tails["ours"], tails["C"]),
    ):
        run.rows.append(
            Row("start", f"{what}, {label}", "ms", ours, theirs, target=target, rounds=rounds)
        )
