"""What sessions of all protocols are made of: memory, descriptors, sending, touching."""

from __future__ import annotations

import mmap
import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from userfault.kernel.modes import Mode
from userfault.linux.libc import Pinned, madvise, read_memory
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

PAGE = 4096
_COMES_S = 30  # a page that a client may expect, or its end


class World:
    """Where the daemon is, and which image it shows."""

    def __init__(self, folder: str, image: str) -> None:
        self.folder = Path(folder)
        self.image = Path(image)
        self.pages = self.image.stat().st_size // PAGE


def descriptors(draw: random.Random, right: list[int]) -> list[int]:
    """Mostly those; else some are missing, doubled, in another order, or of another kind."""
    if draw.random() < 0.6:
        return right
    found = list(right)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(found) + 1)
        way = draw.randrange(5)
        if way == 0:
            del found[at : at + 1]
        elif way == 1:
            found.insert(at, found[at - 1] if found else 0)
        elif way == 2:
            draw.shuffle(found)
        else:
            found[at : at + (way == 3)] = [_odd(draw)]
    return found * draw.choice((1, 1, 1, 1, 20)) if len(found) < 10 else found


def _odd(draw: random.Random) -> int:
    """A descriptor of something else."""
    kinds: list[Callable[[], int]] = [
        lambda: os.open(os.devnull, os.O_RDWR),
        lambda: os.memfd_create("odd"),
        lambda: os.eventfd(0),
        lambda: os.pipe()[0],
        lambda: os.pidfd_open(os.getpid()),
        lambda: socket.socket(socket.AF_UNIX).detach(),
        lambda: LiveUserfaultfd.open().fileno(),
        lambda: os.open("/", os.O_PATH),
        lambda: os.open(os.devnull, os.O_RDONLY),
    ]
    return draw.choice(kinds)()


class Memory:
    """Registered memory of the image's size."""

    def __init__(self, pages: int) -> None:
        self.held = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with Pinned(self.held) as pinned:
            self.address = pinned.address
        self.length = pages * PAGE
        self.uffd = LiveUserfaultfd.open()
        self.uffd.register(self.address, self.length, Mode.MISSING)


def say(channel: socket.socket, parts: list[bytes], fds: list[int]) -> bool:
    """Send them, the descriptors with the first; False where nobody listens any more."""
    try:
        for at, part in enumerate(parts):
            if part:
                socket.send_fds(channel, [part], fds if not at else [])
    except OSError:
        return False
    return bool(parts and parts[0])


def heard(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1 << 16)
    except OSError:
        return b""


def touch(draw: random.Random, memory: Memory, world: World | None) -> None:
    touch_at(draw, memory.address, memory.length, world)


def touch_at(draw: random.Random, address: int, length: int, world: World | None) -> None:
    """Pages, with the image's bytes where the message was right; SIGALRM ends a wait."""
    signal.alarm(_COMES_S)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(0, length, PAGE)
        if draw.random() < 0.2:
            madvise(address + at, PAGE, mman.MADV_DONTNEED)
            world = None  # zeros there, from now on
        found = read_memory(address + at, 64)
        if world is not None:
            with world.image.open("rb") as image:
                image.seek(at)
                assert image.read(64) == found, f"wrong bytes at offset {at:#x}"
    signal.alarm(0)
