"""Latency: how long does one fault take, and what CPU time does it cost, beside a handler in C?

One thread touches pages of anonymous memory, one after the other; the source is a file in the page
cache.  Ours has no background fill.  In random order the pages lie so that no two are neighbours:
each fault fills one page on both sides (the run fails otherwise), and the figure is the median over
all touches of a round.  In order ours fills more than one page a fault, and the figure is the mean.

Ours runs as shipped, and with a CPU given, asleep and polling.  C runs in each placement that it
can be given; "best C" is the lowest figure of any of them in the same round.  CPU time is that of
the handler's process, a fault.

Not asked here: throughput, faults of many threads at once, a source on a disk.  Where handler and
client have a CPU each, nearly all of the time is the kernel waking a CPU that sleeps, in C as in
Python.
"""

from __future__ import annotations

import random
import statistics
from array import array
from contextlib import ExitStack, closing

import msgspec

import userfault
from bench.images import PAGE, Image
from bench.machine import cpu_seconds, cpus, put, unbind
from bench.measure import Row, Target, alternate, compare, percentile
from bench.run import Run
from bench.sides import Ours, Rival, Side

AS_SHIPPED, POLLING = Target("<=", 2.2), Target("<=", 1.15)
_APART = 4  # every fourth page is touched: no stream of neighbours can be seen in it


class Contender(msgspec.Struct):
    """A side, where its client and (if not by itself) its handler are put, and what was found.

    One figure a round: `p99` of a touch and `cpu` of a fault in µs.
    """

    side: Side
    client: set[int]
    handler: set[int] | None = None
    p99: list[float] = []
    cpu: list[float] = []


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    touches = run.size(4000, 200)
    image_pages = touches * _APART
    run.native.warm(3 * image_pages * PAGE)
    with ExitStack() as stack:
        image = stack.enter_context(Image.file(run.directory, image_pages, run.native))
        contenders = _contenders(run, stack)
        _random_order(run, image, contenders)
        _in_order(run, image, contenders)
    unbind()


# Windows by cost would fill what the next touch is to be timed of.
_ORDER = userfault.Policy(background=False, fill_around="order")


def _contenders(run: Run, stack: ExitStack) -> dict[str, Contender]:
    every = cpus()
    first, last = {min(every)}, {max(every)}
    shipped = stack.enter_context(closing(Ours(_ORDER)))
    free = stack.enter_context(closing(Ours(_ORDER)))
    sleeping = stack.enter_context(closing(Rival(run.native)))
    found = {
        "ours": Contender(shipped, first),
        "ours, free": Contender(free, every),
        "C, same CPU": Contender(sleeping, first, first),
        "C, free": Contender(sleeping, every, every),
    }
    if len(every) > 1:
        away = max(every)
        ours_sleeps = stack.enter_context(closing(Ours(_ORDER, cpu=away, poll_budget=0)))
        ours_polls = stack.enter_context(closing(Ours(_ORDER, cpu=away, poll_budget=1)))
        polling = stack.enter_context(closing(Rival(run.native, polls=True)))
        found |= {
            "ours, other CPU": Contender(ours_sleeps, first),
            "ours, polling": Contender(ours_polls, first),
            "C, other CPU": Contender(sleeping, first, last),
            "C, polling": Contender(polling, first, last),
        }
    return found


def _random_order(run: Run, image: Image, contenders: dict[str, Contender]) -> None:
    hashes: dict[str, int] = {}

    def turn(name: str, number: int) -> float:
        order = shuffled(image.pages, number)
        hashes[name], took_us, faults = _touched(run, image, contenders[name], order)
        if faults != len(order):
            raise AssertionError(f"{name}: {len(order)} touches made {faults} faults")
        return statistics.median(took_us)

    figures = alternate(run.rounds, contenders, turn)
    run.checks.same("latency random order", hashes)
    rivals = [name for name in figures if name.startswith("C")]
    best = [min(figures[name][at] for name in rivals) for at in range(run.rounds)]
    best_name = min(rivals, key=lambda name: statistics.median(figures[name]))

    def row(case: str, ours: str, rival: str, target: Target | None, label: str = "C") -> None:
        against = best if label == "best C" else figures[rival]
        run.rows.append(
            compare(
                Row(
                    "latency",
                    case,
                    "µs, p50",
                    0.0,
                    ratio_of=f"ours / {label}",
                    target=target,
                    note=_tails(contenders[ours], contenders[rival], label),
                    cpu_us=(_cpu(contenders[ours]), _cpu(contenders[rival])),
                ),
                figures[ours],
                against,
            )
        )

    row("as shipped, client bound to a CPU", "ours", best_name, AS_SHIPPED, "best C")
    row("as shipped, nobody bound", "ours, free", best_name, AS_SHIPPED, "best C")
    row("nobody bound, C neither", "ours, free", "C, free", None)
    if "C, polling" in figures:
        row("polling on another CPU", "ours, polling", "C, polling", POLLING)
        row("sleeping on another CPU", "ours, other CPU", "C, other CPU", POLLING)


def _in_order(run: Run, image: Image, contenders: dict[str, Contender]) -> None:
    cases = {
        "ours": "as shipped, client bound to a CPU, touches in order",
        "ours, free": "as shipped, nobody bound, touches in order",
    }
    best = "C, same CPU"
    hashes: dict[str, int] = {}
    for name in (*cases, best):
        contenders[name].p99, contenders[name].cpu = [], []

    def turn(name: str, number: int) -> float:
        start = number * (image.pages // _APART // 8) % (image.pages - image.pages // _APART)
        order = array("I", range(start, start + image.pages // _APART))
        hashes[name], took_us, _ = _touched(run, image, contenders[name], order)
        return statistics.fmean(took_us)

    figures = alternate(run.rounds, [*cases, best], turn)
    run.checks.same("latency in order", hashes)
    for name, case in cases.items():
        ours, rival = contenders[name], contenders[best]
        row = Row(
            "latency",
            case,
            "µs, mean",
            0.0,
            ratio_of="ours / C",
            target=AS_SHIPPED,
            note=_tails(ours, rival, "C"),
            cpu_us=(_cpu(ours), _cpu(rival)),
        )
        run.rows.append(compare(row, figures[name], figures[best]))


def _touched(
    run: Run, image: Image, contender: Contender, order: array[int]
) -> tuple[int, list[float], int]:
    """Touch pages: a hash of what was read, µs of each touch, and how many faulted."""
    put(contender.client, contender.side.pid, contender.handler)
    image.ensure_cached()
    with contender.side.mapped(image) as memory:
        used = cpu_seconds(contender.side.pid)
        found, took_ns = run.native.touch_timed(memory.address, order, PAGE)
        used = cpu_seconds(contender.side.pid) - used
        _, faults = memory.counts()
    took_us = [took / 1e3 for took in took_ns]
    contender.p99.append(percentile(took_us, 0.99))
    contender.cpu.append(used * 1e6 / max(faults, 1))
    return found, took_us, faults


def _tails(ours: Contender, rival: Contender, label: str) -> str:
    p99 = [statistics.median(contender.p99[1:]) for contender in (ours, rival)]
    return f"p99: ours {p99[0]:.1f} µs, {label} {p99[1]:.1f} µs"


def _cpu(contender: Contender) -> float:
    return statistics.median(contender.cpu[1:])


def shuffled(pages: int, seed: int) -> array[int]:
    """Every fourth page, in an order of its own for each seed."""
    order = list(range(0, pages, _APART))
    random.Random(seed).shuffle(order)
    return array("I", order)
