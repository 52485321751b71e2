"""Clients of one pager, each in a process of its own, for test_several.py."""

from __future__ import annotations

import array
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import userfault
from helpers.pages import PAGE, numbers
from pager_live import functions
from pager_live.clients.door import Connected
from userfault import LazyMemory, Policy, lazy
from userfault.linux import libc
from userfault.pager.drivers.wire import messages

DEMAND = Policy(background=False, retries=0)
PAGES = 512


def at(mapped: LazyMemory, page: int) -> int:
    return numbers(libc.read_memory(mapped.address + page * PAGE, PAGE))[0]


def halfway(report: str) -> None:
    """Tell the test, and go on when it has removed the report."""
    Path(report).write_text(str(os.getpid()))
    while Path(report).exists():
        time.sleep(0.002)


def reads_everything(path: str, image: str, memory: str, seed: int, report: str) -> dict[str, Any]:
    """Every page once, in an order of its own, with a halt in the middle; a last word for all."""
    order = random.Random(seed).sample(range(PAGES), PAGES)
    with Connected(path) as pager, lazy(image, memory=memory, pager=pager, policy=DEMAND) as held:
        right = [at(held, page) == page + 1 for page in order[: PAGES // 2]]
        halfway(report)
        right += [at(held, page) == page + 1 for page in order[PAGES // 2 :]]
        held.complete(timeout=60)
        held.check()
        return {"right": all(right), "read": len(right)}


def waits_for_ever(path: str, report: str) -> None:
    """A thread in a fault whose source hangs; the test kills the process."""
    source = userfault.function(functions.slow_page, 64 * PAGE, slow=5, seconds=600)
    held = lazy(source, pager=Connected(path), policy=DEMAND)
    assert at(held, 3) == 4
    Path(report).write_text(str(os.getpid()))
    at(held, 5)


def comes_and_goes(path: str, image: str, times: int) -> int:
    """Connects, maps, reads, closes: again and again."""
    found = 0
    for page in range(times):
        with Connected(path) as pager, lazy(image, pager=pager, policy=DEMAND) as held:
            found += at(held, page) == page + 1
    return found


def leaves_without_a_word(path: str, image: str) -> int:
    """Ends with its memory open: nobody is asked, nothing is closed."""
    held = lazy(image, pager=Connected(path), policy=DEMAND)
    found = at(held, 7)
    print(found, flush=True)
    os._exit(0)


def has_a_source_that_fails(path: str, report: str) -> dict[str, Any]:
    """Page 5 cannot be read: that is told to this client, and to no other."""
    source = userfault.function(functions.bad_page, 64 * PAGE, bad=5)
    with Connected(path) as pager, lazy(source, pager=pager, policy=DEMAND) as held:
        before = at(held, 4)
        ours, theirs = os.pipe()
        failed = False
        try:
            os.writev(theirs, [memoryview(held)[5 * PAGE : 6 * PAGE]])
        except OSError:
            failed = True
        os.close(ours)
        os.close(theirs)
        halfway(report)
        after = at(held, 40)
        try:
            held.check()
            told = ""
        except userfault.SourceError as error:
            told = str(error)
        return {"before": before, "failed": failed, "after": after, "told": told}


def sends_rubbish(path: str, report: str) -> dict[str, int]:
    """Packets of all kinds, with descriptors of all kinds, by several connections."""
    chance = random.Random(7)
    answered = 0
    channels = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for channel in channels:
        channel.connect(path)
        channel.settimeout(60)
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in range(300):
        channel = channels[number % 3]
        data = chance.randbytes(chance.choice([1, 15, 16, 17, 40, 400, 16000]))
        fds = array.array("i", [devnull] * chance.randrange(4))
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())] if fds else []
        channel.sendmsg([data], control)
        answered += bool(channel.recv(1 << 16))
    halfway(report)
    for channel in channels:
        channel.close()
    os.close(devnull)
    return {"answered": answered}


def fills_its_eventfd(path: str, image: str) -> dict[str, Any]:
    """The eventfd that says "finished" is the client's too: writing to it would block."""
    with Connected(path) as pager, lazy(image, pager=pager, policy=DEMAND) as held:
        os.eventfd_write(held._parts.event, (1 << 64) - 2)
        right = numbers(held[: PAGES * PAGE]) == list(range(1, PAGES + 1))
        pager.request(messages.Complete(held._parts.number))
        deadline = time.monotonic() + 60
        while not held.statistics().finished and time.monotonic() < deadline:
            time.sleep(0.002)
        return {"right": right, "finished": held.statistics().finished}


def replaces_the_pager(path: str, image: str) -> list[int]:
    """Asks for a handover, and reads on."""
    with Connected(path) as pager, lazy(image, pager=pager, policy=DEMAND) as held:
        found = [at(held, 1)]
        pager.replace()
        return [*found, at(held, 100)]


def leaves_a_child(path: str, image: str, report: str, told: str) -> None:
    """Ends at once; the child that it forked reads when the test has removed the report."""
    held = lazy(image, pager=Connected(path), policy=DEMAND, fork=True)
    assert at(held, 1) == 2
    if not os.fork():
        halfway(report)
        Path(told).write_text(f"{at(held, 300)} {at(held, 1)}")
    os._exit(0)
