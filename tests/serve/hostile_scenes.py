"""Clients that say what no Firecracker says.  Each runs in a process of its own: some are ended."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from userfault.kernel.modes import Mode
from userfault.linux.libc import Pinned
from userfault.linux.uffd import LiveUserfaultfd

_ENDS_S = 60.0
PAGE = mmap.PAGESIZE
PAGES = 512  # of the image

Regions = list[dict[str, int]]


class Memory:
    """What a right client has: registered memory of the image's size, and its regions."""

    def __init__(self) -> None:
        self.held = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with Pinned(self.held) as pinned:
            self.address = pinned.address
        self.uffd = LiveUserfaultfd.open()
        self.uffd.register(self.address, PAGES * PAGE, Mode.MISSING)

    def regions(self) -> Regions:
        return [
            {
                "base_host_virt_addr": self.address,
                "size": PAGES * PAGE,
                "offset": 0,
                "page_size": PAGE,
                "page_size_kib": PAGE,
            }
        ]


def _connected(path: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.connect(path)
    return channel


def _end(channel: socket.socket) -> str:
    """Wait until the daemon has closed its end."""
    channel.settimeout(_ENDS_S)
    try:
        return "closed" if not channel.recv(1) else "answered"
    except ConnectionError:
        return "closed"


def _send(path: str, text: bytes, fds: list[int]) -> str:
    with _connected(path) as channel:
        if fds:
            socket.send_fds(channel, [text], fds)
        else:
            channel.sendall(text)
        return _end(channel)


def _changed(**fields: Any) -> Callable[[Regions], object]:
    def change(regions: Regions) -> object:
        regions[0].update(fields)
        return regions

    return change


def _two(first: dict[str, int], second: dict[str, int]) -> Callable[[Regions], object]:
    """Two regions of half the image, with these fields added to or changed."""

    def change(regions: Regions) -> object:
        half = PAGES * PAGE // 2
        whole = regions[0]
        low = {**whole, "size": half}
        high = {
            **whole,
            "size": half,
            "offset": half,
            "base_host_virt_addr": whole["base_host_virt_addr"] + half,
        }
        for region, fields in ((low, first), (high, second)):
            for name, value in fields.items():
                region[name] = value if name.startswith("page_size") else region[name] + value
        return [low, high]

    return change


# What a message says instead, by what the daemon makes of it.
MESSAGES: dict[str, tuple[Callable[[Regions], object], str]] = {
    "no region": (lambda _: [], "it names no region"),
    "a thousand regions": (lambda regions: regions * 1000, "message is too long"),
    "six hundred regions": (
        lambda _: [{"base_host_virt_addr": 0, "size": 0, "offset": 0}] * 600,
        "512 are allowed",
    ),
    "no number": (_changed(size="much"), "Expected `int`"),
    "a number below zero": (_changed(offset=-4096), ">= 0"),
    "a field that is missing": (lambda _: [{"size": 4096, "offset": 0}], "missing required field"),
    "not a page size": (_changed(page_size=3000, page_size_kib=3000), "pages of 3000 bytes"),
    "two page sizes": (_two({"page_size": 2 << 20, "page_size_kib": 2 << 20}, {}), "differ"),
    "page sizes that contradict": (_changed(page_size_kib=2 << 20), "page_size_kib 2097152"),
    "a size that is no pages": (_changed(size=PAGES * PAGE - 1), "is no whole pages"),
    "an address that is no page": (_two({"base_host_virt_addr": 8}, {}), "is no whole pages"),
    "addresses that overlap": (_two({}, {"base_host_virt_addr": -PAGE}), "overlaps"),
    "offsets that overlap": (_two({}, {"offset": -PAGE}), "another region's too"),
    "offsets outside": (_two({}, {"offset": PAGE}), "2101248 bytes"),
    "less than the image": (_changed(size=PAGE), "its regions show 4096 bytes"),
    "an address that wraps": (_changed(base_host_virt_addr=(1 << 63) - PAGE), "all addresses"),
    "an address beyond 64 bits": (_changed(base_host_virt_addr=1 << 64), "not the regions"),
    "memory that is not registered": (
        _changed(base_host_virt_addr=1 << 40),
        "is not registered with a userfaultfd",
    ),
    "half of it registered": (
        _two({"base_host_virt_addr": -(1 << 30)}, {}),
        "is not registered with a userfaultfd",
    ),
    "another page size than it has": (
        _changed(page_size=2 << 20, page_size_kib=2 << 20, base_host_virt_addr=1 << 40),
        "is not registered with a userfaultfd",
    ),
}


def message(name: str) -> Callable[[str], str]:
    """A right descriptor, and this message."""

    def scene(path: str) -> str:
        memory = Memory()
        text = json.dumps(MESSAGES[name][0](memory.regions())).encode()
        return _send(path, text, [memory.uffd.fileno()])

    return scene


def each(path: str) -> dict[str, str]:
    """Every one of them at once, in a process of its own: what became of it."""
    scenes = {**{name: message(name) for name in MESSAGES}, **SCENES}
    pids = {}
    for name, scene in scenes.items():
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(write, scene(path).encode())
            os._exit(0)
        os.close(write)
        pids[name] = pid, read
    found = {}
    for name, (pid, read) in pids.items():
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        found[name] = "killed" if killed else os.read(read, 100).decode()
        os.close(read)
    return found


def no_descriptor(path: str) -> str:
    return _send(path, json.dumps(Memory().regions()).encode(), [])


def two_descriptors(path: str) -> str:
    memory = Memory()
    text = json.dumps(memory.regions()).encode()
    return _send(path, text, [memory.uffd.fileno(), memory.uffd.fileno()])


def many_descriptors(path: str) -> str:
    memory = Memory()
    text = json.dumps(memory.regions()).encode()
    return _send(path, text, [memory.uffd.fileno()] * 200)


def no_userfaultfd(path: str) -> str:
    with open(os.devnull, "rb") as file:
        return _send(path, json.dumps(Memory().regions()).encode(), [file.fileno()])


def bytes_behind(path: str) -> str:
    memory = Memory()
    text = json.dumps(memory.regions()).encode() + b"]"
    return _send(path, text, [memory.uffd.fileno()])


def not_json(path: str) -> str:
    return _send(path, b"GET / HTTP/1.1\r\n\r\n", [])


def nested(path: str) -> str:
    return _send(path, b"[" * 1000, [])


def endless(path: str) -> str:
    """100 MB of a text that might be one."""
    with _connected(path) as channel:
        try:
            for _ in range(1600):
                channel.sendall(b"[" + b" " * 65535)
        except ConnectionError:
            return "closed"
        return "taken"


def half_and_gone(path: str) -> str:
    with _connected(path) as channel:
        channel.sendall(b'[{"base_host_virt')
    return "gone"


def empty_and_gone(path: str) -> str:
    _connected(path).close()
    return "gone"


def silent(path: str) -> str:
    with _connected(path) as channel:
        return _end(channel)


def half_and_silent(path: str) -> str:
    with _connected(path) as channel:
        channel.sendall(b'[{"base_host_virt')
        return _end(channel)


SCENES: dict[str, Callable[[str], str]] = {
    "no descriptor": no_descriptor,
    "two descriptors": two_descriptors,
    "many descriptors": many_descriptors,
    "no userfaultfd": no_userfaultfd,
    "bytes behind": bytes_behind,
    "not JSON": not_json,
    "nested": nested,
    "endless": endless,
    "half, and gone": half_and_gone,
    "empty, and gone": empty_and_gone,
    "silent": silent,
    "half, and silent": half_and_silent,
}


def many(path: str) -> str:
    """As many connections as this process may hold, none of which says a word."""
    held = []
    try:
        for _ in range(900):
            held.append(_connected(path))
        ended = sum(_is_closed(channel) for channel in held[100:])
        return "closed" if ended > 700 else f"{ended} were closed"
    finally:
        for channel in held:
            channel.close()


def _is_closed(channel: socket.socket) -> bool:
    return _end(channel) == "closed"


def someone_elses(path: str, address: int, fd: int) -> str:
    """The descriptor and the regions of another process."""
    regions = Memory().regions()
    regions[0]["base_host_virt_addr"] = address
    return _send(path, json.dumps(regions).encode(), [fd])


def chatters(path: str) -> str:
    """A client that is served, and goes on talking."""
    memory = Memory()
    channel = _connected(path)
    text = json.dumps(memory.regions()).encode()
    socket.send_fds(channel, [text], [memory.uffd.fileno()])
    for _ in range(100):
        channel.sendall(b"[]" * 1000)
    page = ctypes.create_string_buffer(8)
    ctypes.memmove(page, memory.address + 5 * PAGE, 8)
    return str(int.from_bytes(page.raw[:8], "little"))
