"""Clients of a shared copy, each in a process of its own."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import userfault
from helpers.family import member
from helpers.keepers import keeper
from helpers.pages import PAGE
from helpers.skips import need_root
from pager_live.family.takeover_scenes import complete_again
from userfault import Policy, lazy
from userfault.linux import libc
from userfault.uapi import mman

DEMAND = Policy(share="on", background=False)


def restored(snapshot: str, expected: str, seed: int) -> dict[str, Any]:
    """Touches at random, then everything; writes in between."""
    image = Path(expected).read_bytes()
    dice = random.Random(seed)
    pages = len(image) // PAGE
    with lazy(snapshot, policy=Policy(share="on"), writable=True) as mapped:
        right = True
        written: dict[int, int] = {}
        for page in dice.sample(range(pages), pages // 2):
            if dice.random() < 0.1:
                mapped[page * PAGE] = written[page] = seed + 1
            found = libc.read_memory(mapped.address + page * PAGE + 1, PAGE - 1)
            right = right and found == image[page * PAGE + 1 : (page + 1) * PAGE]
        mapped.complete()
        whole = bytearray(image)
        for page, value in written.items():
            whole[page * PAGE] = value
        return {"right": right and mapped[:] == whole, "keeper": keeper()}


def killed(snapshot: str, expected: str, seed: int) -> dict[str, Any]:
    """The worker is killed again and again while the copy is filled."""
    image = Path(expected).read_bytes()
    dice = random.Random(seed)
    right = True
    kills = 0
    with userfault.Pager() as pager:
        for _ in range(3):
            with lazy(snapshot, pager=pager, policy=DEMAND) as mapped:
                victim = member(pager, "worker")
                threading.Timer(dice.random() / 50, os.kill, (victim, signal.SIGKILL)).start()
                for page in dice.sample(range(len(image) // PAGE), 100):
                    found = libc.read_memory(mapped.address + page * PAGE, PAGE)
                    right = right and found == image[page * PAGE : (page + 1) * PAGE]
                time.sleep(0.02)
                kills += 1
                complete_again(pager, {victim})
                mapped.complete(timeout=60)
                right = right and mapped[:] == image
    return {"right": right, "kills": kills}


def killed_with_its_pager(snapshot: str) -> int:
    """A client that is killed with a copy in use; its pager ends then, and with it the claim."""
    with lazy(snapshot, policy=DEMAND) as mapped:
        pid = os.fork()
        if not pid:
            with lazy(snapshot, policy=DEMAND) as other:
                libc.read_memory(other.address, 1)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        return int(mapped[0] >= 0)


def forked(snapshot: str) -> dict[str, Any]:
    """A child of fork(2) reads, writes, drops; its parent sees nothing of it."""
    need_root()
    with lazy(snapshot, policy=Policy(share="off")) as plain:
        image = plain[:]
    with lazy(snapshot, policy=DEMAND, fork=True, writable=True) as mapped:
        mapped[PAGE] = 0x77
        libc.madvise(mapped.address + 5 * PAGE, PAGE, mman.MADV_DONTNEED)
        expected = bytearray(image)
        expected[PAGE] = 0x77
        expected[5 * PAGE : 6 * PAGE] = bytes(PAGE)
        child = os.fork()
        if not child:
            right = libc.read_memory(mapped.address, len(image)) == expected
            libc.madvise(mapped.address + 7 * PAGE, PAGE, mman.MADV_DONTNEED)
            right = right and not any(libc.read_memory(mapped.address + 7 * PAGE, PAGE))
            libc.write_memory(mapped.address + 8 * PAGE, b"\1\2\3")
            os._exit(not right)
        status = os.waitpid(child, 0)[1]
        mapped.complete()
        return {"child": status, "parent": mapped[:] == expected}


def moved_and_locked(snapshot: str) -> dict[str, Any]:
    """mremap of one half; mlock of the other, which writes to all that may be written."""
    with lazy(snapshot, policy=Policy(share="off")) as plain:
        image = plain[:]
    mapped = lazy(snapshot, policy=DEMAND, writable=True)
    half = len(image) // 2 // PAGE * PAGE
    rest = -(-len(image) // PAGE) * PAGE - half
    libc.read_memory(mapped.address + half, 1)
    place = libc.mmap(0, rest, mman.PROT_NONE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS, -1, 0)
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    libc.mremap(mapped.address + half, rest, rest, flags, place)
    moved = libc.read_memory(place, len(image) - half) == image[half:]
    libc.madvise(place + PAGE, PAGE, mman.MADV_DONTNEED)
    moved = moved and not any(libc.read_memory(place + PAGE, PAGE))
    libc.mlock(mapped.address, half)
    locked = libc.read_memory(mapped.address, half) == image[:half]
    return {"moved": moved, "locked": locked}
