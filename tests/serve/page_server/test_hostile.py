"""What a peer may do: it is refused, with a reason in the log, and the others are served."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.leaks import descriptors, opened_since
from serve.page_server.peer import ADD_F, COMPRESSED, GET, PAGE, PRESENT, Peer, page_server, pages
from userfault.serve.page_server.listening import PageServer
from userfault.snapshot.stores.opening import open_objects

HEAP = 0x5500_0000_0000
ME = 1 << 8 | 1
ADD = ADD_F | PRESENT << 16


def head(command: int, count: int, address: int, to: int = ME) -> bytes:
    return struct.pack("=I4xQQQ", command, count, address, to)


BAD: dict[str, bytes] = {
    "a length of 2^60": head(ADD, 1 << 60, HEAP),
    "a length that wraps to one page": head(ADD, (1 << 52) + 1, HEAP),
    "an address that wraps": head(ADD, 2, (1 << 64) - PAGE),
    "an address within a page": head(ADD, 1, HEAP + 8),
    "no page": head(ADD, 0, HEAP),
    "pages before others": head(ADD, 1, HEAP) + bytes(PAGE) + head(ADD, 1, HEAP) + bytes(PAGE),
    "another page map": head(ADD, 1, HEAP, 2 << 8 | 1),
    "no page map at all": head(ADD, 1, HEAP, 1 << 8 | 3),
    "flags of nobody": head(ADD_F | 8 << 16, 1, HEAP),
    "present and in the parent": head(ADD_F | 5 << 16, 1, HEAP),
    "in the parent, and there is none": head(2, 1, HEAP),
    "still in the process": head(ADD_F | 2 << 16, 1, HEAP),
    "a page map that was begun": head(4, 0, 0),
    "an unknown command": head(99, 1, HEAP),
    "a later command": head(9, 1, HEAP),
    "a page asked for": head(GET, 1, HEAP, 1),
    "a compressed page of 2 GiB": head(COMPRESSED | PRESENT << 16, 1, HEAP) + b"\xff\xff\xff\x7f",
    "a compressed page of rubbish": head(COMPRESSED | PRESENT << 16, 1, HEAP)
    + struct.pack("=I", 100)
    + b"\xf0" * 100,
}


@contextlib.contextmanager
def both(folder: Path) -> Iterator[PageServer]:
    with page_server(
        folder, into=f"{folder}/store/d-{{n}}", compressed=True, patience_s=20.0
    ) as server:
        yield server


def is_served(server: PageServer) -> None:
    peer = Peer(server.address)
    peer.open(1)
    peer.add(1, HEAP, pages(1, 2))
    assert peer.close() == 0


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_and_nothing_of_it_is_stored(
    tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with both(tmp_path) as server:
        peer = Peer(server.address)
        peer.open(1)
        peer.send(BAD[what])
        assert peer.ended()
        is_served(server)
    assert "refused: " in capfd.readouterr().err
    objects = open_objects(f"{tmp_path}/store")
    assert [each.key for each in objects.list("snapshots/")] == ["snapshots/d-0"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_leave_the_others_served(tmp_path: Path, data: bytes) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d-{{n}}") as server:
        peer = Peer(server.address)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.send(data)
            peer.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while peer.socket.recv(1 << 16):
                pass
        peer.socket.close()
        is_served(server)


def test_a_flood_of_pages_takes_bounded_memory(tmp_path: Path) -> None:
    """They are taken as fast as they are packed: what is not read stays with the sender."""
    with both(tmp_path) as server:
        peer = Peer(server.address)
        peer.open(1)
        block = os.urandom(1 << 20)
        peer.send(head(ADD, 1 << 30, HEAP))  # a promise that nobody keeps
        peer.send(block)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(64):
            peer.send(block)
        peer.socket.close()
        is_served(server)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 48 << 10  # KiB: chunks on their way, and what is remembered of pages


def test_who_says_nothing_makes_room_for_who_does(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d-{{n}}", connections=2) as server:
        silent = [Peer(server.address) for _ in range(5)]
        is_served(server)
        assert sum(each.ended() for each in silent[:2]) == 2
        for each in silent:
            each.socket.close()


def test_who_stops_in_the_middle_is_not_waited_for(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d-{{n}}", patience_s=0.3) as server:
        peer = Peer(server.address)
        peer.open(1)
        peer.send(head(ADD, 4, HEAP) + bytes(PAGE))
        assert peer.ended()
        reader = Peer(server.address)
        reader.open(1)
        reader.send(head(ADD, 4, HEAP)[:9])
        assert reader.ended()


def test_who_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with page_server(tmp_path, into=f"{tmp_path}/store/d") as server:
        peer = Peer(server.address)
        peer.open(1)
        peer.add(1, HEAP, pages(1, 256))
        assert peer.close() == 0
    with page_server(tmp_path, give=f"{tmp_path}/store/d", patience_s=0.3) as server:
        peer = Peer(server.address)
        with contextlib.suppress(ConnectionError, BrokenPipeError, TimeoutError):
            while True:
                peer.send(peer.head(GET, 256, HEAP, 1))
        peer.socket.close()
        other = Peer(server.address)
        assert other.get(1, HEAP, 1) == pages(1, 1)
        assert other.close() == 0


def test_nothing_is_left_of_those_who_came(tmp_path: Path) -> None:
    before = descriptors()
    with both(tmp_path) as server:
        for data in BAD.values():
            peer = Peer(server.address)
            peer.open(1)
            peer.send(data)
            assert peer.ended()
        is_served(server)
    assert opened_since(before) == {}
    assert [each for each in threading.enumerate() if "userfault-pag" in each.name] == []
    assert not os.path.exists(server.address)
