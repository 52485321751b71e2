"""Clients that are restored from a store, for test_store.py; each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import userfault
from helpers.family import descriptors, member
from helpers.pages import PAGE
from helpers.skips import need_root
from helpers.stores import memory, store
from pager_live.family.takeover_scenes import complete_again
from userfault import Policy, lazy
from userfault.linux import libc
from userfault.pager.drivers.wire.messages import Complete

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
                    victim = member(pager, "worker")
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
        victim = member(pager, "worker")
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


def unpackers(worker: int) -> list[int]:
    """The processes that unpack for a worker."""
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    found = []
    for pid in map(int, children):
        with contextlib.suppress(OSError):  # it has just ended
            if b"pager.drivers.mappings.unpackers" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def unpackers_killed(snapshot: str, expected: str) -> dict[str, Any]:
    """Whoever unpacks is killed while images are filled."""
    image = Path(expected).read_bytes()
    killed = 0
    right = True
    with userfault.Pager() as pager:
        for _ in range(12):
            with lazy(snapshot, pager=pager, policy=DEMAND) as mapped:
                pager.request(Complete(mapped._parts.number))
                for pid in unpackers(pager.processes()["worker"]):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                mapped.complete(timeout=60)
                right = right and mapped[:] == image
        return {"right": right, "killed": killed, "takeovers": pager.takeovers}


def replaced(snapshot: str, expected: str) -> dict[str, Any]:
    """The whole family is replaced between two touches."""
    image = Path(expected).read_bytes()
    with userfault.Pager() as pager, lazy(snapshot, pager=pager, policy=DEMAND) as mapped:
        libc.read_memory(mapped.address, 1)
        before = pager.processes()["worker"]
        pager.replace()
        right = libc.read_memory(mapped.address + len(image) // 2, 1)[0] == image[len(image) // 2]
        mapped.complete(timeout=60)
        right = right and mapped[:] == image
        return {"right": right, "before": before, "worker": pager.processes()["worker"]}


def come_and_go(snapshot: str) -> dict[str, Any]:
    """Many images, one after the other; what the worker has open before and after."""
    with userfault.Pager() as pager:
        counts = []
        for _ in range(3):
            for _ in range(5):
                with lazy(snapshot, pager=pager) as mapped:
                    mapped.complete(timeout=60)
            counts.append(_at_rest(pager.processes()["worker"]))
        return {"before": counts[0][0], "descriptors": counts[-1][0], "threads": counts[-1][1]}


def _at_rest(worker: int) -> tuple[int, int]:
    """Descriptors and threads of a worker, once no process reads an image any more."""
    deadline = time.monotonic() + 20
    while True:
        threads = len(os.listdir(f"/proc/{worker}/task"))
        held = []
        for found in os.scandir(f"/proc/{worker}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held.append(os.readlink(found.path))
        busy = any("userfault-image" in name for name in held)
        if not busy or time.monotonic() > deadline:
            return descriptors(worker), threads
        time.sleep(0.01)
