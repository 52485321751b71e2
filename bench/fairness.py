"""Fairness: how much longer does a fault take while another mapping of the same pager streams?

One thread touches pages of a mapping in random order, as in `latency`.  It is alone; or another
mapping of the same pager is filled in the background all the while, by copies of a cached file; or
15 threads of the same client fault in that other mapping, page by page.  The figure is what a
touch takes with the stream, the ratio is to what it takes alone: of the median, and of the 99th
percentile.  Pages that were filled in the stream meanwhile are counted: none would mean that it
starved (the run fails then), all that there was nothing to compare with (the run fails too).

With 16 threads on one or two CPUs a thread whose fault is filled also waits for a CPU: the higher
percentiles of the last case are the scheduler's.

Not asked here: C (which has one mapping); sources that are read by threads or workers.
"""

from __future__ import annotations

import ctypes
import statistics
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import msgspec

import userfault
from bench.images import PAGE, Image
from bench.latency import shuffled
from bench.machine import Placement, placements, unbind
from bench.measure import Row, alternate, compare, percentile
from bench.run import Run
from bench.sides import DEMAND, Ours
from userfault.kernel.memtypes import GIB, MIB

THREADS = 15
TRIES = 10  # of a turn in which the stream was not beside what is measured


def run(run: Run) -> None:
    """Rows into `run.rows`."""
    touched, streamed = run.size(32 * MIB, 4 * MIB), run.size(2 * GIB, 512 * MIB)
    if not run.fits("fairness", 2 * streamed + 2 * touched):
        return
    run.native.warm(streamed)
    with (
        Image.file(run.directory, touched // PAGE, run.native) as image,
        Image.file(run.directory, streamed // PAGE, run.native) as large,
        closing(Ours(DEMAND)) as side,
    ):
        for placement in placements().values():
            _compared(run, image, large, side, placement)
        unbind()


def _compared(run: Run, image: Image, large: Image, side: Ours, placement: Placement) -> None:
    tails: dict[str, list[float]] = {name: [] for name in STREAMS}
    hashes: dict[str, int] = {}

    def turn(name: str, number: int) -> float:
        for _ in range(TRIES - 1):
            with suppress(_NotBesideError):  # whoever measures was not given the processor
                return once(name, number)
        return once(name, number)

    def once(name: str, number: int) -> float:
        image.ensure_cached()
        placement.put(side.pid)
        with STREAMS[name](side, large), side.mapped(image) as memory:
            touches = shuffled(image.pages, number)
            hashes[name], took_ns = run.native.touch_timed(memory.address, touches, PAGE)
        if number:
            tails[name].append(percentile(list(took_ns), 0.99) / 1e3)
        return statistics.median(took_ns) / 1e3

    medians = alternate(run.rounds, STREAMS, turn)
    run.checks.same(f"fairness {placement.name}", hashes)
    for name in [name for name in STREAMS if name != "alone"]:
        for what, figures in (("p50", medians), ("p99", tails)):
            row = Row(
                "fairness",
                f"{placement.says}; {name}",
                f"µs, {what}",
                0.0,
                ratio_of="with the stream / alone",
                note=f"alone: {statistics.median(figures['alone']):.1f} µs",
            )
            row = compare(row, figures[name], figures["alone"])
            run.rows.append(msgspec.structs.replace(row, rival=0.0))


@contextmanager
def _alone(_side: Ours, _large: Image) -> Iterator[None]:
    yield


@contextmanager
def _background(side: Ours, large: Image) -> Iterator[None]:
    with side.beside(large, userfault.Policy()) as memory:
        yield
        _went_on(memory)


@contextmanager
def _faults(side: Ours, large: Image) -> Iterator[None]:
    one_by_one = userfault.Policy(background=False, window_bytes=PAGE)
    with side.beside(large, one_by_one) as memory:
        stop = threading.Event()
        each = large.pages // THREADS
        threads = [
            threading.Thread(target=_touch, args=(memory.address, n * each, each, stop))
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        _went_on(memory)


def _touch(address: int, first: int, count: int, stop: threading.Event) -> None:
    memchr = ctypes.CDLL(None).memchr  # releases the interpreter's lock while it waits
    for page in range(first, first + count):
        if stop.is_set():
            return
        memchr(ctypes.c_void_p(address + page * PAGE), 0, 1)


class _NotBesideError(AssertionError):
    """The stream had not begun, or was over, when the other mapping had been measured."""


def _went_on(memory: userfault.LazyMemory) -> None:
    held = memory.statistics()
    if not held.counters.copied or held.finished:
        raise _NotBesideError(f"the stream copied {held.counters.copied} of {held.pages} pages")


STREAMS = {
    "alone": _alone,
    "another mapping filled in the background": _background,
    f"{THREADS} threads fault in another mapping": _faults,
}
