"""Scenes of one pager with many mappings and many threads, for `helpers.child`."""

from __future__ import annotations

import contextlib
import ctypes
import random
import threading
from pathlib import Path
from typing import Any

import userfault
from helpers.pages import PAGE, numbers
from pager_live import functions
from userfault import LazyMemory, Policy, lazy, zero
from userfault.kernel.memtypes import GIB

DEMAND = Policy(background=False, window_bytes=PAGE)
THREADS = 16

_memchr = ctypes.CDLL(None).memchr  # releases the interpreter's lock while it waits


def touch(mapped: LazyMemory, page: int) -> None:
    """Wait until a page is there."""
    _memchr(ctypes.c_void_p(mapped.address + page * PAGE), 0, 1)


def by_threads(orders: list[list[tuple[LazyMemory, int]]]) -> list[threading.Thread]:
    """A thread for each order of touches."""

    def work(order: list[tuple[LazyMemory, int]]) -> None:
        for mapped, page in order:
            touch(mapped, page)

    threads = [threading.Thread(target=work, args=(order,), daemon=True) for order in orders]
    for thread in threads:
        thread.start()
    return threads


def shuffled(mappings: list[LazyMemory], pages: int) -> list[list[tuple[LazyMemory, int]]]:
    """Every thread touches every page of every mapping, each in an order of its own."""
    orders = []
    for number in range(THREADS):
        order = [(mapped, page) for mapped in mappings for page in range(pages)]
        random.Random(number).shuffle(order)
        orders.append(order)
    return orders


def right(mapped: LazyMemory, pages: int) -> bool:
    """Whether its first pages show the image."""
    return numbers(mapped[: pages * PAGE]) == list(range(1, pages + 1))


def beside_a_stream(image: str, mappings: int, pages: int) -> dict[str, Any]:
    """One mapping of very many pages is filled in the background; 16 threads fault in all others.

    What is counted when the threads are done: the stream went on, and has not had its way.
    """
    with contextlib.ExitStack() as stack:
        pager = stack.enter_context(userfault.Pager())
        stream = stack.enter_context(lazy(zero(16 * GIB), pager=pager))
        others = [
            stack.enter_context(lazy(image, pager=pager, policy=DEMAND))
            for _ in range(mappings - 1)
        ]
        before = stream.statistics().counters.background
        for thread in by_threads(shuffled(others, pages)):
            thread.join()
        streamed = stream.statistics().counters.background - before
        unfinished = not stream.statistics().finished
        counters = [mapped.statistics().counters for mapped in others]
        return {
            "right": sum(right(mapped, pages) for mapped in others),
            "copied": [each.copied for each in counters],
            "streamed": streamed,
            "unfinished": unfinished,
        }


def completed_beside_faults(image: str) -> dict[str, Any]:
    """Faults in one mapping never cease; another is completed in the background."""
    with contextlib.ExitStack() as stack:
        pager = stack.enter_context(userfault.Pager())
        faulting = stack.enter_context(lazy(zero(64 * GIB), pager=pager, policy=DEMAND))
        other = stack.enter_context(lazy(image, pager=pager, policy=DEMAND))
        stop = threading.Event()

        def fault(number: int) -> None:
            dice = random.Random(number)
            while not stop.is_set():
                touch(faulting, dice.randrange(64 * GIB // PAGE))

        threads = [threading.Thread(target=fault, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        before = faulting.statistics().counters.faults
        other.complete(timeout=60)
        faults = faulting.statistics().counters.faults - before
        stop.set()
        for thread in threads:
            thread.join()
        return {"right": right(other, 2048), "faults": faults}


def reads_in_flight(folder: str, limit: int, mappings: int, pages: int) -> dict[str, Any]:
    """Function sources of one pager, touched by 16 threads, with few places among them."""
    source = userfault.function(functions.counted, pages * PAGE, folder=folder)
    with contextlib.ExitStack() as stack:
        pager = stack.enter_context(userfault.Pager(in_flight=limit))
        held = [
            stack.enter_context(lazy(source, pager=pager, policy=DEMAND)) for _ in range(mappings)
        ]
        for thread in by_threads(shuffled(held, pages)):
            thread.join()
        found = held[0].statistics()
        return {
            "right": sum(right(mapped, pages) for mapped in held),
            "fetches": [mapped.statistics().counters.fetches for mapped in held],
            "most": found.most_in_flight,
            "most_seen": max(int(name.name) for name in (Path(folder) / "seen").iterdir()),
        }


def beside_sources_that_hang(gate: str, pages: int) -> dict[str, Any]:
    """Sources that answer nothing hold all the places that they may; others are read as ever."""
    hanging = userfault.function(functions.gated, 64 * PAGE, gate=gate, closed=-1)
    good = userfault.function(functions.numbered, 64 * PAGE)
    with contextlib.ExitStack() as stack:
        pager = stack.enter_context(userfault.Pager(in_flight=8))
        stuck = [stack.enter_context(lazy(hanging, pager=pager, policy=DEMAND)) for _ in range(2)]
        well = [stack.enter_context(lazy(good, pager=pager, policy=DEMAND)) for _ in range(2)]
        waiting = by_threads([[(mapped, page)] for mapped in stuck for page in range(4)])
        while stuck[0].statistics().most_in_flight < 6:
            pass
        for thread in by_threads([[(mapped, page) for page in range(pages)] for mapped in well]):
            thread.join()
        found = {
            "right": [right(mapped, pages) for mapped in well],
            "hang_still": sum(thread.is_alive() for thread in waiting),
        }
        Path(gate).touch()
        for thread in waiting:
            thread.join()
        found["right_at_last"] = [right(mapped, 4) for mapped in stuck]
        return found
