"""Clients that are not served, and have a thread that reads their memory meanwhile."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading

from helpers.child import become_nobody
from serve.hostile_scenes import PAGE, Memory, Regions, _connected, _end
from userfault.linux.libc import Pinned


def _reads(memory: Memory) -> None:
    """A thread that says so as soon as it has read a page."""

    def read() -> None:
        page = ctypes.create_string_buffer(8)
        ctypes.memmove(page, memory.address + 5 * PAGE, 8)
        os.write(1, b'"it has read memory that nobody filled"\n')
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()


def _sent(path: str, memory: Memory, regions: Regions) -> str:
    """Send it, keep no descriptor, read."""
    with _connected(path) as channel:
        socket.send_fds(channel, [json.dumps(regions).encode()], [memory.uffd.fileno()])
        memory.uffd.close()
        print("sent", flush=True)
        _reads(memory)
        return _end(channel)


def nobody_with_memory(path: str) -> str:
    """Of a user who may not be served."""
    memory = Memory()  # it takes rights to make one
    with Pinned(memory.held):
        become_nobody()
    return _sent(path, memory, memory.regions())


def less_than_the_image(path: str) -> str:
    memory = Memory()
    regions = memory.regions()
    regions[0]["size"] = PAGE
    return _sent(path, memory, regions)


def memory_of_another_kind(path: str) -> str:
    """What is found out last: that it is registered nowhere, where the message says."""
    memory = Memory()
    regions = memory.regions()
    regions[0]["base_host_virt_addr"] = 1 << 40
    return _sent(path, memory, regions)


def half_with_memory(path: str) -> str:
    """A descriptor with half of a message."""
    memory = Memory()
    with _connected(path) as channel:
        socket.send_fds(channel, [b'[{"base_host_virt'], [memory.uffd.fileno()])
        memory.uffd.close()
        _reads(memory)
        return _end(channel)
