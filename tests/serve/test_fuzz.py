"""A daemon outlives whatever is sent to its sockets, and serves who speaks rightly."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.daemons import Running, serving, started

ROUNDS = 150
RIGHT: list[dict[str, Any]] = [
    {"base_host_virt_addr": 1 << 40, "size": 1 << 21, "offset": 0, "page_size": 4096}
]
ORDERS: list[dict[str, Any]] = [
    {"version": 1, "command": "sessions"},
    {"version": 1, "command": "attach", "arguments": {"name": "x", "pid": 1}},
    {"version": 1, "command": "detach", "arguments": {"name": "y"}},
    {"version": 1, "command": "metrics", "arguments": {}},
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("daemon")
    arguments = ["--firecracker", str(folder / "vm"), "--native", str(folder / "native")]
    arguments += ["--image", str(image), "--handshake-timeout", "1"]
    with serving(folder, *arguments) as running:
        yield running


def mutated(data: bytes, draw: random.Random) -> bytes:
    """With a few bytes changed, taken out or put in, or cut."""
    found = bytearray(data)
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(found) + 1)
        found[at : at + draw.randint(0, 4)] = draw.randbytes(draw.randint(0, 4))
    return bytes(found[: draw.choice([len(found), draw.randrange(len(found) + 1)])])


def say(path: Path, kind: int, pieces: list[bytes], fds: list[int]) -> None:
    """Send them, and go."""
    with socket.socket(socket.AF_UNIX, kind) as channel:
        channel.settimeout(10)
        channel.connect(str(path))
        try:
            for number, piece in enumerate(pieces):
                if piece:
                    socket.send_fds(channel, [piece], fds if not number else [])
        except OSError:
            return  # it has heard enough


def cut(data: bytes, draw: random.Random) -> list[bytes]:
    at = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randint(0, 3)))
    return [data[low:high] for low, high in zip([0, *at], [*at, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_sent_others_are_served(
    daemon: Running, vm: Path, image: Path, seed: int
) -> None:
    draw = random.Random(seed)
    doors: dict[str, tuple[int, list[Any]]] = {
        "vm": (socket.SOCK_STREAM, [RIGHT]),
        "control": (socket.SOCK_STREAM, ORDERS),
        "native": (socket.SOCK_SEQPACKET, [{}]),
    }
    with started(vm, daemon.folder / "vm", image, stop="sent") as one:
        assert one.reads() == "sent"
        for _ in range(ROUNDS):
            name = draw.choice(sorted(doors))
            kind, messages = doors[name]
            data = json.dumps(draw.choice(messages)).encode() + b"\n" * (name == "control")
            if name == "native":
                data = draw.randbytes(draw.randint(1, 200))
            with open("/dev/null", "rb") as null:
                fds = [null.fileno()] * draw.choice([0, 0, 1, 3])
                say(daemon.folder / name, kind, cut(mutated(data, draw), draw), fds)
        one.go_on()
        assert one.reads() == "right 512"
    assert daemon.ask("status")["takeovers"] == 0
