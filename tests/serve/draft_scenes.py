"""Clients of the drafts, each from its published description, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve.hostile_scenes import PAGE, PAGES, Memory
from userfault.kernel.modes import Mode
from userfault.linux.libc import Pinned

HALF = PAGES // 2 * PAGE


def _regions(memory: Memory) -> list[tuple[int, int, int]]:
    """Address, bytes, offset."""
    return [(memory.address, HALF, 0), (memory.address + HALF, HALF, HALF)]


def handoff(memory: Memory, **changed: Any) -> bytes:
    """Cloud Hypervisor PR 8657."""
    body = {
        "type": "handoff",
        "version": 0,
        "vmm_pid": os.getpid(),
        "mode": "MISSING",
        "regions": [
            {
                "guest_phys_addr": offset,
                "host_virt_addr": address,
                "size": size,
                "backing_file_offset": 0,
            }
            for address, size, offset in _regions(memory)
        ],
        **changed,
    }
    return text(body)


def text(body: object) -> bytes:
    """JSON behind its length."""
    data = json.dumps(body).encode()
    return struct.pack("<I", len(data)) + data


def frames(memory: Memory, flags: int = 5, modes: int = 1) -> bytes:
    """Cloud Hypervisor PR 8664: managed, and an acknowledgement is wanted."""
    regions = b"".join(
        struct.pack("<QQQQiiQ", address, size, offset, 2 << 20, 3, 2, 0)
        for address, size, offset in _regions(memory)
    )
    return struct.pack("<HHBBHQ", 0x0A, 1, flags, modes, 2, len(regions)) + regions


def magic(memory: Memory, flags: int = 1) -> bytes:
    """Firecracker PR 5840: to be copied."""
    regions = b"".join(
        struct.pack("<QQQQii", address, size, offset, PAGE, 3, 2)
        for address, size, offset in _regions(memory)
    )
    hello = struct.pack("<HBB", 1, flags, 2) + regions
    return struct.pack("<IHHQI", 0x55464644, 0, 1, 0, len(hello)) + hello


def nydus(memory: Memory, policy: int = 1) -> bytes:
    """Nydus PR 1921: to be copied."""
    regions = [
        {"base_host_virt_addr": address, "size": size, "offset": offset, "prot": 3, "flags": 2}
        for address, size, offset in _regions(memory)
    ]
    body = {"type": 0, "regions": regions, "policy": policy, "enable_prefault": False}
    return json.dumps(body).encode()


def array(memory: Memory) -> bytes:
    """The regions alone."""
    return json.dumps(json.loads(nydus(memory))["regions"]).encode()


HELLO: dict[str, Callable[..., bytes]] = {
    "handoff": handoff,
    "frames": frames,
    "magic": magic,
    "nydus": nydus,
    "array": array,
}
ACK = {"handoff": 1, "frames": 16}  # bytes
STAT = {
    "frames": (struct.pack("<H6xQ", 0x20, 0), 32),
    "magic": (struct.pack("<IHHQI", 0x55464644, 0, 2, 0, 0), 36),
}


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            return data
        data += more
    return data


def _wait_for(go: str) -> None:
    deadline = time.monotonic() + 60
    while not os.path.exists(go):
        assert time.monotonic() < deadline, "nobody lets it go on"
        time.sleep(0.01)


def _connected(path: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.settimeout(60)
    channel.connect(path)
    return channel


def served(path: str, image: str, form: str, go: str, half: int) -> dict[str, Any]:
    """Greet, and read everything.  `half`: bytes that are sent before file `go` is there."""
    memory = Memory()
    right = Path(image).read_bytes()
    channel = _connected(path)
    hello = HELLO[form](memory)
    cut = half if half >= 0 else len(hello)
    socket.send_fds(channel, [hello[:cut]], [memory.uffd.fileno()])
    if half >= 0:
        Path(f"{go}.there").touch()
        _wait_for(go)
        channel.sendall(hello[cut:])
    acknowledged = _exactly(channel, ACK.get(form, 0)).hex()
    if half < 0 and go:
        Path(f"{go}.there").touch()
        _wait_for(go)
    same = memory.held[:] == right
    told = ""
    if form in STAT:
        asked, size = STAT[form]
        channel.sendall(asked)
        told = _exactly(channel, size).hex()
    elif form == "nydus":
        channel.sendall(b'{"type": 2}')
        told = channel.recv(1000).decode()
    channel.setblocking(False)
    try:
        rest = channel.recv(100).hex()
    except BlockingIOError:
        rest = ""
    return {"same": same, "acknowledged": acknowledged, "told": told, "rest": rest}


def more_memory(path: str) -> dict[str, Any]:
    """Memory that is plugged in later, of which a thread may have touched some already: zeros."""
    memory = Memory()
    channel = _connected(path)
    socket.send_fds(channel, [handoff(memory)], [memory.uffd.fileno()])
    answers = _exactly(channel, 1).hex()
    added = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with Pinned(added) as pinned:
        address = pinned.address
    memory.uffd.register(address, 64 * PAGE, Mode.MISSING)
    early = ctypes.string_at(address, 8)  # before it is told of
    region = {
        "guest_phys_addr": 1 << 32,
        "host_virt_addr": address,
        "size": 64 * PAGE,
        "backing_file_offset": 0,
    }
    channel.sendall(text({"type": "add_region", "region": region}))
    answers += _exactly(channel, 1).hex()
    zeros = added[:] == bytes(64 * PAGE) and not any(early)
    return {"answers": answers, "zeros": zeros, "first": memory.held[0:8].hex()}


def fewer_and_unknown(path: str) -> list[int]:
    """The statuses of: a handshake, a region less, one more, something unknown."""
    memory = Memory()
    channel = _connected(path)
    socket.send_fds(channel, [frames(memory)], [memory.uffd.fileno()])
    statuses = [_exactly(channel, 16)[0]]
    gone = struct.pack("<QQ", memory.address + HALF, HALF)
    region = struct.pack("<QQQQiiQ", memory.address + HALF, HALF, HALF, PAGE, 3, 2, 0)
    for command, body in ((0x0C, gone), (0x0B, region), (0x77, b"xyz")):
        channel.sendall(struct.pack("<H6xQ", command, len(body)) + body)
        statuses.append(_exactly(channel, 16)[0])
    assert memory.held[0:8] == bytes(8), "the first half is served still"
    return statuses


def refused(path: str, form: str, changed: dict[str, Any], fds: int) -> str:
    """A greeting that is not served."""
    memory = Memory()
    channel = _connected(path)
    hello = HELLO[form](memory, **changed)
    socket.send_fds(channel, [hello], [memory.uffd.fileno()] * fds)
    return "answered" if channel.recv(1) else "closed"


def bytes_only(path: str, data: str) -> str:
    """No greeting at all."""
    channel = _connected(path)
    channel.sendall(bytes.fromhex(data))
    try:
        return "answered" if channel.recv(1) else "closed"
    except ConnectionError:
        return "closed"
