"""Clients whose mapping is traced, for test_trace.py; each runs in a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import userfault
from helpers.family import member
from helpers.pages import PAGE, numbers
from helpers.waiting import wait_until
from userfault import Policy, lazy
from userfault.pager.core import trace
from userfault.pager.core.trace import Trace

SECOND_NS = 1_000_000_000


def recorded(path: str) -> Trace:
    return trace.decode(Path(path).read_bytes())


def faults(path: str) -> list[int]:
    return [record.page for record in recorded(path).records if record.what == trace.FAULT]


def touched(image: str, path: str, pages: list[int]) -> dict[str, Any]:
    """Every first touch, in order; what was filled, and what was told of the memory."""
    policy = Policy(background=False, window_bytes=1, trace=path)
    with lazy(image, policy=policy) as memory:
        right = [numbers(memory[page * PAGE : (page + 1) * PAGE]) == [page + 1] for page in pages]
    found = recorded(path)
    times = [record.time_ns for record in found.records]
    filled = [
        (record.page, record.extent, record.detail)
        for record in found.records
        if record.what == trace.FILLED
    ]
    header = found.header
    return {
        "right": all(right),
        "faults": faults(path),
        "filled": filled == [(page, 1, trace.DEMAND) for page in dict.fromkeys(pages)],
        "in time": times == sorted(times) and times[0] >= 0 and times[-1] < 60 * SECOND_NS,
        "header": [header.pages, header.page_size, header.memory, header.source, header.touches],
    }


def worker_killed(image: str, path: str) -> dict[str, Any]:
    """What was written stays, another worker records on and says so."""
    policy = Policy(background=False, window_bytes=1, trace=path)
    with userfault.Pager() as pager, lazy(image, policy=policy, pager=pager) as memory:
        memory[3 * PAGE]
        wait_until(lambda: faults(path) == [3])
        worker = member(pager, "worker")
        os.kill(worker, signal.SIGKILL)
        member(pager, "worker", but=worker)
        memory[7 * PAGE]
    resumed = [record.what for record in recorded(path).records].count(trace.RESUMED)
    return {"faults": faults(path), "resumed": resumed}


def one_path_for_two(image: str, path: str) -> list[str]:
    """The second mapping is refused while the first one lives, and not after that."""
    policy = Policy(background=False, trace=path)
    told = []
    with userfault.Pager() as pager:
        with lazy(image, policy=policy, pager=pager):
            try:
                lazy(image, policy=policy, pager=pager)
            except userfault.UsageError as error:
                told.append(str(error.cause))
        with lazy(image, policy=policy, pager=pager) as memory:
            memory[PAGE]
    return told + [str(page) for page in faults(path)]


def no_file(image: str, path: str) -> str:
    """Why nothing can be recorded there."""
    try:
        lazy(image, policy=Policy(trace=path))
    except userfault.UsageError as error:
        return str(error)
    return "it can"
