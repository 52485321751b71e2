"""A client whose program has settings of its own: scenes for `helpers.child`."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import threading
import time
from typing import Any

import userfault
from helpers.family import member
from helpers.pages import PAGE, numbers
from userfault import Policy, lazy
from userfault.pager.core.states import MISSING

DEMAND = Policy(background=False)


def default_timeout(image: str, seconds: float) -> dict[str, Any]:
    """A pager that answers later than the program's sockets wait is waited for."""
    socket.setdefaulttimeout(seconds)
    with lazy(image, policy=DEMAND) as memory:
        memory.prefetch(0, PAGE)
        members = list(memory._parts.pager.processes().values())
        for pid in members:
            os.kill(pid, signal.SIGSTOP)
        on = threading.Timer(10 * seconds, _let_run, (members,))
        on.start()
        begun = time.monotonic()
        memory.prefetch(PAGE, 2 * PAGE)
        waited = time.monotonic() - begun > 5 * seconds
        on.join()
        memory.complete(timeout=60)
        return {"waited": waited, "page": numbers(memory[PAGE : 2 * PAGE])}


def _let_run(members: list[int]) -> None:
    for pid in members:
        os.kill(pid, signal.SIGCONT)


def children_are_not_waited_for(image: str) -> dict[str, Any]:
    """SIGCHLD ignored, as daemons do: the kernel reaps, also our first process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with lazy(image, policy=DEMAND) as memory:
        page = numbers(memory[PAGE : 2 * PAGE])
        os.kill(member(memory._parts.pager, "worker"), signal.SIGKILL)
        memory.complete(timeout=60)
        last = numbers(memory[9 * PAGE : 10 * PAGE])
    return {"pages": page + last, "children": _children()}


def somebody_reaps_every_child(image: str) -> dict[str, Any]:
    """A handler of SIGCHLD that waits for whoever has ended, and a child with the id of ours."""

    def reap(*_: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, reap)
    with lazy(image, policy=DEMAND) as memory:
        page = numbers(memory[PAGE : 2 * PAGE])
    return {"pages": page, "children": _children()}


def cpu_of_the_program(cpu: int) -> bool:
    """Asking whether a pager may run on a CPU binds nobody to it."""
    before = os.sched_getaffinity(0)
    with userfault.Pager(cpu=cpu):
        return os.sched_getaffinity(0) == before


def real_time(image: str) -> dict[str, Any]:
    """A client in real time whose CPU its pager has to share with it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError as error:
        return {"lacking": f"no real-time priority is to be had: {error}"}
    with lazy(image) as memory:
        left = memory.page_states[:].count(MISSING)
        policies = [
            os.sched_getscheduler(pid) for pid in memory._parts.pager.processes().values() if pid
        ]
        memory.complete(timeout=60)
        return {
            "some left": left > 0,
            "inherited": set(policies) == {os.SCHED_FIFO},
            "page": numbers(memory[PAGE : 2 * PAGE]),
        }


def _children() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def under_gevent(image: str) -> dict[str, Any]:
    """All of the standard library that gevent replaces."""
    gevent = importlib.import_module("gevent")
    importlib.import_module("gevent.monkey").patch_all()

    ticks: list[int] = []
    stop: list[int] = []

    def tick() -> None:
        while not stop:
            ticks.append(1)
            gevent.sleep(0.001)

    ticker = gevent.spawn(tick)
    gevent.sleep(0.01)
    before = os.sched_getaffinity(0)
    with userfault.Pager(cpu=min(before)) as pager:
        found = gevent.spawn(_served, image, pager).get()
        same = os.sched_getaffinity(0) == before
    own = gevent.spawn(_served, image, None).get()
    memory = lazy(image, policy=DEMAND)
    hold, release = os.pipe()  # gevent hears of no child that ended before fork() has returned
    pid = os.fork()
    if pid == 0:
        memory.close()
        os.read(hold, 1)
        os._exit(0)
    os.write(release, b"x")
    status = os.waitpid(pid, 0)[1]
    last = numbers(memory[9 * PAGE : 10 * PAGE])
    del memory
    stop.append(1)
    ticker.join()
    return {
        "pages": [found, own, last], "same": same, "child": status, "ticks": len(ticks) > 1,
        "children": _children(),
    }  # fmt: skip


def _served(image: str, pager: userfault.Pager | None) -> list[int]:
    with lazy(image, policy=DEMAND, pager=pager) as memory:
        page = numbers(memory[PAGE : 2 * PAGE])
        memory.complete(timeout=60)
        memory.check()
        return page + numbers(memory[2 * PAGE : 3 * PAGE])


def under_uvloop(image: str) -> dict[str, Any]:
    """Inside of a loop, with a child of the loop's own beside ours."""
    uvloop = importlib.import_module("uvloop")

    async def main() -> list[int]:
        with lazy(image, policy=DEMAND) as memory:
            other = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
            page = numbers(memory[PAGE : 2 * PAGE])
            await asyncio.to_thread(memory.complete, 60)
            return [*page, await other.wait()]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return {"pages": runner.run(main()), "children": _children()}
