"""Clients of Firecracker's handshake that are broken, or mean no good.

Each is a process of its own: it says when it is in place, and then what the handler did about it.
That it was killed, its parent sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from userfault.client import talking
from userfault.client.board import Board
from userfault.client.firecracker import Firecracker, Guest, described
from userfault.client.results import Said
from userfault.linux import libc
from userfault.uapi import mman

_HUNDRED_MB = 100 << 20
_EVENTS_S = 2.0
_CONNECTIONS = 10_000

Regions = list[dict[str, Any]]


class Hostile(msgspec.Struct, frozen=True):
    """Which one; it waits so long for the handler to do something about it."""

    asked: Firecracker
    variant: str
    wait_s: float = 15.0


class Scene:
    """One of them: a guest that is ready to be handed over, and how it tells."""

    def __init__(self, told: Hostile, board: Board) -> None:
        self.told = told
        self.board = board
        self.guest = Guest(told.asked)

    def regions(self) -> Regions:
        """As a right client describes them."""
        return [described(region, self.told.asked) for region in self.guest.regions]

    def connect(self) -> socket.socket:
        return talking.connect(self.told.asked.socket, self.board)

    def send(self, data: bytes, fds: list[int]) -> socket.socket:
        """Connect, and say that: it may well not be taken."""
        channel = self.connect()
        with contextlib.suppress(talking.RefusedError):  # it has heard enough: see what it does
            talking.send(channel, data, fds, self.board)
        return channel

    def hand_over(self) -> socket.socket:
        """As a right client does."""
        fds = [self.guest.uffd.fileno()]
        return self.send(self.guest.message(self.told.asked), fds)

    def placed(self) -> None:
        """From now on an honest client may come."""
        talking.say(Said(stage="placed"))

    def reaction(self, channel: socket.socket) -> str:
        """What the handler does within the time."""
        self.placed()
        channel.settimeout(self.told.wait_s)
        try:
            data = channel.recv(4096)
        except TimeoutError:
            return f"nothing within {self.told.wait_s:g} s"
        except ConnectionError:
            return "it closed the connection"
        return f"it answered {data[:32].hex()}" if data else "it closed the connection"

    def touches(self, addresses: list[int]) -> bool:
        """Whether these pages come within the time."""
        thread = threading.Thread(
            target=lambda: [libc.read_memory(address, 8) for address in addresses], daemon=True
        )
        thread.start()
        thread.join(self.told.wait_s)
        return not thread.is_alive()


def run(told: Hostile, board: Board) -> None:
    """Do it, and tell."""
    did = VARIANTS[told.variant][1](Scene(told, board))
    talking.say(Said(stage="ended", did=did))


# --- messages that make no sense, with a right descriptor ----------------------------------------


def _message(change: Callable[[Regions], object]) -> Callable[[Scene], str]:
    def play(scene: Scene) -> str:
        text = json.dumps(change(scene.regions())).encode()
        return scene.reaction(scene.send(text, [scene.guest.uffd.fileno()]))

    return play


def _first(**fields: int) -> Callable[[Regions], object]:
    """The first region with these fields instead."""
    return lambda regions: [{**regions[0], **fields}, *regions[1:]]


def _halves(**by: int) -> Callable[[Regions], object]:
    """The first region in two, the fields of the second one off by so much."""

    def change(regions: Regions) -> object:
        whole = regions[0]
        low = whole["size"] // 8192 * 4096
        first = {**whole, "size": low}
        second = {
            **whole,
            "base_host_virt_addr": whole["base_host_virt_addr"] + low,
            "size": whole["size"] - low,
            "offset": whole["offset"] + low,
        }
        off = {name: second[name] + value for name, value in by.items()}
        return [first, {**second, **off}, *regions[1:]]

    return change


def _raw(text: bytes) -> Callable[[Scene], str]:
    def play(scene: Scene) -> str:
        return scene.reaction(scene.send(text, [scene.guest.uffd.fileno()]))

    return play


def _rubbish_after(scene: Scene) -> str:
    text = scene.guest.message(scene.told.asked) + b'{"more":1}'
    return scene.reaction(scene.send(text, [scene.guest.uffd.fileno()]))


def _endless(scene: Scene) -> str:
    """A text of 100 MB that might be a message until its end."""
    channel = scene.connect()
    channel.settimeout(scene.told.wait_s)
    piece, sent = b"[" + b" " * 65535, 0
    try:
        while sent < _HUNDRED_MB:
            sent += channel.send(piece)
    except TimeoutError:
        return f"it took {sent} bytes, and no more"
    except ConnectionError:
        scene.placed()
        return f"it closed the connection after {sent} bytes"
    return f"it took all of them; then: {scene.reaction(channel)}"


# --- descriptors ---------------------------------------------------------------------------------


def _descriptors(fds: Callable[[int], list[int]]) -> Callable[[Scene], str]:
    def play(scene: Scene) -> str:
        message = scene.guest.message(scene.told.asked)
        return scene.reaction(scene.send(message, fds(scene.guest.uffd.fileno())))

    return play


def _some_file(uffd: int) -> list[int]:
    del uffd
    return [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)]


# --- silence and death ---------------------------------------------------------------------------


def _silent(scene: Scene) -> str:
    return scene.reaction(scene.connect())


def _half_and_silent(scene: Scene) -> str:
    half = scene.guest.message(scene.told.asked)[:20]
    return scene.reaction(scene.send(half, [scene.guest.uffd.fileno()]))


def _dies(scene: Scene) -> str:
    """By SIGKILL, so that nothing is closed in good order."""
    scene.placed()
    os.kill(os.getpid(), 9)
    return ""


def _dies_connected(scene: Scene) -> str:
    held = scene.connect()
    _dies(scene)
    return str(held)


def _dies_half(scene: Scene) -> str:
    held = scene.send(scene.guest.message(scene.told.asked)[:20], [scene.guest.uffd.fileno()])
    _dies(scene)
    return str(held)


def _dies_sent(scene: Scene) -> str:
    held = scene.hand_over()
    _dies(scene)
    return str(held)


def _dies_faulting(scene: Scene) -> str:
    """While threads of it wait for pages."""
    held = scene.hand_over()
    for region in scene.guest.regions:
        pages = range(region.address, region.address + region.size, scene.told.asked.page_size)
        for part in range(4):
            addresses = list(pages[part::4])
            threading.Thread(
                target=lambda each: [libc.read_memory(at, 8) for at in each],
                args=(addresses,),
                daemon=True,
            ).start()
    _dies(scene)
    return str(held)


def _connections(scene: Scene) -> str:
    """As many as there can be, none of which says a word."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    why, deadline = "", time.monotonic() + scene.told.wait_s
    while len(held) < min(_CONNECTIONS, hard - 64):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.setblocking(False)
        try:
            channel.connect(scene.told.asked.socket)
        except BlockingIOError:  # as many wait for it as listen(2) allows
            channel.close()
            if time.monotonic() < deadline:
                time.sleep(0.001)
                continue
            why = "; no more were accepted"
            break
        except OSError as error:
            channel.close()
            why = f"; the next one: {error}"
            break
        held.append(channel)
    scene.placed()
    closed, deadline = 0, time.monotonic() + scene.told.wait_s
    for channel in held:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            closed += not channel.recv(1)
        except TimeoutError:
            continue
        except ConnectionError:
            closed += 1
    return f"{len(held)} connections were made{why}; it closed {closed} of them"


