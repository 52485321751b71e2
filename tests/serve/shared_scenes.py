"""Two clients that map one memory, each with a userfaultfd, the second one later."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
from pathlib import Path

from serve.hostile_scenes import PAGE, PAGES
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd

_END_S = 60.0
_LOW, _HIGH = 100, 200  # pages


class _View:
    """A mapping of the memory, handed over."""

    def __init__(self, memory: int, path: str) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        self.address = libc.mmap(0, PAGES * PAGE, protection, mmap.MAP_SHARED, memory, 0)
        self.uffd = LiveUserfaultfd.open(Feature.EVENT_UNMAP)
        self.uffd.register(self.address, PAGES * PAGE, Mode.MISSING)
        region = {
            "base_host_virt_addr": self.address,
            "size": PAGES * PAGE,
            "offset": 0,
            "page_size": PAGE,
            "page_size_kib": PAGE,
        }
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(_END_S)
        self.channel.connect(path)
        text = json.dumps([region]).encode()
        socket.send_fds(self.channel, [text], [self.uffd.fileno()])


def comes_later(path: str, image: str) -> dict[str, bool]:
    """The first one unmaps pages that were not filled, then the second one comes and reads them.
    (munmap(2) returns when its event was read.)"""
    memory = os.memfd_create("guest")
    os.ftruncate(memory, PAGES * PAGE)
    right = Path(image).read_bytes()
    first = _View(memory, path)
    began = ctypes.string_at(first.address, PAGE) == right[:PAGE]
    libc.munmap(first.address + _LOW * PAGE, (_HIGH - _LOW) * PAGE)
    second = _View(memory, path)
    return {"began": began, "right": ctypes.string_at(second.address, PAGES * PAGE) == right}
