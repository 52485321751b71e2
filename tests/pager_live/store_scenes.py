"""Clients that are restored from a store, for test_store.py; each in a process of its own."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import userfault
from helpers.pages import PAGE
from helpers.skips import need_root
from helpers.stores import memory, store
from pager_live.takeover_scenes import complete_again
from userfault import Policy, lazy
from userfault.linux import libc

DEMAND = Policy(background=False, retries=0)


def touch(snapshot: str, page: int) -> None:
    """Ends by SIGBUS."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with lazy(snapshot, policy=DEMAND) as mapped:
        libc.read_memory(mapped.address + page * PAGE, 1)


def killed(snapshot: str, expected: str, memory: str) -> dict[str, Any]:
    """The worker is killed again and again while pages are touched and filled in the background."""
    image = Path(expected).read_bytes()
    dice = random.Random(7)
    right = True
    kills = 0
    with userfault.Pager() as pager:
        for policy in (DEMAND, Policy()):
            with lazy(snapshot, memory=memory, pager=pager, policy=policy) as mapped:
                for _ in range(3):
                    victim = pager.processes()["worker"]
                    threading.Timer(dice.random() / 100, os.kill, (victim, signal.SIGKILL)).start()
                    for page in dice.sample(range(len(image) // PAGE), 60):
                        found = libc.read_memory(mapped.address + page * PAGE, PAGE)
                        right = right and found == image[page * PAGE : (page + 1) * PAGE]
                    time.sleep(0.02)
                    kills += 1
                    complete_again(pager, {victim})
                mapped.complete(timeout=30)
                right = right and mapped[:] == image
        return {"right": right, "kills": kills, "takeovers": pager.takeovers}


def packed_anew(snapshot: str, expected: str) -> dict[str, Any]:
    """The name comes to stand for another image, and then the worker is killed."""
    image = Path(expected).read_bytes()
    folder = Path(snapshot).parent
    with userfault.Pager() as pager, lazy(snapshot, pager=pager, policy=DEMAND) as mapped:
        libc.read_memory(mapped.address, 1)
        (folder / "snapshots" / "one").unlink()
        other = memory(len(image) // PAGE, seed=77)
        store(folder, "one", other)
        victim = pager.processes()["worker"]
        os.kill(victim, signal.SIGKILL)
        complete_again(pager, {victim})
        mapped.complete(timeout=30)
        with lazy(snapshot, pager=pager) as again:
            again.complete()
            anew = again[:] == other
        return {"right": mapped[:] == image, "takeovers": pager.takeovers, "anew": anew}


def forked(snapshot: str, expected: str) -> int:
    """The wait status of a child that compares every page."""
    need_root()
    image = Path(expected).read_bytes()
    with lazy(snapshot, policy=DEMAND, fork=True) as mapped:
        child = os.fork()
        if not child:
            os._exit(libc.read_memory(mapped.address, len(image)) != image)
        return os.waitpid(child, 0)[1]