# --- served, and then ----------------------------------------------------------------------------


def _maps_over(scene: Scene) -> str:
    """New memory over half of each region, without a word: the kernel tells of that to nobody."""
    held = scene.hand_over()
    scene.placed()
    page = scene.told.asked.page_size
    addresses: list[int] = []
    for region in scene.guest.regions:
        half = max(region.size // 2 // page, 1) * page
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
        libc.mmap(region.address, half, mman.PROT_READ | mman.PROT_WRITE, flags, -1, 0)
        addresses += range(region.address + half, region.address + region.size, page)
    came = scene.touches(addresses)
    return f"the rest {'was served' if came else 'is waited for'}{_state(held)}"


def _events(scene: Scene) -> str:
    """Ranges given back without a pause, as fast as they are read."""
    held = scene.hand_over()
    scene.placed()
    region, page, count = scene.guest.regions[0], scene.told.asked.page_size, 0
    pages = region.size // page
    deadline = time.monotonic() + _EVENTS_S
    while time.monotonic() < deadline:
        for number in range(count, count + 64):
            libc.madvise(region.address + number * 7 % pages * page, page, mman.MADV_DONTNEED)
        count += 64
    came = scene.touches([region.address])
    return f"it read {count} events; then a page {'came' if came else 'did not'}{_state(held)}"


def _chatters(scene: Scene) -> str:
    """It goes on talking when all is said."""
    held = scene.hand_over()
    scene.placed()
    held.settimeout(scene.told.wait_s)
    told = "it took no more of it"
    try:
        for _ in range(1000):
            held.send(b"[]" * 1000, socket.MSG_DONTWAIT)
        told = "it took all of it"
    except OSError:
        pass
    page = scene.told.asked.page_size
    came = scene.touches([each.address + each.size - page for each in scene.guest.regions])
    return f"{told}; then a page {'came' if came else 'did not'}{_state(held)}"


def _state(channel: socket.socket) -> str:
    answer, closed = talking.heard(channel)
    told = f"; it wrote {answer[:32].hex()}" if answer else ""
    return told + ("; the connection is closed" if closed else "")


Variant = tuple[str, Callable[[Scene], str]]

VARIANTS: dict[str, Variant] = {
    "no-region": ("an empty array", _message(lambda _: [])),
    "half-json": ("half of the message, and then silence", _half_and_silent),
    "not-json": ("an HTTP request", _raw(b"GET / HTTP/1.1\r\n\r\n")),
    "nested": ("a thousand brackets", _raw(b"[" * 1000)),
    "huge-json": ("100 MB of it", _endless),
    "rubbish-after": ("bytes after the array", _rubbish_after),
    "many-regions": ("the same region 600 times", _message(lambda regions: regions[:1] * 600)),
    "overlapping": (
        "a region over another one",
        _message(_halves(base_host_virt_addr=-4096)),
    ),
    "same-offset": ("two regions of one piece of the image", _message(_halves(offset=-4096))),
    "wrapping": ("an address and size beyond 64 bits", _message(_first(size=(1 << 64) - 4096))),
    "beyond": ("an address that is no u64", _message(_first(base_host_virt_addr=1 << 64))),
    "no-pages": ("a size that is no pages", _message(_first(size=4097))),
    "no-size": ("a size of 0", _message(_first(size=0))),
    "unaligned": (
        "an address that is no page's",
        _message(_halves(base_host_virt_addr=8)),
    ),
    "outside": ("an offset behind the image's end", _message(_halves(offset=1 << 50))),
    "unregistered": (
        "an address that was never registered",
        _message(_first(base_host_virt_addr=1 << 40)),
    ),
    "page-size": ("pages of 3000 bytes", _message(_first(page_size=3000, page_size_kib=3000))),
    "contradiction": ("two page sizes of one region", _message(_first(page_size_kib=2 << 20))),
    "no-descriptor": ("the message alone", _descriptors(lambda _: [])),
    "two-descriptors": ("the userfaultfd twice", _descriptors(lambda fd: [fd, fd])),
    "many-descriptors": ("the userfaultfd 200 times", _descriptors(lambda fd: [fd] * 200)),
    "no-userfaultfd": ("/dev/null in its place", _descriptors(_some_file)),
    "silent": ("connects, and says nothing", _silent),
    "dies-connected": ("ends before it said anything", _dies_connected),
    "dies-half": ("ends in the middle of its message", _dies_half),
    "dies-sent": ("ends when all is said", _dies_sent),
    "dies-faulting": ("ends while its threads wait for pages", _dies_faulting),
    "connections": (f"{_CONNECTIONS:,} connections", _connections),
    "maps-over": ("maps other memory over its regions", _maps_over),
    "events": ("gives memory back without end", _events),
    "chatters": ("goes on talking", _chatters),
}


def main() -> None:
    """The process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    told, board = talking.told(Hostile)
    with talking.telling():
        run(told, board)
    os._exit(0)


if __name__ == "__main__":
    main()
