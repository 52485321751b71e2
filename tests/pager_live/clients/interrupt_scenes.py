"""Clients that are interrupted while a thread waits for a page: scenes for `helpers.child`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

import userfault
from helpers.pages import PAGE
from pager_live import functions
from userfault import Policy, lazy

PAGES = 4096


def slow_source(gate: str) -> Any:
    """Pages that come when the file `gate` is there: as good as never."""
    return userfault.function(functions.gated, PAGES * PAGE, gate=gate, closed=-1)


def opened_in(gate: str, seconds: float) -> None:
    """(By a process: a thread would need the GIL.)"""
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; touch '{gate}'"])


def sums_a_slow_array(gate: str, report: str, on_interrupt: str) -> None:
    """NumPy holds the GIL while it touches what does not come."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    policy = Policy(background=False, on_interrupt=on_interrupt)
    array = userfault.lazy_array(slow_source(gate), dtype="u8", policy=policy)
    Path(report).write_text("waits soon")
    try:
        print("the sum is", np.add.reduce(array), flush=True)
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)


def handles_them_itself(gate: str) -> list[str]:
    """The program's handlers run as ever, and its own wakeup descriptor stays its own."""
    heard: list[str] = []
    read, write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGINT, lambda *_: heard.append("handler"))
    with lazy(slow_source(gate), policy=Policy(background=False)):
        os.kill(os.getpid(), signal.SIGINT)
        heard.append(f"read {os.read(read, 10)!r}")
    heard.append(f"still ours {signal.set_wakeup_fd(-1) == write}")
    return heard


def in_a_loop(gate: str) -> list[str]:
    """asyncio's own way of handling signals, begun before and after."""
    heard: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, done.set)
        with lazy(slow_source(gate), policy=Policy(background=False)):
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.wait_for(done.wait(), 20)
            heard.append("heard")

    memory = lazy(slow_source(gate), policy=Policy(background=False))
    asyncio.run(main())
    memory.close()
    return heard


def interrupted_before(gate: str) -> dict[str, Any]:
    """SIGINTs that Python has acted on do not count for a wait that comes later."""
    caught = 0
    with lazy(slow_source(gate), policy=Policy(background=False)) as memory:
        for _ in range(3):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            except KeyboardInterrupt:
                caught += 1
        opened_in(gate, 1.5)
        return {"caught": caught, "page": memory[0]}


def child_is_interrupted(gate: str) -> dict[str, Any]:
    """A forked child's SIGINTs are its own."""
    with lazy(slow_source(gate), policy=Policy(background=False)) as memory:
        opened_in(gate, 2)
        pid = os.fork()
        if pid == 0:
            caught = 0
            for _ in range(4):
                try:
                    time.sleep(0.2)
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(5)
                except KeyboardInterrupt:
                    caught += 1
            os._exit(caught)
        page = memory[0]
        return {"page": page, "child": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
